//! JANG bundles that the format's own package wrote: their logits, the widths of their matrices, what is remarked on, and damaged ones.
//!
//! `cargo xtask test` generates the bundles and names their folder in `MLX_LM_JANG_FIXTURES`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

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
use mlx_rs::Array;
use serde_json::{Value, json};
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

/// A copy of a bundle, to be damaged.
struct Copy(tempfile::TempDir);

impl Copy {
    fn of(bundle: &Path) -> Copy {
        let copy = tempfile::tempdir().unwrap();
        for file in fs::read_dir(bundle).unwrap().map(|e| e.unwrap()) {
            fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
        Copy(copy)
    }

    fn json(&self, file: &str, change: impl FnOnce(&mut Value)) {
        let path = self.0.path().join(file);
        let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        fs::write(&path, value.to_string()).unwrap();
    }

    /// Keeps only the first `keep` entries of the last axis of a tensor.
    fn cut(&self, tensor: &str, keep: impl Fn(i32) -> i32) {
        let weights = |e: std::io::Result<fs::DirEntry>| {
            let path = e.unwrap().path();
            path.file_name()?.to_str()?.starts_with("model-").then_some(path)
        };
        let path = fs::read_dir(self.0.path()).unwrap().find_map(weights).unwrap();
        let mut tensors = Array::load_safetensors(&path).unwrap();
        let whole = &tensors[tensor];
        let kept = keep(whole.dim(-1));
        let ids = Array::from_iter(0..kept, &[kept]);
        let part = whole.take_axis(&ids, -1).unwrap();
        tensors.insert(tensor.into(), part);
        tensors.values().for_each(|t| t.eval().unwrap());
        fs::remove_file(&path).unwrap();
        Array::save_safetensors(&tensors, None, &path).unwrap();
    }
}

#[test]
fn damaged_bundles_are_refused_by_name_and_odd_ones_load() {
    let Some(root) = env::var_os("MLX_LM_JANG_FIXTURES").map(PathBuf::from) else { return };
    type Damage = fn(&Copy);
    const Q: &str = "model.layers.0.self_attn.q_proj";
    let cases: &[(&str, &str, Damage, Option<&str>)] = &[
        (
            "a newer format",
            "llama-2l",
            |c| c.json("jang_config.json", |j| j["format_version"] = json!("3.0")),
            Some("version 3"),
        ),
        (
            "no object",
            "llama-2l",
            |c| c.json("jang_config.json", |j| *j = json!([2])),
            Some("not a JSON object"),
        ),
        (
            "other types",
            "llama-2l",
            |c| {
                c.json("jang_config.json", |j| {
                    *j = json!({ "quantization": 7, "format_version": [2], "mxtq_seed": {} })
                })
            },
            None,
        ),
        (
            "widths of other types",
            "llama-2l",
            |c| {
                c.json("config.json", |j| {
                    j["quantization"] =
                        json!({ "bits": -1, "group_size": "x", (Q): { "bits": [], "group_size": 1e99 } })
                })
            },
            None,
        ),
        (
            "a norm that is too short",
            "llama-2l",
            |c| c.cut("model.norm.weight", |n| n - 1),
            Some("model.norm.weight"),
        ),
        ("words that do not fit", "llama-2l", |c| c.cut(&format!("{Q}.weight"), |n| n - 1), Some(Q)),
        ("scales that do not fit", "llama-2l", |c| c.cut(&format!("{Q}.scales"), |n| n - 1), Some(Q)),
        ("scales without columns", "llama-2l", |c| c.cut(&format!("{Q}.scales"), |_| 0), Some(Q)),
        ("biases that do not fit", "llama-2l", |c| c.cut(&format!("{Q}.biases"), |n| n - 1), Some(Q)),
        (
            "a stream that is cut short",
            "llama-v1.0",
            |c| c.cut(&format!("{Q}.qweight"), |n| n - 1),
            Some("cut short"),
        ),
        ("a stream without blocks", "llama-v1.0", |c| c.cut(&format!("{Q}.scales"), |_| 0), Some(Q)),
        ("a block too few", "llama-v1.0", |c| c.cut(&format!("{Q}.zeros"), |n| n - 1), Some(Q)),
        ("a shape of one size", "llama-v1.0", |c| c.cut(&format!("{Q}.shape"), |_| 1), Some(Q)),
    ];
    for (what, bundle, damage, wanted) in cases {
        let copy = Copy::of(&root.join(bundle));
        damage(&copy);
        match (load(copy.0.path(), false, false), wanted) {
            (Ok(_), None) => {}
            (Err(error), Some(wanted)) => assert!(error.contains(wanted), "{what}: {error}"),
            (Ok(_), Some(_)) => panic!("{what}: it loads"),
            (Err(error), None) => panic!("{what}: {error}"),
        }
    }
}
