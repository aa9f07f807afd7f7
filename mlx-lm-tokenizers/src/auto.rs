//! The tokenizer of a checkpoint, wherever it was found.

use crate::{
    ChatTemplate, Clock, Limits, SpecialTokens, folder, gguf, pipeline::Pipeline, template::ChatTemplates,
};
use async_trait::async_trait;
use mlx_lm_common::{Error, Result, Tokenizer, TokenizerLoader, input::ChatInput};
use std::{fmt, path::Path, sync::Arc};

/// The tokenizer of a checkpoint with its special tokens and chat templates: from a folder in the Hugging Face layout or a GGUF file.
///
/// [`Tokenizer::decode`] leaves out ids that have no token: models may have more rows than their vocabulary has tokens.
pub struct AutoTokenizer {
    pub(crate) pipeline: Box<dyn Pipeline>,
    pub(crate) first: Edge,
    pub(crate) last: Edge,
    pub(crate) special: SpecialTokens,
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Vec<u32>,
    pub(crate) vocab_size: usize,
    pub(crate) templates: ChatTemplates,
}

/// What is changed at one end of a text with special tokens, beyond what the pipeline does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edge {
    AsIs,
    Add(u32),
    Remove,
}

impl AutoTokenizer {
    /// Loads the tokenizer of `model`: a folder, or a GGUF file.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::File`] for a file that is missing or damaged, [`Error::Config`] for a bad value in a GGUF file.
    pub fn load(model: impl AsRef<Path>) -> Result<AutoTokenizer> {
        let model = model.as_ref();
        let is_folder = std::fs::metadata(model).map_err(|e| Error::io(model, e))?.is_dir();
        if is_folder { folder::load(model) } else { gguf::load(model) }
    }

    /// The special tokens by name, as chat templates see them.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special
    }

    /// The names of the chat templates; most models have one, `default`.
    pub fn template_names(&self) -> impl Iterator<Item = &str> {
        self.templates.names()
    }

    /// The same tokenizer with this template in place of the model's own.
    pub fn with_template(mut self, template: ChatTemplate) -> AutoTokenizer {
        self.templates = ChatTemplates::of(template);
        self
    }

    /// The same tokenizer with another clock behind the templates' `strftime_now`.
    pub fn with_clock(mut self, clock: Clock) -> AutoTokenizer {
        self.templates = self.templates.map(|template| template.with_clock(clock.clone()));
        self
    }

    /// The same tokenizer with other limits for its templates.
    pub fn with_limits(mut self, limits: Limits) -> AutoTokenizer {
        self.templates = self.templates.map(|template| template.with_limits(limits));
        self
    }
}

impl Tokenizer for AutoTokenizer {
    fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let mut ids = self.pipeline.encode(text, add_special)?;
        if add_special {
            match self.last {
                Edge::AsIs => {}
                Edge::Add(id) => ids.push(id),
                Edge::Remove => drop(ids.pop()),
            }
            match self.first {
                Edge::AsIs => {}
                Edge::Add(id) => ids.insert(0, id),
                Edge::Remove => drop(ids.drain(..ids.len().min(1))),
            }
        }
        Ok(ids)
    }

    fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.pipeline.decode(ids, skip_special)
    }

    fn eos(&self) -> &[u32] {
        &self.eos
    }

    fn bos(&self) -> Option<u32> {
        self.bos
    }

    fn token_id(&self, token: &str) -> Option<u32> {
        self.pipeline.token_to_id(token)
    }

    fn token(&self, id: u32) -> Option<String> {
        self.pipeline.id_to_token(id)
    }

    fn vocab_size(&self) -> Option<usize> {
        Some(self.vocab_size)
    }

    fn has_chat_template(&self) -> bool {
        !self.templates.is_empty()
    }

    fn render(&self, chat: &ChatInput) -> Result<String> {
        self.templates.render(chat, &self.special)
    }
}

impl fmt::Debug for AutoTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let templates: Vec<_> = self.template_names().collect();
        let mut out = f.debug_struct("AutoTokenizer");
        out.field("vocab_size", &self.vocab_size).field("bos", &self.bos).field("eos", &self.eos);
        out.field("templates", &templates).finish_non_exhaustive()
    }
}

/// Loads an [`AutoTokenizer`] from a folder in the Hugging Face layout or a GGUF file.
#[derive(Clone, Copy, Debug, Default)]
pub struct AutoTokenizerLoader;

#[async_trait]
impl TokenizerLoader for AutoTokenizerLoader {
    async fn load(&self, model: &Path) -> Result<Arc<dyn Tokenizer>> {
        Ok(Arc::new(AutoTokenizer::load(model)?))
    }
}
