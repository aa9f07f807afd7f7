//! JANG bundles of turned rows: JANGTQ, and affine codes after a Hadamard transform. Their logits are those of the plain values that
//! the format's own package makes of the codes, by mlx-lm.
//!
//! `cargo xtask test` generates the bundles and names their folder in `MLX_LM_JANG_FIXTURES`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{cache, ids, near, wanted};
use mlx_llm::{LoadOptions, common::raw::Device, load_local};
use mlx_rs::{Array, ops};
use std::{
    collections::HashMap,
    env, fs,
    path::{Path, PathBuf},
};

/// The bundles that a developer wants to hear of, in order of name.
fn bundles() -> Vec<PathBuf> {
    let Some(root) = env::var_os("MLX_LM_JANG_FIXTURES") else {
        eprintln!("MLX_LM_JANG_FIXTURES is not set: NO JANGTQ bundle is tested; run `cargo xtask test`");
        return Vec::new();
    };
    let mut all: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|folder| {
        let name = folder.file_name().unwrap().to_string_lossy();
        folder.join("reference.safetensors").exists() && (name.contains("-tq") || name.contains("-hadamard"))
    });
    assert!(all.len() > 12, "bundles are missing");
    all.retain(|folder| wanted(folder));
    all.sort();
    all
}

fn agrees(folder: &Path, without_kernels: bool) -> Result<(), String> {
    let options = LoadOptions { device: Some(Device::Cpu), without_kernels, ..Default::default() };
    let model = load_local(folder, &options).map_err(|e| e.to_string())?.model;
    let reference: HashMap<String, Array> =
        Array::load_safetensors(folder.join("reference.safetensors")).unwrap();
    let tokens = |name: &str| reference[name].reshape(&[-1]).unwrap().to_vec_cast::<u32>().unwrap();
    let mut pieces = cache(model.as_ref());
    let prefill = model.forward(&ids(&tokens("prompt")), &mut pieces).map_err(|e| e.to_string())?;
    near(&prefill, &reference["prefill"], "prefill")?;
    let steps: Vec<_> =
        tokens("decode_tokens").iter().map(|t| model.forward(&ids(&[*t]), &mut pieces).unwrap()).collect();
    near(&ops::concatenate(&steps, 1).unwrap(), &reference["decode"], "decode")?;
    // So many that experts get them sorted.
    let long = model.forward(&ids(&tokens("long")), &mut cache(model.as_ref())).unwrap();
    near(&long, &reference["long_logits"], "a long text")
}

#[test]
fn logits_equal_those_of_the_plain_values() {
    let mut failed = Vec::new();
    for folder in bundles() {
        for without_kernels in [false, true] {
            if let Err(why) = agrees(&folder, without_kernels) {
                let name = folder.file_name().unwrap().display();
                failed.push(format!("{name}, without kernels: {without_kernels}: {why}"));
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
