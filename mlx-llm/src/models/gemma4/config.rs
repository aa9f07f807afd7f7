//! What configurations say of Gemma 4, and of each of its layers.

use crate::models::gemma3::{Kind, Kinds, check_groups, check_positive};
use mlx_lm_common::{
    Config, Error, Result,
    cache::CacheSpec,
    config::{dim, epsilon, optional_dim},
    nn::{Activation, KeysValues},
};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;

#[derive(Deserialize)]
pub(super) struct Keys {
    #[serde(deserialize_with = "dim")]
    pub(super) hidden_size: i32,
    #[serde(deserialize_with = "dim")]
    intermediate_size: i32,
    #[serde(deserialize_with = "dim")]
    pub(super) num_hidden_layers: i32,
    #[serde(deserialize_with = "dim")]
    pub(super) num_attention_heads: i32,
    #[serde(deserialize_with = "dim")]
    num_key_value_heads: i32,
    #[serde(default, deserialize_with = "optional_dim")]
    num_global_key_value_heads: Option<i32>,
    #[serde(deserialize_with = "dim")]
    head_dim: i32,
    #[serde(deserialize_with = "dim")]
    global_head_dim: i32,
    per_layer_config: Option<BTreeMap<String, LayerKeys>>,
    #[serde(deserialize_with = "dim")]
    pub(super) vocab_size: i32,
    #[serde(default, deserialize_with = "optional_dim")]
    vocab_size_per_layer_input: Option<i32>,
    hidden_size_per_layer_input: u16,
    #[serde(deserialize_with = "epsilon")]
    pub(super) rms_norm_eps: f32,
    #[serde(deserialize_with = "dim")]
    sliding_window: i32,
    hidden_activation: String,
    final_logit_softcapping: Option<f32>,
    use_bidirectional_attention: Option<String>,
    pub(super) attention_bias: bool,
    attention_k_eq_v: bool,
    use_double_wide_mlp: bool,
    enable_moe_block: bool,
    num_kv_shared_layers: usize,
}

/// What a single layer has of its own.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LayerKeys {
    #[serde(default, deserialize_with = "optional_dim")]
    head_dim: Option<i32>,
    #[serde(default, deserialize_with = "optional_dim")]
    num_key_value_heads: Option<i32>,
}

/// The keys of the mixture.
#[derive(Deserialize)]
pub(super) struct MixtureKeys {
    #[serde(deserialize_with = "dim")]
    pub(super) num_experts: i32,
    #[serde(deserialize_with = "dim")]
    pub(super) top_k_experts: i32,
    #[serde(deserialize_with = "dim")]
    pub(super) moe_intermediate_size: i32,
}

/// A configuration, checked.
pub(super) struct Gemma4Config {
    pub(super) keys: Keys,
    pub(super) activation: Activation,
    pub(super) softcap: Option<f32>,
    pub(super) mixture: Option<MixtureKeys>,
    pub(super) per_layer: Option<PerLayerSize>,
    kinds: Kinds,
    /// The first layer that attends to what an earlier one remembers; the number of layers if there is none.
    first_shared: usize,
}

/// Sizes of the inputs that layers look up by token.
pub(super) struct PerLayerSize {
    /// Of the table.
    pub(super) vocab: i32,
    /// Of one layer's input.
    pub(super) dim: i32,
    /// Of all layers' inputs together.
    pub(super) all: i32,
    /// √d / √2, by which what layers are given is smaller than their inputs.
    pub(super) scale: f32,
}

/// What tells one layer from another.
pub(super) struct LayerConfig {
    pub(super) kind: Kind,
    pub(super) kv_heads: i32,
    pub(super) head_dim: i32,
    pub(super) keys_values: KeysValues,
    pub(super) cache: CacheSpec,
    /// Width inside the dense block.
    pub(super) hidden: i32,
}

/// The same configuration with what it may leave out, as transformers has it.
pub(super) fn with_defaults(config: &Config) -> Result<Config> {
    config.with_defaults(json!({
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "global_head_dim": 512, "vocab_size": 262_144,
        "rms_norm_eps": 1e-6, "sliding_window": 512, "hidden_activation": "gelu_pytorch_tanh", "attention_bias": false,
        "attention_k_eq_v": false, "use_double_wide_mlp": false, "enable_moe_block": false, "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 256, "tie_word_embeddings": true, "max_position_embeddings": 131_072,
        "rope_parameters": {
            "sliding_attention": { "rope_type": "default", "rope_theta": 1e4 },
            "full_attention": { "rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6 },
        },
    }))
}

impl Gemma4Config {
    /// Reads what [`with_defaults`] made.
    pub(super) fn read(config: &Config) -> Result<Gemma4Config> {
        let keys: Keys = config.parse()?;
        if keys.use_bidirectional_attention.as_deref() == Some("all") {
            let wanted = "`vision` or nothing, as text is generated from left to right";
            return Err(Error::config("use_bidirectional_attention", "`all`", wanted));
        }
        let (layers, shared) = (keys.num_hidden_layers, keys.num_kv_shared_layers);
        let first_shared =
            usize::try_from(layers).ok().and_then(|n| n.checked_sub(shared)).filter(|first| *first > 0);
        let too_many =
            || Error::config("num_kv_shared_layers", shared, format!("fewer than the {layers} layers"));
        let softcap = keys.final_logit_softcapping.map(|cap| check_positive("final_logit_softcapping", cap));
        Ok(Gemma4Config {
            activation: Activation::from_config("hidden_activation", &keys.hidden_activation)?,
            softcap: softcap.transpose()?,
            mixture: if keys.enable_moe_block { Some(config.parse()?) } else { None },
            per_layer: keys.per_layer()?,
            kinds: Kinds::of(config, layers)?,
            first_shared: first_shared.ok_or_else(too_many)?,
            keys,
        })
    }

    /// Whether layer `i` attends to what an earlier one remembers.
    pub(super) fn shares(&self, i: usize) -> bool {
        i >= self.first_shared
    }

    /// What layer `i` is like.
    pub(super) fn layer(&self, i: usize) -> Result<LayerConfig> {
        let (keys, kind, shares) = (&self.keys, self.kind(i), self.shares(i));
        let (kv_heads, head_dim) = keys.heads(kind, i)?;
        Ok(LayerConfig {
            kind,
            kv_heads,
            head_dim,
            keys_values: match kind {
                _ if shares => KeysValues::Shared,
                Kind::FullAttention if keys.attention_k_eq_v => KeysValues::One,
                _ => KeysValues::Own,
            },
            cache: if shares { self.source(i, kind)? } else { kind.cache(keys.sliding_window) },
            hidden: match keys.intermediate_size {
                size if shares && keys.use_double_wide_mlp => size.saturating_mul(2),
                size => size,
            },
        })
    }

    fn kind(&self, i: usize) -> Kind {
        let last = usize::try_from(self.keys.num_hidden_layers) == Ok(i + 1);
        if last { Kind::FullAttention } else { self.kinds.kind(i) }
    }

    /// What layer `i` attends to: what the last layer of its kind remembers, of those that remember anything.
    fn source(&self, i: usize, kind: Kind) -> Result<CacheSpec> {
        let source = (0..self.first_shared).rev().find(|j| self.kind(*j) == kind);
        source.map(CacheSpec::Shared).ok_or_else(|| {
            let shared = self.keys.num_kv_shared_layers;
            let wanted =
                format!("a layer of {} before layer {i}, which shares its keys and values", kind.name());
            Error::config("num_kv_shared_layers", shared, wanted)
        })
    }
}

impl Keys {
    /// How many heads of keys and values layer `i` has, and how wide all its heads are.
    fn heads(&self, kind: Kind, i: usize) -> Result<(i32, i32)> {
        let full = kind == Kind::FullAttention;
        let own = |layers: &BTreeMap<String, LayerKeys>| {
            let (_, own) = layers.iter().find(|(layer, _)| layer.parse() == Ok(i))?;
            Some((own.num_key_value_heads, own.head_dim))
        };
        let (kv_heads, head_dim) = match &self.per_layer_config {
            Some(layers) => own(layers).unwrap_or_default(),
            None if full => (
                self.num_global_key_value_heads.filter(|_| self.attention_k_eq_v),
                Some(self.global_head_dim),
            ),
            None => (None, None),
        };
        let key = if kv_heads.is_some() { "num_global_key_value_heads" } else { "num_key_value_heads" };
        let kv_heads = kv_heads.unwrap_or(self.num_key_value_heads);
        check_groups(self.num_attention_heads, key, kv_heads)?;
        Ok((kv_heads, head_dim.unwrap_or(self.head_dim)))
    }

    /// The sizes of the layers' own inputs, where they have some.
    fn per_layer(&self) -> Result<Option<PerLayerSize>> {
        let dim = i32::from(self.hidden_size_per_layer_input);
        if dim == 0 {
            return Ok(None);
        }
        let vocab = self.vocab_size_per_layer_input.unwrap_or(self.vocab_size);
        if vocab < self.vocab_size {
            let wanted = format!("an input for each of {} tokens", self.vocab_size);
            return Err(Error::config("vocab_size_per_layer_input", vocab, wanted));
        }
        let all = dim.checked_mul(self.num_hidden_layers).ok_or_else(|| {
            Error::config(
                "hidden_size_per_layer_input",
                dim,
                format!("less for {} layers", self.num_hidden_layers),
            )
        })?;
        Ok(Some(PerLayerSize { vocab, dim, all, scale: (dim as f32 / 2.0).sqrt() }))
    }
}

#[cfg(test)]
mod tests;
