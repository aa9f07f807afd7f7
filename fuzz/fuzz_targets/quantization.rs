//! Any text as `quantization_config`, beside tensors of every encoding that has one: no panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mlx_lm_common::weights::open;
use mlx_lm_fuzz::write;
use std::{fs, path::Path, sync::LazyLock};
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

type Parts = &'static [(&'static str, &'static str, &'static [usize])];

/// One matrix of 64 columns and 32 rows in each encoding.
const ENCODINGS: [Parts; 6] = [
    &[("qweight", "I32", &[8, 32]), ("scales", "F16", &[2, 32]), ("qzeros", "I32", &[2, 4]), ("g_idx", "I32", &[64])],
    &[("qweight", "I32", &[64, 4]), ("scales", "F16", &[2, 32]), ("qzeros", "I32", &[2, 4])],
    &[("weight_packed", "I32", &[32, 8]), ("weight_scale", "BF16", &[32, 2]), ("weight_shape", "I64", &[2])],
    &[("weight", "F8_E4M3", &[32, 64]), ("weight_scale_inv", "F32", &[1, 1])],
    &[("weight", "U8", &[8, 64]), ("weight_scale", "BF16", &[1])],
    &[("weight", "U8", &[32, 32]), ("weight_scale", "F8_E4M3", &[32, 4]), ("weight_scale_2", "F32", &[])],
];

fuzz_target!(|bytes: &[u8]| {
    let Some((which, text)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let folder: &Path = FOLDER.path();
    fs::write(folder.join("config.json"), format!(r#"{{"model_type":"llama","quantization_config":{text}}}"#)).unwrap();
    let parts = ENCODINGS[usize::from(*which) % ENCODINGS.len()];
    let tensors: Vec<_> = parts.iter().map(|(part, dtype, shape)| (format!("m.{part}"), *dtype, shape.to_vec())).collect();
    write(folder, &tensors);
    let _ = open(folder);
});
