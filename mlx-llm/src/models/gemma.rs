//! Gemma (arXiv 2403.08295): a Llama with scaled embeddings, norms that are published less one, and a gate by GELU. That is the one
//! with a tangent, whatever the configuration of the first release says; mlx-lm takes the exact one.

use super::llama::LlamaConfig;
use mlx_lm_common::{
    Config, Result,
    cache::LayerCache,
    model::{Decoder, Layer, Scales, load_layers},
    nn::{Activation, Attention, Embedding, Form, Glu, Head, Mlp, MlpConfig, Norm},
    weights::Weights,
};
use mlx_rs::Array;
use serde_json::json;

pub(super) struct GemmaLayer {
    input_layernorm: Norm,
    self_attn: Attention,
    post_attention_layernorm: Norm,
    mlp: Mlp,
}

impl Layer for GemmaLayer {
    fn forward(&self, x: &Array, cache: &mut LayerCache) -> Result<Array> {
        let h = self.self_attn.forward_add(&self.input_layernorm, x, cache)?;
        self.mlp.forward_add(&self.post_attention_layernorm, &h)
    }
}

/// What happens at the gate: `hidden_activation`, or `hidden_act` where it does not mean the exact GELU.
fn activation(config: &Config) -> Result<Activation> {
    let tanh = "gelu_pytorch_tanh".to_string();
    let (key, found) = match config.get::<String>("hidden_activation")? {
        Some(found) => ("hidden_activation", found),
        None => ("hidden_act", config.get("hidden_act")?.filter(|act| act != "gelu").unwrap_or(tanh)),
    };
    Activation::from_config(key, &found)
}

pub(super) fn load(config: &Config, w: &Weights) -> Result<Decoder<GemmaLayer>> {
    let config = &config.with_defaults(json!({ "head_dim": 256, "rms_norm_eps": 1e-6 }))?;
    let c: LlamaConfig = config.parse()?;
    let (m, dim, eps) = (w.pp("model"), c.hidden_size, c.rms_norm_eps);
    let rope = c.rope(config, Some("full_attention"))?;
    let attention = c.attention(&config.model_type, Some(rope))?;
    let form = Form::Gated(Glu::Act(activation(config)?));
    let mlp = MlpConfig { form, ..MlpConfig::new(dim, c.intermediate_size) };
    Ok(Decoder {
        embed: Embedding::load(&m.pp("embed_tokens"), c.vocab_size, dim)?,
        layers: load_layers(&m, c.num_hidden_layers, |_, w| {
            let norm = |name: &str| Norm::rms_plus_one(&w.pp(name), dim, eps);
            Ok(GemmaLayer {
                input_layernorm: norm("input_layernorm")?,
                self_attn: Attention::load(&w.pp("self_attn"), &attention)?,
                post_attention_layernorm: norm("post_attention_layernorm")?,
                mlp: Mlp::load(&w.pp("mlp"), &mlp)?,
            })
        })?,
        norm: Norm::rms_plus_one(&m.pp("norm"), dim, eps)?,
        head: Head::load(w, super::tied(config, w)?, dim, c.vocab_size)?,
        scales: Scales { embed: Some((dim as f32).sqrt()), ..Scales::default() },
        vocab_size: c.vocab_size,
        backend: w.backend(),
    })
}
