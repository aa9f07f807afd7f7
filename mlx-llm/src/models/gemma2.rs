//! Gemma 2 (arXiv 2408.00118): a norm before and after each block, every other layer with a window, and soft bounds on scores and on
//! logits.
//!
//! Windows are as in transformers; in mlx-lm every layer sees everything.

use super::gemma3::{Kind, Kinds, check_groups, check_positive};
use mlx_lm_common::{
    Config, Result,
    cache::{AttentionSpec, CacheSpec, LayerCache, Softcap},
    config::{RopeConfig, dim, epsilon},
    model::{Decoder, Layer, Scales, load_layers},
    nn::{Activation, Attention, Embedding, Form, Glu, Head, KeysValues, Mlp, MlpConfig, Norm, Rope},
    weights::Weights,
};
use mlx_rs::Array;
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Gemma2Config {
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
    query_pre_attn_scalar: f32,
    hidden_activation: String,
    #[serde(default)]
    attention_bias: bool,
    attn_logit_softcapping: f32,
    final_logit_softcapping: f32,
}

pub(super) struct Gemma2Layer {
    input_layernorm: Norm,
    self_attn: Attention,
    post_attention_layernorm: Norm,
    pre_feedforward_layernorm: Norm,
    mlp: Mlp,
    post_feedforward_layernorm: Norm,
    cache: CacheSpec,
}

impl Layer for Gemma2Layer {
    fn forward(&self, x: &Array, cache: &mut LayerCache) -> Result<Array> {
        let y = self.self_attn.forward(&self.input_layernorm, x, cache)?;
        let x = x.add(self.post_attention_layernorm.forward(&y)?)?;
        let y = self.mlp.forward(Some(&self.pre_feedforward_layernorm), &x)?;
        Ok(x.add(self.post_feedforward_layernorm.forward(&y)?)?)
    }

    fn cache(&self) -> CacheSpec {
        self.cache.clone()
    }
}

pub(super) fn load(config: &Config, w: &Weights) -> Result<Decoder<Gemma2Layer>> {
    // What configurations may leave out, with the values that transformers has for it.
    let config = &config.with_defaults(json!({
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 256_000, "rms_norm_eps": 1e-6,
        "query_pre_attn_scalar": 256, "sliding_window": 4096, "sliding_window_pattern": 2,
        "hidden_activation": "gelu_pytorch_tanh", "attn_logit_softcapping": 50, "final_logit_softcapping": 30,
    }))?;
    let c: Gemma2Config = config.parse()?;
    check_groups(c.num_attention_heads, "num_key_value_heads", c.num_key_value_heads)?;
    let kinds = Kinds::of(config, c.num_hidden_layers)?;
    let (m, dim, eps, backend) = (w.pp("model"), c.hidden_size, c.rms_norm_eps, w.backend());
    let rope = RopeConfig::from_config(config, Some(Kind::FullAttention.name()), c.head_dim)?;
    let spec = AttentionSpec {
        scale: check_positive("query_pre_attn_scalar", c.query_pre_attn_scalar)?.powf(-0.5),
        rope: Some(Rope::new(rope, false)?),
        softcap: Some(Softcap {
            cap: check_positive("attn_logit_softcapping", c.attn_logit_softcapping)?,
            compile: backend.compile,
        }),
        ..AttentionSpec::new(c.num_attention_heads, c.num_key_value_heads, c.head_dim, backend.kernels)
    };
    let form = Form::Gated(Glu::Act(Activation::from_config("hidden_activation", &c.hidden_activation)?));
    let mlp = MlpConfig { form, ..MlpConfig::new(dim, c.intermediate_size) };
    Ok(Decoder {
        embed: Embedding::load(&m.pp("embed_tokens"), c.vocab_size, dim)?,
        layers: load_layers(&m, c.num_hidden_layers, |i, w| {
            let norm = |name: &str| Norm::rms_plus_one(&w.pp(name), dim, eps);
            let (attention, biases) = (w.pp("self_attn"), [c.attention_bias; 2]);
            Ok(Gemma2Layer {
                input_layernorm: norm("input_layernorm")?,
                self_attn: Attention::around(spec.clone(), &attention, dim, KeysValues::Own, biases)?,
                post_attention_layernorm: norm("post_attention_layernorm")?,
                pre_feedforward_layernorm: norm("pre_feedforward_layernorm")?,
                mlp: Mlp::load(&w.pp("mlp"), &mlp)?,
                post_feedforward_layernorm: norm("post_feedforward_layernorm")?,
                cache: kinds.kind(i).cache(c.sliding_window),
            })
        })?,
        norm: Norm::rms_plus_one(&m.pp("norm"), dim, eps)?,
        head: Head::load(w, super::tied(config, w)?, dim, c.vocab_size)?,
        scales: Scales {
            embed: Some((dim as f32).sqrt()),
            softcap: Some(check_positive("final_logit_softcapping", c.final_logit_softcapping)?),
            ..Scales::default()
        },
        vocab_size: c.vocab_size,
        backend,
    })
}
