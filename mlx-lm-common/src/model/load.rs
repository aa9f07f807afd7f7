//! From a folder or a file to a model.

use super::{LanguageModel, Registry};
use crate::{
    Backend, Config, Result, dtype,
    raw::{self, Device},
    weights::{self, LoadProgress, Packing, Weights},
};
use mlx_rs::Dtype;
use std::{collections::BTreeMap, path::Path};

/// How to load a model. The default is right for most.
#[derive(Clone, Default)]
pub struct LoadOptions {
    /// Where to run; a GPU if there is one, by default.
    pub device: Option<Device>,
    /// What to compute in; see [`Backend::new`] for the default.
    pub dtype: Option<Dtype>,
    /// Leaves everything to MLX's own operations, where fused CPU kernels would do it.
    pub without_kernels: bool,
    /// Whether elementwise chains go through MLX's compiler; see [`Backend::compile`] for the default.
    pub compile: Option<bool>,
    /// Reads no weights. Zeros that take no memory stand in for them, in the shapes of the files: to ask a model what it needs.
    pub without_weights: bool,
    /// Called while weights are read.
    pub on_progress: Option<LoadProgress>,
}

/// A model and its configuration.
pub struct LoadedModel {
    /// Ready to run on the thread that loaded it.
    pub model: Box<dyn LanguageModel>,
    /// Normalized.
    pub config: Config,
    /// Bytes of the checkpoint's tensors.
    pub file_bytes: u64,
    /// What was found in the checkpoint that a person may want to know; see [`Checkpoint::remarks`](weights::Checkpoint::remarks).
    pub remarks: Vec<String>,
    /// How packed matrices are stored, by module.
    pub packings: BTreeMap<String, Packing>,
}

/// Loads the model at `path`, a folder in the Hugging Face layout or a GGUF file, for use on this thread, whose default device it
/// sets.
///
/// # Errors
/// Whatever is wrong with the files, named; [`Error::UnknownModel`](crate::Error::UnknownModel) for an architecture that the
/// registry lacks.
pub fn load_model(path: &Path, registry: &Registry, options: &LoadOptions) -> Result<LoadedModel> {
    raw::init();
    let (config, mut checkpoint) = weights::open(path)?;
    let architecture = registry.get(&config.model_type)?;
    architecture.rewrite(&mut checkpoint, &config)?;
    let stored = dtype::of_model(&checkpoint, &config);
    let kernels = !options.without_kernels && !options.without_weights;
    let backend = Backend::new(options.device, options.dtype, stored, kernels);
    let backend = Backend { compile: options.compile.unwrap_or(backend.compile), ..backend };
    raw::set_default_device(backend.device);
    let file_bytes = checkpoint.bytes();
    let weights = if options.without_weights {
        Weights::zeros(checkpoint, backend)
    } else {
        Weights::new(checkpoint, backend, options.on_progress.clone())
    };
    let model = (architecture.load)(&config, &weights)?;
    weights.finish()?;
    let (remarks, packings) = (weights.remarks(), weights.packings());
    Ok(LoadedModel { model, config, file_bytes, remarks, packings })
}
