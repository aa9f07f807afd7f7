//! Fixtures: tiny models with what mlx-lm computes for them.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc)]

use mlx_llm::{
    LoadOptions,
    common::{
        cache::{Cache, CachePolicy, CacheSpec},
        model::{LanguageModel, LoadedModel},
        raw::Device,
    },
    load_local,
};
use mlx_rs::{Array, ops};
use std::{
    collections::{BTreeMap, HashMap},
    env, fs, iter,
    path::{Path, PathBuf},
};

/// The committed fixtures, and those that `cargo xtask test` has generated.
fn roots() -> impl Iterator<Item = PathBuf> {
    let committed = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
    iter::once(committed).chain(env::var_os("MLX_LM_FIXTURES").map(PathBuf::from))
}

/// Every fixture's folder, in order of name. A committed one hides the generated one of its name.
pub fn fixtures() -> Vec<PathBuf> {
    let mut all = BTreeMap::new();
    for root in roots() {
        let entries = fs::read_dir(root).unwrap().map(|e| e.unwrap().path());
        for folder in entries.filter(|p| p.join("reference.safetensors").exists()) {
            all.entry(folder.file_name().unwrap().to_owned()).or_insert(folder);
        }
    }
    assert!(all.len() > 20, "the fixtures are missing");
    all.into_values().collect()
}

/// The folder of the fixture, wherever it is.
pub fn fixture(name: &str) -> PathBuf {
    let mut folders = roots().map(|root| root.join(name));
    let committed = folders.next().unwrap();
    if committed.exists() { committed } else { folders.find(|f| f.exists()).unwrap_or(committed) }
}

pub fn load(folder: &Path, without_kernels: bool) -> LoadedModel {
    try_load(folder, without_kernels).unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
}

/// The model in the folder of a fixture: itself, or the GGUF file that it holds.
pub fn checkpoint(folder: &Path) -> PathBuf {
    let gguf = folder.join("model.gguf");
    if gguf.exists() { gguf } else { folder.into() }
}

fn try_load(folder: &Path, without_kernels: bool) -> mlx_llm::Result<LoadedModel> {
    let options = LoadOptions { device: Some(Device::Cpu), without_kernels, ..Default::default() };
    load_local(&checkpoint(folder), &options)
}

/// Whether a developer wants to hear of this fixture: `MLX_LM_ONLY=gemma3,qwen3 cargo test` names beginnings.
pub fn wanted(folder: &Path) -> bool {
    let name = folder.file_name().unwrap().to_string_lossy();
    env::var("MLX_LM_ONLY").map_or(true, |only| only.split(',').any(|start| name.starts_with(start)))
}

/// Runs `f` on every fixture, with and without kernels, and reports all that fail.
pub fn for_all(f: impl Fn(&str, LoadedModel) -> Result<(), String>) {
    for_each(fixtures(), |_| &[false, true], f);
}

/// As [`for_all`], on one fixture of each model in float, and one in 4 bits with kernels: other twins differ from them in how they are
/// stored, which is no concern of caches.
pub fn for_all_models(f: impl Fn(&str, LoadedModel) -> Result<(), String>) {
    let ways = |name: &str| match name.split_once('-') {
        None => &[false, true][..],
        Some((_, "4bit")) => &[false],
        Some(_) => &[],
    };
    for_each(fixtures(), ways, f);
}

/// `ways` says of a fixture's name whether it is to be loaded with kernels, without them, or both.
fn for_each(
    folders: Vec<PathBuf>,
    ways: impl Fn(&str) -> &'static [bool],
    f: impl Fn(&str, LoadedModel) -> Result<(), String>,
) {
    let mut failed = Vec::new();
    for folder in folders.into_iter().filter(|folder| wanted(folder)) {
        let fixture = folder.file_name().unwrap().to_string_lossy().into_owned();
        for without_kernels in ways(&fixture) {
            let name = if *without_kernels { format!("{fixture} without kernels") } else { fixture.clone() };
            let loaded = try_load(&folder, *without_kernels).map_err(|e| e.to_string());
            if let Err(why) = loaded.and_then(|loaded| f(&name, loaded)) {
                failed.push(format!("{name}: {why}"));
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

pub struct Reference(HashMap<String, Array>);

impl Reference {
    pub fn of(name: &str) -> Reference {
        Reference::in_folder(&fixture(name.strip_suffix(" without kernels").unwrap_or(name)))
    }

    pub fn in_folder(folder: &Path) -> Reference {
        Reference(Array::load_safetensors(folder.join("reference.safetensors")).unwrap())
    }

    pub fn get(&self, name: &str) -> Option<&Array> {
        self.0.get(name)
    }

    pub fn array(&self, name: &str) -> &Array {
        &self.0[name]
    }

    pub fn tokens(&self, name: &str) -> Vec<u32> {
        self.0[name].reshape(&[-1]).unwrap().to_vec_cast::<u32>().unwrap()
    }
}

/// Whether logits and greedy tokens are those of the reference.
pub fn agrees(model: &dyn LanguageModel, reference: &Reference) -> Result<(), String> {
    let prompt = reference.tokens("prompt");
    let mut cache = cache(model);
    let prefill = model.forward(&ids(&prompt), &mut cache).map_err(|e| e.to_string())?;
    near(&prefill, reference.array("prefill"), "prefill")?;

    let start = cache.snapshot();
    let steps: Vec<_> = reference
        .tokens("decode_tokens")
        .iter()
        .map(|t| model.forward(&ids(&[*t]), &mut cache).unwrap())
        .collect();
    near(&ops::concatenate(&steps, 1).unwrap(), reference.array("decode"), "decode")?;

    cache.rewind(&start);
    let mut logits = prefill;
    for (i, wanted) in reference.tokens("greedy").into_iter().enumerate() {
        let last = ops::indexing::argmax_axis(&logits, -1, false).unwrap();
        let token = *last.to_vec_cast::<u32>().unwrap().last().unwrap();
        if token != wanted {
            return Err(format!("greedy token {i} is {token} instead of {wanted}"));
        }
        logits = model.forward(&ids(&[token]), &mut cache).unwrap();
    }
    Ok(())
}

pub fn cache(model: &dyn LanguageModel) -> Cache {
    Cache::new(&model.cache_specs(), &CachePolicy::default()).unwrap()
}

pub fn ids(tokens: &[u32]) -> Array {
    Array::from_slice(tokens, &[1, tokens.len() as i32])
}

/// The largest difference, in units of max(1, max |b|).
pub fn distance(a: &Array, b: &Array) -> f32 {
    assert_eq!(a.shape(), b.shape());
    let most = |x: &Array| ops::max(ops::abs(x).unwrap(), None).unwrap().item_cast::<f32>();
    let (difference, scale) = (most(&a.subtract(b).unwrap()), most(b).max(1.0));
    difference / scale
}

pub fn near(a: &Array, b: &Array, what: &str) -> Result<(), String> {
    let d = distance(a, b);
    if d <= 1e-4 { Ok(()) } else { Err(format!("{what} differs by {d:.1e} of the largest logit")) }
}

/// Whether a layer keeps a state, which forgets what it came from unless a policy says otherwise.
pub fn has_state(spec: &CacheSpec) -> bool {
    match spec {
        CacheSpec::State(_) => true,
        CacheSpec::Several(parts) => parts.iter().any(has_state),
        _ => false,
    }
}
