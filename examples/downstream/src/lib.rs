//! A text model with a tokenizer of one's own: no crate for tokenizers, downloads or images is compiled.

use mlx_llm::{Event, GenerateParameters, LoadOptions, ModelContainer, Result, Tokenizer};
use std::{path::Path, sync::Arc};

/// One token for each ASCII character.
pub struct Ascii;

impl Tokenizer for Ascii {
    fn encode(&self, text: &str, _add_special: bool) -> Result<Vec<u32>> {
        Ok(text.bytes().filter(u8::is_ascii).map(u32::from).collect())
    }

    fn decode(&self, ids: &[u32], _skip_special: bool) -> Result<String> {
        Ok(ids.iter().filter_map(|id| char::from_u32(*id)).collect())
    }

    fn eos(&self) -> &[u32] {
        &[]
    }
}

/// What the model in `folder` writes after `prompt`.
pub fn complete(folder: &Path, prompt: &str, max_tokens: usize) -> Result<String> {
    let tokenizer = Arc::new(Ascii);
    let ids = tokenizer.encode(prompt, true)?;
    let model = ModelContainer::load_blocking(folder, mlx_llm::registry(), tokenizer, LoadOptions::default())?;
    let parameters = GenerateParameters { max_tokens: Some(max_tokens), ignore_eos: true, ..Default::default() };
    let mut events = model.generate(ids, parameters, None)?;
    let mut text = String::new();
    while let Some(event) = events.blocking_recv() {
        if let Event::Text(more) = event? {
            text += &more;
        }
    }
    Ok(text)
}
