//! Mixtral (arXiv 2401.04088): Mistral with experts for a feed-forward block, weighed by the softmax of the best scores.
//!
//! [`decoder`] is what other mixtures have in common with it: attention, and then experts or one block, each after a norm.

use super::llama::LlamaConfig;
use mlx_lm_common::{
    Config, Result,
    cache::{CacheSpec, LayerCache},
    config::optional_dim,
    model::{Decoder, Layer, Scales, load_layers},
    nn::{Attention, Embedding, ExpertsConfig, FeedForward, Head, MoeConfig, Norm, RouterConfig, Score},
    weights::{Checkpoint, Weights},
};
use mlx_rs::Array;
use serde::Deserialize;

#[derive(Deserialize)]
struct MixtralConfig {
    #[serde(default, deserialize_with = "optional_dim")]
    sliding_window: Option<i32>,
}

/// Attention, and then experts or one block, each after a norm.
pub(super) struct MixtralLayer {
    pub(super) input_layernorm: Norm,
    pub(super) self_attn: Attention,
    pub(super) post_attention_layernorm: Norm,
    pub(super) feed_forward: FeedForward,
    pub(super) cache: CacheSpec,
}

impl Layer for MixtralLayer {
    fn forward(&self, x: &Array, cache: &mut LayerCache) -> Result<Array> {
        let h = self.self_attn.forward_add(&self.input_layernorm, x, cache)?;
        self.feed_forward.forward_add(&self.post_attention_layernorm, &h)
    }

    fn cache(&self) -> CacheSpec {
        self.cache.clone()
    }
}

/// Experts are published one by one, with numbers for the names of their matrices.
pub(super) fn remap(checkpoint: &mut Checkpoint, config: &Config) -> Result<()> {
    super::remap(checkpoint, config)?;
    checkpoint.stack("block_sparse_moe.experts", "block_sparse_moe.switch_mlp")?;
    checkpoint.rename_module("switch_mlp.w1", "switch_mlp.gate_proj")?;
    checkpoint.rename_module("switch_mlp.w2", "switch_mlp.down_proj")?;
    checkpoint.rename_module("switch_mlp.w3", "switch_mlp.up_proj")
}

pub(super) fn load(config: &Config, w: &Weights) -> Result<Decoder<MixtralLayer>> {
    let c: LlamaConfig = config.parse()?;
    let attention = c.attention(&config.model_type, Some(c.rope(config, Some("full_attention"))?))?;
    let (experts, k) = (config.dim("num_local_experts")?, config.dim("num_experts_per_tok")?);
    let router = RouterConfig { score: Score::TopKSoftmax, ..RouterConfig::new(c.hidden_size, experts, k) };
    let moe = MoeConfig::new(router, ExpertsConfig::new(c.hidden_size, c.intermediate_size, experts));
    let window = config.parse::<MixtralConfig>()?.sliding_window;
    decoder(
        (config, w, &c),
        window.map_or(CacheSpec::Full, CacheSpec::Window),
        |w| Attention::load(w, &attention),
        |_, w| FeedForward::experts(&w.pp("block_sparse_moe"), &moe),
    )
}

/// A decoder of such layers. `attention` loads what is below `self_attn`, and `feed_forward` what the layer has of its own.
pub(super) fn decoder(
    (config, w, c): (&Config, &Weights, &LlamaConfig),
    cache: CacheSpec,
    attention: impl Fn(&Weights) -> Result<Attention>,
    feed_forward: impl Fn(usize, &Weights) -> Result<FeedForward>,
) -> Result<Decoder<MixtralLayer>> {
    let (m, dim, eps) = (w.pp("model"), c.hidden_size, c.rms_norm_eps);
    Ok(Decoder {
        embed: Embedding::load(&m.pp("embed_tokens"), c.vocab_size, dim)?,
        layers: load_layers(&m, c.num_hidden_layers, |i, w| {
            Ok(MixtralLayer {
                input_layernorm: Norm::rms(&w.pp("input_layernorm"), dim, eps)?,
                self_attn: attention(&w.pp("self_attn"))?,
                post_attention_layernorm: Norm::rms(&w.pp("post_attention_layernorm"), dim, eps)?,
                feed_forward: feed_forward(i, w)?,
                cache: cache.clone(),
            })
        })?,
        norm: Norm::rms(&m.pp("norm"), dim, eps)?,
        head: Head::load(w, super::tied(config, w)?, dim, c.vocab_size)?,
        scales: Scales::default(),
        vocab_size: c.vocab_size,
        backend: w.backend(),
    })
}
