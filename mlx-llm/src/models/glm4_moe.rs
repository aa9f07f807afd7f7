//! GLM-4.5, 4.6 and 4.7 (arXiv 2508.06471): grouped attention with a part of each head rotated, and DeepSeek 3's mixtures. So has
//! dots.llm1 (arXiv 2506.05767), which rotates heads as a whole.
//!
//! Experts outside the chosen groups count as -∞, as in transformers; mlx-lm counts them as 0. Layers that predict further tokens
//! are left out.

use super::{
    deepseek::Variant,
    llama::LlamaConfig,
    mixtral::{self, MixtralLayer},
};
use mlx_lm_common::{
    Config, Result,
    cache::CacheSpec,
    model::Decoder,
    nn::{Attention, AttentionConfig, FeedForward, MlpConfig, MoeConfig},
    weights::{Checkpoint, Weights},
};
use serde_json::json;

/// Experts are published one by one.
pub(super) fn remap(checkpoint: &mut Checkpoint, config: &Config) -> Result<()> {
    super::remap(checkpoint, config)?;
    super::keep_layers(checkpoint, config)?;
    checkpoint.stack("experts", experts_name(config))
}

/// What mlx-lm calls the stacked experts.
fn experts_name(config: &Config) -> &'static str {
    if config.model_type == "dots1" { "experts" } else { "switch_mlp" }
}

/// GLM.
pub(super) fn load(config: &Config, w: &Weights) -> Result<Decoder<MixtralLayer>> {
    let keys = json!({ "attention_out_bias": false, "partial_rotary_factor": 0.5, "use_qk_norm": false });
    decoder(&config.with_defaults(keys)?, w)
}

/// dots.llm1, which always has norms of heads.
pub(super) fn load_dots(config: &Config, w: &Weights) -> Result<Decoder<MixtralLayer>> {
    decoder(&config.with_defaults(json!({ "use_qk_norm": true }))?, w)
}

fn decoder(config: &Config, w: &Weights) -> Result<Decoder<MixtralLayer>> {
    let c: LlamaConfig = config.parse()?;
    let rope = c.rope(config, Some("full_attention"))?;
    let normed: Option<bool> = config.get("use_qk_norm")?;
    let attention = AttentionConfig {
        qk_norm: normed.unwrap_or(false).then_some(c.rms_norm_eps),
        ..c.attention(&config.model_type, Some(rope))?
    };
    let dense = MlpConfig { bias: c.mlp_bias, ..MlpConfig::new(c.hidden_size, c.intermediate_size) };
    let first: usize = config.get("first_k_dense_replace")?.unwrap_or(0);
    let moe = Variant::THIRD.mixture(config)?;
    let moe = moe.map(|moe| MoeConfig { experts_name: experts_name(config), ..moe });
    mixtral::decoder(
        (config, w, &c),
        CacheSpec::Full,
        |w| Attention::load(w, &attention),
        |i, w| match &moe {
            Some(moe) if i >= first => FeedForward::experts(&w.pp("mlp"), moe),
            _ => FeedForward::dense(&w.pp("mlp"), &dense),
        },
    )
}
