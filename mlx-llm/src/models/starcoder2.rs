//! StarCoder 2 (arXiv 2402.19173): layer norms, biases, and an MLP without a gate. Windows and the activation are as the
//! configuration says; mlx-lm has no windows, and the exact GELU.
//!
//! Nemotron (arXiv 2402.16819) and Minitron: the same without biases, with a squared ReLU, norms that are published less one, and a
//! part of each head rotated.

use super::llama::LlamaConfig;
use mlx_lm_common::{
    Config, Result,
    cache::{CacheSpec, LayerCache},
    config::{epsilon, optional_dim},
    model::{Decoder, Layer, Scales, load_layers},
    nn::{Activation, Attention, Embedding, Form, Head, Mlp, MlpConfig, Norm},
    weights::{Checkpoint, Weights},
};
use mlx_rs::Array;
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct StarcoderConfig {
    #[serde(deserialize_with = "epsilon")]
    norm_epsilon: f32,
    hidden_act: String,
    #[serde(default, deserialize_with = "optional_dim")]
    sliding_window: Option<i32>,
}

pub(super) struct StarcoderLayer {
    input_layernorm: Norm,
    self_attn: Attention,
    post_attention_layernorm: Norm,
    mlp: Mlp,
    window: Option<i32>,
}

impl Layer for StarcoderLayer {
    fn forward(&self, x: &Array, cache: &mut LayerCache) -> Result<Array> {
        let h = self.self_attn.forward_add(&self.input_layernorm, x, cache)?;
        self.mlp.forward_add(&self.post_attention_layernorm, &h)
    }

    fn cache(&self) -> CacheSpec {
        self.window.map_or(CacheSpec::Full, CacheSpec::Window)
    }
}

pub(super) fn load(config: &Config, w: &Weights) -> Result<Decoder<StarcoderLayer>> {
    // What configurations may leave out, with the values that transformers has for it. (RMS norms there are none.)
    let bias = config.get("use_bias")?.unwrap_or(true);
    let keys = json!({
        "norm_epsilon": 1e-5, "hidden_act": "gelu_pytorch_tanh", "attention_bias": bias, "mlp_bias": bias, "rms_norm_eps": 0,
    });
    decoder(&config.with_defaults(keys)?, w, ["", "c_fc", "c_proj"])
}

/// Brings the norms of Nemotron to what they multiply with.
pub(super) fn fold_nemotron(checkpoint: &mut Checkpoint, _: &Config) -> Result<()> {
    checkpoint.add(|name| name.ends_with("norm.weight"), 1.0)
}

/// Nemotron.
pub(super) fn load_nemotron(config: &Config, w: &Weights) -> Result<Decoder<StarcoderLayer>> {
    let epsilon: Option<f32> = config.get("norm_eps")?;
    let keys = json!({
        "norm_epsilon": epsilon.unwrap_or(1e-5), "hidden_act": "relu2", "partial_rotary_factor": 0.5, "rms_norm_eps": 0,
    });
    decoder(&config.with_defaults(keys)?, w, ["", "up_proj", "down_proj"])
}

fn decoder(config: &Config, w: &Weights, names: [&'static str; 3]) -> Result<Decoder<StarcoderLayer>> {
    let (c, k): (LlamaConfig, StarcoderConfig) = (config.parse()?, config.parse()?);
    let (m, dim) = (w.pp("model"), c.hidden_size);
    let norm = |w: Weights| Norm::layer(&w, dim, k.norm_epsilon, true);
    let attention = c.attention(&config.model_type, Some(c.rope(config, Some("full_attention"))?))?;
    let mlp = MlpConfig {
        bias: c.mlp_bias,
        form: Form::Plain(Activation::from_config("hidden_act", &k.hidden_act)?),
        names,
        ..MlpConfig::new(dim, c.intermediate_size)
    };
    Ok(Decoder {
        embed: Embedding::load(&m.pp("embed_tokens"), c.vocab_size, dim)?,
        layers: load_layers(&m, c.num_hidden_layers, |_, w| {
            Ok(StarcoderLayer {
                input_layernorm: norm(w.pp("input_layernorm"))?,
                self_attn: Attention::load(&w.pp("self_attn"), &attention)?,
                post_attention_layernorm: norm(w.pp("post_attention_layernorm"))?,
                mlp: Mlp::load(&w.pp("mlp"), &mlp)?,
                window: k.sliding_window,
            })
        })?,
        norm: norm(m.pp("norm"))?,
        head: Head::load(w, super::tied(config, w)?, dim, c.vocab_size)?,
        scales: Scales::default(),
        vocab_size: c.vocab_size,
        backend: w.backend(),
    })
}
