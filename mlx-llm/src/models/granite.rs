//! Granite 3 (arXiv 2405.04324): a Llama with multipliers for embeddings, scores, what blocks add, and logits (arXiv 2203.03466);
//! dense, or with experts.

use super::{gemma3::check_positive, llama::LlamaConfig};
use mlx_lm_common::{
    Config, Error, Result,
    cache::{AttentionSpec, LayerCache},
    model::{Decoder, Layer, Scales, Written, load_layers},
    nn::{
        Attention, Embedding, ExpertsConfig, FeedForward, Head, KeysValues, MlpConfig, MoeConfig, Norm,
        RouterConfig, Score, fused_with, scalar,
    },
    weights::{Checkpoint, Weights},
};
use mlx_rs::{Array, error::Exception};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
pub(super) struct Multipliers {
    #[serde(default = "one")]
    embedding_multiplier: f32,
    #[serde(default = "one")]
    pub(super) attention_multiplier: f32,
    #[serde(default = "one")]
    residual_multiplier: f32,
    #[serde(default = "one")]
    logits_scaling: f32,
}

fn one() -> f32 {
    1.0
}

impl Multipliers {
    pub(super) fn read(config: &Config) -> Result<Multipliers> {
        let m: Multipliers = config.parse()?;
        let named = [
            ("embedding_multiplier", m.embedding_multiplier),
            ("attention_multiplier", m.attention_multiplier),
            ("residual_multiplier", m.residual_multiplier),
        ];
        match named.into_iter().find(|(_, x)| !x.is_finite()) {
            Some((key, x)) => Err(Error::config(key, x, "a finite number")),
            None => {
                Ok(Multipliers { logits_scaling: check_positive("logits_scaling", m.logits_scaling)?, ..m })
            }
        }
    }

    pub(super) fn scales(&self) -> Scales {
        let changes = |x: f32| (x != 1.0).then_some(x);
        Scales {
            embed: changes(self.embedding_multiplier),
            logits: changes(1.0 / self.logits_scaling),
            softcap: None,
        }
    }

    pub(super) fn residual(&self, w: &Weights) -> Residual {
        Residual { multiplier: self.residual_multiplier, compile: w.backend().compile }
    }
}

/// How blocks add to the residual stream.
#[derive(Clone, Copy)]
pub(super) struct Residual {
    multiplier: f32,
    compile: bool,
}

impl Residual {
    /// x + multiplier · y.
    pub(super) fn add(self, x: &Array, y: &Array) -> Result<Array> {
        let [sum] = fused_with(self.compile, scaled_sum, [x, y], [self.multiplier])?;
        Ok(sum)
    }
}

fn scaled_sum([x, y]: [&Array; 2], [multiplier]: [f32; 1]) -> Result<[Array; 1], Exception> {
    Ok([x.add(y.multiply(scalar(multiplier, y)?)?)?])
}

pub(super) struct GraniteLayer {
    input_layernorm: Norm,
    self_attn: Attention,
    post_attention_layernorm: Norm,
    feed_forward: FeedForward,
    residual: Residual,
}

impl Layer for GraniteLayer {
    fn forward(&self, x: &Array, cache: &mut LayerCache) -> Result<Array> {
        let x = self.residual.add(x, &self.self_attn.forward(&self.input_layernorm, x, cache)?)?;
        self.residual.add(&x, &self.feed_forward.forward(&self.post_attention_layernorm, &x)?)
    }
}

/// Attention of layers whose scores have their own multiplier.
pub(super) fn attention(
    config: &Config,
    c: &LlamaConfig,
    scale: f32,
    rotates: bool,
    w: &Weights,
) -> Result<Attention> {
    let rope = rotates.then(|| c.rope(config, Some("full_attention"))).transpose()?;
    let a = c.attention(&config.model_type, rope)?;
    let plain = AttentionSpec::new(a.heads, a.kv_heads, a.head_dim, w.backend().kernels);
    let spec = AttentionSpec { scale, rope: a.rope, ..plain };
    Attention::around(spec, w, a.dim, KeysValues::Own, [a.qkv_bias, a.output_bias])
}

/// The mixture of layers that have one: the softmax of the best scores weighs.
pub(super) fn mixture(config: &Config, c: &LlamaConfig) -> Result<MoeConfig> {
    let (experts, k) = (config.dim("num_local_experts")?, config.dim("num_experts_per_tok")?);
    let router = RouterConfig {
        name: "router.layer",
        score: Score::TopKSoftmax,
        ..RouterConfig::new(c.hidden_size, experts, k)
    };
    Ok(MoeConfig::new(router, ExpertsConfig::new(c.hidden_size, c.intermediate_size, experts)))
}

/// mlx-lm keeps wide what has so small values that their scales would underflow in narrow floats.
pub(super) const WRITTEN: Written =
    Written { eight_bits: &["self_attn.o_proj", "mlp.down_proj", "lm_head"], ..Written::PLAIN };

/// With experts.
pub(super) const WRITTEN_MOE: Written = Written {
    eight_bits: &["block_sparse_moe.router.layer", "self_attn.o_proj", "mlp.down_proj", "lm_head"],
    ..Written::PLAIN
};

/// Experts are published stacked, gate and up in one.
pub(super) fn remap(checkpoint: &mut Checkpoint, config: &Config) -> Result<()> {
    super::remap(checkpoint, config)?;
    let hidden = config.dim("intermediate_size")?;
    let parts =
        [("block_sparse_moe.switch_mlp.gate_proj", hidden), ("block_sparse_moe.switch_mlp.up_proj", hidden)];
    checkpoint.split("block_sparse_moe.input_linear", -2, &parts)?;
    checkpoint.rename_module("block_sparse_moe.output_linear", "block_sparse_moe.switch_mlp.down_proj")
}

/// MiniCPM (arXiv 2404.06395) has such multipliers under other names.
pub(super) fn load_minicpm(config: &Config, w: &Weights) -> Result<Decoder<GraniteLayer>> {
    let c: LlamaConfig = config.parse()?;
    let number = |key: &str| Ok::<f32, Error>(config.get(key)?.unwrap_or(1.0));
    let base = config.dim("dim_model_base")?;
    let keys = json!({
        "embedding_multiplier": number("scale_emb")?,
        "residual_multiplier": number("scale_depth")? / (c.num_hidden_layers as f32).sqrt(),
        "attention_multiplier": (c.head_dim()? as f32).powf(-0.5),
        "logits_scaling": c.hidden_size as f32 / base as f32,
    });
    load(&config.with_defaults(keys)?, w)
}

pub(super) fn load(config: &Config, w: &Weights) -> Result<Decoder<GraniteLayer>> {
    let c: LlamaConfig = config.parse()?;
    let multipliers = Multipliers::read(config)?;
    let (m, dim, eps) = (w.pp("model"), c.hidden_size, c.rms_norm_eps);
    let dense = MlpConfig { bias: c.mlp_bias, ..MlpConfig::new(dim, c.intermediate_size) };
    let mixture = (config.model_type == "granitemoe").then(|| mixture(config, &c)).transpose()?;
    Ok(Decoder {
        embed: Embedding::load(&m.pp("embed_tokens"), c.vocab_size, dim)?,
        layers: load_layers(&m, c.num_hidden_layers, |_, w| {
            Ok(GraniteLayer {
                input_layernorm: Norm::rms(&w.pp("input_layernorm"), dim, eps)?,
                self_attn: attention(config, &c, multipliers.attention_multiplier, true, &w.pp("self_attn"))?,
                post_attention_layernorm: Norm::rms(&w.pp("post_attention_layernorm"), dim, eps)?,
                feed_forward: match &mixture {
                    Some(mixture) => FeedForward::experts(&w.pp("block_sparse_moe"), mixture)?,
                    None => FeedForward::dense(&w.pp("mlp"), &dense)?,
                },
                residual: multipliers.residual(w),
            })
        })?,
        norm: Norm::rms(&m.pp("norm"), dim, eps)?,
        head: Head::load(w, super::tied(config, w)?, dim, c.vocab_size)?,
        scales: multipliers.scales(),
        vocab_size: c.vocab_size,
        backend: w.backend(),
    })
}
