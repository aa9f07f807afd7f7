//! The runtime under `mlx-llm`: everything that does not know one architecture from another.

mod downloader;
mod error;
pub mod input;
mod tokenizer;

pub use downloader::{Downloader, MODEL_FILES, OnProgress, Progress, RepoId};
pub use error::{At, Error, Result};
pub use tokenizer::{Tokenizer, TokenizerLoader};
