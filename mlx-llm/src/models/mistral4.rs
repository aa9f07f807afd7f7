//! Mistral 4 (Mistral Small 4): DeepSeek's latent attention with queries that grow with their position, and experts chosen by
//! softmax.
//!
//! Scores are multiplied by (0.1 · mscale_all_dim · ln(factor) + 1)² / √head_dim, as in transformers and mlx-lm. There are
//! implementations that leave the square out; with `"attention_multiplier": x` in the configuration, x takes the place of the whole
//! factor. Experts outside the chosen groups count as -∞, as in DeepSeek 3.

use super::{
    deepseek::{self, DeepseekLayer, Variant},
    mistral3,
};
use mlx_lm_common::{
    Config, Error, Result,
    model::Decoder,
    nn::{GroupScore, Score},
    weights::Weights,
};

pub(super) fn load(config: &Config, w: &Weights) -> Result<Decoder<DeepseekLayer>> {
    let scale: Option<f32> = config.get("attention_multiplier")?;
    if let Some(scale) = scale.filter(|s| !s.is_finite()) {
        return Err(Error::config("attention_multiplier", scale, "a finite number"));
    }
    let variant = Variant {
        score: Score::Softmax,
        correction: None,
        groups: Some(GroupScore::BestTwo),
        normalize: true,
        interleaved: config.get("rope_interleave")?.unwrap_or(true),
        scale,
        q_scale: mistral3::q_scale(config)?,
    };
    deepseek::load_variant(config, w, &variant)
}
