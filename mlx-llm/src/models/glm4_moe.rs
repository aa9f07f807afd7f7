//! GLM-4.5, 4.6 and 4.7 (arXiv 2508.06471): grouped attention with a part of each head rotated, and DeepSeek 3's mixtures.
//!
//! Experts outside the chosen groups count as -∞, as in transformers; mlx-lm counts them as 0. Layers that predict further tokens
//! are left out.

use super::{
    llama::LlamaConfig,
    mixtral::{self, MixtralLayer},
};
use mlx_lm_common::{
    Config, Error, Result,
    cache::CacheSpec,
    config::{dim, optional_dim},
    model::Decoder,
    nn::{
        Attention, AttentionConfig, ExpertsConfig, FeedForward, GroupScore, Groups, MlpConfig, MoeConfig,
        Normalize, RouterConfig, Score, SharedConfig,
    },
    weights::{Checkpoint, Weights},
};
use serde::Deserialize;
use serde_json::json;

/// The keys of the mixture.
#[derive(Deserialize)]
struct MixtureConfig {
    #[serde(deserialize_with = "dim")]
    moe_intermediate_size: i32,
    #[serde(deserialize_with = "dim")]
    n_routed_experts: i32,
    #[serde(deserialize_with = "dim")]
    num_experts_per_tok: i32,
    #[serde(default)]
    n_shared_experts: Option<i32>,
    #[serde(default, deserialize_with = "optional_dim")]
    n_group: Option<i32>,
    #[serde(default, deserialize_with = "optional_dim")]
    topk_group: Option<i32>,
    norm_topk_prob: Option<bool>,
    routed_scaling_factor: Option<f32>,
    #[serde(default)]
    first_k_dense_replace: usize,
}

impl MixtureConfig {
    fn mixture(&self, dim: i32) -> Result<MoeConfig> {
        let groups = Groups {
            count: self.n_group.unwrap_or(1),
            kept: self.topk_group.unwrap_or(1),
            score: GroupScore::BestTwo,
        };
        let normalize =
            if self.norm_topk_prob.unwrap_or(true) { Normalize::Sum(1e-20) } else { Normalize::No };
        let router = RouterConfig {
            score: Score::Sigmoid,
            correction: Some("gate.e_score_correction_bias"),
            groups: ((groups.count, groups.kept) != (1, 1)).then_some(groups),
            normalize,
            scale: self.routed_scaling_factor.unwrap_or(1.0),
            ..RouterConfig::new(dim, self.n_routed_experts, self.num_experts_per_tok)
        };
        let hidden = self.moe_intermediate_size;
        let shared = |count: i32| -> Result<_> {
            let hidden = hidden.checked_mul(count).filter(|_| count > 0).ok_or_else(|| {
                Error::config("n_shared_experts", count, format!("fewer blocks of {hidden} channels"))
            })?;
            Ok::<_, Error>(SharedConfig {
                name: "shared_experts",
                mlp: MlpConfig::new(dim, hidden),
                gate: None,
            })
        };
        let shared = self.n_shared_experts.filter(|&count| count != 0).map(shared).transpose()?;
        let experts = ExpertsConfig::new(dim, hidden, self.n_routed_experts);
        Ok(MoeConfig { shared, ..MoeConfig::new(router, experts) })
    }
}

/// Experts are published one by one.
pub(super) fn remap(checkpoint: &mut Checkpoint, config: &Config) -> Result<()> {
    super::remap(checkpoint, config)?;
    super::keep_layers(checkpoint, config)?;
    checkpoint.stack("experts", "switch_mlp")
}

pub(super) fn load(config: &Config, w: &Weights) -> Result<Decoder<MixtralLayer>> {
    let config =
        &config.with_defaults(json!({ "attention_out_bias": false, "partial_rotary_factor": 0.5 }))?;
    let c: LlamaConfig = config.parse()?;
    let rope = c.rope(config, Some("full_attention"))?;
    let normed = config.get("use_qk_norm")?.unwrap_or(false);
    let attention = AttentionConfig {
        qk_norm: normed.then_some(c.rms_norm_eps),
        ..c.attention(&config.model_type, Some(rope))?
    };
    let mixture: MixtureConfig = config.parse()?;
    let moe = mixture.mixture(c.hidden_size)?;
    mixtral::decoder(
        (config, w, &c),
        CacheSpec::Full,
        |w| Attention::load(w, &attention),
        |i, w| {
            let (w, dense) = (w.pp("mlp"), MlpConfig::new(c.hidden_size, c.intermediate_size));
            if i < mixture.first_k_dense_replace {
                FeedForward::dense(&w, &dense)
            } else {
                FeedForward::experts(&w, &moe)
            }
        },
    )
}
