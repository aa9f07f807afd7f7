//! Qwen3 and Qwen3-MoE (arXiv 2505.09388): Llama with a norm on each query and key head; some layers route to experts.
//!
//! Qwen2-MoE (arXiv 2407.10671) has biases instead of these norms, and one more expert for every token, behind a gate. OLMoE (arXiv
//! 2409.02060) has norms over the queries and keys of all heads together.

use super::{
    llama::LlamaConfig,
    mixtral::{self, MixtralLayer},
};
use mlx_lm_common::{
    Config, Error, Result,
    cache::CacheSpec,
    config::dim,
    model::{Decoder, Written},
    nn::{
        Attention, AttentionConfig, ExpertsConfig, FeedForward, MlpConfig, MoeConfig, Normalize,
        RouterConfig, SharedConfig,
    },
    weights::{Checkpoint, Weights},
};
use serde::Deserialize;
use serde_json::{Value, json};

/// The keys of the mixture.
#[derive(Deserialize)]
struct MixtureConfig {
    #[serde(deserialize_with = "dim")]
    num_experts: i32,
    #[serde(deserialize_with = "dim")]
    num_experts_per_tok: i32,
    #[serde(deserialize_with = "dim")]
    moe_intermediate_size: i32,
    #[serde(default)]
    norm_topk_prob: bool,
    #[serde(default = "one")]
    decoder_sparse_step: usize,
    #[serde(default)]
    mlp_only_layers: Vec<usize>,
}

fn one() -> usize {
    1
}

impl MixtureConfig {
    fn routes(&self, layer: usize) -> bool {
        !self.mlp_only_layers.contains(&layer) && (layer + 1).is_multiple_of(self.decoder_sparse_step.max(1))
    }

    fn mixture(&self, dim: i32) -> MoeConfig {
        let normalize = if self.norm_topk_prob { Normalize::Sum(0.0) } else { Normalize::No };
        let router = RouterConfig::new(dim, self.num_experts, self.num_experts_per_tok);
        let experts = ExpertsConfig::new(dim, self.moe_intermediate_size, self.num_experts);
        MoeConfig::new(RouterConfig { normalize, ..router }, experts)
    }
}

pub(super) const WRITTEN: Written = Written { eight_bits: &["mlp.gate"], ..Written::PLAIN };

/// Experts are published one by one.
pub(super) fn remap(checkpoint: &mut Checkpoint, config: &Config) -> Result<()> {
    super::remap(checkpoint, config)?;
    checkpoint.stack("experts", "switch_mlp")
}

/// Qwen3 and Qwen3-MoE.
pub(super) fn load(config: &Config, w: &Weights) -> Result<Decoder<MixtralLayer>> {
    let c: LlamaConfig = config.parse()?;
    let rope = c.rope(config, Some("full_attention"))?;
    let norms = Some(c.rms_norm_eps);
    let attention = AttentionConfig { qk_norm: norms, ..c.attention(&config.model_type, Some(rope))? };
    let experts: Option<MixtureConfig> = match config.model_type.as_str() {
        "qwen3_moe" => Some(config.parse()?),
        _ => None,
    };
    let moe = experts.as_ref().map(|e| e.mixture(c.hidden_size));
    let dense = MlpConfig::new(c.hidden_size, c.intermediate_size);
    mixtral::decoder(
        (config, w, &c),
        CacheSpec::Full,
        |w| Attention::load(w, &attention),
        |i, w| match (&experts, &moe) {
            (Some(e), Some(moe)) if e.routes(i) => FeedForward::experts(&w.pp("mlp"), moe),
            _ => FeedForward::dense(&w.pp("mlp"), &dense),
        },
    )
}

/// Qwen2-MoE.
pub(super) fn load_second(config: &Config, w: &Weights) -> Result<Decoder<MixtralLayer>> {
    let (c, e): (LlamaConfig, MixtureConfig) = (config.parse()?, config.parse()?);
    let attention = c.attention(&config.model_type, Some(c.rope(config, Some("full_attention"))?))?;
    let shared = SharedConfig {
        name: "shared_expert",
        mlp: MlpConfig::new(c.hidden_size, config.dim("shared_expert_intermediate_size")?),
        gate: Some("shared_expert_gate"),
    };
    let moe = MoeConfig { shared: Some(shared), ..e.mixture(c.hidden_size) };
    let dense = MlpConfig::new(c.hidden_size, c.intermediate_size);
    mixtral::decoder(
        (config, w, &c),
        CacheSpec::Full,
        |w| Attention::load(w, &attention),
        |i, w| match e.routes(i) {
            true => FeedForward::experts(&w.pp("mlp"), &moe),
            false => FeedForward::dense(&w.pp("mlp"), &dense),
        },
    )
}

/// OLMoE.
pub(super) fn load_olmoe(config: &Config, w: &Weights) -> Result<Decoder<MixtralLayer>> {
    if let Some(bound) = config.get::<Value>("clip_qkv")? {
        return Err(Error::config("clip_qkv", bound, "null, as published models have it"));
    }
    let c: LlamaConfig = config.parse()?;
    // Of experts it is, in this configuration.
    let width = json!({ "moe_intermediate_size": c.intermediate_size });
    let e: MixtureConfig = config.with_defaults(width)?.parse()?;
    let (attention, moe) = (
        c.attention(&config.model_type, Some(c.rope(config, Some("full_attention"))?))?,
        e.mixture(c.hidden_size),
    );
    mixtral::decoder(
        (config, w, &c),
        CacheSpec::Full,
        |w| Attention::load(w, &attention)?.with_joint_norms(w, c.rms_norm_eps),
        |_, w| FeedForward::experts(&w.pp("mlp"), &moe),
    )
}
