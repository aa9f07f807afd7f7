//! LFM2 (arXiv 2511.23404), dense and with experts: most layers mix positions by a gated short convolution, some by attention.
//!
//! `rope_parameters` count, of which mlx-lm reads the base alone.

use super::gemma3::check_groups;
use mlx_lm_common::{
    Config, Error, Result,
    cache::{AttentionSpec, CacheSpec, LayerCache},
    config::{RopeConfig, dim, epsilon},
    model::{Decoder, Layer, Scales, Written, load_layers},
    nn::{
        Attention, Embedding, ExpertsConfig, FeedForward, Head, KeysValues, MlpConfig, MoeConfig, Norm,
        Normalize, Rope, RouterConfig, Score, ShortConv,
    },
    weights::{Checkpoint, Weights},
};
use mlx_rs::Array;
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Lfm2Config {
    #[serde(deserialize_with = "dim")]
    hidden_size: i32,
    #[serde(deserialize_with = "dim")]
    num_hidden_layers: i32,
    #[serde(deserialize_with = "dim")]
    num_attention_heads: i32,
    #[serde(deserialize_with = "dim")]
    num_key_value_heads: i32,
    #[serde(deserialize_with = "dim")]
    vocab_size: i32,
    #[serde(deserialize_with = "epsilon")]
    norm_eps: f32,
    conv_bias: bool,
    #[serde(rename = "conv_L_cache", deserialize_with = "dim")]
    conv_width: i32,
    layer_types: Option<Vec<Kind>>,
    full_attn_idxs: Option<Vec<usize>>,
}

/// How a layer mixes positions.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Conv,
    FullAttention,
}

/// The keys that make the width of a dense layer.
#[derive(Deserialize)]
struct WidthConfig {
    block_auto_adjust_ff_dim: bool,
    block_ffn_dim_multiplier: f64,
    #[serde(deserialize_with = "dim")]
    block_multiple_of: i32,
}

/// The keys of the mixture.
#[derive(Deserialize)]
struct MixtureConfig {
    #[serde(deserialize_with = "dim")]
    moe_intermediate_size: i32,
    #[serde(deserialize_with = "dim")]
    num_experts: i32,
    #[serde(deserialize_with = "dim")]
    num_experts_per_tok: i32,
    num_dense_layers: usize,
    norm_topk_prob: bool,
    use_expert_bias: bool,
    routed_scaling_factor: f32,
}

impl Lfm2Config {
    fn check(&self) -> Result<()> {
        let (heads, kv_heads, layers) =
            (self.num_attention_heads, self.num_key_value_heads, self.num_hidden_layers);
        if self.hidden_size % heads != 0 {
            return Err(Error::config(
                "num_attention_heads",
                heads,
                format!("a divisor of {}", self.hidden_size),
            ));
        }
        check_groups(heads, "num_key_value_heads", kv_heads)?;
        if let Some(kinds) = self.layer_types.as_ref().filter(|k| i32::try_from(k.len()) != Ok(layers)) {
            let found = format!("{} entries", kinds.len());
            return Err(Error::config("layer_types", found, format!("one for each of the {layers} layers")));
        }
        match self.full_attn_idxs.iter().flatten().find(|i| i32::try_from(**i).map_or(true, |i| i >= layers))
        {
            Some(i) => Err(Error::config("full_attn_idxs", i, format!("numbers of the {layers} layers"))),
            None => Ok(()),
        }
    }

    /// Layers of `full_attn_idxs` attend where there is no list of all; without either, all do.
    fn kind(&self, layer: usize) -> Kind {
        let listed = self.layer_types.as_ref().and_then(|kinds| kinds.get(layer).copied());
        listed.unwrap_or(match &self.full_attn_idxs {
            Some(attend) if !attend.contains(&layer) => Kind::Conv,
            _ => Kind::FullAttention,
        })
    }
}

/// The width of a dense layer: as it is said to be, or two thirds of that, multiplied and rounded up.
fn width(config: &Config) -> Result<i32> {
    let key = if config.get::<i32>("block_ff_dim")?.is_some() { "block_ff_dim" } else { "intermediate_size" };
    let said = config.dim(key)?;
    let c: WidthConfig = config.parse()?;
    if config.model_type == "lfm2_moe" || !c.block_auto_adjust_ff_dim {
        return Ok(said);
    }
    let most = f64::from(i32::MAX - c.block_multiple_of);
    let wide = (c.block_ffn_dim_multiplier * (i64::from(said) * 2 / 3) as f64).trunc();
    if !(1.0..=most).contains(&wide) {
        let wanted = format!("a factor that makes a width of {key} = {said}");
        return Err(Error::config("block_ffn_dim_multiplier", c.block_ffn_dim_multiplier, wanted));
    }
    Ok((wide as i32 + c.block_multiple_of - 1) / c.block_multiple_of * c.block_multiple_of)
}

enum Mixer {
    Conv(ShortConv),
    Attention(Box<Attention>),
}

pub(super) struct Lfm2Layer {
    operator_norm: Norm,
    mixer: Mixer,
    ffn_norm: Norm,
    feed_forward: FeedForward,
}

impl Layer for Lfm2Layer {
    fn forward(&self, x: &Array, cache: &mut LayerCache) -> Result<Array> {
        let h = match &self.mixer {
            Mixer::Conv(conv) => conv.forward_add(&self.operator_norm, x, cache)?,
            Mixer::Attention(attention) => attention.forward_add(&self.operator_norm, x, cache)?,
        };
        self.feed_forward.forward_add(&self.ffn_norm, &h)
    }

    fn cache(&self) -> CacheSpec {
        match self.mixer {
            Mixer::Conv(_) => CacheSpec::State(1),
            Mixer::Attention(_) => CacheSpec::Full,
        }
    }
}

/// With what published configurations may leave out. They say `tie_embedding`.
fn complete(config: &Config) -> Result<Config> {
    let tied = config.get::<bool>("tie_embedding")?.unwrap_or(true);
    config.with_defaults(json!({
        "rope_theta": 1_000_000.0, "tie_word_embeddings": tied, "norm_eps": 1e-5, "conv_bias": false, "conv_L_cache": 3,
        "num_key_value_heads": config.get::<i32>("num_attention_heads")?, "block_auto_adjust_ff_dim": true,
        "block_ffn_dim_multiplier": 1.0, "block_multiple_of": 256, "num_dense_layers": 2, "norm_topk_prob": true,
        "use_expert_bias": true, "routed_scaling_factor": 1.0,
    }))
}

pub(super) const WRITTEN: Written =
    Written { eight_bits: &["feed_forward.gate"], keeps_type: &["expert_bias"], ..Written::PLAIN };

/// Convolutions are published as torch has them, experts one by one, where mlx-lm also gives dense layers the usual names; JANG's
/// writer does it always.
pub(super) fn remap(checkpoint: &mut Checkpoint, config: &Config) -> Result<()> {
    super::remap(checkpoint, &complete(config)?)?;
    let mixture = config.model_type == "lfm2_moe";
    for (short, long) in [("w1", "gate_proj"), ("w3", "up_proj"), ("w2", "down_proj")] {
        let (from, to) = if mixture { (short, long) } else { (long, short) };
        checkpoint.rename_module(from, to)?;
    }
    if mixture {
        checkpoint.stack("experts", "switch_mlp")?;
    }
    checkpoint.conv_to_mlx(|name| name.ends_with("conv.conv.weight"))
}

pub(super) fn load(config: &Config, w: &Weights) -> Result<Decoder<Lfm2Layer>> {
    let config = &complete(config)?;
    let c: Lfm2Config = config.parse()?;
    let mixture: Option<MixtureConfig> = match config.model_type.as_str() {
        "lfm2_moe" => Some(config.parse()?),
        _ => None,
    };
    let (m, dim, eps, backend) = (w.pp("model"), c.hidden_size, c.norm_eps, w.backend());
    c.check()?;
    let head_dim = dim / c.num_attention_heads;
    let rope = Rope::new(RopeConfig::from_config(config, Some("full_attention"), head_dim)?, false)?;
    let dense = MlpConfig::new(dim, width(config)?);
    let dense = if mixture.is_some() { dense } else { MlpConfig { names: ["w1", "w3", "w2"], ..dense } };
    let mixer = |kind: Kind, w: &Weights| {
        let w = match kind {
            Kind::Conv => {
                return ShortConv::load(&w.pp("conv"), dim, c.conv_width, c.conv_bias).map(Mixer::Conv);
            }
            Kind::FullAttention => &w.pp("self_attn"),
        };
        let spec = AttentionSpec {
            q_norm: Some(Norm::rms(&w.pp("q_layernorm"), head_dim, eps)?),
            k_norm: Some(Norm::rms(&w.pp("k_layernorm"), head_dim, eps)?),
            rope: Some(rope.clone()),
            ..AttentionSpec::new(c.num_attention_heads, c.num_key_value_heads, head_dim, backend.kernels)
        };
        Attention::around_to(spec, w, dim, KeysValues::Own, [false; 2], "out_proj")
            .map(|a| Mixer::Attention(Box::new(a)))
    };
    let feed_forward = |i: usize, w: &Weights| {
        let Some(e) = mixture.as_ref().filter(|e| i >= e.num_dense_layers) else {
            return FeedForward::dense(w, &dense);
        };
        let router = RouterConfig {
            score: Score::Sigmoid,
            correction: e.use_expert_bias.then_some("expert_bias"),
            normalize: if e.norm_topk_prob { Normalize::Sum(1e-6) } else { Normalize::No },
            scale: e.routed_scaling_factor,
            ..RouterConfig::new(dim, e.num_experts, e.num_experts_per_tok)
        };
        let experts = ExpertsConfig::new(dim, e.moe_intermediate_size, e.num_experts);
        FeedForward::experts(w, &MoeConfig::new(router, experts))
    };
    Ok(Decoder {
        embed: Embedding::load(&m.pp("embed_tokens"), c.vocab_size, dim)?,
        layers: load_layers(&m, c.num_hidden_layers, |i, w| {
            Ok(Lfm2Layer {
                operator_norm: Norm::rms(&w.pp("operator_norm"), dim, eps)?,
                mixer: mixer(c.kind(i), w)?,
                ffn_norm: Norm::rms(&w.pp("ffn_norm"), dim, eps)?,
                feed_forward: feed_forward(i, &w.pp("feed_forward"))?,
            })
        })?,
        norm: Norm::rms(&m.pp("embedding_norm"), dim, eps)?,
        head: Head::load(w, super::tied(config, w)?, dim, c.vocab_size)?,
        scales: Scales::default(),
        vocab_size: c.vocab_size,
        backend,
    })
}
