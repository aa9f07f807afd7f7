//! Gemma 3 (arXiv 2503.19786): a norm before and after each block, a few layers with a window for each one that sees everything, and
//! for either kind a RoPE of its own.
//!
//! `layer_types` says which layer is of which kind, as in transformers, where mlx-lm reads `sliding_window_pattern` alone.
//! `attn_logit_softcapping` means nothing here, as in either.

use half::bf16;
use mlx_lm_common::{
    Config, Error, Result,
    cache::{AttentionSpec, CacheSpec, LayerCache},
    config::{RopeConfig, dim, epsilon},
    model::{Decoder, Layer, Scales, load_layers},
    nn::{
        Activation, Attention, Embedding, Form, Glu, Head, KeysValues, Mlp, MlpConfig, Norm, Rope, fused,
        widen,
    },
    weights::{Checkpoint, Weights},
};
use mlx_rs::{Array, Dtype, error::Exception, ops};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Gemma3Config {
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
    final_logit_softcapping: Option<f32>,
    #[serde(default)]
    use_bidirectional_attention: bool,
}

/// What a layer sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    SlidingAttention,
    FullAttention,
}

impl Kind {
    /// As configurations call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::SlidingAttention => "sliding_attention",
            Kind::FullAttention => "full_attention",
        }
    }

    /// What it needs remembered.
    pub(super) fn cache(self, window: i32) -> CacheSpec {
        match self {
            Kind::SlidingAttention => CacheSpec::Window(window),
            Kind::FullAttention => CacheSpec::Full,
        }
    }
}

/// The kinds of all layers.
pub(super) enum Kinds {
    Listed(Vec<Kind>),
    /// Every so many layers one sees everything.
    Every(usize),
}

impl Kinds {
    /// What `layer_types` says for so many layers, or else `sliding_window_pattern`, or else every sixth sees everything.
    pub(super) fn of(config: &Config, layers: i32) -> Result<Kinds> {
        let Some(listed) = config.get::<Vec<Kind>>("layer_types")? else {
            let period = config.get::<usize>("sliding_window_pattern")?.unwrap_or(6);
            return match period {
                0 => Err(Error::config("sliding_window_pattern", 0, "a positive number")),
                period => Ok(Kinds::Every(period)),
            };
        };
        if usize::try_from(layers) == Ok(listed.len()) {
            return Ok(Kinds::Listed(listed));
        }
        let found = format!("{} kinds", listed.len());
        Err(Error::config("layer_types", found, format!("one for each of the {layers} layers")))
    }

    /// The kind of layer `i`.
    pub(super) fn kind(&self, i: usize) -> Kind {
        let listed = match self {
            Kinds::Listed(kinds) => kinds.get(i).copied(),
            Kinds::Every(period) if !(i + 1).is_multiple_of(*period) => Some(Kind::SlidingAttention),
            Kinds::Every(_) => None,
        };
        listed.unwrap_or(Kind::FullAttention)
    }
}

/// Checks that heads of queries divide into groups, one for each of the `kv_heads` that `key` tells.
pub(super) fn check_groups(heads: i32, key: &str, kv_heads: i32) -> Result<()> {
    if heads % kv_heads == 0 {
        return Ok(());
    }
    Err(Error::config(key, kv_heads, format!("a divisor of {heads} heads")))
}

/// Checks that a factor is finite and positive.
pub(super) fn check_positive(key: &str, factor: f32) -> Result<f32> {
    if factor > 0.0 && factor.is_finite() {
        return Ok(factor);
    }
    Err(Error::config(key, factor, "a positive number"))
}

pub(super) struct Gemma3Layer {
    input_layernorm: Norm,
    self_attn: Attention,
    post_attention_layernorm: Norm,
    pre_feedforward_layernorm: Norm,
    mlp: Mlp,
    post_feedforward_layernorm: Norm,
    cache: CacheSpec,
    compile: bool,
}

impl Layer for Gemma3Layer {
    fn forward(&self, x: &Array, cache: &mut LayerCache) -> Result<Array> {
        let y = self.self_attn.forward(&self.input_layernorm, x, cache)?;
        let x = sum(x, &self.post_attention_layernorm.forward(&y)?, self.compile)?;
        let y = self.mlp.forward(Some(&self.pre_feedforward_layernorm), &x)?;
        sum(&x, &self.post_feedforward_layernorm.forward(&y)?, self.compile)
    }

    fn cache(&self) -> CacheSpec {
        self.cache.clone()
    }
}

/// x + y. The residual stream outgrows float16, where it stays at the largest number.
fn sum(x: &Array, y: &Array, compile: bool) -> Result<Array> {
    if x.dtype() != Dtype::Float16 {
        return Ok(x.add(y)?);
    }
    let [sum] = fused(compile, clipped_sum, [x, y])?;
    Ok(sum)
}

fn clipped_sum([x, y]: [&Array; 2]) -> Result<[Array; 1], Exception> {
    let sum = widen(x)?.add(widen(y)?)?;
    let most = half::f16::MAX.to_f32();
    let clipped = ops::minimum(ops::maximum(&sum, Array::from_f32(-most))?, Array::from_f32(most))?;
    Ok([clipped.as_dtype(Dtype::Float16)?])
}

/// The published layouts: alone, or inside a model that also sees.
pub(super) fn remap(checkpoint: &mut Checkpoint, config: &Config) -> Result<()> {
    checkpoint.keep_text()?;
    super::remap(checkpoint, config)
}

pub(super) fn load(config: &Config, w: &Weights) -> Result<Decoder<Gemma3Layer>> {
    // What published configurations leave out, with the values that transformers has for it.
    let config = &config.with_defaults(json!({
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262_208, "rms_norm_eps": 1e-6,
        "query_pre_attn_scalar": 256, "sliding_window": 4096, "rope_local_base_freq": 10_000.0,
        "max_position_embeddings": 131_072, "hidden_activation": "gelu_pytorch_tanh",
    }))?;
    let c: Gemma3Config = config.parse()?;
    if c.use_bidirectional_attention {
        return Err(Error::config(
            "use_bidirectional_attention",
            true,
            "false, as text is generated from left to right",
        ));
    }
    check_groups(c.num_attention_heads, "num_key_value_heads", c.num_key_value_heads)?;
    let softcap =
        c.final_logit_softcapping.map(|cap| check_positive("final_logit_softcapping", cap)).transpose()?;
    let scale = check_positive("query_pre_attn_scalar", c.query_pre_attn_scalar)?.powf(-0.5);
    let kinds = Kinds::of(config, c.num_hidden_layers)?;
    let rope = |kind: Kind, base: f64| {
        let config = config.with_defaults(json!({ "rope_theta": base }))?;
        Rope::new(RopeConfig::from_config(&config, Some(kind.name()), c.head_dim)?, false)
    };
    let (sliding, full) = (rope(Kind::SlidingAttention, 1e4)?, rope(Kind::FullAttention, 1e6)?);
    let activation = Activation::from_config("hidden_activation", &c.hidden_activation)?;
    let (m, dim, eps, backend) = (w.pp("model"), c.hidden_size, c.rms_norm_eps, w.backend());
    let mlp =
        MlpConfig { form: Form::Gated(Glu::Act(activation)), ..MlpConfig::new(dim, c.intermediate_size) };
    Ok(Decoder {
        embed: Embedding::load(&m.pp("embed_tokens"), c.vocab_size, dim)?,
        layers: load_layers(&m, c.num_hidden_layers, |i, w| {
            let kind = kinds.kind(i);
            let norm = |name: &str| Norm::rms_plus_one(&w.pp(name), dim, eps);
            let head_norm = |name: &str| Norm::rms_plus_one(&w.pp("self_attn").pp(name), c.head_dim, eps);
            let spec = AttentionSpec {
                scale,
                q_norm: Some(head_norm("q_norm")?),
                k_norm: Some(head_norm("k_norm")?),
                rope: Some(if kind == Kind::SlidingAttention { sliding.clone() } else { full.clone() }),
                ..AttentionSpec::new(
                    c.num_attention_heads,
                    c.num_key_value_heads,
                    c.head_dim,
                    backend.kernels,
                )
            };
            let biases = [c.attention_bias; 2];
            Ok(Gemma3Layer {
                input_layernorm: norm("input_layernorm")?,
                self_attn: Attention::around(spec, &w.pp("self_attn"), dim, KeysValues::Own, biases)?,
                post_attention_layernorm: norm("post_attention_layernorm")?,
                pre_feedforward_layernorm: norm("pre_feedforward_layernorm")?,
                mlp: Mlp::load(&w.pp("mlp"), &mlp)?,
                post_feedforward_layernorm: norm("post_feedforward_layernorm")?,
                cache: kind.cache(c.sliding_window),
                compile: backend.compile,
            })
        })?,
        norm: Norm::rms_plus_one(&m.pp("norm"), dim, eps)?,
        head: Head::load(w, super::tied(config, w)?, dim, c.vocab_size)?,
        // The square root is rounded as it was in training.
        scales: Scales {
            embed: Some(bf16::from_f32((dim as f32).sqrt()).to_f32()),
            softcap,
            ..Scales::default()
        },
        vocab_size: c.vocab_size,
        backend,
    })
}

#[cfg(test)]
mod tests;
