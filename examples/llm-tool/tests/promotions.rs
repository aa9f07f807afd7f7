//! A model in half precision stays in it, but for what its blocks ask for in float32.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{fixtures, tool};
use std::{env, fs, path::PathBuf};

/// Every fixture: the committed ones, and those that `cargo xtask test` has generated.
fn all_fixtures() -> Vec<PathBuf> {
    let mut all = fixtures();
    if let Some(root) = env::var_os("MLX_LM_FIXTURES") {
        all.extend(fs::read_dir(root).unwrap().map(|e| e.unwrap().path()));
    }
    let only = env::var("MLX_LM_ONLY").unwrap_or_default();
    let wanted = |folder: &PathBuf| {
        let name = folder.file_name().unwrap().to_string_lossy();
        folder.join("reference.safetensors").exists() && only.split(',').any(|start| name.starts_with(start))
    };
    all.retain(wanted);
    all
}

#[test]
fn no_model_computes_in_float32_unasked() {
    let mut failed = Vec::new();
    for folder in all_fixtures() {
        let gguf = folder.join("model.gguf");
        let model = if gguf.exists() { &gguf } else { &folder };
        let output = tool(&["nodes", "--promotions", "--model", model.to_str().unwrap()]).output().unwrap();
        if !output.status.success() {
            let [found, error] = [output.stdout, output.stderr].map(|b| String::from_utf8(b).unwrap());
            failed.push(format!("{}: {error}{found}", folder.display()));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
