//! JANG bundles that the format's own package wrote: their logits, the widths of their matrices, and what happens to damaged ones.
//!
//! `cargo xtask test` generates the bundles and names their folder in `MLX_LM_JANG_FIXTURES`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{cache, distance, ids, wanted};
use mlx_llm::{
    LoadOptions, Result,
    common::{model::LoadedModel, raw::Device},
    load_local,
};
use mlx_rs::Array;

use std::{
    collections::HashMap,
    env, fs,
    path::{Path, PathBuf},
};

/// How far logits may be from the package's, in units of the largest.
const NEAR: f32 = 1e-4;

/// The bundles that a developer wants to hear of, in order of name.
fn bundles() -> Vec<PathBuf> {
    let Some(root) = env::var_os("MLX_LM_JANG_FIXTURES") else {
        eprintln!("MLX_LM_JANG_FIXTURES is not set: NO JANG bundle is tested; run `cargo xtask test`");
        return Vec::new();
    };
    let mut all: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|folder| folder.join("expected.safetensors").exists() && wanted(folder));
    all.sort();
    assert!(!all.is_empty(), "MLX_LM_JANG_FIXTURES names a folder without bundles");
    all
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap().to_string_lossy().into_owned()
}

fn load(folder: &Path, without_kernels: bool) -> Result<LoadedModel> {
    load_local(folder, &LoadOptions { device: Some(Device::Cpu), without_kernels, ..Default::default() })
}

fn tokens(arrays: &HashMap<String, Array>, name: &str) -> Vec<u32> {
    arrays[name].reshape(&[-1]).unwrap().to_vec_cast::<u32>().unwrap()
}

/// The largest distance of the logits of all passes from the reference.
fn furthest(folder: &Path, without_kernels: bool) -> Result<f32> {
    let model = load(folder, without_kernels)?.model;
    let inputs = Array::load_safetensors(folder.join("inputs.safetensors")).unwrap();
    let expected = Array::load_safetensors(folder.join("expected.safetensors")).unwrap();
    let mut cache = cache(model.as_ref());
    let prompt = model.forward(&ids(&tokens(&inputs, "input_ids")), &mut cache)?;
    let mut furthest = distance(&prompt, &expected["logits.prefill"]);
    for (i, token) in tokens(&inputs, "decode_tokens").into_iter().enumerate() {
        let logits = model.forward(&ids(&[token]), &mut cache)?;
        furthest = furthest.max(distance(&logits, &expected[&format!("logits.decode.{i}")]));
    }
    Ok(furthest)
}

#[test]
fn logits_equal_those_of_the_package() {
    let mut failed = Vec::new();
    for folder in bundles() {
        for without_kernels in [false, true] {
            match furthest(&folder, without_kernels) {
                Ok(distance) if distance <= NEAR => {}
                Ok(distance) => failed.push(format!("{} differs by {distance:.1e}", name(&folder))),
                Err(error) => failed.push(format!("{}: {error}", name(&folder))),
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
