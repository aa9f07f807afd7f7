//! OLMo 2 and 3 (arXiv 2501.00656, 2512.13961): norms after blocks, and over the queries and keys of all heads together. OLMo 3 has
//! windows in most layers, and scales the rotation of the others alone.
//!
//! EXAONE 4 (arXiv 2507.11407): norms after blocks, too, and on each head; where layers have windows, those that see everything have
//! no positions.

use super::{
    gemma3::{Kind, Kinds},
    llama::LlamaConfig,
};
use mlx_lm_common::{
    Config, Error, Result,
    cache::{CacheSpec, LayerCache},
    config::{RopeConfig, RopeKind, optional_dim},
    model::{Decoder, Layer, Scales, load_layers},
    nn::{Attention, AttentionConfig, Embedding, Head, Mlp, MlpConfig, Norm, Rope},
    weights::Weights,
};
use mlx_rs::Array;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct WindowConfig {
    #[serde(default, deserialize_with = "optional_dim")]
    sliding_window: Option<i32>,
    /// A number, as [`Kinds`] reads it, or a letter for each layer of a period.
    sliding_window_pattern: Option<Value>,
}

pub(super) struct OlmoLayer {
    self_attn: Attention,
    post_attention_layernorm: Norm,
    mlp: Mlp,
    post_feedforward_layernorm: Norm,
    cache: CacheSpec,
}

impl Layer for OlmoLayer {
    fn forward(&self, x: &Array, cache: &mut LayerCache) -> Result<Array> {
        let y = self.self_attn.forward(None, x, cache)?;
        let x = x.add(self.post_attention_layernorm.forward(&y)?)?;
        let y = self.mlp.forward(None, &x)?;
        Ok(x.add(self.post_feedforward_layernorm.forward(&y)?)?)
    }

    fn cache(&self) -> CacheSpec {
        self.cache.clone()
    }
}

/// OLMo 2 and 3.
pub(super) fn load(config: &Config, w: &Weights) -> Result<Decoder<OlmoLayer>> {
    let c: LlamaConfig = config.parse()?;
    let window = match config.model_type.as_str() {
        "olmo3" => Some(config.dim("sliding_window")?),
        _ => None,
    };
    let config = &config.with_defaults(json!({ "sliding_window_pattern": 4 }))?;
    let kinds = window.map(|_| Kinds::of(config, c.num_hidden_layers)).transpose()?;
    let scaled = RopeConfig::from_config(config, Some("full_attention"), c.head_dim()?)?;
    let plain = RopeConfig { kind: RopeKind::Default, ..scaled.clone() };
    let (full, sliding) = (Rope::new(scaled, false)?, Rope::new(plain, false)?);
    decoder((config, w, &c), |i, w| {
        let window = window.filter(|_| kinds.as_ref().is_some_and(|k| k.kind(i) == Kind::SlidingAttention));
        let rope = if window.is_some() { &sliding } else { &full };
        let attention = c.attention(&config.model_type, Some(rope.clone()))?;
        let attention = Attention::load(w, &attention)?.with_joint_norms(w, c.rms_norm_eps)?;
        Ok((attention, window))
    })
}

/// EXAONE 4.
pub(super) fn load_exaone(config: &Config, w: &Weights) -> Result<Decoder<OlmoLayer>> {
    let c: LlamaConfig = config.parse()?;
    let WindowConfig { sliding_window: window, sliding_window_pattern: pattern } = config.parse()?;
    let kinds = match pattern {
        Some(Value::String(letters)) => {
            let listed = listed(&letters, c.num_hidden_layers)?;
            Kinds::of(&config.with_defaults(json!({ "layer_types": listed }))?, c.num_hidden_layers)?
        }
        _ => Kinds::of(&config.with_defaults(json!({ "sliding_window_pattern": 4 }))?, c.num_hidden_layers)?,
    };
    let rope = c.rope(config, Some("full_attention"))?;
    decoder((config, w, &c), |i, w| {
        let sliding = window.filter(|_| kinds.kind(i) == Kind::SlidingAttention);
        let rope = (window.is_none() || sliding.is_some()).then(|| rope.clone());
        let attention =
            AttentionConfig { qk_norm: Some(c.rms_norm_eps), ..c.attention(&config.model_type, rope)? };
        Ok((Attention::load(w, &attention)?, sliding))
    })
}

/// The kinds of so many layers by a text of `L` (local) and `G` (global), which repeats.
fn listed(letters: &str, layers: i32) -> Result<Vec<&'static str>> {
    let kind = |letter: char| match letter {
        'L' => Ok(Kind::SlidingAttention.name()),
        'G' => Ok(Kind::FullAttention.name()),
        other => Err(Error::config("sliding_window_pattern", other, "letters L and G")),
    };
    let period: Vec<_> = letters.chars().take(1000).map(kind).collect::<Result<_>>()?;
    if period.is_empty() {
        return Err(Error::config("sliding_window_pattern", "no letter", "letters L and G"));
    }
    Ok(period.into_iter().cycle().take(layers as usize).collect())
}

/// `attention` loads what is below `self_attn`, and says how far the layer sees, if not to the beginning.
fn decoder(
    (config, w, c): (&Config, &Weights, &LlamaConfig),
    attention: impl Fn(usize, &Weights) -> Result<(Attention, Option<i32>)>,
) -> Result<Decoder<OlmoLayer>> {
    let (m, dim, eps) = (w.pp("model"), c.hidden_size, c.rms_norm_eps);
    let mlp = MlpConfig::new(dim, c.intermediate_size);
    Ok(Decoder {
        embed: Embedding::load(&m.pp("embed_tokens"), c.vocab_size, dim)?,
        layers: load_layers(&m, c.num_hidden_layers, |i, w| {
            let (self_attn, window) = attention(i, &w.pp("self_attn"))?;
            Ok(OlmoLayer {
                self_attn,
                post_attention_layernorm: Norm::rms(&w.pp("post_attention_layernorm"), dim, eps)?,
                mlp: Mlp::load(&w.pp("mlp"), &mlp)?,
                post_feedforward_layernorm: Norm::rms(&w.pp("post_feedforward_layernorm"), dim, eps)?,
                cache: window.map_or(CacheSpec::Full, CacheSpec::Window),
            })
        })?,
        norm: Norm::rms(&m.pp("norm"), dim, eps)?,
        head: Head::load(w, super::tied(config, w)?, dim, c.vocab_size)?,
        scales: Scales::default(),
        vocab_size: c.vocab_size,
        backend: w.backend(),
    })
}
