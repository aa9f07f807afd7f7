//! JANG bundles that the format's own package wrote: their logits, the widths of their matrices, and what is remarked on.
//!
//! `cargo xtask test` generates the bundles and names their folder in `MLX_LM_JANG_FIXTURES`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Reference, agrees, cache, ids, near, wanted};
use mlx_llm::{
    LoadOptions, Result,
    common::{
        model::{LanguageModel, LoadedModel},
        raw::Device,
    },
    load_local,
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

/// The bundles that a developer wants to hear of, in order of name.
fn bundles() -> Vec<PathBuf> {
    let Some(root) = env::var_os("MLX_LM_JANG_FIXTURES") else {
        eprintln!("MLX_LM_JANG_FIXTURES is not set: NO JANG bundle is tested; run `cargo xtask test`");
        return Vec::new();
    };
    let mut all: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|folder| folder.join("expected.json").exists());
    assert!(all.len() > 20, "bundles are missing");
    all.retain(|folder| wanted(folder));
    all.sort();
    all
}

/// Runs `f` on every bundle and what is expected of it, and reports all that fail.
fn for_all(f: impl Fn(&Path, &Value) -> Result<(), String>) {
    let mut failed = Vec::new();
    for folder in bundles() {
        let expected = serde_json::from_slice(&fs::read(folder.join("expected.json")).unwrap()).unwrap();
        if let Err(why) = f(&folder, &expected) {
            failed.push(format!("{}: {why}", folder.file_name().unwrap().display()));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

fn load(folder: &Path, without_kernels: bool, without_weights: bool) -> Result<LoadedModel, String> {
    let device = Some(Device::Cpu);
    let options = LoadOptions { device, without_kernels, without_weights, ..Default::default() };
    load_local(folder, &options).map_err(|e| e.to_string())
}

#[test]
fn logits_equal_those_of_the_package() {
    for_all(|folder, _| {
        let reference = Reference::in_folder(folder);
        for without_kernels in [false, true] {
            let loaded = load(folder, without_kernels, false)?;
            agrees(loaded.model.as_ref(), &reference)
                .and_then(|()| agrees_on_a_long_text(loaded.model.as_ref(), &reference))
                .map_err(|why| format!("{why}, without kernels: {without_kernels}"))?;
        }
        Ok(())
    });
}

/// Parts of matrices, and what they are stored in; an older name.
const PARTS: [(&str, &str); 12] = [
    ("self_attn.gate_proj", "self_attn.q_proj"),
    ("linear_attn.in_proj_a", "linear_attn.in_proj_ba"),
    ("linear_attn.in_proj_b", "linear_attn.in_proj_ba"),
    ("linear_attn.in_proj_qkv", "linear_attn.in_proj_qkvz"),
    ("linear_attn.in_proj_z", "linear_attn.in_proj_qkvz"),
    ("k_b_proj", "kv_b_proj"),
    ("v_b_proj", "kv_b_proj"),
    ("switch_mlp.fc1", "switch_mlp.up_proj"),
    ("switch_mlp.fc2", "switch_mlp.down_proj"),
    ("feed_forward.w1", "feed_forward.gate_proj"),
    ("feed_forward.w2", "feed_forward.down_proj"),
    ("feed_forward.w3", "feed_forward.up_proj"),
];

/// Matrices that are not used.
const UNUSED: [&str; 2] = ["mtp.", "eh_proj"];

/// So many tokens that experts get them sorted.
fn agrees_on_a_long_text(model: &dyn LanguageModel, reference: &Reference) -> Result<(), String> {
    let Some(wanted) = reference.get("long_logits") else { return Ok(()) };
    let logits = model.forward(&ids(&reference.tokens("long")), &mut cache(model));
    near(&logits.map_err(|e| e.to_string())?, wanted, "a long text")
}

/// The name of a module without what differs between writers: where the text model lies.
fn bare(module: &str) -> String {
    let parts = module.split('.').filter(|part| !["language_model", "model", "backbone"].contains(part));
    parts.collect::<Vec<_>>().join(".")
}

#[test]
fn matrices_have_the_widths_that_the_writer_chose() {
    for_all(|folder, expected| {
        let loaded = load(folder, true, true)?;
        let chosen = expected["bits"].as_object().unwrap().iter();
        let chosen: BTreeMap<String, (i64, i64)> = chosen
            .map(|(module, b)| (bare(module), (b[0].as_i64().unwrap(), b[1].as_i64().unwrap())))
            .collect();
        let mut left = chosen.clone();
        for (module, packing) in &loaded.packings {
            let module = bare(module);
            let whole = || PARTS.iter().map(|(part, whole)| module.replace(part, whole));
            let stored = [module.clone()].into_iter().chain(whole()).find(|name| chosen.contains_key(name));
            let stored = stored.ok_or(format!("`{module}` is packed, which nobody chose"))?;
            let (packing, wanted) = ((i64::from(packing.bits), i64::from(packing.group)), chosen[&stored]);
            if packing != wanted {
                return Err(format!("`{module}` has {packing:?} instead of {wanted:?}"));
            }
            left.remove(&stored);
        }
        left.retain(|module, _| !UNUSED.iter().any(|part| module.contains(part)));
        if left.is_empty() { Ok(()) } else { Err(format!("not packed: {left:?}")) }
    });
}

#[test]
fn lies_are_remarked_on_and_nothing_else() {
    for_all(|folder, expected| {
        let remarks = load(folder, true, true)?.remarks;
        let lies: Vec<&str> =
            expected["lies"].as_array().unwrap().iter().map(|l| l.as_str().unwrap()).collect();
        let mut untold = lies.clone();
        untold.retain(|lie| !remarks.iter().any(|remark| remark.contains(&format!("`{lie}`"))));
        let unexpected =
            remarks.iter().find(|remark| !lies.iter().any(|lie| remark.contains(&format!("`{lie}`"))));
        match (untold.first(), unexpected) {
            (Some(lie), _) => Err(format!("no remark about `{lie}`")),
            (None, Some(remark)) => Err(format!("a remark about the truth: {remark}")),
            (None, None) => Ok(()),
        }
    });
}

#[test]
fn texts_end_where_the_package_ends_them() {
    for_all(|folder, expected| {
        let mut eos = load(folder, true, true)?.config.eos;
        eos.sort_unstable();
        let wanted = expected["eos"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32);
        let wanted: Vec<u32> = wanted.collect();
        if eos == wanted { Ok(()) } else { Err(format!("{eos:?} instead of {wanted:?}")) }
    });
}
