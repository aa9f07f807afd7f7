//! The runtime under `mlx-llm`: everything that does not know one architecture from another.

pub mod config;
mod downloader;
mod error;
pub mod generate;
pub mod input;
pub mod raw;
mod tokenizer;

pub use downloader::{Downloader, MODEL_FILES, OnProgress, Progress, RepoId};
pub use error::{At, Error, Result};
pub use tokenizer::{Tokenizer, TokenizerLoader};
