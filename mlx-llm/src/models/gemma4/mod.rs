//! Gemma 4: Gemma 3's layers with a factor on each, scores without a scale, normalized values, and where a layer sees everything wider
//! heads with a RoPE of few channels. The small ones (E2B, E4B) look up an input for each layer by token, and their last layers attend
//! to what earlier ones remember. In the large ones (26B-A4B, 31B) values are keys where a layer sees everything; 26B-A4B has experts
//! beside the dense block.
//!
//! As in transformers, and unlike in mlx-lm, the last layer sees everything whatever `layer_types` says of it, and
//! `per_layer_config`, where it is given, tells the heads of single layers.

mod config;
mod layer;

use config::{Gemma4Config, PerLayerSize, with_defaults};
use layer::Gemma4Layer;
use mlx_lm_common::{
    At, Backend, Config, Error, Result,
    cache::{Cache, CacheSpec},
    config::RopeConfig,
    model::{Embedded, LanguageModel, Scales, Written, load_layers, run_layers},
    nn::{Embedding, Head, Linear, Norm, Rope},
    weights::{Checkpoint, Weights},
};
use mlx_rs::Array;
use std::collections::{HashMap, hash_map::Entry};

pub(super) struct Gemma4 {
    embed: Embedding,
    inputs: Option<Inputs>,
    layers: Vec<Gemma4Layer>,
    norm: Norm,
    head: Head,
    scales: Scales,
    vocab_size: i32,
    backend: Backend,
}

impl LanguageModel for Gemma4 {
    fn cache_specs(&self) -> Vec<CacheSpec> {
        self.layers.iter().map(|layer| layer.cache.clone()).collect()
    }

    fn vocab_size(&self) -> i32 {
        self.vocab_size
    }

    fn backend(&self) -> Backend {
        self.backend
    }

    fn embed(&self, tokens: &Array) -> Result<Embedded> {
        let x = self.embed.forward(tokens).at("model.embed_tokens")?;
        let found = self.inputs.as_ref().map(|inputs| inputs.table.forward(tokens)).transpose();
        Ok(Embedded { x: self.scales.embedded(x)?, per_layer: found.at("model.embed_tokens_per_layer")? })
    }

    fn hidden(&self, Embedded { x, per_layer }: Embedded, cache: &mut Cache) -> Result<Array> {
        let inputs = match (&self.inputs, per_layer) {
            (Some(inputs), Some(found)) => {
                inputs.forward(&x, &found).at("model.per_layer_model_projection")?
            }
            (Some(_), None) => {
                return Err(Error::Unsupported("this model wants an input for each of its layers".into()));
            }
            (None, _) => Vec::new(),
        };
        let x = run_layers(&self.layers, x, cache, self.backend, |i, layer, x, cache| {
            layer.forward(x, inputs.get(i), cache)
        })?;
        self.norm.forward(&x).at("model.norm")
    }

    fn logits(&self, hidden: &Array) -> Result<Array> {
        self.scales.capped(self.head.forward(hidden, &self.embed).at("lm_head")?, self.backend.compile)
    }
}

/// What makes the inputs of single layers: (√d · found + norm(projection(x) / √D)) / √2, of what is found by token and the embedding
/// x, for layers of width D and inputs of width d.
///
/// Norms do not see factors of what goes into them, but for their epsilons. So 1 / √D goes into the epsilon of this norm; and as a
/// norm ends what a layer does with its input, √d / √2 goes into the epsilon of that one, and 1 / √d into the weight of this one.
struct Inputs {
    table: Embedding,
    projection: Linear,
    norm: Norm,
    dim: i32,
}

impl Inputs {
    fn load(w: &Weights, c: &Gemma4Config, size: &PerLayerSize) -> Result<Inputs> {
        let (hidden, norm) = (c.keys.hidden_size, w.pp("per_layer_projection_norm"));
        let eps = c.keys.rms_norm_eps * hidden as f32;
        let root = Array::from_f32((size.dim as f32).powf(-0.5));
        Ok(Inputs {
            table: Embedding::load(&w.pp("embed_tokens_per_layer"), size.vocab, size.all)?,
            projection: Linear::load(&w.pp("per_layer_model_projection"), hidden, size.all, false)?,
            norm: Norm::rms_folded(&norm, "weight", size.dim, eps, |weight| weight.multiply(root))?,
            dim: size.dim,
        })
    }

    /// √2 / √d times the inputs of all layers [B, L, d], for x [B, L, D] and what was `found` [B, L, layers · d].
    fn forward(&self, x: &Array, found: &Array) -> Result<Vec<Array>> {
        let projected = self.projection.forward(x)?;
        let normed = self.norm.forward(&projected.reshape(&[x.dim(0), x.dim(1), -1, self.dim])?)?;
        let all = normed.reshape(projected.shape())?.add(found)?;
        Ok(all.split_equal(all.dim(-1) / self.dim, -1)?)
    }
}

pub(super) const WRITTEN: Written = Written { eight_bits: &["router.proj"], ..Written::PLAIN };

/// The published layouts: alone, or inside a model that also sees and hears; with keys and values that are not used, and with gates and
/// ups of experts in one tensor.
pub(super) fn remap(checkpoint: &mut Checkpoint, config: &Config) -> Result<()> {
    let config = &with_defaults(config)?;
    let c = Gemma4Config::read(config)?;
    checkpoint.keep_text()?;
    super::remap(checkpoint, config)?;
    checkpoint.ignore(|name| {
        let part = name.strip_prefix("model.layers.").and_then(|name| name.split_once(".self_attn."));
        part.is_some_and(|(layer, part)| {
            let unused = ["k_proj.", "v_proj.", "k_norm."].iter().any(|unused| part.starts_with(unused));
            unused && layer.parse().is_ok_and(|i| c.shares(i))
        })
    });
    if let Some(mixture) = &c.mixture {
        let size = mixture.moe_intermediate_size;
        let parts = [("experts.switch_glu.gate_proj", size), ("experts.switch_glu.up_proj", size)];
        checkpoint.split("experts.gate_up_proj", -2, &parts)?;
        checkpoint.rename_module("experts.down_proj", "experts.switch_glu.down_proj")?;
        // What a converter of JANG bundles calls them for every architecture.
        for part in ["gate_proj", "up_proj", "down_proj"] {
            checkpoint.rename_module(&format!("switch_mlp.{part}"), &format!("experts.switch_glu.{part}"))?;
        }
    }
    Ok(())
}

pub(super) fn load(config: &Config, w: &Weights) -> Result<Gemma4> {
    let config = &with_defaults(config)?;
    let c = Gemma4Config::read(config)?;
    let (m, dim, vocab_size) = (w.pp("model"), c.keys.hidden_size, c.keys.vocab_size);
    // Layers of a kind share one.
    let mut ropes: HashMap<_, Rope> = HashMap::new();
    Ok(Gemma4 {
        embed: Embedding::load(&m.pp("embed_tokens"), vocab_size, dim)?,
        inputs: c.per_layer.as_ref().map(|size| Inputs::load(&m, &c, size)).transpose()?,
        layers: load_layers(&m, c.keys.num_hidden_layers, |i, w| {
            let layer = c.layer(i)?;
            let rope = match ropes.entry((layer.kind, layer.head_dim)) {
                Entry::Occupied(rope) => rope.get().clone(),
                Entry::Vacant(entry) => {
                    let rope = RopeConfig::from_config(config, Some(layer.kind.name()), layer.head_dim)?;
                    entry.insert(Rope::new(rope, false)?).clone()
                }
            };
            Gemma4Layer::load(w, &c, layer, rope)
        })?,
        norm: Norm::rms(&m.pp("norm"), dim, c.keys.rms_norm_eps)?,
        head: Head::load(w, super::tied(config, w)?, dim, vocab_size)?,
        scales: Scales { embed: Some((dim as f32).sqrt()), softcap: c.softcap, ..Scales::default() },
        vocab_size,
        backend: w.backend(),
    })
}
