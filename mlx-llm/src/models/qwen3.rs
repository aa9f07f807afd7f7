//! Qwen3 and Qwen3-MoE (arXiv 2505.09388): Llama with a norm on each query and key head; some layers route to experts.

use super::llama::LlamaConfig;
use mlx_lm_common::{
    Config, Result,
    cache::LayerCache,
    config::dim,
    model::{Decoder, Layer, Scales, Written, load_layers},
    nn::{
        Attention, AttentionConfig, Embedding, ExpertsConfig, FeedForward, Head, MlpConfig, MoeConfig, Norm,
        Normalize, RouterConfig,
    },
    weights::{Checkpoint, Weights},
};
use mlx_rs::Array;
use serde::Deserialize;

/// The keys of the mixture.
#[derive(Deserialize)]
struct MixtureConfig {
    #[serde(deserialize_with = "dim")]
    num_experts: i32,
    #[serde(deserialize_with = "dim")]
    num_experts_per_tok: i32,
    #[serde(deserialize_with = "dim")]
    moe_intermediate_size: i32,
    #[serde(default)]
    norm_topk_prob: bool,
    #[serde(default = "one")]
    decoder_sparse_step: usize,
    #[serde(default)]
    mlp_only_layers: Vec<usize>,
}

fn one() -> usize {
    1
}

impl MixtureConfig {
    fn routes(&self, layer: usize) -> bool {
        !self.mlp_only_layers.contains(&layer) && (layer + 1).is_multiple_of(self.decoder_sparse_step.max(1))
    }
}

pub(super) struct Qwen3Layer {
    input_layernorm: Norm,
    self_attn: Attention,
    post_attention_layernorm: Norm,
    mlp: FeedForward,
}

impl Layer for Qwen3Layer {
    fn forward(&self, x: &Array, cache: &mut LayerCache) -> Result<Array> {
        let h = self.self_attn.forward_add(&self.input_layernorm, x, cache)?;
        self.mlp.forward_add(&self.post_attention_layernorm, &h)
    }
}

pub(super) const WRITTEN: Written = Written { eight_bits: &["mlp.gate"], ..Written::PLAIN };

/// Experts are published one by one.
pub(super) fn remap(checkpoint: &mut Checkpoint, config: &Config) -> Result<()> {
    super::remap(checkpoint, config)?;
    checkpoint.stack("experts", "switch_mlp")
}

pub(super) fn load(config: &Config, w: &Weights) -> Result<Decoder<Qwen3Layer>> {
    let c: LlamaConfig = config.parse()?;
    let experts: Option<MixtureConfig> = match config.model_type.as_str() {
        "qwen3_moe" => Some(config.parse()?),
        _ => None,
    };
    let (m, dim, eps) = (w.pp("model"), c.hidden_size, c.rms_norm_eps);
    let rope = c.rope(config, Some("full_attention"))?;
    let attention = AttentionConfig { qk_norm: Some(eps), ..c.attention(&config.model_type, Some(rope))? };
    let mlp = |i: usize, w: &Weights| match &experts {
        Some(e) if e.routes(i) => {
            let normalize = if e.norm_topk_prob { Normalize::Sum(0.0) } else { Normalize::No };
            let router = RouterConfig::new(dim, e.num_experts, e.num_experts_per_tok);
            let experts = ExpertsConfig::new(dim, e.moe_intermediate_size, e.num_experts);
            let config = MoeConfig::new(RouterConfig { normalize, ..router }, experts);
            FeedForward::experts(w, &config)
        }
        _ => FeedForward::dense(w, &MlpConfig::new(dim, c.intermediate_size)),
    };
    Ok(Decoder {
        embed: Embedding::load(&m.pp("embed_tokens"), c.vocab_size, dim)?,
        layers: load_layers(&m, c.num_hidden_layers, |i, w| {
            Ok(Qwen3Layer {
                input_layernorm: Norm::rms(&w.pp("input_layernorm"), dim, eps)?,
                self_attn: Attention::load(&w.pp("self_attn"), &attention)?,
                post_attention_layernorm: Norm::rms(&w.pp("post_attention_layernorm"), dim, eps)?,
                mlp: mlp(i, &w.pp("mlp"))?,
            })
        })?,
        norm: Norm::rms(&m.pp("norm"), dim, eps)?,
        head: Head::load(w, super::tied(config, w)?, dim, c.vocab_size)?,
        scales: Scales::default(),
        vocab_size: c.vocab_size,
        backend: w.backend(),
    })
}
