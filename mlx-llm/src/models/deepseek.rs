//! DeepSeek 2 (arXiv 2405.04434) and 3 (arXiv 2412.19437), Kimi K2 (arXiv 2507.20534), GLM-4.7 Flash: latent attention, and experts of which some
//! are shared and the others chosen within the best groups.
//!
//! What is cached of a position is its latent and the rotated key of all heads, kv_lora_rank + qk_rope_head_dim values a layer; for
//! DeepSeek 2 too, of which mlx-lm caches the keys and values of all heads. Experts outside the chosen groups count as -∞, as in
//! transformers; mlx-lm counts them as 0, which is more than a negative corrected score. Layers that predict tokens after the next
//! one, from num_hidden_layers on, are left out.

use mlx_lm_common::{
    Config, Error, Result,
    cache::{CacheSpec, LayerCache, PositionScale},
    config::{RopeConfig, dim, epsilon, optional_dim},
    model::{Decoder, Layer, Scales, Written, load_layers},
    nn::{
        Embedding, ExpertsConfig, FeedForward, GroupScore, Groups, Head, Mla, MlaConfig, MlpConfig,
        MoeConfig, Norm, Normalize, Rope, RouterConfig, Score, SharedConfig,
    },
    weights::{Checkpoint, Tensor, Weights},
};
use mlx_rs::{Array, Dtype};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
pub(super) struct DeepseekConfig {
    #[serde(deserialize_with = "dim")]
    hidden_size: i32,
    #[serde(deserialize_with = "dim")]
    intermediate_size: i32,
    #[serde(deserialize_with = "dim")]
    num_hidden_layers: i32,
    #[serde(deserialize_with = "dim")]
    num_attention_heads: i32,
    #[serde(deserialize_with = "dim")]
    vocab_size: i32,
    #[serde(deserialize_with = "epsilon")]
    rms_norm_eps: f32,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default, deserialize_with = "optional_dim")]
    q_lora_rank: Option<i32>,
    #[serde(deserialize_with = "dim")]
    kv_lora_rank: i32,
    #[serde(deserialize_with = "dim")]
    qk_nope_head_dim: i32,
    #[serde(deserialize_with = "dim")]
    qk_rope_head_dim: i32,
    #[serde(deserialize_with = "dim")]
    v_head_dim: i32,
    #[serde(default, deserialize_with = "optional_dim")]
    n_routed_experts: Option<i32>,
    #[serde(default)]
    first_k_dense_replace: i32,
    #[serde(default, deserialize_with = "optional_dim")]
    moe_layer_freq: Option<i32>,
}

/// The keys of layers with experts.
#[derive(Deserialize)]
struct ExpertKeys {
    #[serde(deserialize_with = "dim")]
    hidden_size: i32,
    #[serde(deserialize_with = "dim")]
    n_routed_experts: i32,
    #[serde(default)]
    n_shared_experts: Option<i32>,
    #[serde(deserialize_with = "dim")]
    moe_intermediate_size: i32,
    #[serde(deserialize_with = "dim")]
    num_experts_per_tok: i32,
    #[serde(default, deserialize_with = "optional_dim")]
    n_group: Option<i32>,
    #[serde(default, deserialize_with = "optional_dim")]
    topk_group: Option<i32>,
    norm_topk_prob: Option<bool>,
    routed_scaling_factor: Option<f32>,
}

/// What distinguishes the members of the family.
pub(super) struct Variant {
    pub(super) score: Score,
    /// A vector that is added to the scores that choose.
    pub(super) correction: Option<&'static str>,
    /// How groups of experts are compared, if there are groups.
    pub(super) groups: Option<GroupScore>,
    /// Whether the weights of the chosen sum to one; by default, and if the configuration may say otherwise.
    pub(super) normalize: bool,
    /// Whether neighbouring channels are rotated together.
    pub(super) interleaved: bool,
    /// Multiplies the scores, if not the usual.
    pub(super) scale: Option<f32>,
    pub(super) q_scale: Option<PositionScale>,
}

impl Variant {
    /// DeepSeek 3.
    pub(super) const THIRD: Variant = Variant {
        score: Score::Sigmoid,
        correction: Some("gate.e_score_correction_bias"),
        groups: Some(GroupScore::BestTwo),
        normalize: true,
        interleaved: true,
        scale: None,
        q_scale: None,
    };

    /// The mixture of the layers that have one, if the configuration has experts.
    pub(super) fn mixture(&self, config: &Config) -> Result<Option<MoeConfig>> {
        if config.get::<Value>("n_routed_experts")?.is_none() {
            return Ok(None);
        }
        let keys: ExpertKeys = config.parse()?;
        let (dim, experts) = (keys.hidden_size, keys.n_routed_experts);
        let groups = self.groups.map(|score| Groups {
            count: keys.n_group.unwrap_or(1),
            kept: keys.topk_group.unwrap_or(1),
            score,
        });
        let normalize = self.normalize && keys.norm_topk_prob.unwrap_or(true);
        let router = RouterConfig {
            score: self.score,
            correction: self.correction,
            groups: groups.filter(|g| (g.count, g.kept) != (1, 1)),
            // What transformers adds to the sum.
            normalize: if normalize { Normalize::Sum(1e-20) } else { Normalize::No },
            scale: keys.routed_scaling_factor.unwrap_or(1.0),
            ..RouterConfig::new(dim, experts, keys.num_experts_per_tok)
        };
        let hidden = keys.moe_intermediate_size;
        let shared = |count: i32| -> Result<_> {
            let wanted = || format!("fewer blocks of {hidden} channels");
            let hidden = hidden.checked_mul(count).filter(|_| count > 0);
            let hidden = hidden.ok_or_else(|| Error::config("n_shared_experts", count, wanted()))?;
            Ok(SharedConfig { name: "shared_experts", mlp: MlpConfig::new(dim, hidden), gate: None })
        };
        let shared = keys.n_shared_experts.filter(|&count| count != 0).map(shared);
        let experts = ExpertsConfig::new(dim, hidden, experts);
        Ok(Some(MoeConfig { shared: shared.transpose()?, ..MoeConfig::new(router, experts) }))
    }
}

impl DeepseekConfig {
    fn rope(&self, config: &Config) -> Result<RopeConfig> {
        let dims = self.qk_rope_head_dim;
        if dims % 2 != 0 {
            return Err(Error::config("qk_rope_head_dim", dims, "an even number"));
        }
        // Not by `partial_rotary_factor`, which counts the channels that are not rotated.
        let parameters: Value = config.get("rope_parameters")?.unwrap_or_else(|| json!({}));
        let base = config.get("rope_theta")?.unwrap_or(10000.0);
        RopeConfig::from_parameters(&parameters, dims, base, config.get("max_position_embeddings")?)
    }

    fn attention(&self, config: &Config, variant: &Variant) -> Result<MlaConfig> {
        let rope = self.rope(config)?;
        let width = self.qk_nope_head_dim as f32 + self.qk_rope_head_dim as f32;
        Ok(MlaConfig {
            dim: self.hidden_size,
            heads: self.num_attention_heads,
            query_rank: self.q_lora_rank,
            rank: self.kv_lora_rank,
            nope_dim: self.qk_nope_head_dim,
            rope_dim: self.qk_rope_head_dim,
            value_dim: self.v_head_dim,
            bias: self.attention_bias,
            // Of the norms of latents; in GLM they are as the others.
            eps: if config.model_type == "glm4_moe_lite" { self.rms_norm_eps } else { 1e-6 },
            scale: variant.scale.unwrap_or_else(|| rope.attention_scale(width.powf(-0.5))),
            rope: Some(Rope::new(rope, variant.interleaved)?),
            q_scale: variant.q_scale,
        })
    }

    fn latent_parts(&self) -> [(&'static str, i32); 2] {
        [("k_b_proj", self.qk_nope_head_dim), ("v_b_proj", self.v_head_dim)]
    }

    /// Brings `kv_b_proj` into the two matrices for each head that mlx-lm has, but for DeepSeek 2. Packed, it would have to be
    /// packed anew; so it stays.
    fn split_heads(&self, checkpoint: &mut Checkpoint, config: &Config) -> Result<()> {
        let floats = |t: &Tensor| t.dtype().is_some_and(|d| d != Dtype::Uint32);
        let is_packed = |(name, t): (&str, &Tensor)| name.ends_with(".kv_b_proj.weight") && !floats(t);
        if config.model_type == "deepseek_v2" || checkpoint.iter().any(is_packed) {
            return Ok(());
        }
        let parts = self.latent_parts();
        checkpoint.split("kv_b_proj", -2, &parts)?;
        for ((from, rows), to) in parts.into_iter().zip(["embed_q", "unembed_out"]) {
            let is_part = |name: &str| name.ends_with(&format!(".{from}.weight"));
            checkpoint.reshape(is_part, |shape| match *shape {
                [all, rank] if all % rows == 0 => Some(vec![all / rows, rows, rank]),
                _ => None,
            })?;
            if to == "embed_q" {
                checkpoint.transpose(is_part)?;
            }
            checkpoint.rename_module(from, to)?;
        }
        Ok(())
    }

    fn routes(&self, layer: usize) -> bool {
        let freq = self.moe_layer_freq.unwrap_or(1) as usize;
        layer as i64 >= i64::from(self.first_k_dense_replace) && layer.is_multiple_of(freq)
    }
}

pub(super) struct DeepseekLayer {
    input_layernorm: Norm,
    self_attn: Mla,
    post_attention_layernorm: Norm,
    mlp: FeedForward,
}

impl Layer for DeepseekLayer {
    fn forward(&self, x: &Array, cache: &mut LayerCache) -> Result<Array> {
        let h = self.self_attn.forward_add(&self.input_layernorm, x, cache)?;
        self.mlp.forward_add(&self.post_attention_layernorm, &h)
    }

    fn cache(&self) -> CacheSpec {
        CacheSpec::Latent
    }
}

/// Routers are no modules of their own in mlx-lm.
pub(super) const WRITTEN: Written =
    Written { floats: &["mlp.gate"], keeps_type: &["e_score_correction_bias"], ..Written::PLAIN };

/// Experts come one by one, or stacked with gate and up in one; what makes keys and values of latents comes in one.
pub(super) fn remap(checkpoint: &mut Checkpoint, config: &Config) -> Result<()> {
    checkpoint.keep_text()?;
    super::remap(checkpoint, config)?;
    let c: DeepseekConfig = config.parse()?;
    let number = |name: &str| name.strip_prefix("model.layers.")?.split('.').next()?.parse::<i64>().ok();
    checkpoint.ignore(|name| number(name).is_some_and(|layer| layer >= i64::from(c.num_hidden_layers)));
    c.split_heads(checkpoint, config)?;
    if c.n_routed_experts.is_some() {
        let hidden = config.dim("moe_intermediate_size")?;
        checkpoint.stack("experts", "switch_mlp")?;
        let parts = [("switch_mlp.gate_proj", hidden), ("switch_mlp.up_proj", hidden)];
        checkpoint.split("experts.gate_up_proj", -2, &parts)?;
        checkpoint.rename_module("experts.down_proj", "switch_mlp.down_proj")?;
    }
    Ok(())
}

/// What makes keys and values of latents, where mlx-lm has it in one.
pub(super) fn fold(checkpoint: &mut Checkpoint, config: &Config) -> Result<()> {
    let c: DeepseekConfig = config.parse()?;
    checkpoint.split("kv_b_proj", -2, &c.latent_parts())
}

pub(super) fn load(config: &Config, w: &Weights) -> Result<Decoder<DeepseekLayer>> {
    let second = config.model_type == "deepseek_v2";
    let (method, scoring) = if second { ("greedy", "softmax") } else { ("noaux_tc", "sigmoid") };
    let found: Option<String> = config.get("scoring_func")?;
    if let Some(found) = found.filter(|f| f != scoring) {
        return Err(Error::config("scoring_func", found, scoring));
    }
    let found: Option<String> = config.get("topk_method")?;
    let groups = match (found.as_deref().unwrap_or(method), second) {
        ("noaux_tc", false) => Some(GroupScore::BestTwo),
        ("group_limited_greedy", true) => Some(GroupScore::Best),
        // The second is the name in the configurations' defaults.
        ("greedy" | "gready", true) => None,
        (other, true) => return Err(Error::config("topk_method", other, "greedy or group_limited_greedy")),
        (other, false) => return Err(Error::config("topk_method", other, "noaux_tc")),
    };
    let variant = if second {
        // The configurations have norm_topk_prob, too, but transformers and mlx-lm do not look at it.
        Variant { score: Score::Softmax, correction: None, groups, normalize: false, ..Variant::THIRD }
    } else {
        Variant { groups, ..Variant::THIRD }
    };
    load_variant(config, w, &variant)
}

/// A member of the family.
pub(super) fn load_variant(
    config: &Config,
    w: &Weights,
    variant: &Variant,
) -> Result<Decoder<DeepseekLayer>> {
    let c: DeepseekConfig = config.parse()?;
    let (m, dim, eps) = (w.pp("model"), c.hidden_size, c.rms_norm_eps);
    let (attention, mixture) = (c.attention(config, variant)?, variant.mixture(config)?);
    let mlp = |i: usize, w: &Weights| match &mixture {
        Some(mixture) if c.routes(i) => FeedForward::experts(w, mixture),
        _ => FeedForward::dense(w, &MlpConfig::new(dim, c.intermediate_size)),
    };
    Ok(Decoder {
        embed: Embedding::load(&m.pp("embed_tokens"), c.vocab_size, dim)?,
        layers: load_layers(&m, c.num_hidden_layers, |i, w| {
            Ok(DeepseekLayer {
                input_layernorm: Norm::rms(&w.pp("input_layernorm"), dim, eps)?,
                self_attn: Mla::load(&w.pp("self_attn"), &attention)?,
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
