//! Architectures that can be written: their configuration as metadata, and what llama.cpp has otherwise than mlx-lm.

use super::blocks::FileType;
use crate::{
    Config, Error, Result,
    config::{RopeConfig, RopeKind, dim, epsilon, optional_dim},
    gguf::{
        architectures::{ROPE_FREQS, SANDWICH, in_file, interleaved_row},
        metadata::{List, Metadata},
    },
};
use serde::Deserialize;
use std::collections::BTreeSet;

/// The keys that all of them have.
#[derive(Deserialize)]
struct Keys {
    #[serde(deserialize_with = "dim")]
    hidden_size: i32,
    #[serde(deserialize_with = "dim")]
    intermediate_size: i32,
    #[serde(deserialize_with = "dim")]
    num_hidden_layers: i32,
    #[serde(deserialize_with = "dim")]
    num_attention_heads: i32,
    #[serde(default, deserialize_with = "optional_dim")]
    num_key_value_heads: Option<i32>,
    #[serde(default, deserialize_with = "optional_dim")]
    head_dim: Option<i32>,
    #[serde(deserialize_with = "dim")]
    vocab_size: i32,
    #[serde(deserialize_with = "dim")]
    max_position_embeddings: i32,
    #[serde(deserialize_with = "epsilon")]
    rms_norm_eps: f32,
    #[serde(default)]
    rope_traditional: bool,
    #[serde(default, deserialize_with = "optional_dim")]
    sliding_window: Option<i32>,
    layer_types: Option<Vec<String>>,
    #[serde(default)]
    use_sliding_window: bool,
    #[serde(default)]
    max_window_layers: i32,
    no_rope_layers: Option<Vec<i32>>,
    #[serde(default, deserialize_with = "optional_dim")]
    no_rope_layer_interval: Option<i32>,
    #[serde(default, deserialize_with = "optional_dim")]
    sliding_window_pattern: Option<i32>,
    query_pre_attn_scalar: Option<f32>,
    final_logit_softcapping: Option<f32>,
}

/// A model in llama.cpp's terms.
pub(super) struct Architecture {
    /// `general.architecture`.
    name: &'static str,
    model_type: String,
    keys: Keys,
    rope: RopeConfig,
    head_dim: i32,
    kv_heads: i32,
}

/// The layers of SmolLM3 whose positions are not rotated: every fourth. llama.cpp has no key for it.
const UNROTATED: i32 = 4;

const SLIDING: &str = "sliding_attention";

impl Architecture {
    /// The architecture of a configuration.
    pub(super) fn of(config: &Config) -> Result<Architecture> {
        let model_type = config.model_type.clone();
        let name = match model_type.as_str() {
            "llama" | "mistral" => "llama",
            "smollm3" => "smollm3",
            "qwen2" => "qwen2",
            "qwen3" => "qwen3",
            "gemma3" | "gemma3_text" => "gemma3",
            other => {
                return Err(Error::Unsupported(format!(
                    "models of type `{other}` cannot be written as GGUF; gemma3, llama, mistral, qwen2, qwen3 and smollm3 can"
                )));
            }
        };
        // What published configurations of Gemma 3 leave out, with the values that transformers has for it.
        let defaults = match name {
            "gemma3" => serde_json::json!({
                "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262_208,
                "rms_norm_eps": 1e-6, "query_pre_attn_scalar": 256, "sliding_window": 4096,
                "rope_local_base_freq": 10_000.0, "max_position_embeddings": 131_072, "rope_theta": 1e6,
            }),
            _ => serde_json::json!({}),
        };
        let config = &config.with_defaults(defaults)?;
        let keys: Keys = config.parse()?;
        let head_dim = keys.head_dim.unwrap_or(keys.hidden_size / keys.num_attention_heads);
        let rope = RopeConfig::from_config(config, Some("full_attention"), head_dim)?;
        let kv_heads = keys.num_key_value_heads.unwrap_or(keys.num_attention_heads);
        let this = Architecture { name, model_type, keys, rope, head_dim, kv_heads };
        this.check()?;
        Ok(this)
    }

    /// Refuses what llama.cpp has no key for.
    fn check(&self) -> Result<()> {
        let (keys, name) = (&self.keys, self.name);
        let refuse = |key: &str, found: &dyn ToString, wanted: &str| {
            Err(Error::config(
                key,
                found.to_string(),
                format!("{wanted}: GGUF files of {name} cannot say it otherwise"),
            ))
        };
        if keys.rope_traditional {
            return refuse("rope_traditional", &true, "false");
        }
        if self.rope.dims != self.head_dim || self.rope.mrope.is_some() {
            return refuse(
                "partial_rotary_factor",
                &(f64::from(self.rope.dims) / f64::from(self.head_dim)),
                "1",
            );
        }
        if name == "qwen2" && self.head_dim.saturating_mul(keys.num_attention_heads) != keys.hidden_size {
            return refuse("head_dim", &self.head_dim, "hidden_size / num_attention_heads");
        }
        if name == "gemma3" {
            // llama.cpp knows the largest model by the number of its layers.
            let usual = match keys.num_hidden_layers {
                62 => keys.hidden_size / keys.num_attention_heads,
                _ => self.head_dim,
            };
            return match keys.query_pre_attn_scalar {
                Some(found) if found != usual as f32 => {
                    refuse("query_pre_attn_scalar", &found, &usual.to_string())
                }
                _ => Ok(()),
            };
        }
        let windowed = match (&keys.layer_types, self.model_type.as_str()) {
            (Some(types), _) => types.iter().any(|kind| kind == SLIDING),
            (None, "mistral") => true,
            (None, "qwen2") => keys.use_sliding_window && keys.max_window_layers < keys.num_hidden_layers,
            _ => false,
        };
        match keys.sliding_window {
            Some(window) if windowed && window < keys.max_position_embeddings => {
                refuse("sliding_window", &window, "null, or no less than max_position_embeddings")
            }
            _ => self.check_rotated(&refuse),
        }
    }

    fn check_rotated(&self, refuse: &dyn Fn(&str, &dyn ToString, &str) -> Result<()>) -> Result<()> {
        let usual = |layer: usize| !(layer + 1).is_multiple_of(UNROTATED as usize) || self.name != "smollm3";
        if let Some(layers) = &self.keys.no_rope_layers {
            if let Some(layer) = (0..layers.len()).find(|i| (layers[*i] != 0) != usual(*i)) {
                let wanted = format!("{}", i32::from(usual(layer)));
                return refuse(&format!("no_rope_layers[{layer}]"), &layers[layer], &wanted);
            }
        } else if let Some(interval) =
            self.keys.no_rope_layer_interval.filter(|n| self.name == "smollm3" && *n != UNROTATED)
        {
            return refuse("no_rope_layer_interval", &interval, &UNROTATED.to_string());
        }
        Ok(())
    }

    /// The metadata that llama.cpp builds the model by.
    pub(super) fn metadata(&self, config: &Config, kind: FileType) -> Result<Metadata> {
        let mut metadata = Metadata::default();
        metadata.insert("general.architecture", self.name);
        metadata.insert("general.type", "model");
        metadata.insert("general.file_type", kind.file_id());
        if matches!(kind, FileType::Q8_0 | FileType::Q4_0) {
            // Of ggml's blocks: the only one that is in use.
            metadata.insert("general.quantization_version", 2_u32);
        }
        let keys = &self.keys;
        for (name, n) in [
            ("block_count", keys.num_hidden_layers),
            ("context_length", keys.max_position_embeddings),
            ("embedding_length", keys.hidden_size),
            ("feed_forward_length", keys.intermediate_size),
            ("attention.head_count", keys.num_attention_heads),
            ("attention.head_count_kv", self.kv_heads),
            ("attention.key_length", self.head_dim),
            ("attention.value_length", self.head_dim),
            ("rope.dimension_count", self.head_dim),
            ("vocab_size", keys.vocab_size),
        ] {
            metadata.insert(self.key(name), n.unsigned_abs());
        }
        metadata.insert(self.key("attention.layer_norm_rms_epsilon"), keys.rms_norm_eps);
        metadata.insert(self.key("rope.freq_base"), self.rope.base as f32);
        self.scaling(&mut metadata)?;
        if self.name == "gemma3" {
            self.gemma3(config, &mut metadata)?;
        }
        Ok(metadata)
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.name)
    }

    fn scaling(&self, metadata: &mut Metadata) -> Result<()> {
        let unsupported = |what: &str| {
            Err(Error::Unsupported(format!(
                "GGUF files of {} have no rotation of this kind: {what}",
                self.name
            )))
        };
        match &self.rope.kind {
            RopeKind::Default => {}
            RopeKind::Linear { factor } => {
                metadata.insert(self.key("rope.scaling.type"), "linear");
                metadata.insert(self.key("rope.scaling.factor"), *factor as f32);
            }
            RopeKind::Yarn {
                factor,
                original_max,
                beta_fast,
                beta_slow,
                mscale: 1.0,
                mscale_all_dim: 0.0,
                attention_factor: None,
                truncate: true,
            } if self.name != "gemma3" => {
                metadata.insert(self.key("rope.scaling.type"), "yarn");
                metadata.insert(self.key("rope.scaling.factor"), *factor as f32);
                metadata.insert(self.key("rope.scaling.original_context_length"), *original_max as u32);
                metadata.insert(self.key("rope.scaling.yarn_beta_fast"), *beta_fast as f32);
                metadata.insert(self.key("rope.scaling.yarn_beta_slow"), *beta_slow as f32);
            }
            RopeKind::Llama3 { .. } | RopeKind::FreqFactors(_) if self.name == "llama" => {}
            RopeKind::Yarn { .. } => return unsupported("yarn with factors of its own"),
            RopeKind::Llama3 { .. } | RopeKind::FreqFactors(_) => return unsupported("llama3"),
            RopeKind::LongRope { .. } => return unsupported("longrope"),
            RopeKind::Dynamic { .. } | RopeKind::NtkAlpha { .. } => return unsupported("dynamic"),
            RopeKind::Proportional { .. } => return unsupported("proportional"),
        }
        Ok(())
    }

    /// Windows, and how their layers are rotated.
    fn gemma3(&self, config: &Config, metadata: &mut Metadata) -> Result<()> {
        let keys = &self.keys;
        if let Some(cap) = keys.final_logit_softcapping {
            metadata.insert(self.key("final_logit_softcapping"), cap);
        }
        let layers = keys.num_hidden_layers as usize;
        let windowed: Vec<bool> = match &keys.layer_types {
            Some(types) => types.iter().map(|kind| kind == SLIDING).collect(),
            None => {
                let period = keys.sliding_window_pattern.unwrap_or(6) as usize;
                (0..layers).map(|layer| !(layer + 1).is_multiple_of(period)).collect()
            }
        };
        if !windowed.contains(&true) {
            return Ok(());
        }
        let Some(window) = keys.sliding_window else {
            return Err(Error::config(
                "sliding_window",
                "nothing",
                "a size, as there are layers with windows",
            ));
        };
        let local = RopeConfig::from_config(config, Some(SLIDING), self.head_dim)?;
        if local.kind != RopeKind::Default || local.dims != self.head_dim {
            return Err(Error::config(
                "rope_parameters.sliding_attention",
                "scaled positions",
                "plain ones: GGUF files of gemma3 cannot say it otherwise",
            ));
        }
        metadata.insert(self.key("attention.sliding_window"), window.unsigned_abs());
        metadata.insert(self.key("rope.freq_base_swa"), local.base as f32);
        // Older versions of llama.cpp take no list here.
        let pattern = self.key("attention.sliding_window_pattern");
        let every = |n: usize| (0..layers).map(move |layer| !(layer + 1).is_multiple_of(n));
        match (1..=layers).find(|n| windowed.iter().copied().eq(every(*n))) {
            Some(period) => metadata.insert(pattern, period as u32),
            None => metadata.insert(pattern, List::Bool(windowed)),
        }
        Ok(())
    }

    /// The divisors of the rotary frequencies, if they are what scales positions: the tensor [`ROPE_FREQS`].
    pub(super) fn divisors(&self) -> Option<(&'static str, Vec<f32>)> {
        let (dims, base) = (self.rope.dims, self.rope.base);
        let factors = match &self.rope.kind {
            RopeKind::FreqFactors(factors) if factors.len() == 1 => vec![factors[0]; dims as usize / 2],
            RopeKind::FreqFactors(factors) => factors.clone(),
            RopeKind::Llama3 { factor, low_freq_factor, high_freq_factor, original_max } => {
                let divisor = |i: i32| {
                    let wavelength = std::f64::consts::TAU * base.powf(f64::from(2 * i) / f64::from(dims));
                    if wavelength < original_max / high_freq_factor {
                        1.0
                    } else if wavelength > original_max / low_freq_factor {
                        *factor
                    } else {
                        let kept = (original_max / wavelength - low_freq_factor)
                            / (high_freq_factor - low_freq_factor);
                        1.0 / ((1.0 - kept) / factor + kept)
                    }
                };
                (0..dims / 2).map(|i| divisor(i) as f32).collect()
            }
            _ => return None,
        };
        Some((ROPE_FREQS, factors))
    }

    /// The file's name of a tensor of mlx-lm's layout.
    pub(super) fn name_of(&self, tensor: &str) -> Option<String> {
        let layer = if self.name == "gemma3" { SANDWICH } else { &[] };
        in_file(tensor, layer)
    }

    /// Which row of mlx-lm's tensor each row is, of those that have another order in the file.
    pub(super) fn order(&self, name: &str, rows: i32) -> Option<Vec<u32>> {
        if !matches!(self.name, "llama" | "smollm3") {
            return None;
        }
        let part = name.strip_prefix("blk.").and_then(|rest| rest.split('.').nth(1));
        let row = |row: i32| interleaved_row(row as usize, self.head_dim as usize) as u32;
        matches!(part, Some("attn_q" | "attn_k")).then(|| (0..rows).map(row).collect())
    }

    /// What is added to the values of a tensor.
    pub(super) fn term(&self, name: &str) -> f32 {
        // Norms of Gemma are kept without the one that the model adds to them.
        if self.name == "gemma3" && name.ends_with("norm.weight") { 1.0 } else { 0.0 }
    }

    /// Checks that nothing is missing that llama.cpp does not do without.
    pub(super) fn complete(&self, names: &BTreeSet<&str>) -> Result<()> {
        let mut parts = vec![
            "attn_norm.weight",
            "attn_q.weight",
            "attn_k.weight",
            "attn_v.weight",
            "attn_output.weight",
            "ffn_norm.weight",
            "ffn_gate.weight",
            "ffn_up.weight",
            "ffn_down.weight",
        ];
        parts.extend_from_slice(match self.name {
            "qwen2" => &["attn_q.bias", "attn_k.bias", "attn_v.bias"],
            "qwen3" => &["attn_q_norm.weight", "attn_k_norm.weight"],
            "gemma3" => &[
                "attn_q_norm.weight",
                "attn_k_norm.weight",
                "post_attention_norm.weight",
                "post_ffw_norm.weight",
            ],
            _ => &[],
        });
        let layers = 0..self.keys.num_hidden_layers;
        let all = layers.flat_map(|i| parts.iter().map(move |part| format!("blk.{i}.{part}")));
        let mut all = ["token_embd.weight", "output_norm.weight"].map(String::from).into_iter().chain(all);
        match all.find(|name| !names.contains(name.as_str())) {
            Some(missing) => Err(Error::MissingTensor(missing)),
            None => Ok(()),
        }
    }

    /// The tokens that the embedding has rows for.
    pub(super) fn vocab_size(&self) -> i32 {
        self.keys.vocab_size
    }
}
