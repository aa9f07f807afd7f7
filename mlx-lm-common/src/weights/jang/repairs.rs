//! What bundles have in their `config.json` that does not hold for their tensors. Nothing is written back.

use super::JangConfig;
use crate::Config;
use serde_json::Value;

/// What marks the end of a text, and what ends a turn, in Qwen's vocabulary.
const END_OF_TEXT: u32 = 248_044;
const END_OF_TURN: u32 = 248_046;

/// Families whose published configurations name the first where the second is meant.
const SAY_END_OF_TEXT: [&str; 5] = ["qwen3_5", "qwen3_5_moe", "qwen3_vl", "qwen3_moe_vl", "qwen3_5_vl"];

/// Factors of activations that may be in the weights already.
const MULTIPLIERS: [&str; 9] = [
    "attention_in_multiplier",
    "attention_out_multiplier",
    "embedding_multiplier",
    "key_multiplier",
    "lm_head_multiplier",
    "mlp_multipliers",
    "ssm_in_multiplier",
    "ssm_multipliers",
    "ssm_out_multiplier",
];

/// Mends it.
pub(super) fn mend(config: &mut Config, jang: &JangConfig) {
    if jang.multipliers_are_folded
        && let Value::Object(keys) = &mut config.value
    {
        MULTIPLIERS.iter().for_each(|key| drop(keys.shift_remove(*key)));
    }
    let kinds = [Some(&config.model_type), config.wrapper_model_type.as_ref()];
    let family = |name: &&String| SAY_END_OF_TEXT.contains(&name.strip_suffix("_text").unwrap_or(name));
    if kinds.into_iter().flatten().any(|name| family(&name)) && config.eos.contains(&END_OF_TEXT) {
        let mut eos: Vec<u32> = Vec::with_capacity(config.eos.len());
        for id in &config.eos {
            let id = if *id == END_OF_TEXT { END_OF_TURN } else { *id };
            if !eos.contains(&id) {
                eos.push(id);
            }
        }
        config.value["eos_token_id"] = eos.clone().into();
        config.eos = eos;
    }
}
