//! Models: the trait, the decoder most of them are, the registry, loading, and the thread that a loaded model lives on.

mod container;
mod decoder;
mod load;
mod registry;
mod thread;

pub use container::{CacheHandle, GenerationStream, ModelConfiguration, ModelContainer, ModelContext};
pub use decoder::{Decoder, Layer, Scales, load_layers, run_layers};
pub use load::{LoadOptions, LoadedModel, load_model};
pub use registry::{Architecture, Registry, Rewrite, Written};
pub use thread::ModelThread;

use crate::{
    Backend, Result,
    cache::{Cache, CacheSpec},
};
use mlx_rs::Array;

/// What enters the layers of a model.
#[derive(Clone, Debug)]
pub struct Embedded {
    /// Embeddings [B, L, D].
    pub x: Array,
    /// What each layer gets besides, by token, [B, L, layers · d]; of models that look it up (Gemma 3n and 4).
    pub per_layer: Option<Array>,
}

impl From<Array> for Embedded {
    fn from(x: Array) -> Embedded {
        Embedded { x, per_layer: None }
    }
}

/// A language model in three steps, so that image features can enter between the first two, prefill can skip the vocabulary for all
/// but the last position, and an embedder can stop after the second. All state is in the cache.
pub trait LanguageModel {
    /// What each layer needs remembered.
    fn cache_specs(&self) -> Vec<CacheSpec>;

    /// The size V of the vocabulary.
    fn vocab_size(&self) -> i32;

    /// Where the model runs, and in which numbers.
    fn backend(&self) -> Backend;

    /// Token ids [B, L] to embeddings [B, L, D].
    fn embed(&self, tokens: &Array) -> Result<Embedded>;

    /// Embeddings to hidden states [B, L, D] after the last norm; the cache grows by L positions.
    fn hidden(&self, input: Embedded, cache: &mut Cache) -> Result<Array>;

    /// Hidden states [.., D] to logits [.., V].
    fn logits(&self, hidden: &Array) -> Result<Array>;

    /// All three steps: token ids [B, L] to logits [B, L, V].
    fn forward(&self, tokens: &Array, cache: &mut Cache) -> Result<Array> {
        self.logits(&self.hidden(self.embed(tokens)?, cache)?)
    }
}
