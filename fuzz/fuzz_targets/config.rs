//! Any text as `config.json`: no panic, and what is accepted normalizes to itself and yields usable positions.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mlx_lm_common::config::{Config, RopeConfig, Theta, json};

const HEAD_DIM: i32 = 8;

fuzz_target!(|bytes: &[u8]| {
    let Ok(value) = json::parse(bytes) else { return };
    let Ok(config) = Config::from_json(value) else { return };
    assert_eq!(Config::from_json(config.value.clone()).ok().as_ref(), Some(&config));
    let _ = config.dim("hidden_size");
    let _ = config.parse::<Vec<(String, f32)>>();
    for layer_type in [None, Some("full_attention"), Some("sliding_attention")] {
        let Ok(rope) = RopeConfig::from_config(&config, layer_type, HEAD_DIM) else { continue };
        for len in [i32::MIN, 0, 4096, i32::MAX] {
            if let Theta::Wavelengths(all) = rope.frequencies(len).theta {
                assert_eq!(all.len(), rope.dims as usize / 2);
            }
        }
    }
});
