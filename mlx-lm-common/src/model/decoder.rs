//! The decoder that most models are: embedding, layers, norm, head.

use super::{Embedded, LanguageModel};
use crate::{
    At, Backend, Result,
    cache::{Cache, CacheSpec, LayerCache},
    nn::{Embedding, Head, Norm, fused_with, scalar},
    raw::{self, Device},
    weights::Weights,
};
use mlx_rs::{Array, error::Exception, ops};

/// On the CPU, evaluation begins after so many layers while the rest of the graph is still being built.
const EVAL_EVERY: usize = 4;

/// One layer of a [`Decoder`]: the part that reads like its paper.
pub trait Layer {
    /// [B, L, D] to [B, L, D].
    fn forward(&self, x: &Array, cache: &mut LayerCache) -> Result<Array>;

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
    /// What embeddings and logits are multiplied by.
    pub scales: Scales,
    /// Size of the vocabulary.
    pub vocab_size: i32,
    /// The policy it was loaded for.
    pub backend: Backend,
}

/// What embeddings and logits are multiplied by, where a model does so.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scales {
    /// Embeddings.
    pub embed: Option<f32>,
    /// Logits.
    pub logits: Option<f32>,
    /// Keeps logits within ±cap: cap · tanh(logits / cap).
    pub softcap: Option<f32>,
}

impl Scales {
    /// Scaled embeddings.
    pub fn embedded(self, x: Array) -> Result<Array> {
        scaled(x, self.embed)
    }

    /// Scaled and capped logits; `compile` as in [`fused`](crate::nn::fused).
    pub fn capped(self, logits: Array, compile: bool) -> Result<Array> {
        let logits = scaled(logits, self.logits)?;
        let Some(cap) = self.softcap else { return Ok(logits) };
        let [capped] = fused_with(compile, softcap, [&logits], [cap])?;
        Ok(capped)
    }
}

fn softcap([logits]: [&Array; 1], [cap]: [f32; 1]) -> Result<[Array; 1], Exception> {
    let cap = scalar(cap, logits)?;
    Ok([ops::tanh(logits.divide(&cap)?)?.multiply(cap)?])
}

fn scaled(x: Array, by: Option<f32>) -> Result<Array> {
    let Some(by) = by else { return Ok(x) };
    Ok(x.multiply(scalar(by, &x)?)?)
}

/// Runs layers in order, each with its part of the cache; on the CPU, evaluation begins on the way.
pub fn run_layers<L>(
    layers: &[L],
    mut x: Array,
    cache: &mut Cache,
    backend: Backend,
    mut forward: impl FnMut(usize, &L, &Array, &mut LayerCache) -> Result<Array>,
) -> Result<Array> {
    for (i, layer) in layers.iter().take(cache.len()).enumerate() {
        x = forward(i, layer, &x, cache.layer(i)?).at(format_args!("model.layers.{i}"))?;
        if backend.device == Device::Cpu && i % EVAL_EVERY == EVAL_EVERY - 1 {
            raw::begin(&x)?;
        }
    }
    Ok(x)
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

    fn embed(&self, tokens: &Array) -> Result<Embedded> {
        let x = self.embed.forward(tokens).at("model.embed_tokens")?;
        Ok(self.scales.embedded(x)?.into())
    }

    fn hidden(&self, input: Embedded, cache: &mut Cache) -> Result<Array> {
        let x = run_layers(&self.layers, input.x, cache, self.backend, |_, layer, x, cache| {
            layer.forward(x, cache)
        })?;
        self.norm.forward(&x).at("model.norm")
    }

    fn logits(&self, hidden: &Array) -> Result<Array> {
        self.scales.capped(self.head.forward(hidden, &self.embed).at("lm_head")?, self.backend.compile)
    }
}
