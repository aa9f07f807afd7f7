//! Published configurations in all their layouts, the numbers of every RoPE kind, and what is said about bad values.

#![allow(clippy::unwrap_used, clippy::expect_used)]
// Reference values are written as the reference prints them.
#![allow(clippy::excessive_precision)]

mod mutate;

use mlx_lm_common::config::{
    Config, Frequencies, Mrope, RopeConfig, RopeKind, Theta, dim, epsilon, json, optional_dim,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::fs;

fn config(value: Value) -> Config {
    let config = Config::from_json(value).unwrap();
    assert_eq!(Config::from_json(config.value.clone()).unwrap(), config, "normalizing twice");
    config
}

#[test]
fn the_text_part_is_lifted() {
    for part in ["text_config", "llm_config", "language_config"] {
        let c = config(json!({
            "model_type": "mistral3",
            "vocab_size": 9,
            "hidden_size": 1,
            "tie_word_embeddings": true,
            "quantization": { "bits": 4 },
            "vision_config": { "hidden_size": 3 },
            part: { "model_type": "mistral", "hidden_size": 8, "vocab_size": null },
        }));
        assert_eq!(
            (c.model_type.as_str(), c.wrapper_model_type.as_deref()),
            ("mistral", Some("mistral3")),
            "{part}"
        );
        assert_eq!((c.dim("hidden_size").unwrap(), c.dim("vocab_size").unwrap()), (8, 9));
        assert_eq!(c.get("tie_word_embeddings").unwrap(), Some(true));
        assert_eq!(c.value["quantization"]["bits"], 4);
        assert_eq!(c.value["vision_config"]["hidden_size"], 3);
        assert!(c.value.get(part).is_none());
    }
}

#[test]
fn text_parts_nest_and_may_be_null() {
    let c = config(
        json!({ "model_type": "a", "llm_config": { "model_type": "b", "text_config": { "model_type": "c", "n": 1 } } }),
    );
    assert_eq!((c.model_type.as_str(), c.wrapper_model_type.as_deref()), ("c", Some("a")));
    assert_eq!(c.value["n"], 1);
    let c = config(json!({ "model_type": "a", "text_config": null }));
    assert_eq!((c.model_type.as_str(), c.wrapper_model_type), ("a", None));
    let c = config(json!({ "model_type": "a", "text_config": { "model_type": "a" } }));
    assert_eq!((c.model_type.as_str(), c.wrapper_model_type), ("a", None));
}

/// Every way to write the same positions gives the same numbers.
#[test]
fn rope_layouts() {
    let linear = |base| Frequencies { theta: Theta::Base(base), scale: 0.25, mscale: 1.0 };
    let plain = |base| Frequencies { theta: Theta::Base(base), scale: 1.0, mscale: 1.0 };
    let cases: Vec<(Value, Option<&str>, i32, Frequencies)> = vec![
        (json!({}), None, 8, plain(10000.0)),
        (json!({ "rope_theta": 500000 }), None, 8, plain(500000.0)),
        (json!({ "rope_theta": null, "rope_scaling": null }), None, 8, plain(10000.0)),
        (
            json!({ "rope_theta": 5e5, "rope_scaling": { "type": "linear", "factor": 4 } }),
            None,
            8,
            linear(5e5),
        ),
        (
            json!({ "rope_theta": 5e5, "rope_scaling": { "rope_type": "linear", "factor": 4.0 } }),
            None,
            8,
            linear(5e5),
        ),
        (
            json!({ "rope_scaling": { "type": "linear", "rope_type": "default", "factor": 4 } }),
            None,
            8,
            linear(1e4),
        ),
        (
            json!({ "rope_parameters": { "rope_type": "linear", "factor": 4, "rope_theta": 5e5 } }),
            None,
            8,
            linear(5e5),
        ),
        // The value inside wins; the older key wins over the newer, which still gives the base.
        (
            json!({ "rope_theta": 7, "rope_parameters": { "rope_theta": 5e5, "type": null } }),
            None,
            8,
            plain(5e5),
        ),
        (
            json!({ "rope_scaling": { "type": "linear", "factor": 4 }, "rope_parameters": { "rope_type": "default", "rope_theta": 5e5 } }),
            None,
            8,
            linear(5e5),
        ),
        (
            json!({ "text_config": { "rope_parameters": { "rope_theta": 5e5 } }, "rope_theta": 3 }),
            None,
            8,
            plain(5e5),
        ),
        // Flat parameters hold for every layer type.
        (json!({ "rope_theta": 5e5 }), Some("full_attention"), 8, plain(5e5)),
        // Some channels.
        (json!({ "partial_rotary_factor": 0.5 }), None, 4, plain(1e4)),
        (
            json!({ "rope_parameters": { "partial_rotary_factor": 0.25 }, "partial_rotary_factor": 0.5 }),
            None,
            2,
            plain(1e4),
        ),
        (json!({ "rotary_pct": 0.25 }), None, 2, plain(1e4)),
        (json!({ "rotary_dim": 6 }), None, 6, plain(1e4)),
    ];
    for (value, layer, dims, wanted) in cases {
        let c = config(json!({ "model_type": "m" })).with_defaults(value.clone()).unwrap();
        let rope = RopeConfig::from_config(&c, layer, 8).unwrap_or_else(|e| panic!("{value}: {e}"));
        assert_eq!((rope.dims, rope.frequencies(1)), (dims, wanted), "{value}");
    }
}

#[test]
fn rope_by_layer_type() {
    let by_type = json!({
        "model_type": "m",
        "rope_theta": 3.0,
        "rope_parameters": {
            "full_attention": { "rope_type": "linear", "factor": 8, "rope_theta": 1e6 },
            "sliding_attention": { "rope_type": "default", "rope_theta": 1e4 },
            "other": {},
        },
    });
    let gemma3 = json!({
        "model_type": "m",
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": { "rope_type": "linear", "factor": 8 },
    });
    // A model whose config leaves its bases to the code.
    let bare = config(json!({ "model_type": "m", "rope_scaling": { "rope_type": "linear", "factor": 8 } }));
    let bare = bare.with_defaults(json!({ "rope_theta": 1e6, "rope_local_base_freq": 1e4 })).unwrap();
    for c in [config(by_type.clone()), config(gemma3), bare] {
        let full = RopeConfig::from_config(&c, Some("full_attention"), 8).unwrap();
        let sliding = RopeConfig::from_config(&c, Some("sliding_attention"), 8).unwrap();
        assert_eq!((full.base, full.kind), (1e6, RopeKind::Linear { factor: 8.0 }));
        assert_eq!((sliding.base, sliding.kind), (1e4, RopeKind::Default));
        let again = c.with_defaults(json!({ "rope_theta": 2, "rope_local_base_freq": 2 })).unwrap();
        assert_eq!(RopeConfig::from_config(&again, Some("sliding_attention"), 8).unwrap().base, 1e4);
    }
    let c = config(by_type);
    assert_eq!(RopeConfig::from_config(&c, Some("other"), 8).unwrap(), RopeConfig::new(8, 3.0).unwrap());
    let unknown = RopeConfig::from_config(&c, Some("chunked"), 8).unwrap_err().to_string();
    assert_eq!(
        unknown,
        "config key `rope_parameters.chunked`: found nothing, wanted parameters for one of full_attention, sliding_attention, other"
    );
    assert!(RopeConfig::from_config(&c, None, 8).unwrap_err().to_string().contains("differ by layer type"));
}

/// Equal up to the last bit of `powf`, which C libraries round differently. The reference ran with glibc.
fn assert_close(found: &[f32], wanted: &[f32], what: &str) {
    let steps = if cfg!(all(target_os = "linux", target_env = "gnu")) { 0 } else { 4 };
    assert_eq!(found.len(), wanted.len(), "{what}");
    let close = |(a, b): (&f32, &f32)| a.to_bits().abs_diff(b.to_bits()) <= steps;
    assert!(found.iter().zip(wanted).all(close), "{what}: found {found:?}, wanted {wanted:?}");
}

fn rope(dims: i32, base: f64, max_positions: i32, parameters: Value) -> Frequencies {
    RopeConfig::from_parameters(&parameters, dims, base, Some(max_positions)).unwrap().frequencies(5)
}

/// Wavelengths and factor that mlx-lm 0.32.2 computes on mlx 0.32.4 (CPU): `_freqs` and `mscale` or `_scale` of what
/// `initialize_rope(dims, base, False, parameters, max_positions)` returns, and of `DynamicNTKAlphaRoPE`.
#[test]
fn wavelengths_of_the_reference() {
    const INF: f32 = f32::INFINITY;
    #[rustfmt::skip]
    let cases = [
        (16, 500000.0, 131072, json!({ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                       "original_max_position_embeddings": 8192 }),
         1.0, vec![1.0, 5.1566925048828125, 26.591480255126953, 137.12408447265625, 1905.3204345703125, 29170.658203125, 150424.125, 775691.0]),
        (16, 10000.0, 131072, json!({ "rope_type": "llama3", "factor": 32.0 }),
         1.0, vec![1.0, 3.1622776985168457, 10.0, 31.62277603149414, 100.0, 316.2277526855469, 7730.890625, 101192.8828125]),
        (16, 1e6, 131072, json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768 }),
         1.138629436111989, vec![1.0, 5.6234130859375, 31.62277603149414, 237.1039276123047, 2000.0, 22493.65234375, 126491.109375, 711311.75]),
        (16, 10000.0, 163840, json!({ "rope_type": "deepseek_yarn", "factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32,
                                      "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 0.707 }),
         1.0857263992561355, vec![1.0, 3.1622776985168457, 10.0, 41.81523895263672, 195.1219482421875, 1176.661376953125, 40000.0, 126491.1015625]),
        (16, 150000.0, 131072, json!({ "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
                                       "original_max_position_embeddings": 4096 }),
         1.3465735902799727, vec![1.0, 4.4362030029296875, 19.67989730834961, 128.9413299560547, 1093.54833984375, 54980.2890625, 243903.734375, 1082006.375]),
        (8, 10000.0, 131072, json!({ "rope_type": "longrope", "short_factor": [1.0, 1.02, 1.03, 1.4], "long_factor": [1.07, 2.3, 17.5, 64.25],
                                     "original_max_position_embeddings": 4096 }),
         1.1902380714238083, vec![1.0700000524520874, 23.0, 1750.0, 64250.0]),
        (16, 1e6, 131072, json!({ "rope_type": "proportional", "partial_rotary_factor": 0.25, "factor": 2.0 }),
         1.0, vec![2.0, 11.246826171875, INF, INF, INF, INF, INF, INF]),
        (16, 10000.0, 131072, json!({ "rope_type": "dynamic", "alpha": 1000.0, "factor": 1.0 }),
         1.0, vec![1.0, 8.483428955078125, 71.96856689453125, 610.5402221679688, 5179.474609375, 43939.70703125, 372759.375, 3162277.75]),
    ];
    for (dims, base, max_positions, parameters, mscale, wanted) in cases {
        let what = parameters.to_string();
        let found = rope(dims, base, max_positions, parameters);
        let Theta::Wavelengths(wavelengths) = found.theta else { panic!("{what}") };
        assert_close(&wavelengths, &wanted, &what);
        assert_eq!((found.mscale, found.scale), (mscale as f32, 1.0), "{what}");
    }
}

/// As transformers computes it, here in float64; mlx-lm knows whole channels alone.
#[test]
fn yarn_with_a_ramp_between_channels() {
    let parameters = json!({ "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
                             "original_max_position_embeddings": 4096, "truncate": false });
    let Theta::Wavelengths(found) = rope(16, 150000.0, 131072, parameters).theta else {
        panic!("no wavelengths")
    };
    let wanted: [f64; 8] = [
        1.0,
        4.436202961165585,
        19.679896712654305,
        147.16791196637564,
        2190.6576724578017,
        54980.288604769084,
        243903.7191142151,
        1082006.40097378,
    ];
    let close = |(a, b): (&f32, &f64)| (f64::from(*a) / b - 1.0).abs() < 1e-6;
    assert!(found.iter().zip(&wanted).all(close), "{found:?}");
}

/// The bases that mlx-lm's `DynamicNTKScalingRoPE` (dims 16, base 10000, factor 2.5, 2048 positions) hands to `mx.fast.rope`.
#[test]
fn dynamic_rope_grows_with_the_text() {
    let parameters = json!({ "rope_type": "dynamic", "factor": 2.5 });
    let rope = RopeConfig::from_parameters(&parameters, 16, 10000.0, Some(2048)).unwrap();
    assert!(rope.depends_on_length());
    for (len, base) in
        [(i32::MIN, 1e4), (100, 1e4), (2048, 1e4), (3000, 24138.892578125), (100_000, 2390894.75)]
    {
        assert_eq!(rope.frequencies(len).theta, Theta::Base(base), "{len}");
    }
}

#[test]
fn other_rope_kinds() {
    let scalar = json!({ "rope_type": "su", "short_factor": 1.0, "long_factor": 2.0, "original_max_position_embeddings": 4096 });
    let su = rope(4, 10000.0, 4096, scalar.clone());
    assert_eq!(su, Frequencies { theta: Theta::Wavelengths(vec![2.0, 200.0]), scale: 1.0, mscale: 1.0 });
    let mut given = scalar;
    given["long_mscale"] = json!(1.5);
    assert_eq!(rope(4, 10000.0, 131072, given).mscale, 1.5);

    let factors = |second: f32| json!({ "rope_type": "freq_factors", "factors": [1.0, second] });
    assert_eq!(rope(4, 10000.0, 4096, factors(8.0)).theta, Theta::Wavelengths(vec![1.0, 800.0]));
    let refused = RopeConfig::from_parameters(&factors(0.0), 4, 10000.0, None).unwrap_err().to_string();
    assert!(refused.ends_with("found 0, wanted positive numbers"), "{refused}");

    let mrope =
        json!({ "model_type": "m", "rope_scaling": { "type": "mrope", "mrope_section": [16, 24, 24] } });
    let mrope = RopeConfig::from_config(&config(mrope), None, 128).unwrap();
    assert_eq!(mrope.mrope, Some(Mrope { sections: vec![16, 24, 24], interleaved: false }));
    assert_eq!(mrope.frequencies(1).theta, Theta::Base(10000.0));

    // apply_yarn_mscale(0.125, …) of mlx-lm 0.32.2.
    let deepseek = json!({ "rope_type": "yarn", "factor": 40, "mscale": 1.0, "mscale_all_dim": 0.707 });
    let deepseek = RopeConfig::from_parameters(&deepseek, 16, 10000.0, None).unwrap();
    assert_eq!(deepseek.attention_scale(0.125), 0.1987032706401092_f64 as f32);
    assert_eq!(RopeConfig::new(16, 1e4).unwrap().attention_scale(0.125), 0.125);
}

#[test]
fn data_that_only_other_implementations_use_is_kept() {
    let yarn = json!({ "rope_type": "yarn", "factor": 2, "attention_factor": 1.25, "truncate": false });
    match RopeConfig::from_parameters(&yarn, 8, 1e4, None).unwrap().kind {
        RopeKind::Yarn { attention_factor, truncate, original_max, .. } => {
            assert_eq!((attention_factor, truncate, original_max), (Some(1.25), false, 4096.0));
        }
        other => panic!("{other:?}"),
    }
    let long = json!({ "rope_type": "longrope", "short_factor": [1, 2], "long_factor": [3, 4] });
    let c = config(json!({
        "model_type": "phi3",
        "original_max_position_embeddings": 4096,
        "max_position_embeddings": 131072,
        "rope_scaling": long,
    }));
    match RopeConfig::from_config(&c, None, 4).unwrap().kind {
        RopeKind::LongRope { short_factor, long_factor, original_max, max_positions, .. } => {
            assert_eq!((short_factor, long_factor), (vec![1.0, 2.0], vec![3.0, 4.0]));
            assert_eq!((original_max, max_positions), (4096.0, 131072.0));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn bad_rope() {
    let inf = json!({ "__float__": "Infinity" });
    #[rustfmt::skip]
    let cases = [
        (json!({ "rope_scaling": { "type": "wavy" } }), "`rope_parameters.rope_type`: found `wavy`, wanted default, linear, dynamic, llama3, yarn"),
        (json!({ "rope_scaling": { "type": 3 } }), "`rope_parameters.rope_type`: found 3, wanted a string"),
        (json!({ "rope_scaling": { "type": "linear" } }), "`rope_parameters.factor`: found nothing, wanted a value"),
        (json!({ "rope_scaling": { "type": "linear", "factor": "4" } }), "`rope_parameters.factor`: found \"4\", wanted a number"),
        (json!({ "rope_scaling": { "type": "linear", "factor": 0 } }), "`rope_parameters.factor`: found 0, wanted a positive number"),
        (json!({ "rope_scaling": { "type": "yarn", "factor": -2 } }), "found -2, wanted a positive number"),
        (json!({ "rope_scaling": { "type": "yarn", "factor": inf } }), "`rope_parameters.factor`: found inf, wanted a positive number"),
        (json!({ "rope_scaling": { "type": "yarn", "factor": 2, "beta_slow": 0 } }), "`rope_parameters.beta_slow`: found 0, wanted a positive"),
        (json!({ "rope_scaling": { "type": "yarn", "factor": 2 }, "rope_theta": 1 }), "`rope_theta`: found 1, wanted more than 1"),
        (json!({ "rope_scaling": { "type": "llama3", "factor": 2, "low_freq_factor": 0 } }), "`rope_parameters.low_freq_factor`: found 0"),
        (json!({ "rope_scaling": { "type": "dynamic", "factor": 2 } }), "`max_position_embeddings`: found nothing"),
        (json!({ "rope_scaling": { "type": "dynamic", "factor": 2 }, "max_position_embeddings": 9, "rotary_dim": 2 }), "wanted more than 2 rotated channels"),
        (json!({ "rope_scaling": { "type": "longrope", "long_factor": 1, "short_factor": 1 } }), "`rope_parameters.original_max_position_embeddings`: found nothing"),
        (json!({ "rope_scaling": { "type": "su", "long_factor": [1, 2, 3], "short_factor": 1, "original_max_position_embeddings": 8 }, "max_position_embeddings": 9 }),
         "`rope_parameters.long_factor`: found 3 numbers, wanted 4, half the rotated channels"),
        (json!({ "rope_scaling": { "type": "su", "long_factor": ["x"] } }), "`rope_parameters.long_factor`: found a list of 1, wanted a number or a list of numbers"),
        (json!({ "rope_scaling": { "type": "mrope" } }), "`rope_parameters.mrope_section`: found nothing, wanted three sections"),
        (json!({ "rope_scaling": { "type": "mrope", "mrope_section": [1] } }), "found a list of 1, wanted three sections"),
        (json!({ "rope_theta": [1, 2] }), "`rope_theta`: found a list of 2, wanted a number"),
        (json!({ "rope_theta": 0 }), "`rope_theta`: found 0, wanted a positive number"),
        (json!({ "rope_theta": { "__float__": "NaN" } }), "`rope_theta`: found NaN, wanted a positive number"),
        (json!({ "partial_rotary_factor": 1.5 }), "`partial_rotary_factor`: found 1.5, wanted a number from 0 to 1"),
        (json!({ "partial_rotary_factor": 0.4 }), "rotated channels of a head`: found 3, wanted an even number from 2 to 65536"),
        (json!({ "rotary_dim": 16 }), "`rotary_dim`: found 16, wanted at most the 8 channels of a head"),
    ];
    for (value, wanted) in cases {
        let c = config(json!({ "model_type": "m" })).with_defaults(value.clone()).unwrap();
        let error = RopeConfig::from_config(&c, None, 8).expect_err(&value.to_string()).to_string();
        assert!(error.starts_with("config key ") && error.contains(wanted), "{value}: {error}");
    }
    for dims in [i32::MIN, -8, 0, 1, 7, 1 << 20, i32::MAX] {
        assert!(RopeConfig::new(dims, 1e4).is_err(), "{dims}");
    }
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Act {
    Silu,
    Gelu,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Toy {
    #[serde(deserialize_with = "dim")]
    hidden_size: i32,
    #[serde(default, deserialize_with = "optional_dim")]
    head_dim: Option<i32>,
    #[serde(default = "one", deserialize_with = "epsilon")]
    rms_norm_eps: f32,
    layers: Option<Vec<Layer>>,
    act: Option<Act>,
    limits: Option<(f32, f32)>,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Layer {
    window: u32,
}

fn one() -> f32 {
    1.0
}

#[test]
fn typed_reading() {
    let toy: Toy = config(json!({
        "model_type": "toy",
        "hidden_size": 4096.0,
        "head_dim": null,
        "rms_norm_eps": null,
        "layers": [{ "window": 3 }, { "window": 4e2 }],
        "act": "gelu",
        "limits": [0, { "__float__": "-Infinity" }],
        "unknown": { "more": [] },
    }))
    .parse()
    .unwrap();
    let layers = Some(vec![Layer { window: 3 }, Layer { window: 400 }]);
    let limits = Some((0.0, f32::NEG_INFINITY));
    assert_eq!(
        toy,
        Toy { hidden_size: 4096, head_dim: None, rms_norm_eps: 1.0, layers, act: Some(Act::Gelu), limits }
    );
}

#[test]
fn bad_values() {
    let sizes = "wanted a whole number from 1 to 2147483647";
    let long = "x".repeat(10_000);
    #[rustfmt::skip]
    let cases = [
        (json!({}), "`hidden_size`: found nothing, wanted a value".to_string()),
        (json!({ "hidden_size": null }), "`hidden_size`: found nothing, wanted a value".into()),
        (json!({ "hidden_size": 0 }), format!("`hidden_size`: found 0, {sizes}")),
        (json!({ "hidden_size": -1 }), format!("`hidden_size`: found -1, {sizes}")),
        (json!({ "hidden_size": 2147483648u32 }), format!("`hidden_size`: found 2147483648, {sizes}")),
        (json!({ "hidden_size": 1e300 }), format!("`hidden_size`: found 1e+300, {sizes}")),
        (json!({ "hidden_size": 1.5 }), format!("`hidden_size`: found 1.5, {sizes}")),
        (json!({ "hidden_size": { "__float__": "NaN" } }), format!("`hidden_size`: found NaN, {sizes}")),
        (json!({ "hidden_size": "8" }), format!("`hidden_size`: found \"8\", {sizes}")),
        (json!({ "hidden_size": true }), format!("`hidden_size`: found true, {sizes}")),
        (json!({ "hidden_size": [8] }), format!("`hidden_size`: found a list of 1, {sizes}")),
        (json!({ "hidden_size": 8, "head_dim": {} }), format!("`head_dim`: found an object of 0 keys, {sizes}")),
        (json!({ "hidden_size": 8, "rms_norm_eps": "small" }), "`rms_norm_eps`: found \"small\", wanted a number".into()),
        (json!({ "hidden_size": 8, "rms_norm_eps": -1e-6 }), "`rms_norm_eps`: found -1e-6, wanted a finite number from 0 on".into()),
        (json!({ "hidden_size": 8, "rms_norm_eps": 1e39 }), "`rms_norm_eps`: found 1e+39, wanted a finite number from 0 on".into()),
        (json!({ "hidden_size": 8, "rms_norm_eps": { "__float__": "NaN" } }), "`rms_norm_eps`: found NaN, wanted a finite".into()),
        (json!({ "hidden_size": 8, "layers": [{ "window": 1 }, {}] }), "`layers[1].window`: found nothing, wanted a value".into()),
        (json!({ "hidden_size": 8, "layers": [{ "window": -1 }] }), "`layers[0].window`: found -1, wanted a whole number (u32)".into()),
        (json!({ "hidden_size": 8, "layers": 7 }), "`layers`: found 7, wanted a sequence".into()),
        (json!({ "hidden_size": 8, "act": "relu" }), "found \"relu\", wanted one of silu, gelu".into()),
        (json!({ "hidden_size": 8, "act": 7 }), "`act`: found 7, wanted a name".into()),
        (json!({ "hidden_size": 8, "limits": [1] }), "`limits`: found a list of 1, wanted a tuple of size 2".into()),
        (json!({ "hidden_size": 8, "act": long }), "xxx…, wanted one of silu".into()),
    ];
    for (value, wanted) in cases {
        let c = config(json!({ "model_type": "m" })).with_defaults(value.clone()).unwrap();
        let error = c.parse::<Toy>().expect_err(&value.to_string()).to_string();
        assert!(error.starts_with("config key `") && error.contains(&wanted), "{value}: {error}");
    }
    let c = config(json!({ "model_type": "m", "n": 3.0, "zero": 0 }));
    assert_eq!(
        (c.dim("n").unwrap(), c.get::<f32>("n").unwrap(), c.get::<f32>("m").unwrap()),
        (3, Some(3.0), None)
    );
    assert_eq!(c.dim("m").unwrap_err().to_string(), format!("config key `m`: found nothing, {sizes}"));
    assert_eq!(c.dim("zero").unwrap_err().to_string(), format!("config key `zero`: found 0, {sizes}"));
}

#[test]
fn bad_configs() {
    for (value, wanted) in [
        (json!([]), "`(all of it)`: found a list of 0, wanted a JSON object"),
        (json!({}), "`model_type`: found nothing, wanted the name of an architecture"),
        (json!({ "model_type": 3 }), "`model_type`: found 3, wanted a string"),
        (json!({ "model_type": "m", "text_config": "t" }), "`text_config`: found \"t\", wanted an object"),
        (
            json!({ "model_type": "m", "rope_scaling": "linear" }),
            "`rope_scaling`: found \"linear\", wanted an object",
        ),
        (
            json!({ "model_type": "m", "eos_token_id": "</s>" }),
            "`eos_token_id`: found \"</s>\", wanted a whole number",
        ),
        (
            json!({ "model_type": "m", "eos_token_id": [1, 4294967296u64] }),
            "`eos_token_id`: found 4294967296, wanted token ids",
        ),
        (
            json!({ "model_type": "m", "eos_token_id": 1.5 }),
            "`eos_token_id`: found 1.5, wanted a whole number",
        ),
    ] {
        let error = Config::from_json(value.clone()).expect_err(&value.to_string()).to_string();
        assert!(error.contains(wanted), "{value}: {error}");
    }
}

#[test]
fn what_python_and_people_write() {
    let text = r#"
        // JSON5
        {
            model_type: 'm', "n": 1, "n": 2, // the last one counts
            "limits": [0.0, Infinity, -Infinity, NaN, 1e999, 1e400,],
            "big": 18446744073709551615, "bigger": 18446744073709551616,
            /* tagged */ "tagged": { "__float__": "Infinity" },
        }"#;
    let c = config(json::parse(text.as_bytes()).unwrap());
    assert_eq!(c.dim("n").unwrap(), 2);
    let limits: Vec<f64> = c.get("limits").unwrap().unwrap();
    assert_eq!(limits[..3], [0.0, f64::INFINITY, f64::NEG_INFINITY]);
    assert!(limits[3].is_nan() && limits[4] == f64::INFINITY && limits[5] == f64::INFINITY);
    assert_eq!(c.get::<u64>("big").unwrap(), Some(u64::MAX));
    assert_eq!(c.get::<f64>("bigger").unwrap(), Some(18446744073709551616.0));
    assert_eq!(c.get::<f32>("tagged").unwrap(), Some(f32::INFINITY));
    assert_eq!(json::parse(b"\xef\xbb\xbf{\"a\": 1, \"a\": [2]}").unwrap(), json!({ "a": [2] }));
}

#[test]
fn bad_json() {
    let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    let deep_object = "{a:".repeat(100_000);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "is neither JSON (EOF"),
        ("not UTF-8", b"{\"a\": \"\xff\"}".to_vec(), "is not UTF-8"),
        (
            "cut",
            b"{\"a\": 1".to_vec(),
            "is neither JSON (EOF while parsing an object at line 1 column 7) nor JSON5",
        ),
        ("two values", b"{} {}".to_vec(), "is neither JSON (trailing characters"),
        ("deep", deep(100_000).into_bytes(), "nested deeper than 128"),
        ("deep JSON5", format!("/**/{}", deep(1000)).into_bytes(), "nested deeper than 128"),
        ("deep objects", deep_object.into_bytes(), "nested deeper than 128"),
        ("open comment", b"/*".to_vec(), "nor JSON5"),
        ("open string", b"'".to_vec(), "nor JSON5"),
    ];
    for (name, bytes, wanted) in cases {
        let error = json::parse(&bytes).expect_err(name);
        assert!(error.contains(wanted), "{name}: {error}");
    }
    assert!(
        json::parse(deep(100).as_bytes()).is_ok()
            && json::parse(format!("//\n{}", deep(100)).as_bytes()).is_ok()
    );
}

/// A checkpoint folder with these files.
fn folder(files: &[(&str, Value)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, value) in files {
        fs::write(dir.path().join(name), value.to_string()).unwrap();
    }
    dir
}

#[test]
fn tokens_that_end_a_text() {
    let added =
        json!({ "1": { "content": "<s>" }, "7": { "content": "<|im_end|>" }, "x": { "content": "odd" } });
    type Case = (&'static [(&'static str, fn(&Value) -> Value)], &'static [u32]);
    let cases: &[Case] = &[
        (&[("config.json", |_| json!({ "model_type": "m" }))], &[]),
        (&[("config.json", |_| json!({ "model_type": "m", "eos_token_id": null }))], &[]),
        (&[("config.json", |_| json!({ "model_type": "m", "eos_token_id": -1 }))], &[]),
        (&[("config.json", |_| json!({ "model_type": "m", "eos_token_id": [3, null, 2, 3] }))], &[3, 2]),
        (
            &[
                (
                    "config.json",
                    |_| json!({ "model_type": "m", "eos_token_id": 5, "text_config": { "eos_token_id": [4, 5] } }),
                ),
                ("generation_config.json", |_| json!({ "eos_token_id": [9, 4.0] })),
                (
                    "tokenizer_config.json",
                    |a| json!({ "eos_token": "<|im_end|>", "added_tokens_decoder": a }),
                ),
            ],
            &[5, 4, 9, 7],
        ),
        (
            &[
                ("config.json", |_| json!({ "model_type": "m", "eos_token_id": 5 })),
                (
                    "tokenizer_config.json",
                    |a| json!({ "eos_token": { "content": "<|im_end|>" }, "added_tokens_decoder": a }),
                ),
            ],
            &[5, 7],
        ),
        (
            &[
                ("config.json", |_| json!({ "model_type": "m" })),
                ("tokenizer_config.json", |a| json!({ "added_tokens_decoder": a })),
                ("special_tokens_map.json", |_| json!({ "eos_token": { "content": "<|im_end|>" } })),
            ],
            &[7],
        ),
        (
            &[
                ("config.json", |_| json!({ "model_type": "m" })),
                ("generation_config.json", |_| json!([1])),
                ("tokenizer_config.json", |a| json!({ "eos_token": "odd", "added_tokens_decoder": a })),
                ("special_tokens_map.json", |_| json!("no")),
            ],
            &[],
        ),
    ];
    for (files, wanted) in cases {
        let files: Vec<(&str, Value)> = files.iter().map(|(name, value)| (*name, value(&added))).collect();
        let c = Config::from_dir(folder(&files).path()).unwrap();
        assert_eq!(c.eos, *wanted, "{files:?}");
        assert_eq!(Config::from_json(c.value.clone()).unwrap(), c);
    }
}

#[test]
fn folders() {
    let dir = folder(&[
        ("config.json", json!({ "model_type": "m", "eos_token_id": 1 })),
        ("hf_quant_config.json", json!({ "quantization": { "quant_algo": "NVFP4" } })),
    ]);
    fs::write(dir.path().join("generation_config.json"), "{ cut").unwrap();
    let c = Config::from_dir(dir.path()).unwrap();
    assert_eq!(c.eos, [1]);
    assert_eq!(c.value["quantization_config"]["quantization"]["quant_algo"], "NVFP4");

    fs::write(dir.path().join("generation_config.json"), r#"{"eos_token_id": "x"}"#).unwrap();
    assert!(Config::from_dir(dir.path()).unwrap_err().to_string().contains("`eos_token_id`: found \"x\""));

    for (text, wanted) in [("[]", "config.json: is not a JSON object"), ("{", "config.json: is neither JSON")]
    {
        fs::write(dir.path().join("config.json"), text).unwrap();
        assert!(Config::from_dir(dir.path()).unwrap_err().to_string().contains(wanted));
    }
    fs::write(dir.path().join("config.json"), vec![b' '; json::MAX_BYTES as usize + 1]).unwrap();
    let error = Config::from_dir(dir.path()).unwrap_err().to_string();
    assert!(error.contains("config.json: has 16777217 bytes, more than the 16777216"), "{error}");
    fs::remove_file(dir.path().join("config.json")).unwrap();
    assert!(Config::from_dir(dir.path()).unwrap_err().to_string().contains("config.json: No such file"));
    fs::create_dir(dir.path().join("config.json")).unwrap();
    assert!(Config::from_dir(dir.path()).unwrap_err().to_string().contains("config.json: is not a file"));
}

/// Whatever is accepted normalizes to itself, and every number that comes of it is one that a model can use.
#[test]
fn damaged_configs_never_panic() {
    let seeds: [&[u8]; 4] = [
        br#"{"model_type":"a","text_config":{"model_type":"b","hidden_size":8,"rope_scaling":{"type":"yarn","factor":4}},"eos_token_id":[1,2]}"#,
        br#"{"model_type":"m","rope_parameters":{"full_attention":{"rope_type":"linear","factor":8},"s":{"rope_theta":1e4}},"hidden_size":8}"#,
        br#"{"model_type":"m","rope_scaling":{"type":"longrope","short_factor":1,"long_factor":[1,2,3,4],"original_max_position_embeddings":9},"max_position_embeddings":99}"#,
        br#"{model_type:'m',rope_scaling:{type:"llama3",factor:8,},rope_theta:Infinity,limits:[{"__float__":"NaN"}]}"#,
    ];
    let tokens: [&[u8]; 12] = [
        b"\"",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b"-1",
        b"1e999",
        b"null",
        b"0",
        b"NaN",
        b"\"type\":\"dynamic\",",
    ];
    let (mut accepted, mut refused) = (0, 0);
    mutate::mutations(&seeds, &tokens, 8_000, |bytes| {
        let Ok(c) = json::parse(bytes).map_err(|_| ()).and_then(|v| Config::from_json(v).map_err(|_| ()))
        else {
            refused += 1;
            return;
        };
        accepted += 1;
        assert_eq!(Config::from_json(c.value.clone()).unwrap(), c);
        let _ = c.parse::<Toy>();
        for layer in [None, Some("full_attention")] {
            if let Ok(rope) = RopeConfig::from_config(&c, layer, 8)
                && let Theta::Wavelengths(w) = rope.frequencies(1000).theta
            {
                assert_eq!(w.len(), 4, "{rope:?}");
            }
        }
    });
    assert!(accepted > 100 && refused > 100, "{accepted} accepted, {refused} refused");
}
