//! Finding and loading models.

use crate::{paths, progress};
use clap::{Args, ValueEnum};
use mlx_llm::{
    Error, LoadOptions, ModelContainer, Result, Tokenizer,
    common::{
        MODEL_FILES,
        model::LoadedModel,
        raw::{self, Device},
    },
    load_local, registry,
};
use mlx_lm_hub::{HubDownloader, resolve};
use mlx_lm_tokenizers::AutoTokenizer;
use mlx_rs::Dtype;
use std::{path::Path, path::PathBuf, sync::Arc};

/// The files of a model without its weights.
const TOKENIZER_FILES: &[&str] = &["*.json", "*.jinja", "*.txt", "*.model", "tokenizer*", "*.tiktoken"];

/// The demo model, in the cache folder.
const DEMO: &str = "demo/SmolLM2-135M-Instruct.Q4_1.gguf";

/// Which model, and how it is run.
#[derive(Args)]
pub(crate) struct ModelArgs {
    /// A folder, a .gguf file, owner/name[@revision], or `demo`
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) policy: PolicyArgs,
}

/// Where and in which numbers a model is run.
#[derive(Args)]
pub(crate) struct PolicyArgs {
    /// What to compute in; by default the checkpoint's own type on a GPU, float32 on a CPU
    #[arg(long, value_name = "TYPE")]
    dtype: Option<Float>,
    /// Where to run; by default a GPU if there is one
    #[arg(long)]
    device: Option<On>,
}

/// A type of floats.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Float {
    Float32,
    Float16,
    Bfloat16,
}

#[derive(Clone, Copy, ValueEnum)]
enum On {
    Cpu,
    Gpu,
}

impl Float {
    pub(crate) fn dtype(self) -> Dtype {
        match self {
            Float::Float32 => Dtype::Float32,
            Float::Float16 => Dtype::Float16,
            Float::Bfloat16 => Dtype::Bfloat16,
        }
    }
}

impl PolicyArgs {
    /// The type to compute in, if one was given.
    pub(crate) fn dtype(&self) -> Option<Dtype> {
        self.dtype.map(Float::dtype)
    }

    /// The device, if one was given.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a GPU that is not there.
    pub(crate) fn device(&self) -> Result<Option<Device>> {
        match self.device {
            Some(On::Gpu) if !raw::gpu_available() => Err(Error::Unsupported(
                "MLX finds no GPU that it can use: leave --device out or say cpu".into(),
            )),
            Some(On::Gpu) => Ok(Some(Device::Gpu)),
            Some(On::Cpu) => Ok(Some(Device::Cpu)),
            None => Ok(None),
        }
    }
}

impl ModelArgs {
    /// Where the model is, downloaded if need be.
    pub(crate) fn find(&self) -> Result<PathBuf> {
        find(&self.model, MODEL_FILES)
    }

    /// The model and its tokenizer, on a thread of its own.
    pub(crate) fn load(&self) -> Result<ModelContainer> {
        let path = self.find()?;
        let tokenizer = Arc::new(AutoTokenizer::load(&path)?);
        self.load_with(&path, tokenizer)
    }

    /// The model at `path` with this tokenizer, on a thread of its own.
    pub(crate) fn load_with(&self, path: &Path, tokenizer: Arc<dyn Tokenizer>) -> Result<ModelContainer> {
        self.loading(|options| ModelContainer::load_blocking(path, registry(), tokenizer, options))
    }

    /// The model at `path` on this thread.
    pub(crate) fn load_local(&self, path: &Path) -> Result<LoadedModel> {
        self.loading(|options| load_local(path, &options))
    }

    fn loading<T>(&self, load: impl FnOnce(LoadOptions) -> Result<T>) -> Result<T> {
        let bar = progress::bytes("loading");
        let shown = bar.clone();
        let loaded = load(LoadOptions {
            device: self.policy.device()?,
            dtype: self.policy.dtype(),
            on_progress: Some(Arc::new(move |p| progress::show(&shown, &p))),
            ..Default::default()
        });
        bar.finish_and_clear();
        loaded
    }
}

/// The tokenizer of a model, of which nothing else is needed.
pub(crate) fn tokenizer(model: &str) -> Result<AutoTokenizer> {
    AutoTokenizer::load(find(model, TOKENIZER_FILES)?)
}

/// What the user calls a model, as a path; files that match `patterns` are downloaded if it is on the hub.
pub(crate) fn find(model: &str, patterns: &[&str]) -> Result<PathBuf> {
    if model == "demo" {
        let path = paths::cache()?.join(DEMO);
        return if path.is_file() {
            Ok(path)
        } else {
            Err(Error::file(path, "is not there yet: run `cargo xtask demo`"))
        };
    }
    let bar = progress::bytes(model);
    // Files are reported one by one as well as in all.
    let show = |p: mlx_llm::common::Progress| {
        if p.what == model {
            progress::show(&bar, &p);
        }
    };
    let found = match Path::new(model).exists() {
        true => Ok(model.into()),
        false => {
            runtime()?.block_on(async { resolve(model, patterns, &HubDownloader::from_env()?, &show).await })
        }
    };
    bar.finish_and_clear();
    found
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| Error::Download(format!("cannot start: {e}")))
}
