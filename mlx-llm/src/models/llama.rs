//! Llama (arXiv 2302.13971, 2407.21783) and the models that differ from it in numbers: Mistral (arXiv 2310.06825), Qwen2
//! (arXiv 2407.10671), SmolLM3; Ministral 3, whose queries grow with their position.

use mlx_lm_common::{
    Config, Error, Result,
    cache::{CacheSpec, LayerCache},
    config::{RopeConfig, dim, epsilon, optional_dim},
    model::{Decoder, Layer, Scales, load_layers},
    nn::{Attention, AttentionConfig, Embedding, Head, Mlp, MlpConfig, Norm, Rope},
    weights::Weights,
};
use mlx_rs::Array;
use serde::Deserialize;

/// The keys that the family shares.
#[derive(Deserialize)]
pub(super) struct LlamaConfig {
    #[serde(deserialize_with = "dim")]
    pub(super) hidden_size: i32,
    #[serde(deserialize_with = "dim")]
    pub(super) intermediate_size: i32,
    #[serde(deserialize_with = "dim")]
    pub(super) num_hidden_layers: i32,
    #[serde(deserialize_with = "dim")]
    num_attention_heads: i32,
    #[serde(default, deserialize_with = "optional_dim")]
    num_key_value_heads: Option<i32>,
    #[serde(default, deserialize_with = "optional_dim")]
    head_dim: Option<i32>,
    #[serde(deserialize_with = "dim")]
    pub(super) vocab_size: i32,
    #[serde(deserialize_with = "epsilon")]
    pub(super) rms_norm_eps: f32,
    attention_bias: Option<bool>,
    /// Where the output projection is not as the others.
    attention_out_bias: Option<bool>,
    #[serde(default)]
    pub(super) mlp_bias: bool,
    #[serde(default)]
    rope_traditional: bool,
}

/// The keys that tell one layer from another.
#[derive(Deserialize)]
struct LayersConfig {
    #[serde(default, deserialize_with = "optional_dim")]
    sliding_window: Option<i32>,
    layer_types: Option<Vec<String>>,
    #[serde(default)]
    use_sliding_window: bool,
    #[serde(default)]
    max_window_layers: usize,
    /// 1 where positions are rotated.
    no_rope_layers: Option<Vec<i32>>,
    #[serde(default, deserialize_with = "optional_dim")]
    no_rope_layer_interval: Option<i32>,
}

impl LlamaConfig {
    /// The attention of a layer; rotated unless `rope` is absent.
    pub(super) fn attention(&self, model_type: &str, rope: Option<Rope>) -> Result<AttentionConfig> {
        let heads = self.num_attention_heads;
        let kv_heads = self.num_key_value_heads.unwrap_or(heads);
        if heads % kv_heads != 0 {
            return Err(Error::config(
                "num_key_value_heads",
                kv_heads,
                format!("a divisor of {heads} heads"),
            ));
        }
        // These have biases of queries, keys and values always, whatever their configurations say.
        let always = matches!(model_type, "qwen2" | "qwen2_moe" | "mimo");
        Ok(AttentionConfig {
            dim: self.hidden_size,
            heads,
            kv_heads,
            head_dim: self.head_dim()?,
            qkv_bias: always || self.attention_bias.unwrap_or(false),
            output_bias: self.attention_out_bias.or(self.attention_bias).unwrap_or(false) && !always,
            rope,
            qk_norm: None,
        })
    }

    pub(super) fn head_dim(&self) -> Result<i32> {
        match self.head_dim {
            Some(d) => Ok(d),
            None if self.hidden_size % self.num_attention_heads == 0 => {
                Ok(self.hidden_size / self.num_attention_heads)
            }
            None => Err(Error::config(
                "head_dim",
                "nothing",
                "a value, as hidden_size is no multiple of the heads",
            )),
        }
    }

    /// The rotation of layers of a type.
    pub(super) fn rope(&self, config: &Config, layer_type: Option<&str>) -> Result<Rope> {
        Rope::new(RopeConfig::from_config(config, layer_type, self.head_dim()?)?, self.rope_traditional)
    }
}

impl LayersConfig {
    /// How many positions layer `i` sees, if not all.
    fn window(&self, model_type: &str, i: usize) -> Option<i32> {
        let windowed = match (&self.layer_types, model_type) {
            (Some(types), _) => types.get(i).is_some_and(|t| t == "sliding_attention"),
            (None, "mistral" | "phi3") => true,
            (None, "qwen2") => self.use_sliding_window && i >= self.max_window_layers,
            _ => false,
        };
        self.sliding_window.filter(|_| windowed)
    }

    /// Whether layer `i` rotates positions.
    fn rotates(&self, model_type: &str, i: usize) -> bool {
        match (&self.no_rope_layers, model_type) {
            (Some(layers), _) => layers.get(i).is_none_or(|&l| l != 0),
            (None, "smollm3") => !(i + 1).is_multiple_of(self.no_rope_layer_interval.unwrap_or(4) as usize),
            _ => true,
        }
    }
}

pub(super) struct LlamaLayer {
    input_layernorm: Norm,
    self_attn: Attention,
    post_attention_layernorm: Norm,
    mlp: Mlp,
    window: Option<i32>,
}

impl Layer for LlamaLayer {
    fn forward(&self, x: &Array, cache: &mut LayerCache) -> Result<Array> {
        let h = self.self_attn.forward_add(&self.input_layernorm, x, cache)?;
        self.mlp.forward_add(&self.post_attention_layernorm, &h)
    }

    fn cache(&self) -> CacheSpec {
        self.window.map_or(CacheSpec::Full, CacheSpec::Window)
    }
}

pub(super) fn load(config: &Config, w: &Weights) -> Result<Decoder<LlamaLayer>> {
    let c: LlamaConfig = config.parse()?;
    let kinds: LayersConfig = config.parse()?;
    let (m, dim, eps) = (w.pp("model"), c.hidden_size, c.rms_norm_eps);
    let (full, sliding) =
        (c.rope(config, Some("full_attention"))?, c.rope(config, Some("sliding_attention"))?);
    let model_type = config.model_type.as_str();
    let q_scale = super::mistral3::q_scale(config)?;
    let mlp = MlpConfig { bias: c.mlp_bias, ..MlpConfig::new(dim, c.intermediate_size) };
    Ok(Decoder {
        embed: Embedding::load(&m.pp("embed_tokens"), c.vocab_size, dim)?,
        layers: load_layers(&m, c.num_hidden_layers, |i, w| {
            let window = kinds.window(model_type, i);
            let rope = if window.is_some() { &sliding } else { &full };
            let rope = kinds.rotates(model_type, i).then(|| rope.clone());
            Ok(LlamaLayer {
                input_layernorm: Norm::rms(&w.pp("input_layernorm"), dim, eps)?,
                self_attn: Attention::load(&w.pp("self_attn"), &c.attention(model_type, rope)?)?
                    .with_q_scale(q_scale),
                post_attention_layernorm: Norm::rms(&w.pp("post_attention_layernorm"), dim, eps)?,
                mlp: Mlp::load(&w.pp("mlp"), &mlp)?,
                window,
            })
        })?,
        norm: Norm::rms(&m.pp("norm"), dim, eps)?,
        head: Head::load(w, super::tied(config, w)?, dim, c.vocab_size)?,
        scales: Scales::default(),
        vocab_size: c.vocab_size,
        backend: w.backend(),
    })
}
