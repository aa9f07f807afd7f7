//! Command R (Cohere): attention and MLP side by side after one layer norm. Command R7B and A (arXiv 2504.00698): three layers with a
//! window and positions for each one that sees everything and has none.

use super::{
    gemma3::{Kind, Kinds},
    llama::LlamaConfig,
};
use mlx_lm_common::{
    Config, Error, Result,
    cache::{AttentionSpec, CacheSpec, LayerCache},
    config::{dim, epsilon},
    model::{Decoder, Layer, Scales, load_layers},
    nn::{Attention, Embedding, Head, KeysValues, Mlp, MlpConfig, Norm},
    weights::Weights,
};
use mlx_rs::Array;
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct CohereConfig {
    #[serde(deserialize_with = "epsilon")]
    layer_norm_eps: f32,
    #[serde(default)]
    layer_norm_bias: bool,
    logit_scale: f32,
    #[serde(default)]
    use_qk_norm: bool,
    #[serde(deserialize_with = "dim")]
    sliding_window: i32,
}

pub(super) struct CohereLayer {
    input_layernorm: Norm,
    self_attn: Attention,
    mlp: Mlp,
    cache: CacheSpec,
}

impl Layer for CohereLayer {
    fn forward(&self, x: &Array, cache: &mut LayerCache) -> Result<Array> {
        let h = self.input_layernorm.forward(x)?;
        let y = self.self_attn.forward_onto(&h, x, cache)?;
        self.mlp.forward_onto(&h, &y)
    }

    fn cache(&self) -> CacheSpec {
        self.cache.clone()
    }
}

pub(super) fn load(config: &Config, w: &Weights) -> Result<Decoder<CohereLayer>> {
    // What configurations may leave out, with the values that transformers has for it. (RMS norms there are none.)
    let config = &config.with_defaults(json!({
        "layer_norm_eps": 1e-5, "logit_scale": 0.0625, "sliding_window": 4096, "sliding_window_pattern": 4,
        "rope_traditional": true, "rms_norm_eps": 0,
    }))?;
    let (c, k): (LlamaConfig, CohereConfig) = (config.parse()?, config.parse()?);
    if !k.logit_scale.is_finite() {
        return Err(Error::config("logit_scale", k.logit_scale, "a finite number"));
    }
    let kinds = match config.model_type.as_str() {
        "cohere2" => Some(Kinds::of(config, c.num_hidden_layers)?),
        _ => None,
    };
    let (m, dim, backend) = (w.pp("model"), c.hidden_size, w.backend());
    let rope = c.rope(config, Some("sliding_attention"))?;
    let norm = |w: Weights| Norm::layer(&w, dim, k.layer_norm_eps, k.layer_norm_bias);
    let attention = |w: &Weights, rotates: bool| {
        let a = c.attention(&config.model_type, rotates.then(|| rope.clone()))?;
        let head_norm = |name: &str, heads: i32| {
            k.use_qk_norm
                .then(|| Norm::layer_by_head(&w.pp(name), heads, a.head_dim, k.layer_norm_eps))
                .transpose()
        };
        let spec = AttentionSpec {
            rope: a.rope.clone(),
            q_norm: head_norm("q_norm", a.heads)?,
            k_norm: head_norm("k_norm", a.kv_heads)?,
            ..AttentionSpec::new(a.heads, a.kv_heads, a.head_dim, backend.kernels)
        };
        Attention::around(spec, w, dim, KeysValues::Own, [a.qkv_bias, a.output_bias])
    };
    Ok(Decoder {
        embed: Embedding::load(&m.pp("embed_tokens"), c.vocab_size, dim)?,
        layers: load_layers(&m, c.num_hidden_layers, |i, w| {
            let kind = kinds.as_ref().map(|kinds| kinds.kind(i));
            Ok(CohereLayer {
                input_layernorm: norm(w.pp("input_layernorm"))?,
                self_attn: attention(&w.pp("self_attn"), kind != Some(Kind::FullAttention))?,
                mlp: Mlp::load(&w.pp("mlp"), &MlpConfig::new(dim, c.intermediate_size))?,
                cache: kind.map_or(CacheSpec::Full, |kind| kind.cache(k.sliding_window)),
            })
        })?,
        norm: norm(m.pp("norm"))?,
        head: Head::load(w, super::tied(config, w)?, dim, c.vocab_size)?,
        scales: Scales { logits: Some(k.logit_scale), ..Scales::default() },
        vocab_size: c.vocab_size,
        backend,
    })
}
