//! Text language models on MLX.

mod models;

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
mod readme {}

pub use mlx_lm_common as common;
pub use mlx_lm_common::{
    Config, Error, Result, Tokenizer,
    generate::{Event, FinishReason, GenerateParameters, Summary},
    model::{LoadOptions, ModelContainer, Registry},
};
pub use models::MODELS;

use mlx_lm_common::model::{LoadedModel, load_model};
use std::{path::Path, sync::Arc};

/// The architectures of this crate. Add your own with [`Registry::register`].
pub fn registry() -> Registry {
    Registry::new(MODELS)
}

/// Loads the model at `path`, a folder in the Hugging Face layout or a GGUF file, on a thread of its own, with default options.
///
/// # Errors
/// Whatever is wrong with the files, named by file, tensor or key.
pub async fn load(path: &Path, tokenizer: Arc<dyn Tokenizer>) -> Result<ModelContainer> {
    ModelContainer::load(path, registry(), tokenizer, LoadOptions::default()).await
}

/// Loads the model at `path` for use on this thread: for code that runs the model itself.
///
/// # Errors
/// As [`load`].
pub fn load_local(path: &Path, options: &LoadOptions) -> Result<LoadedModel> {
    load_model(path, &registry(), options)
}
