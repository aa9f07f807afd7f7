//! What the runtime wants of a tokenizer. `mlx-lm-tokenizers` implements it; so can you, in a few lines.

use crate::{Result, input::ChatInput};
use async_trait::async_trait;
use std::{path::Path, sync::Arc};

/// Turns text into token ids and back.
///
/// Implementations are shared between threads. Only the first three methods are required: enough to generate from text.
pub trait Tokenizer: Send + Sync {
    /// The ids of `text`. With `add_special`, the tokens that the model expects around a text (a leading BOS, say) are added.
    /// Special tokens written out in the text (`<|im_start|>`) become their ids either way.
    fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>>;

    /// The text of `ids`; with `skip_special`, special tokens leave nothing. Incomplete UTF-8 becomes U+FFFD.
    fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String>;

    /// Ids that end a generation, as far as the tokenizer knows them.
    fn eos(&self) -> &[u32];

    /// The id that starts a text, if the model has one.
    fn bos(&self) -> Option<u32> {
        None
    }

    /// The id of a token given by its exact text in the vocabulary.
    fn token_id(&self, token: &str) -> Option<u32> {
        let _ = token;
        None
    }

    /// The vocabulary's text of an id.
    fn token(&self, id: u32) -> Option<String> {
        let _ = id;
        None
    }

    /// Ids are below this number, if the tokenizer knows it.
    fn vocab_size(&self) -> Option<usize> {
        None
    }

    /// Whether [`Tokenizer::render`] has a chat template to work with.
    fn has_chat_template(&self) -> bool {
        false
    }

    /// The conversation as the model's chat template writes it.
    ///
    /// # Errors
    /// [`Error::Template`](crate::Error::Template) if there is no template, or it refuses the messages.
    fn render(&self, chat: &ChatInput) -> Result<String> {
        let _ = chat;
        Err(crate::Error::Template("this tokenizer has no chat template".into()))
    }

    /// The ids of the rendered conversation. Templates write special tokens themselves, so none are added.
    fn encode_chat(&self, chat: &ChatInput) -> Result<Vec<u32>> {
        self.encode(&self.render(chat)?, false)
    }
}

/// Finds the tokenizer that belongs to a checkpoint.
#[async_trait]
pub trait TokenizerLoader: Send + Sync {
    /// Loads the tokenizer of `model`: a folder in the Hugging Face layout, or a GGUF file.
    async fn load(&self, model: &Path) -> Result<Arc<dyn Tokenizer>>;
}
