#![allow(clippy::unwrap_used, clippy::expect_used)]
use super::*;
use serde_json::{Value, json};

fn kinds(keys: Value) -> Result<Vec<Kind>> {
    let mut config =
        json!({"model_type": "nemotron_h", "hidden_size": 8, "vocab_size": 8, "layer_norm_epsilon": 1e-5});
    config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    Config::from_json(config)?.parse::<NemotronConfig>()?.kinds()
}

#[test]
fn layers_are_told_by_letters_or_words() {
    let all = [Kind::Mamba, Kind::Mlp, Kind::Attention, Kind::Experts];
    for keys in [
        json!({"hybrid_override_pattern": "M-*E"}),
        json!({"hybrid_override_pattern": "M-*E", "num_hidden_layers": 4}),
        json!({"layers_block_type": ["mamba", "mlp", "attention", "moe"]}),
        json!({"layer_types": ["linear_attention", "mlp", "full_attention", "moe"], "num_hidden_layers": 4}),
    ] {
        assert_eq!(kinds(keys).unwrap(), all);
    }
}

#[test]
fn what_tells_no_layers_is_refused() {
    for (keys, wanted) in [
        (
            json!({"hybrid_override_pattern": "M-X*"}),
            &["hybrid_override_pattern[2]", "`X`", "M, *, - or E"][..],
        ),
        (json!({"layers_block_type": ["mamba", "rnn"]}), &["layers_block_type[1]", "`rnn`"]),
        (json!({"hybrid_override_pattern": "M-*", "num_hidden_layers": 4}), &["pattern", "3 layers", "4"]),
        (json!({"num_hidden_layers": 4}), &["hybrid_override_pattern", "nothing"]),
    ] {
        let found = kinds(keys).unwrap_err().to_string();
        assert!(wanted.iter().all(|part| found.contains(part)), "{found}");
    }
}
