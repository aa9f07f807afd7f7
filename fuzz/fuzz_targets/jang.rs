//! Any text as `jang_config.json`, and as what `config.json` says about quantization: no panic, and the tensors decide.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mlx_lm_common::{
    Backend,
    raw::Device,
    weights::{Matrix, Weights, open},
};
use mlx_lm_fuzz::write;
use mlx_rs::Dtype;
use std::{fs, sync::LazyLock};
use tempfile::TempDir;

const MODULE: &str = "model.layers.0.mlp.up_proj";

/// A folder with one matrix of 4 rows and 64 columns, in 4 bits and groups of 32.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        &[
            (format!("{MODULE}.weight"), "U32", vec![4, 8]),
            (format!("{MODULE}.scales"), "F16", vec![4, 2]),
            (format!("{MODULE}.biases"), "F16", vec![4, 2]),
        ],
    );
    folder
});

fuzz_target!(|bytes: &[u8]| {
    let folder = FOLDER.path();
    fs::write(folder.join("jang_config.json"), bytes).unwrap();
    let text = std::str::from_utf8(bytes).unwrap_or("null");
    let config = format!(r#"{{"model_type":"llama","quantization":{text}}}"#);
    fs::write(folder.join("config.json"), config).unwrap();
    if open(folder).is_err() {
        fs::write(folder.join("config.json"), r#"{"model_type":"llama"}"#).unwrap();
    }
    let Ok((_, checkpoint)) = open(folder) else { return };
    let backend = Backend::new(Some(Device::Cpu), None, Dtype::Float32, false);
    let weights = Weights::new(checkpoint, backend, None);
    if let Ok(Matrix::Packed(packed)) = weights.pp(MODULE).matrix(&[4, 64], None) {
        assert_eq!((packed.bits, packed.group), (4, 32));
    }
    let _ = weights.remarks();
});
