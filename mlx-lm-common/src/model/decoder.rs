//! The decoder that most models are: embedding, layers, norm, head.

use super::LanguageModel;
use crate::{
    At, Backend, Result,
    cache::{Cache, CacheSpec, KvCache},
    nn::{Embedding, Head, Norm},
    raw::Device,
    weights::Weights,
};
use mlx_rs::{Array, transforms};

/// On the CPU, evaluation begins after so many layers while the rest of the graph is still being built.
const EVAL_EVERY: usize = 4;

/// One layer of a [`Decoder`]: the part that reads like its paper.
pub trait Layer {
    /// [B, L, D] to [B, L, D].
    fn forward(&self, x: &Array, cache: &mut dyn KvCache) -> Result<Array>;

    /// What the layer needs remembered.
    fn cache(&self) -> CacheSpec {
        CacheSpec::Full
    }
}

/// A stack of layers between an embedding and a head.
pub struct Decoder<L> {
    /// Token embeddings.
    pub embed: Embedding,
    /// In order.
    pub layers: Vec<L>,
    /// After the last layer.
    pub norm: Norm,
    /// To the vocabulary.
    pub head: Head,
    /// Size of the vocabulary.
    pub vocab_size: i32,
    /// The policy it was loaded for.
    pub backend: Backend,
}

/// Loads `count` layers from `layers.0`, `layers.1` … below `w`.
pub fn load_layers<L>(
    w: &Weights,
    count: i32,
    mut load: impl FnMut(usize, &Weights) -> Result<L>,
) -> Result<Vec<L>> {
    let w = w.pp("layers");
    (0..usize::try_from(count).unwrap_or(0)).map(|i| load(i, &w.pp(i))).collect()
}

impl<L: Layer> LanguageModel for Decoder<L> {
    fn cache_specs(&self) -> Vec<CacheSpec> {
        self.layers.iter().map(Layer::cache).collect()
    }

    fn vocab_size(&self) -> i32 {
        self.vocab_size
    }

    fn backend(&self) -> Backend {
        self.backend
    }

    fn embed(&self, tokens: &Array) -> Result<Array> {
        self.embed.forward(tokens).at("model.embed_tokens")
    }

    fn hidden(&self, mut x: Array, cache: &mut Cache) -> Result<Array> {
        for (i, (layer, cache)) in self.layers.iter().zip(cache.layers_mut()).enumerate() {
            x = layer.forward(&x, cache.as_mut()).at(format_args!("model.layers.{i}"))?;
            if self.backend.device == Device::Cpu && i % EVAL_EVERY == EVAL_EVERY - 1 {
                transforms::async_eval([&x])?;
            }
        }
        self.norm.forward(&x).at("model.norm")
    }

    fn logits(&self, hidden: &Array) -> Result<Array> {
        self.head.forward(hidden, &self.embed).at("lm_head")
    }
}
