//! Converting checkpoints: to mlx-lm's layout, packed, unpacked or in another type of floats.
//!
//! [`Source`] is a model of any layout that can be loaded, as the matrices and tensors that mlx-lm has for it. [`Source::convert`] reads
//! one after the other, does to each matrix what a [`Choice`] says, and hands it to a [`Sink`]. A [`Target`] is who makes the choices,
//! where the tensors go, and what is written beside them. JANG bundles are made from what was published, in [`jang`].

mod configuration;
mod folder;
mod format;
mod gguf;
pub mod jang;
mod plan;
mod recipe;
mod source;

pub use format::Format;
pub use plan::{Choice, Plan};
pub use recipe::Recipe;
pub use source::{Module, OnProgress, Sink, Source};

use crate::{
    Error, Result,
    gguf::{FileType, Metadata},
};
use mlx_rs::Dtype;
use serde_json::Value;
use std::path::Path;

/// What a model is converted to.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// A folder that mlx-lm loads.
    Mlx(Plan),
    /// A GGUF file that llama.cpp loads. Its type says what floats become.
    Gguf {
        /// The type of matrices.
        kind: FileType,
        /// What the file says besides what the configuration does: its tokenizer, its name.
        metadata: &'a Metadata,
    },
}

/// A file that is written beside the tensors: its name and contents.
pub type SideFile = (String, Vec<u8>);

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Converted {
    /// Bytes of tensors.
    pub bytes: u64,
    /// Values that they stand for, without scales and biases of groups.
    pub parameters: u64,
    /// Files of tensors.
    pub shards: usize,
}

impl Converted {
    /// Bits of a value, those of scales and biases included: mlx-lm's figure.
    pub fn bits_per_weight(self) -> f64 {
        if self.parameters == 0 { 0.0 } else { self.bytes as f64 * 8.0 / self.parameters as f64 }
    }
}

/// Writes `source` to `out`, which must not exist. Floats become `dtype`; without it, what the configuration says, as in mlx-lm, or
/// else they keep their type. `files` are written, too, and take the place of those of the source; a GGUF file is by itself.
///
/// All of it is written, or nothing: see [`write`](crate::weights::write).
///
/// # Errors
/// [`Error::Cancelled`] if `on_progress` returns `false`, [`Error::Unsupported`] for what cannot be done to this model, and those of
/// reading and writing.
pub fn convert(
    source: &Source,
    target: Target<'_>,
    dtype: Option<Dtype>,
    out: &Path,
    files: &[SideFile],
    on_progress: OnProgress<'_>,
) -> Result<Converted> {
    let dtype = dtype.or_else(|| configured_type(source));
    match target {
        Target::Mlx(plan) => folder::write(source, plan, dtype, out, files, on_progress),
        Target::Gguf { kind, metadata } => gguf::write(source, kind, metadata, out, on_progress),
    }
}

/// The type of floats that the configuration names, where mlx-lm looks for it.
fn configured_type(source: &Source) -> Option<Dtype> {
    let text = source.json.get("text_config").and_then(|text| text.get("dtype"));
    let name = source.json.get("torch_dtype").filter(|name| !name.is_null()).or(text);
    name.and_then(Value::as_str).and_then(|name| float_type(name).ok())
}

/// The type of floats of this name: float16, bfloat16 or float32.
///
/// # Errors
/// [`Error::Parameter`] for another name.
pub fn float_type(name: &str) -> Result<Dtype> {
    match name {
        "float16" => Ok(Dtype::Float16),
        "bfloat16" => Ok(Dtype::Bfloat16),
        "float32" => Ok(Dtype::Float32),
        _ => {
            let (found, wanted) = (name.into(), "float16, bfloat16 or float32".into());
            Err(Error::Parameter { name: "type of floats", found, wanted })
        }
    }
}
