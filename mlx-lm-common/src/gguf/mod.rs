//! GGUF: a checkpoint, its tokenizer and its configuration in one file.
//!
//! [`Gguf::open`] reads and checks the header: metadata and the list of tensors. [`Gguf::config`] is the metadata in the words of a
//! `config.json`, [`Gguf::tensors`] are the tensors under their published names and in the published row order, and
//! [`GgufTensor::read_into`] turns the blocks of one into what MLX computes with. The file is never read or mapped as a whole.
//!
//! The container is described at <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod architectures;
mod f16;
mod header;
mod metadata;
mod reader;
mod split;
mod tensor;
mod types;
mod unpack;
mod write;

pub use metadata::{Field, List, Metadata, Strings, Value};
pub use tensor::{GgufTensor, Kind, Output, Read};
pub use types::Element;
pub use write::{FileType, GgufWriter};

use crate::{Result, file::CheckpointFile, weights::Checkpoint};
use header::TensorInfo;
use std::{path::Path, sync::Arc};

/// An open GGUF file whose header has been read and checked.
#[derive(Clone, Debug)]
pub struct Gguf {
    source: Arc<CheckpointFile>,
    metadata: Metadata,
    infos: Vec<TensorInfo>,
}

impl Gguf {
    /// Reads the header of a GGUF file of version 2 or 3, little-endian, and of all its other parts if it is one of several
    /// (`name-00002-of-00003.gguf`), whichever it is.
    ///
    /// Every count and length is checked against the size of the file before memory is set aside for it, and every tensor lies inside
    /// the file, aligned and apart from the others.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), [`Error::File`](crate::Error::File) for a damaged or foreign file, or a part that is missing or of another model, [`Error::Tensor`](crate::Error::Tensor) for a tensor that cannot be where or
    /// what it claims, [`Error::Config`](crate::Error::Config) for a bad `general.alignment`.
    pub fn open(path: impl AsRef<Path>) -> Result<Gguf> {
        let split::Part { source, metadata, infos } = split::open(path.as_ref())?;
        Ok(Gguf { source, metadata, infos })
    }

    /// Where the file lies, or the first of its parts.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// The key-value pairs of the header, `tokenizer.ggml.*` among them.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The metadata as a Hugging Face `config.json` has it.
    ///
    /// `rope_freqs.weight` (one divisor for each rotary frequency, which is how converters store Llama 3's scaling) becomes
    /// `"rope_scaling": {"rope_type": "freq_factors", "factors": [f_0, …]}` with `inv_freq_i = rope_theta^(-2i / head_dim) / f_i`.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for an architecture that is not supported, or a key that is missing or implausible;
    /// [`Error::Tensor`](crate::Error::Tensor), [`Error::Shape`](crate::Error::Shape) or [`Error::MissingTensor`](crate::Error::MissingTensor) where a tensor says what the metadata do not.
    pub fn config(&self) -> Result<serde_json::Value> {
        architectures::config(self)
    }

    /// All tensors of the model under their published names (`model.layers.3.self_attn.q_proj.weight`). A name that is not in the
    /// architecture's table passes through. `rope_freqs.weight` is left out: it is part of [`Gguf::config`].
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for an architecture that is not supported, or bad head counts;
    /// [`Error::Tensor`](crate::Error::Tensor) for an element type without an equal in MLX or a name that occurs twice; [`Error::Shape`](crate::Error::Shape) for query
    /// or key projections that do not have the rows of their heads.
    pub fn tensors(&self) -> Result<Vec<GgufTensor>> {
        architectures::tensors(self)
    }

    /// The checkpoint: all tensors in the shapes and with the values of a published one, which are computed, where they differ, when
    /// they are asked for.
    ///
    /// # Errors
    /// As [`Gguf::tensors`], and [`Error::Config`](crate::Error::Config) for metadata that the tensors cannot be brought into shape by.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        architectures::checkpoint(self)
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.infos.iter().find(|info| info.name == name)
    }
}
