//! StableLM 2 (arXiv 2402.17834): layer norms, and a part of each head rotated. The larger model has attention and MLP side by side
//! after one norm, and a norm of its own for each head of queries and keys.

use super::llama::LlamaConfig;
use mlx_lm_common::{
    Config, Result,
    cache::{AttentionSpec, LayerCache},
    config::epsilon,
    model::{Decoder, Layer, Scales, load_layers},
    nn::{Attention, Embedding, Head, KeysValues, Mlp, MlpConfig, Norm},
    weights::{Checkpoint, Weights},
};
use mlx_rs::Array;
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct StableConfig {
    #[serde(deserialize_with = "epsilon")]
    layer_norm_eps: f32,
    use_qkv_bias: bool,
    use_parallel_residual: bool,
    qk_layernorm: bool,
}

pub(super) struct StableLayer {
    input_layernorm: Norm,
    self_attn: Attention,
    /// None where attention and MLP are side by side.
    post_attention_layernorm: Option<Norm>,
    mlp: Mlp,
}

impl Layer for StableLayer {
    fn forward(&self, x: &Array, cache: &mut LayerCache) -> Result<Array> {
        match &self.post_attention_layernorm {
            Some(norm) => {
                let h = self.self_attn.forward_add(&self.input_layernorm, x, cache)?;
                self.mlp.forward_add(norm, &h)
            }
            None => {
                let h = self.input_layernorm.forward(x)?;
                let y = self.self_attn.forward_onto(&h, x, cache)?;
                self.mlp.forward_onto(&h, &y)
            }
        }
    }
}

/// The norms of heads, which come one by one.
pub(super) fn fold(checkpoint: &mut Checkpoint, _: &Config) -> Result<()> {
    checkpoint.stack("q_layernorm.norms", "q_layernorm")?;
    checkpoint.stack("k_layernorm.norms", "k_layernorm")
}

pub(super) fn load(config: &Config, w: &Weights) -> Result<Decoder<StableLayer>> {
    // What configurations may leave out, with the values that transformers has for it. (RMS norms there are none.)
    let config = &config.with_defaults(json!({
        "layer_norm_eps": 1e-5, "use_qkv_bias": false, "use_parallel_residual": false, "qk_layernorm": false,
        "partial_rotary_factor": 0.25, "rms_norm_eps": 0,
    }))?;
    let (c, k): (LlamaConfig, StableConfig) = (config.parse()?, config.parse()?);
    let (m, dim, eps, backend) = (w.pp("model"), c.hidden_size, k.layer_norm_eps, w.backend());
    let a = c.attention(&config.model_type, Some(c.rope(config, Some("full_attention"))?))?;
    let attention = |w: &Weights| {
        let of_heads = |name: &str, heads: i32| {
            k.qk_layernorm.then(|| Norm::layer_by_head(&w.pp(name), heads, a.head_dim, eps)).transpose()
        };
        let spec = AttentionSpec {
            rope: a.rope.clone(),
            q_norm: of_heads("q_layernorm", a.heads)?,
            k_norm: of_heads("k_layernorm", a.kv_heads)?,
            ..AttentionSpec::new(a.heads, a.kv_heads, a.head_dim, backend.kernels)
        };
        Attention::around(spec, w, dim, KeysValues::Own, [k.use_qkv_bias, false])
    };
    Ok(Decoder {
        embed: Embedding::load(&m.pp("embed_tokens"), c.vocab_size, dim)?,
        layers: load_layers(&m, c.num_hidden_layers, |_, w| {
            let norm = |name: &str| Norm::layer(&w.pp(name), dim, eps, true);
            let one_after_another = !k.use_parallel_residual;
            Ok(StableLayer {
                input_layernorm: norm("input_layernorm")?,
                self_attn: attention(&w.pp("self_attn"))?,
                post_attention_layernorm: one_after_another
                    .then(|| norm("post_attention_layernorm"))
                    .transpose()?,
                mlp: Mlp::load(&w.pp("mlp"), &MlpConfig::new(dim, c.intermediate_size))?,
            })
        })?,
        norm: Norm::layer(&m.pp("norm"), dim, eps, true)?,
        head: Head::load(w, super::tied(config, w)?, dim, c.vocab_size)?,
        scales: Scales::default(),
        vocab_size: c.vocab_size,
        backend,
    })
}
