//! Tokenizers and chat templates for `mlx-llm`.
//!
//! [`AutoTokenizer`] reads what a checkpoint brings: a `tokenizer.json` with its configuration, or the vocabulary inside a GGUF file.
//! [`AutoTokenizerLoader`] hands it to the runtime. [`ChatTemplate`] is one template by itself.
//!
//! ```no_run
//! use mlx_lm_common::{Tokenizer, input::{ChatInput, Message}};
//! use mlx_lm_tokenizers::AutoTokenizer;
//!
//! # fn main() -> mlx_lm_common::Result<()> {
//! let tokenizer = AutoTokenizer::load("SmolLM2-135M-Instruct.gguf")?;
//! let ids = tokenizer.encode_chat(&ChatInput::new(&[Message::user("Hello!")]))?;
//! # Ok(())
//! # }
//! ```

mod auto;
mod folder;
mod gguf;
mod pipeline;
mod special;
mod template;

pub use auto::{AutoTokenizer, AutoTokenizerLoader};
pub use chrono;
pub use gguf::{files_of_gguf, gguf_metadata};
pub use special::SpecialTokens;
pub use template::{ChatTemplate, Clock, Limits};
