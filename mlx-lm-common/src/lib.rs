//! The runtime under `mlx-llm`: everything that does not know one architecture from another.

mod backend;
pub mod cache;
pub mod config;
mod downloader;
pub mod dtype;
mod error;
pub mod evaluate;
mod file;
pub mod generate;
pub mod gguf;
pub mod input;
pub mod model;
pub mod nn;
pub mod quantize;
pub mod raw;
mod text;
mod tokenizer;
pub mod tool;
pub mod turboquant;
pub mod weights;

pub use backend::Backend;
pub use config::Config;
pub use downloader::{Downloader, MODEL_FILES, OnProgress, Progress, RepoId};
pub use error::{At, Error, Result};
pub use tokenizer::{Tokenizer, TokenizerLoader};
