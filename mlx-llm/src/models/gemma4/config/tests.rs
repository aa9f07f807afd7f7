#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use serde_json::Value;

/// All layers of a configuration that has these keys besides those of E2B.
fn layers(more: Value) -> Result<Vec<LayerConfig>> {
    let mut config = json!({
        "model_type": "gemma4_text", "hidden_size": 1536, "intermediate_size": 6144, "num_hidden_layers": 35,
        "num_key_value_heads": 1, "num_kv_shared_layers": 20, "use_double_wide_mlp": true, "sliding_window_pattern": 5,
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let c = Gemma4Config::read(&with_defaults(&Config::from_json(config)?)?)?;
    (0..usize::try_from(c.keys.num_hidden_layers).unwrap()).map(|i| c.layer(i)).collect()
}

#[test]
fn layers_share_with_the_last_of_their_kind() {
    let layers = layers(json!({})).unwrap();
    let like = |i: usize| (layers[i].cache.clone(), layers[i].head_dim, layers[i].hidden);
    assert_eq!(like(13), (CacheSpec::Window(512), 256, 6144));
    assert_eq!(like(14), (CacheSpec::Full, 512, 6144));
    assert_eq!(like(15), (CacheSpec::Shared(13), 256, 12288));
    assert_eq!(like(34), (CacheSpec::Shared(14), 512, 12288));
}

#[test]
fn the_last_layer_sees_everything() {
    let kinds = ["sliding_attention", "sliding_attention"];
    let layers =
        layers(json!({ "num_hidden_layers": 2, "num_kv_shared_layers": 0, "layer_types": kinds })).unwrap();
    assert_eq!([layers[0].kind, layers[1].kind], [Kind::SlidingAttention, Kind::FullAttention]);
}

#[test]
fn heads_are_those_of_the_kind_or_of_the_layer() {
    let big = json!({
        "num_hidden_layers": 6, "num_kv_shared_layers": 0, "sliding_window_pattern": 6, "num_key_value_heads": 4,
        "attention_k_eq_v": true, "num_global_key_value_heads": 2,
    });
    let heads =
        |layers: &[LayerConfig], i: usize| (layers[i].kv_heads, layers[i].head_dim, layers[i].keys_values);
    let by_kind = layers(big.clone()).unwrap();
    assert_eq!(heads(&by_kind, 4), (4, 256, KeysValues::Own));
    assert_eq!(heads(&by_kind, 5), (2, 512, KeysValues::One));
    let mut by_layer = big;
    by_layer["per_layer_config"] = json!({ "05": { "head_dim": 128, "num_key_value_heads": 1 } });
    let by_layer = layers(by_layer).unwrap();
    assert_eq!(heads(&by_layer, 4), (4, 256, KeysValues::Own));
    assert_eq!(heads(&by_layer, 5), (1, 128, KeysValues::One));
}

#[test]
fn what_does_not_go_together_is_named() {
    let full_only_last = json!(["sliding_attention", "sliding_attention", "full_attention"]);
    let cases = [
        (json!({ "num_kv_shared_layers": 35 }), "num_kv_shared_layers", "fewer than the 35 layers"),
        (json!({ "num_kv_shared_layers": 36 }), "num_kv_shared_layers", "fewer than the 35 layers"),
        (
            json!({ "num_hidden_layers": 3, "num_kv_shared_layers": 1, "layer_types": full_only_last }),
            "num_kv_shared_layers",
            "a layer of full_attention before layer 2",
        ),
        (json!({ "sliding_window": 0 }), "sliding_window", "found 0"),
        (json!({ "sliding_window_pattern": 0 }), "sliding_window_pattern", "positive"),
        (json!({ "layer_types": full_only_last }), "layer_types", "found 3 kinds"),
        (
            json!({ "num_hidden_layers": 1, "num_kv_shared_layers": 0, "layer_types": ["round_attention"] }),
            "layer_types[0]",
            "one of sliding_attention, full_attention",
        ),
        (json!({ "num_key_value_heads": 3 }), "num_key_value_heads", "a divisor of 8 heads"),
        (
            json!({ "attention_k_eq_v": true, "num_global_key_value_heads": 5 }),
            "num_global_key_value_heads",
            "a divisor of 8 heads",
        ),
        (json!({ "per_layer_config": { "4": { "skip": ["mlp"] } } }), "per_layer_config", "skip"),
        (json!({ "per_layer_config": { "4": { "head_dim": 0 } } }), "per_layer_config.4.head_dim", "found 0"),
        (json!({ "enable_moe_block": true }), "num_experts", "nothing"),
        (json!({ "use_bidirectional_attention": "all" }), "use_bidirectional_attention", "left to right"),
        (json!({ "final_logit_softcapping": 0 }), "final_logit_softcapping", "positive"),
        (json!({ "vocab_size_per_layer_input": 1000 }), "vocab_size_per_layer_input", "262144 tokens"),
        (json!({ "hidden_activation": "swoosh" }), "hidden_activation", "swoosh"),
    ];
    for (change, key, part) in cases {
        let found = layers(change.clone()).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(found.contains(&format!("config key `{key}")) && found.contains(part), "{change}: {found}");
    }
}
