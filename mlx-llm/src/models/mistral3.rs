//! Mistral Small 3.1 and 3.2, Ministral 3: a Llama, the last with queries that grow with their position, alone or as the language
//! model of one that also sees. What sees is left out.

use mlx_lm_common::{Config, Error, Result, cache::PositionScale, weights::Checkpoint};
use serde::Deserialize;

#[derive(Deserialize)]
struct Growth {
    llama_4_scaling_beta: Option<f32>,
    original_max_position_embeddings: Option<f64>,
}

/// How queries grow: by 1 + beta · ln(1 + ⌊position / original_max_position_embeddings⌋), if the rope parameters have a beta.
pub(super) fn q_scale(config: &Config) -> Result<Option<PositionScale>> {
    const BETA: &str = "rope_parameters.llama_4_scaling_beta";
    const EVERY: &str = "rope_parameters.original_max_position_embeddings";
    let growth: Option<Growth> = config.get("rope_parameters")?;
    let Some(Growth { llama_4_scaling_beta: Some(factor), original_max_position_embeddings: every }) = growth
    else {
        return Ok(None);
    };
    let every = match every.or(config.get("original_max_position_embeddings")?) {
        Some(n) if n >= 1.0 && n <= f64::from(i32::MAX) => n as i32,
        Some(n) => return Err(Error::config(EVERY, n, "a number of positions")),
        None => return Err(Error::config(EVERY, "nothing", "a number of positions")),
    };
    if !factor.is_finite() {
        return Err(Error::config(BETA, factor, "a finite number"));
    }
    Ok(Some(PositionScale { every, factor, from: 0 }))
}

/// Of a model that also sees, its language model.
pub(super) fn remap(checkpoint: &mut Checkpoint, config: &Config) -> Result<()> {
    checkpoint.keep_text()?;
    super::remap(checkpoint, config)
}
