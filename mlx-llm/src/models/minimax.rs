//! MiniMax-M2 (arXiv 2506.13585 has its training): Mixtral with norms over the queries and keys of all heads, rotation of a part of
//! each head, and experts by sigmoid scores with a bias that chooses only. Layers that predict further tokens are left out.

use super::{
    llama::LlamaConfig,
    mixtral::{self, MixtralLayer},
};
use mlx_lm_common::{
    Config, Error, Result,
    cache::CacheSpec,
    model::{Decoder, Written},
    nn::{Attention, ExpertsConfig, FeedForward, MoeConfig, Normalize, RouterConfig, Score},
    weights::{Checkpoint, Weights},
};

pub(super) const WRITTEN: Written = Written {
    eight_bits: &["block_sparse_moe.gate"],
    keeps_type: &["e_score_correction_bias"],
    ..Written::PLAIN
};

/// As Mixtral is published.
pub(super) fn remap(checkpoint: &mut Checkpoint, config: &Config) -> Result<()> {
    super::keep_layers(checkpoint, config)?;
    mixtral::remap(checkpoint, config)
}

pub(super) fn load(config: &Config, w: &Weights) -> Result<Decoder<MixtralLayer>> {
    for (key, known) in [("scoring_func", "sigmoid"), ("qk_norm_type", "per_layer")] {
        let found: Option<String> = config.get(key)?;
        if let Some(found) = found.filter(|f| f != known) {
            return Err(Error::config(key, found, known));
        }
    }
    let c: LlamaConfig = config.parse()?;
    let attention = c.attention(&config.model_type, Some(c.rope(config, Some("full_attention"))?))?;
    let normed = config.get("use_qk_norm")?.unwrap_or(true);
    let (experts, k) = (config.dim("num_local_experts")?, config.dim("num_experts_per_tok")?);
    let router = RouterConfig {
        float32: true,
        score: Score::Sigmoid,
        correction: Some("e_score_correction_bias"),
        normalize: Normalize::Sum(1e-20),
        ..RouterConfig::new(c.hidden_size, experts, k)
    };
    let moe = MoeConfig::new(router, ExpertsConfig::new(c.hidden_size, c.intermediate_size, experts));
    mixtral::decoder(
        (config, w, &c),
        CacheSpec::Full,
        |w| {
            let plain = Attention::load(w, &attention)?;
            if normed { plain.with_joint_norms(w, c.rms_norm_eps) } else { Ok(plain) }
        },
        |_, w| FeedForward::experts(&w.pp("block_sparse_moe"), &moe),
    )
}
