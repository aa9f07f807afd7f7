//! Which numbers a model computes in by default, and which of its parameters come in them.
//!
//! | | |
//! |---|---|
//! | dense weights, norms, biases | the compute type, whatever is stored |
//! | scales and biases of packed weights | the compute type where MLX's own operations multiply with them: rounded only if a narrower one than theirs was asked for, or is the default for such a model ([`of_model`]) |
//! | decays, time steps, corrections of routers | float32 always |
//! | states of recurrences, softmax and sigmoid of routers, sums inside norms | float32 always; the blocks see to it |

use crate::{Config, weights::Checkpoint};
use mlx_rs::Dtype;

/// Parameters by the ends of their names that steer exponentials and selections: rounded to 8 bits of mantissa, they would decay
/// memory by other amounts at every step, or choose other experts.
const EXACT: [&str; 5] = ["A_log", "D", "dt_bias", "e_score_correction_bias", "expert_bias"];

/// From how many experts on, and from what width on, activations may leave the range of float16.
const MANY_EXPERTS: i64 = 512;
const WIDE: i64 = 4096;

/// The type that the parameter `name` comes in, in a model that computes in `compute`.
pub(crate) fn of_parameter(name: &str, compute: Dtype) -> Dtype {
    let last = name.rsplit('.').next().unwrap_or(name);
    if EXACT.contains(&last) { Dtype::Float32 } else { compute }
}

/// What a model computes in where half precision is fast: the type that most of its bytes are stored in.
///
/// JANG bundles are written in float16 whatever the model was published in. Models that were not made for its range, those of very
/// many experts and those that attend to latents, compute in bfloat16, as with the format's own package.
pub fn of_model(checkpoint: &Checkpoint, config: &Config) -> Dtype {
    let stored = checkpoint.float_type().unwrap_or(Dtype::Float32);
    if checkpoint.jang().is_some() && needs_range(config) { Dtype::Bfloat16 } else { stored }
}

fn needs_range(config: &Config) -> bool {
    let number = |key: &str| config.value.get(key).and_then(serde_json::Value::as_i64).unwrap_or(0);
    let experts = ["num_experts", "num_local_experts", "n_routed_experts"].map(number);
    let many = experts.into_iter().max() >= Some(MANY_EXPERTS) && number("hidden_size") >= WIDE;
    many || config.model_type == "mistral4" || number("kv_lora_rank") > 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn models_that_need_the_range_of_bfloat16() {
        let needs = |value| needs_range(&Config::from_json(value).unwrap());
        assert!(needs(json!({ "model_type": "x", "num_experts": 512, "hidden_size": 4096 })));
        assert!(needs(
            json!({ "model_type": "x", "text_config": { "n_routed_experts": 600, "hidden_size": 7168 } })
        ));
        assert!(needs(json!({ "model_type": "x", "kv_lora_rank": 64 })));
        assert!(needs(json!({ "model_type": "mistral3", "text_config": { "model_type": "mistral4" } })));
        assert!(!needs(json!({ "model_type": "x", "num_experts": 511, "hidden_size": 4096 })));
        assert!(!needs(json!({ "model_type": "x", "num_experts": 512, "hidden_size": 2048 })));
        assert!(!needs(json!({ "model_type": "x", "kv_lora_rank": null, "num_experts": "many" })));
    }

    #[test]
    fn what_is_exact_stays_in_float32() {
        let of = |name: &str| of_parameter(name, Dtype::Bfloat16);
        assert_eq!(of("model.layers.0.linear_attn.A_log"), Dtype::Float32);
        assert_eq!(of("gate.e_score_correction_bias"), Dtype::Float32);
        assert_eq!(of("model.layers.0.self_attn.q_proj.bias"), Dtype::Bfloat16);
    }
}
