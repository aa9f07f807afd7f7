//! Phi-1 and Phi-2 (arXiv 2306.11644): attention and MLP side by side after one layer norm, biases everywhere, and a part of each
//! head rotated.

use super::llama::LlamaConfig;
use mlx_lm_common::{
    Config, Error, Result,
    cache::{AttentionSpec, LayerCache},
    config::epsilon,
    model::{Decoder, Layer, Scales, load_layers},
    nn::{Activation, Attention, Embedding, Form, Head, KeysValues, Linear, Mlp, MlpConfig, Norm},
    weights::Weights,
};
use mlx_rs::Array;
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct PhiConfig {
    #[serde(deserialize_with = "epsilon")]
    layer_norm_eps: f32,
    hidden_act: String,
    #[serde(default)]
    qk_layernorm: bool,
}

pub(super) struct PhiLayer {
    input_layernorm: Norm,
    self_attn: Attention,
    mlp: Mlp,
}

impl Layer for PhiLayer {
    fn forward(&self, x: &Array, cache: &mut LayerCache) -> Result<Array> {
        let h = self.input_layernorm.forward(x)?;
        let y = self.self_attn.forward_onto(&h, x, cache)?;
        self.mlp.forward_onto(&h, &y)
    }
}

pub(super) fn load(config: &Config, w: &Weights) -> Result<Decoder<PhiLayer>> {
    // What configurations may leave out, with the values that transformers has for it. (RMS norms there are none.)
    let config = &config.with_defaults(json!({
        "layer_norm_eps": 1e-5, "hidden_act": "gelu_new", "partial_rotary_factor": 0.5, "rms_norm_eps": 0,
    }))?;
    let (c, k): (LlamaConfig, PhiConfig) = (config.parse()?, config.parse()?);
    if k.qk_layernorm {
        return Err(Error::config("qk_layernorm", true, "false, as published models have it"));
    }
    let (m, dim, backend) = (w.pp("model"), c.hidden_size, w.backend());
    let a = c.attention(&config.model_type, Some(c.rope(config, Some("full_attention"))?))?;
    let spec = AttentionSpec {
        rope: a.rope.clone(),
        ..AttentionSpec::new(a.heads, a.kv_heads, a.head_dim, backend.kernels)
    };
    let mlp = MlpConfig {
        bias: true,
        form: Form::Plain(Activation::from_config("hidden_act", &k.hidden_act)?),
        names: ["", "fc1", "fc2"],
        ..MlpConfig::new(dim, c.intermediate_size)
    };
    Ok(Decoder {
        embed: Embedding::load(&m.pp("embed_tokens"), c.vocab_size, dim)?,
        layers: load_layers(&m, c.num_hidden_layers, |_, w| {
            let attention = w.pp("self_attn");
            Ok(PhiLayer {
                input_layernorm: Norm::layer(&w.pp("input_layernorm"), dim, k.layer_norm_eps, true)?,
                self_attn: Attention::around_to(
                    spec.clone(),
                    &attention,
                    dim,
                    KeysValues::Own,
                    [true; 2],
                    "dense",
                )?,
                mlp: Mlp::load(&w.pp("mlp"), &mlp)?,
            })
        })?,
        norm: Norm::layer(&m.pp("final_layernorm"), dim, k.layer_norm_eps, true)?,
        head: Head::Own(Linear::load(&w.pp("lm_head"), dim, c.vocab_size, true)?),
        scales: Scales::default(),
        vocab_size: c.vocab_size,
        backend,
    })
}
