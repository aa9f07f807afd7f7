//! GPT-OSS (arXiv 2508.10925): attention with sinks, over a window in every other layer; every layer routes to experts with biases
//! and a clamped gate, published in 4-bit floats, which they stay in.
//!
//! YaRN's ramp begins and ends between channels (`truncate: false`) as in transformers, where mlx-lm rounds.

use super::gemma3::{Kinds, check_groups, check_positive};
use mlx_lm_common::{
    Config, Result,
    cache::{AttentionSpec, CacheSpec, LayerCache},
    config::{RopeConfig, dim, epsilon},
    model::{Decoder, Layer, Scales, Written, load_layers},
    nn::{
        Attention, Embedding, ExpertsConfig, Form, Glu, Head, KeysValues, Moe, MoeConfig, Norm, Rope,
        RouterConfig, Score,
    },
    weights::{Checkpoint, Weights},
};
use mlx_rs::Array;
use serde::Deserialize;
use serde_json::json;

/// Steepness of the gate's sigmoid.
const ALPHA: f32 = 1.702;

#[derive(Deserialize)]
struct GptOssConfig {
    #[serde(deserialize_with = "dim")]
    hidden_size: i32,
    #[serde(deserialize_with = "dim")]
    intermediate_size: i32,
    #[serde(deserialize_with = "dim")]
    num_hidden_layers: i32,
    #[serde(deserialize_with = "dim")]
    num_attention_heads: i32,
    #[serde(deserialize_with = "dim")]
    num_key_value_heads: i32,
    #[serde(deserialize_with = "dim")]
    head_dim: i32,
    #[serde(deserialize_with = "dim")]
    vocab_size: i32,
    #[serde(deserialize_with = "epsilon")]
    rms_norm_eps: f32,
    #[serde(deserialize_with = "dim")]
    sliding_window: i32,
    #[serde(deserialize_with = "dim")]
    num_local_experts: i32,
    #[serde(deserialize_with = "dim")]
    num_experts_per_tok: i32,
    swiglu_limit: f32,
    attention_bias: bool,
}

pub(super) struct GptOssLayer {
    input_layernorm: Norm,
    self_attn: Attention,
    post_attention_layernorm: Norm,
    mlp: Moe,
    cache: CacheSpec,
}

impl Layer for GptOssLayer {
    fn forward(&self, x: &Array, cache: &mut LayerCache) -> Result<Array> {
        let h = self.self_attn.forward_add(&self.input_layernorm, x, cache)?;
        self.mlp.forward_add(&self.post_attention_layernorm, &h)
    }

    fn cache(&self) -> CacheSpec {
        self.cache.clone()
    }
}

pub(super) const WRITTEN: Written = Written { eight_bits: &["router"], ..Written::PLAIN };

/// Experts are published as parameters of all, in which outputs of gate and up take turns: packed [E, out, in], or dense
/// [E, in, out].
pub(super) fn remap(checkpoint: &mut Checkpoint, config: &Config) -> Result<()> {
    super::remap(checkpoint, config)?;
    let dense = ["experts.gate_up_proj", "experts.down_proj"];
    checkpoint.transpose(|name| dense.iter().any(|parameter| name.ends_with(parameter)))?;
    checkpoint.rename_module("experts.down_proj", "experts.down_proj")?;
    checkpoint.split("experts.gate_up_proj", -2, &[("experts.gate_proj", 1), ("experts.up_proj", 1)])
}

pub(super) fn load(config: &Config, w: &Weights) -> Result<Decoder<GptOssLayer>> {
    // What configurations may leave out, with the values that transformers has for it.
    let config = &config.with_defaults(json!({
        "head_dim": 64, "rope_theta": 150_000.0, "rms_norm_eps": 1e-5, "sliding_window": 128, "sliding_window_pattern": 2,
        "num_experts_per_tok": config.get::<i32>("experts_per_token")?.unwrap_or(4), "swiglu_limit": 7.0,
        "attention_bias": true,
    }))?;
    let c: GptOssConfig = config.parse()?;
    check_groups(c.num_attention_heads, "num_key_value_heads", c.num_key_value_heads)?;
    let kinds = Kinds::of(config, c.num_hidden_layers)?;
    let rope = Rope::new(RopeConfig::from_config(config, Some("full_attention"), c.head_dim)?, false)?;
    let (m, dim, eps, backend) = (w.pp("model"), c.hidden_size, c.rms_norm_eps, w.backend());
    let limit = check_positive("swiglu_limit", c.swiglu_limit)?;
    let moe = MoeConfig {
        experts_name: "experts",
        ..MoeConfig::new(
            RouterConfig {
                name: "router",
                bias: true,
                score: Score::TopKSoftmax,
                ..RouterConfig::new(dim, c.num_local_experts, c.num_experts_per_tok)
            },
            ExpertsConfig {
                bias: true,
                form: Form::Gated(Glu::Clamped { alpha: ALPHA, limit }),
                ..ExpertsConfig::new(dim, c.intermediate_size, c.num_local_experts)
            },
        )
    };
    let attention = |w: &Weights| {
        let spec = AttentionSpec {
            rope: Some(rope.clone()),
            sinks: Some(w.tensor("sinks", &[c.num_attention_heads])?),
            ..AttentionSpec::new(c.num_attention_heads, c.num_key_value_heads, c.head_dim, backend.kernels)
        };
        Attention::around(spec, w, dim, KeysValues::Own, [c.attention_bias; 2])
    };
    Ok(Decoder {
        embed: Embedding::load(&m.pp("embed_tokens"), c.vocab_size, dim)?,
        layers: load_layers(&m, c.num_hidden_layers, |i, w| {
            Ok(GptOssLayer {
                input_layernorm: Norm::rms(&w.pp("input_layernorm"), dim, eps)?,
                self_attn: attention(&w.pp("self_attn"))?,
                post_attention_layernorm: Norm::rms(&w.pp("post_attention_layernorm"), dim, eps)?,
                mlp: Moe::load(&w.pp("mlp"), &moe)?,
                cache: kinds.kind(i).cache(c.sliding_window),
            })
        })?,
        norm: Norm::rms(&m.pp("norm"), dim, eps)?,
        head: Head::load(w, super::tied(config, w)?, dim, c.vocab_size)?,
        scales: Scales::default(),
        vocab_size: c.vocab_size,
        backend,
    })
}
