//! Tensors of any types and shapes under the names that encodings use: no panic, and memory for no more than they can hold.
//!
//! A byte names the method, then each tensor has one for its name, one for its type, one for the number of axes, and one for each.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mlx_lm_common::{
    Backend,
    raw::Device,
    weights::{Weights, open},
};
use mlx_lm_fuzz::{TYPES, Tensor, write};
use mlx_rs::Dtype;
use std::{collections::BTreeSet, fs, sync::LazyLock};
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

const METHODS: [&str; 7] = ["", "gptq", "awq", "compressed-tensors", "fp8", "modelopt", "bitnet"];

const PARTS: [&str; 20] = [
    "weight",
    "scales",
    "biases",
    "qweight",
    "qzeros",
    "g_idx",
    "weight_scale",
    "weight_scale_inv",
    "weight_scale_2",
    "weight_packed",
    "weight_shape",
    "weight_zero_point",
    "weight_g_idx",
    "weight_global_scale",
    "weight_blocks",
    "weight_scales",
    "global_scale",
    "tq_packed",
    "tq_norms",
    "tq_bits",
];

/// A size for each byte: small ones, and those that blocks have.
fn size(byte: u8) -> usize {
    if byte < 128 { usize::from(byte) } else { (usize::from(byte) - 127) * 8 }
}

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.iter().copied();
    let mut next = || bytes.next();
    let Some(method) = next() else { return };
    let mut tensors: Vec<Tensor> = Vec::new();
    let (mut total, mut names) = (0, BTreeSet::new());
    while let (Some(part), Some(kind), Some(axes)) = (next(), next(), next()) {
        let (kind, element) = TYPES[usize::from(kind) % TYPES.len()];
        let shape: Vec<usize> = (0..axes % 5).map_while(|_| next()).map(size).collect();
        total += shape.iter().product::<usize>() * element;
        let part = PARTS[usize::from(part) % PARTS.len()];
        if total > 1 << 20 || !names.insert(part) {
            return;
        }
        tensors.push((format!("m.{part}"), kind, shape));
    }
    let folder = FOLDER.path();
    let method = METHODS[usize::from(method) % METHODS.len()];
    let config = if method.is_empty() {
        r#"{"model_type":"llama"}"#.into()
    } else {
        format!(r#"{{"model_type":"llama","quantization_config":{{"quant_method":"{method}"}}}}"#)
    };
    fs::write(folder.join("config.json"), config).unwrap();
    write(folder, &tensors);
    let Ok((_, checkpoint)) = open(folder) else { return };
    // An index of one bit becomes a float32.
    assert!(checkpoint.memory_bytes(Dtype::Float32) <= 64 * total + 4096);
    let shape = checkpoint.get("m.weight").map(|t| t.shape().to_vec());
    let backend = Backend::new(Some(Device::Cpu), None, Dtype::Float32, false);
    let weights = Weights::new(checkpoint, backend, None);
    for shape in shape.into_iter().chain([vec![32, 64], vec![64, 32], vec![4, 32, 64]]) {
        let _ = weights.pp("m").matrix(&shape, None);
    }
});
