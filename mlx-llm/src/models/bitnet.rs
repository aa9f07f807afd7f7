//! BitNet b1.58 (arXiv 2402.17764, 2504.12285): a Llama with ternary weights, a norm before each block's last layer, and a gate of
//! squared positive parts.
//!
//! Activations stay floats, as in mlx-lm; transformers rounds them to 8 bits before each layer, which only its own kernels gain by.

use super::llama::LlamaConfig;
use mlx_lm_common::{
    At, Config, Error, Result,
    cache::{AttentionSpec, LayerCache, Qkv},
    model::{Decoder, Layer, Scales, load_layers},
    nn::{Activation, Embedding, Form, Glu, Head, Linear, Mlp, MlpConfig, Norm, Projections},
    weights::Weights,
};
use mlx_rs::Array;
use serde_json::json;

pub(super) struct BitNetLayer {
    input_layernorm: Norm,
    qkv: Projections,
    attn_sub_norm: Norm,
    output: Linear,
    attention: AttentionSpec,
    post_attention_layernorm: Norm,
    mlp: Mlp,
}

impl Layer for BitNetLayer {
    fn forward(&self, x: &Array, cache: &mut LayerCache) -> Result<Array> {
        let qkv = self.qkv.forward(Some(&self.input_layernorm), x).at("self_attn.qkv")?;
        let y = cache.attention()?.attend(Qkv::from(qkv)?, &self.attention).at("self_attn.attend")?;
        let h = self.output.forward_add(&self.attn_sub_norm.forward(&y)?, x).at("self_attn.o_proj")?;
        self.mlp.forward_add(&self.post_attention_layernorm, &h)
    }
}

pub(super) fn load(config: &Config, w: &Weights) -> Result<Decoder<BitNetLayer>> {
    let config = &config.with_defaults(json!({
        "hidden_act": "relu2", "tie_word_embeddings": true, "rope_theta": 500_000.0, "rms_norm_eps": 1e-5,
    }))?;
    let c: LlamaConfig = config.parse()?;
    let rope = c.rope(config, Some("full_attention"))?;
    let a = c.attention("bitnet", Some(rope))?;
    let (m, dim, eps, backend) = (w.pp("model"), c.hidden_size, c.rms_norm_eps, w.backend());
    let act =
        Activation::from_config("hidden_act", &config.get::<String>("hidden_act")?.unwrap_or_default())?;
    let mlp = MlpConfig {
        bias: config.get("mlp_bias")?.unwrap_or(false),
        form: Form::Gated(Glu::Act(act)),
        inner_norm: Some(("ffn_sub_norm", eps)),
        ..MlpConfig::new(dim, c.intermediate_size)
    };
    let width = |heads: i32| {
        let wanted = || format!("fewer heads of {}", a.head_dim);
        heads.checked_mul(a.head_dim).ok_or_else(|| Error::config("num_attention_heads", heads, wanted()))
    };
    let (q, kv) = (width(a.heads)?, width(a.kv_heads)?);
    Ok(Decoder {
        embed: Embedding::load(&m.pp("embed_tokens"), c.vocab_size, dim)?,
        layers: load_layers(&m, c.num_hidden_layers, |_, w| {
            let attn = w.pp("self_attn");
            Ok(BitNetLayer {
                input_layernorm: Norm::rms(&w.pp("input_layernorm"), dim, eps)?,
                qkv: Projections::load(
                    &attn,
                    dim,
                    &[("q_proj", q), ("k_proj", kv), ("v_proj", kv)],
                    a.qkv_bias,
                )?,
                attn_sub_norm: Norm::rms(&attn.pp("attn_sub_norm"), q, eps)?,
                output: Linear::load(&attn.pp("o_proj"), q, dim, a.output_bias)?,
                attention: AttentionSpec {
                    rope: a.rope.clone(),
                    ..AttentionSpec::new(a.heads, a.kv_heads, a.head_dim, backend.kernels)
                },
                post_attention_layernorm: Norm::rms(&w.pp("post_attention_layernorm"), dim, eps)?,
                mlp: Mlp::load(&w.pp("mlp"), &mlp)?,
            })
        })?,
        norm: Norm::rms(&m.pp("norm"), dim, eps)?,
        head: Head::load(w, super::tied(config, w)?, dim, c.vocab_size)?,
        scales: Scales::default(),
        vocab_size: c.vocab_size,
        backend,
    })
}
