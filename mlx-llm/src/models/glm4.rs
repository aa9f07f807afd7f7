//! GLM-4 (arXiv 2406.12793): half of each head is rotated, neighbouring channels together; the later models (0414) have a norm after
//! each block, too. Of the first models, mlx-lm rotates the whole of each head.

use super::{
    llama::{self, LlamaConfig, LlamaLayer},
    phi3::split_gate_up,
};
use mlx_lm_common::{
    Config, Result,
    cache::LayerCache,
    model::{Decoder, Layer, Scales, load_layers},
    nn::{Attention, AttentionConfig, Embedding, Head, Mlp, MlpConfig, Norm},
    weights::{Checkpoint, Weights},
};
use mlx_rs::Array;
use serde_json::json;

pub(super) struct Glm4Layer {
    input_layernorm: Norm,
    self_attn: Attention,
    post_self_attn_layernorm: Norm,
    post_attention_layernorm: Norm,
    mlp: Mlp,
    post_mlp_layernorm: Norm,
}

impl Layer for Glm4Layer {
    fn forward(&self, x: &Array, cache: &mut LayerCache) -> Result<Array> {
        let y = self.self_attn.forward(&self.input_layernorm, x, cache)?;
        let x = x.add(self.post_self_attn_layernorm.forward(&y)?)?;
        let y = self.mlp.forward(Some(&self.post_attention_layernorm), &x)?;
        Ok(x.add(self.post_mlp_layernorm.forward(&y)?)?)
    }
}

/// Gate and up apart.
pub(super) fn fold(checkpoint: &mut Checkpoint, config: &Config) -> Result<()> {
    split_gate_up(checkpoint, &config.parse()?)
}

/// What published configurations do not say.
fn with_defaults(config: &Config) -> Result<Config> {
    config.with_defaults(json!({
        "rope_traditional": true, "partial_rotary_factor": 0.5, "rms_norm_eps": 1e-5, "attention_out_bias": false,
    }))
}

/// The first models: a Llama otherwise.
pub(super) fn load_first(config: &Config, w: &Weights) -> Result<Decoder<LlamaLayer>> {
    llama::load(&with_defaults(config)?, w)
}

pub(super) fn load(config: &Config, w: &Weights) -> Result<Decoder<Glm4Layer>> {
    let config = &with_defaults(config)?;
    let c: LlamaConfig = config.parse()?;
    let (m, dim, eps) = (w.pp("model"), c.hidden_size, c.rms_norm_eps);
    let rope = c.rope(config, Some("full_attention"))?;
    let attention: AttentionConfig = c.attention(&config.model_type, Some(rope))?;
    let mlp = MlpConfig::new(dim, c.intermediate_size);
    Ok(Decoder {
        embed: Embedding::load(&m.pp("embed_tokens"), c.vocab_size, dim)?,
        layers: load_layers(&m, c.num_hidden_layers, |_, w| {
            let norm = |name: &str| Norm::rms(&w.pp(name), dim, eps);
            Ok(Glm4Layer {
                input_layernorm: norm("input_layernorm")?,
                self_attn: Attention::load(&w.pp("self_attn"), &attention)?,
                post_self_attn_layernorm: norm("post_self_attn_layernorm")?,
                post_attention_layernorm: norm("post_attention_layernorm")?,
                mlp: Mlp::load(&w.pp("mlp"), &mlp)?,
                post_mlp_layernorm: norm("post_mlp_layernorm")?,
            })
        })?,
        norm: Norm::rms(&m.pp("norm"), dim, eps)?,
        head: Head::load(w, super::tied(config, w)?, dim, c.vocab_size)?,
        scales: Scales::default(),
        vocab_size: c.vocab_size,
        backend: w.backend(),
    })
}
