#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use mlx_lm_common::{Backend, raw::Device};
use serde_json::Value;

#[test]
fn sums_stay_within_float16() {
    let half = |x: [f32; 3]| Array::from_slice(&x, &[3]).as_dtype(Dtype::Float16).unwrap();
    let (x, y) = (half([60_000.0, -60_000.0, 1.5]), half([60_000.0, -60_000.0, 2.25]));
    let wanted = [65_504.0, -65_504.0, 3.75];
    let sum = sum(&x, &y, false).unwrap();
    assert_eq!(sum.dtype(), Dtype::Float16);
    assert_eq!(sum.to_vec_cast::<f32>().unwrap(), wanted);
}

#[test]
fn what_does_not_go_together_is_named() {
    let cases = [
        (json!({ "sliding_window": 0 }), "sliding_window", "found 0"),
        (json!({ "sliding_window_pattern": 0 }), "sliding_window_pattern", "positive"),
        (json!({ "layer_types": ["full_attention"] }), "layer_types", "one for each of the 26 layers"),
        (
            json!({ "layer_types": ["oval_attention"] }),
            "layer_types[0]",
            "one of sliding_attention, full_attention",
        ),
        (json!({ "num_key_value_heads": 3 }), "num_key_value_heads", "a divisor of 8 heads"),
        (json!({ "query_pre_attn_scalar": 0 }), "query_pre_attn_scalar", "positive"),
        (json!({ "final_logit_softcapping": -1 }), "final_logit_softcapping", "positive"),
        (json!({ "use_bidirectional_attention": true }), "use_bidirectional_attention", "left to right"),
        (json!({ "hidden_activation": "swoosh" }), "hidden_activation", "swoosh"),
        (json!({ "rope_local_base_freq": 0 }), "rope_theta", "positive"),
    ];
    for (change, key, part) in cases {
        let found = load_with(change.clone()).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(found.contains(&format!("config key `{key}")) && found.contains(part), "{change}: {found}");
    }
}

/// As far as an empty checkpoint lets it.
fn load_with(more: Value) -> Result<Decoder<Gemma3Layer>> {
    let mut config = json!({
        "model_type": "gemma3_text", "hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 26,
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let backend = Backend::new(Some(Device::Cpu), None, Dtype::Float32, false);
    load(&Config::from_json(config)?, &Weights::new(Checkpoint::default(), backend, None))
}
