//! Qwen3-Next, and with another layout Qwen3.5: of every four layers, three mix positions by the gated delta rule (arXiv 2412.06464) and
//! one by attention with a gate on its output (arXiv 2505.06708); then an MLP, or a mixture of experts with one that all tokens share.
//!
//! Published checkpoints differ from MLX's in more than names: their norms (but for the delta rule's own) hold what is added to one.
//! Which layout a checkpoint has is told by [`Checkpoint::layout`], as mlx-lm does for Qwen3.5; for Qwen3-Next it looks for experts
//! one by one, and so cannot read a published model without any. JANG bundles have either kind of norms, and say which.
//!
//! `layer_types` says which layers attend, as in transformers; mlx-lm reads `full_attention_interval` alone.

use super::gemma3::check_groups;
use mlx_lm_common::{
    Config, Error, Result,
    cache::{AttentionSpec, CacheSpec, LayerCache},
    config::{RopeConfig, dim, epsilon, optional_dim},
    model::{Decoder, Layer, Scales, Written, load_layers},
    nn::{
        Embedding, ExpertsConfig, FeedForward, GatedAttention, GatedDeltaConfig, GatedDeltaNet, Head,
        MlpConfig, MoeConfig, Norm, Normalize, Rope, RouterConfig, SharedConfig,
    },
    weights::{Checkpoint, Layout, Weights},
};
use mlx_rs::Array;
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct NextConfig {
    #[serde(deserialize_with = "dim")]
    hidden_size: i32,
    #[serde(deserialize_with = "dim")]
    num_hidden_layers: i32,
    #[serde(deserialize_with = "dim")]
    num_attention_heads: i32,
    #[serde(deserialize_with = "dim")]
    num_key_value_heads: i32,
    #[serde(default, deserialize_with = "optional_dim")]
    head_dim: Option<i32>,
    #[serde(deserialize_with = "dim")]
    vocab_size: i32,
    #[serde(deserialize_with = "epsilon")]
    rms_norm_eps: f32,
    attention_bias: bool,
    attn_output_gate: bool,
    hidden_act: String,
    layer_types: Option<Vec<Kind>>,
    #[serde(deserialize_with = "dim")]
    full_attention_interval: i32,
    #[serde(deserialize_with = "dim")]
    linear_num_key_heads: i32,
    #[serde(deserialize_with = "dim")]
    linear_num_value_heads: i32,
    #[serde(deserialize_with = "dim")]
    linear_key_head_dim: i32,
    #[serde(deserialize_with = "dim")]
    linear_value_head_dim: i32,
    #[serde(deserialize_with = "dim")]
    linear_conv_kernel_dim: i32,
    num_experts: u32,
}

/// How a layer mixes positions.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    LinearAttention,
    FullAttention,
}

/// The keys of the mixture.
#[derive(Deserialize)]
struct MixtureConfig {
    #[serde(deserialize_with = "dim")]
    num_experts: i32,
    #[serde(deserialize_with = "dim")]
    num_experts_per_tok: i32,
    #[serde(deserialize_with = "dim")]
    moe_intermediate_size: i32,
    #[serde(deserialize_with = "dim")]
    shared_expert_intermediate_size: i32,
    norm_topk_prob: bool,
    #[serde(deserialize_with = "dim")]
    decoder_sparse_step: i32,
    mlp_only_layers: Vec<usize>,
}

impl NextConfig {
    /// The configuration, with what published ones may leave out.
    fn read(config: &Config) -> Result<(Config, NextConfig)> {
        let config = config.with_defaults(json!({
            "attention_bias": false, "attn_output_gate": true, "hidden_act": "silu", "full_attention_interval": 4,
            "num_experts": 0, "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [],
            "partial_rotary_factor": 0.25,
        }))?;
        let c: NextConfig = config.parse()?;
        if !c.attn_output_gate {
            return Err(Error::config("attn_output_gate", false, "true"));
        }
        if c.hidden_act != "silu" {
            return Err(Error::config("hidden_act", &c.hidden_act, "silu"));
        }
        check_groups(c.num_attention_heads, "num_key_value_heads", c.num_key_value_heads)?;
        let (keys, values) = (c.linear_num_key_heads, c.linear_num_value_heads);
        if values % keys != 0 {
            let wanted = format!("a multiple of {keys} heads of keys");
            return Err(Error::config("linear_num_value_heads", values, wanted));
        }
        let layers = c.num_hidden_layers;
        match c.layer_types.as_ref().map(Vec::len).filter(|n| i32::try_from(*n) != Ok(layers)) {
            Some(n) => Err(Error::config("layer_types", format!("{n} entries"), format!("{layers}"))),
            None => Ok((config, c)),
        }
    }

    fn head_dim(&self) -> Result<i32> {
        let (dim, heads) = (self.hidden_size, self.num_attention_heads);
        match self.head_dim {
            Some(head_dim) => Ok(head_dim),
            None if dim % heads == 0 => Ok(dim / heads),
            None => Err(Error::config("num_attention_heads", heads, format!("a divisor of {dim}"))),
        }
    }

    fn kind(&self, layer: usize) -> Kind {
        let attends = (layer + 1).is_multiple_of(self.full_attention_interval as usize);
        let listed = self.layer_types.as_ref().and_then(|kinds| kinds.get(layer).copied());
        listed.unwrap_or(if attends { Kind::FullAttention } else { Kind::LinearAttention })
    }

    fn delta(&self) -> GatedDeltaConfig {
        GatedDeltaConfig {
            dim: self.hidden_size,
            key_heads: self.linear_num_key_heads,
            value_heads: self.linear_num_value_heads,
            key_dim: self.linear_key_head_dim,
            value_dim: self.linear_value_head_dim,
            conv_width: self.linear_conv_kernel_dim,
            eps: self.rms_norm_eps,
        }
    }
}

impl MixtureConfig {
    fn routes(&self, layer: usize) -> bool {
        !self.mlp_only_layers.contains(&layer)
            && (layer + 1).is_multiple_of(self.decoder_sparse_step as usize)
    }

    fn mixture(&self, dim: i32) -> MoeConfig {
        let normalize = if self.norm_topk_prob { Normalize::Sum(0.0) } else { Normalize::No };
        let router = RouterConfig::new(dim, self.num_experts, self.num_experts_per_tok);
        let shared = SharedConfig {
            name: "shared_expert",
            mlp: MlpConfig::new(dim, self.shared_expert_intermediate_size),
            gate: Some("shared_expert_gate"),
        };
        let experts = ExpertsConfig::new(dim, self.moe_intermediate_size, self.num_experts);
        MoeConfig { shared: Some(shared), ..MoeConfig::new(RouterConfig { normalize, ..router }, experts) }
    }
}

enum Mixer {
    Delta(Box<GatedDeltaNet>),
    Attention(Box<GatedAttention>),
}

pub(super) struct NextLayer {
    input_layernorm: Norm,
    mixer: Mixer,
    post_attention_layernorm: Norm,
    mlp: FeedForward,
}

impl Layer for NextLayer {
    fn forward(&self, x: &Array, cache: &mut LayerCache) -> Result<Array> {
        let h = match &self.mixer {
            Mixer::Delta(delta) => delta.forward_add(&self.input_layernorm, x, cache.state_cache()?)?,
            Mixer::Attention(attention) => attention.forward_add(&self.input_layernorm, x, cache)?,
        };
        self.mlp.forward_add(&self.post_attention_layernorm, &h)
    }

    fn cache(&self) -> CacheSpec {
        match self.mixer {
            Mixer::Delta(_) => GatedDeltaNet::CACHE,
            Mixer::Attention(_) => CacheSpec::Full,
        }
    }
}

pub(super) const WRITTEN: Written =
    Written { eight_bits: &["mlp.gate", "shared_expert_gate"], ..Written::PLAIN };

/// Of Qwen3.5.
pub(super) const WRITTEN_5: Written = Written { keeps_type: &["A_log"], ..WRITTEN };

/// Queries, keys, values and gates of the delta rule come head by head in one matrix, rates and decays in another; here, as in
/// Qwen3.5, each comes whole.
pub(super) fn fold(checkpoint: &mut Checkpoint, config: &Config) -> Result<()> {
    let (_, c) = NextConfig::read(config)?;
    // What is missing has the name that the file would have it by.
    for i in (0..c.num_hidden_layers as usize).filter(|i| c.kind(*i) == Kind::LinearAttention) {
        for part in ["in_proj_qkvz", "in_proj_ba"] {
            let name = format!("model.layers.{i}.linear_attn.{part}.weight");
            let parts =
                [name.replace("in_proj_qkvz", "in_proj_qkv"), name.replace("in_proj_ba", "in_proj_a")];
            if !checkpoint.contains(&name) && !parts.iter().any(|part| checkpoint.contains(part)) {
                return Err(Error::MissingTensor(name));
            }
        }
    }
    let group = c.linear_num_value_heads / c.linear_num_key_heads;
    let (keys, values) = (c.linear_key_head_dim, group.saturating_mul(c.linear_value_head_dim));
    let [q, k, v, z] = ["q", "k", "v", "in_proj_z"].map(|name| format!("linear_attn.{name}"));
    let parts = [(q.as_str(), keys), (&k, keys), (&v, values), (&z, values)];
    checkpoint.split("linear_attn.in_proj_qkvz", -2, &parts)?;
    checkpoint.join(&[&q, &k, &v], "linear_attn.in_proj_qkv")?;
    let parts = [("linear_attn.in_proj_b", group), ("linear_attn.in_proj_a", group)];
    checkpoint.split("linear_attn.in_proj_ba", -2, &parts)?;
    fold_whole(checkpoint, config)
}

/// Queries come head by head with the gate.
pub(super) fn fold_whole(checkpoint: &mut Checkpoint, config: &Config) -> Result<()> {
    let head_dim = NextConfig::read(config)?.1.head_dim()?;
    let parts = [("self_attn.q_proj", head_dim), ("self_attn.gate_proj", head_dim)];
    checkpoint.split("self_attn.q_proj", -2, &parts)
}

/// What both families need: text alone, experts stacked, convolutions as MLX has them, whole norms.
pub(super) fn remap(checkpoint: &mut Checkpoint, config: &Config) -> Result<()> {
    const NORMS: [&str; 5] = [
        ".input_layernorm.weight",
        ".post_attention_layernorm.weight",
        ".q_norm.weight",
        ".k_norm.weight",
        "model.norm.weight",
    ];
    let (_, c) = NextConfig::read(config)?;
    let layout = checkpoint.layout();
    checkpoint.ignore(|name| name.starts_with("mtp.") || name.contains(".mtp."));
    checkpoint.keep_text()?;
    super::remap(checkpoint, config)?;
    checkpoint.stack("experts", "switch_mlp")?;
    if c.num_experts > 0 {
        let hidden = config.dim("moe_intermediate_size")?;
        let parts = [("switch_mlp.gate_proj", hidden), ("switch_mlp.up_proj", hidden)];
        checkpoint.split("experts.gate_up_proj", -2, &parts)?;
        checkpoint.rename_module("experts.down_proj", "switch_mlp.down_proj")?;
    }
    checkpoint.conv_to_mlx(is_conv)?;
    let is_norm = |name: &str| NORMS.iter().any(|norm| name.ends_with(norm));
    match layout {
        Layout::Published => checkpoint.add(is_norm, 1.0),
        Layout::Jang(jang) if !jang.norms_are_whole => checkpoint.add_rounded(is_norm, 1.0),
        _ => Ok(()),
    }
}

fn is_conv(name: &str) -> bool {
    name.ends_with("linear_attn.conv1d.weight")
}

pub(super) fn load(config: &Config, w: &Weights) -> Result<Decoder<NextLayer>> {
    let (config, c) = &NextConfig::read(config)?;
    let mixture: Option<MixtureConfig> = (c.num_experts > 0).then(|| config.parse()).transpose()?;
    let (m, dim, eps, head_dim) = (w.pp("model"), c.hidden_size, c.rms_norm_eps, c.head_dim()?);
    let rope = Rope::new(RopeConfig::from_config(config, Some("full_attention"), head_dim)?, false)?;
    let delta = |w: &Weights| GatedDeltaNet::load(w, c.delta()).map(|delta| Mixer::Delta(Box::new(delta)));
    let attention = |w: &Weights| {
        let spec = AttentionSpec {
            q_norm: Some(Norm::rms(&w.pp("q_norm"), head_dim, eps)?),
            k_norm: Some(Norm::rms(&w.pp("k_norm"), head_dim, eps)?),
            rope: Some(rope.clone()),
            ..AttentionSpec::new(c.num_attention_heads, c.num_key_value_heads, head_dim, w.backend().kernels)
        };
        let attention = GatedAttention::load(spec, w, dim, c.attention_bias)?;
        Ok(Mixer::Attention(Box::new(attention)))
    };
    let mixer = |i: usize, w: &Weights| match c.kind(i) {
        Kind::LinearAttention => delta(&w.pp("linear_attn")),
        Kind::FullAttention => attention(&w.pp("self_attn")),
    };
    let mlp = |i: usize, w: &Weights| match &mixture {
        Some(e) if e.routes(i) => FeedForward::experts(w, &e.mixture(dim)),
        _ => FeedForward::dense(w, &MlpConfig::new(dim, config.dim("intermediate_size")?)),
    };
    Ok(Decoder {
        embed: Embedding::load(&m.pp("embed_tokens"), c.vocab_size, dim)?,
        layers: load_layers(&m, c.num_hidden_layers, |i, w| {
            Ok(NextLayer {
                input_layernorm: Norm::rms(&w.pp("input_layernorm"), dim, eps)?,
                mixer: mixer(i, w)?,
                post_attention_layernorm: Norm::rms(&w.pp("post_attention_layernorm"), dim, eps)?,
                mlp: mlp(i, &w.pp("mlp"))?,
            })
        })?,
        norm: Norm::rms(&m.pp("norm"), dim, eps)?,
        head: Head::load(w, super::tied(config, w)?, dim, c.vocab_size)?,
        scales: Scales::default(),
        vocab_size: c.vocab_size,
        backend: w.backend(),
    })
}
