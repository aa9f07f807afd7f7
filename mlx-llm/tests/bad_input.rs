//! Each broken model gives an error that names what is broken. Broken containers have tables of their own beside their readers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{fixture, load};
use mlx_llm::{
    Error, GenerateParameters, LoadOptions,
    common::generate::{Prompt, Sampler, TokenIterator},
    load_local,
};
use mlx_rs::Array;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

/// A copy of a fixture to break.
struct Copy {
    folder: tempfile::TempDir,
}

impl Copy {
    fn of(name: &str) -> Copy {
        let folder = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(fixture(name)).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name() != "reference.safetensors" {
                fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
            }
        }
        Copy { folder }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn config(&self, change: impl FnOnce(&mut Value)) {
        let path = self.path("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut config);
        fs::write(path, config.to_string()).unwrap();
    }

    fn tensors(&self, change: impl FnOnce(&mut HashMap<String, Array>)) {
        let path = self.path("model.safetensors");
        let mut tensors = Array::load_safetensors(&path).unwrap();
        tensors.values().for_each(|t| t.eval().unwrap());
        change(&mut tensors);
        Array::save_safetensors(&tensors, None, &path).unwrap();
    }
}

fn error(folder: &Path) -> String {
    load_local(folder, &LoadOptions::default())
        .err()
        .map(|e| e.to_string())
        .unwrap_or_else(|| "it loads".into())
}

const DOWN: &str = "model.layers.1.mlp.down_proj";

#[test]
fn every_broken_model_gives_its_own_error() {
    type Break = fn(&Copy);
    let set = |key: &'static str, value: Value| move |c: &Copy| c.config(|v| v[key] = value.clone());
    type Case = (&'static str, Box<dyn Fn(&Copy)>, Vec<&'static str>);
    let configs: Vec<Case> = vec![
        ("no layers", Box::new(set("num_hidden_layers", json!(0))), vec!["num_hidden_layers", "found 0"]),
        ("negative width", Box::new(set("hidden_size", json!(-64))), vec!["hidden_size", "-64"]),
        ("huge width", Box::new(set("intermediate_size", json!(1u64 << 40))), vec!["intermediate_size"]),
        ("a width in words", Box::new(set("hidden_size", json!("many"))), vec!["hidden_size", "many"]),
        ("another width", Box::new(set("intermediate_size", json!(160))), vec!["mlp.gate_proj", "wanted"]),
        (
            "more layers",
            Box::new(set("num_hidden_layers", json!(9))),
            vec!["model.layers.", "not in the checkpoint"],
        ),
        (
            "fewer layers",
            Box::new(set("num_hidden_layers", json!(1))),
            vec!["belong to nothing", "model.layers.1."],
        ),
        (
            "heads that do not divide",
            Box::new(set("num_key_value_heads", json!(3))),
            vec!["num_key_value_heads", "divisor"],
        ),
        (
            "more heads than a number holds",
            Box::new(|c: &Copy| {
                c.config(|v| {
                    v["num_attention_heads"] = json!(1 << 30);
                    v["head_dim"] = json!(64);
                });
            }),
            vec!["num_attention_heads", "fewer heads of 64"],
        ),
        ("no such rope", Box::new(set("rope_scaling", json!({"rope_type": "spiral"}))), vec!["spiral"]),
        ("a base of zero", Box::new(set("rope_theta", json!(0))), vec!["rope_theta"]),
        (
            "a near name",
            Box::new(set("model_type", json!("lama"))),
            vec!["`lama` is not supported", "did you mean llama"],
        ),
        ("no type", Box::new(set("model_type", json!(null))), vec!["model_type", "nothing"]),
    ];
    for (what, change, wanted) in configs {
        let copy = Copy::of("llama3");
        change(&copy);
        let found = error(copy.folder.path());
        for part in wanted {
            assert!(found.contains(part), "{what}: {found}");
        }
    }
    let others: &[(&str, &str, Break, &[&str])] = &[
        ("no config", "llama3", |c| fs::remove_file(c.path("config.json")).unwrap(), &["config.json"]),
        (
            "no weights",
            "llama3",
            |c| fs::remove_file(c.path("model.safetensors")).unwrap(),
            &["no safetensors file"],
        ),
        (
            "a bare NaN",
            "llama3",
            |c| rewrite(c, "\"rms_norm_eps\"", "\"rms_norm_eps\": NaN, \"was\""),
            &["rms_norm_eps"],
        ),
        (
            "half a config",
            "llama3",
            |c| fs::write(c.path("config.json"), "{\"model_type\"").unwrap(),
            &["config.json"],
        ),
        (
            "half the weights",
            "llama3",
            |c| truncate(&c.path("model.safetensors")),
            &["model.safetensors", "Download it again"],
        ),
        (
            "a lost shard",
            "llama3-sharded",
            |c| fs::remove_file(c.path("model-00002-of-00002.safetensors")).unwrap(),
            &["missing: model-00002"],
        ),
        (
            "a way out",
            "llama3-sharded",
            |c| edit(&c.path("model.safetensors.index.json"), "model-00002", "../model-00002"),
            &["index.json", "../"],
        ),
        (
            "a lost tensor",
            "llama3",
            |c| c.tensors(|t| drop(t.remove("model.norm.weight"))),
            &["`model.norm.weight` is not in"],
        ),
        (
            "a stray tensor",
            "llama3",
            |c| c.tensors(|t| drop(t.insert("spare.weight".into(), Array::from_f32(1.0)))),
            &["`spare.weight`"],
        ),
        (
            "a lost bias",
            "llama",
            |c| c.tensors(|t| drop(t.remove("model.layers.0.self_attn.q_proj.bias"))),
            &["q_proj.bias` is not in"],
        ),
        (
            "lost scales",
            "llama-4bit",
            |c| c.tensors(|t| drop(t.remove(&format!("{DOWN}.scales")))),
            &[DOWN, "found shape"],
        ),
        (
            "lost zero points",
            "llama-4bit",
            |c| c.tensors(|t| drop(t.remove(&format!("{DOWN}.biases")))),
            &[DOWN, "without biases"],
        ),
        ("cut scales", "llama-4bit", |c| c.tensors(|t| cut(t, "scales", -1)), &[DOWN, "groups of 48"]),
        (
            "too few rows of scales",
            "llama-4bit",
            |c| c.tensors(|t| cut(t, "scales", 0)),
            &["down_proj.scales", "wanted"],
        ),
        ("floats for words", "llama-4bit", |c| c.tensors(|t| retype(t, "weight")), &[DOWN, "Float32"]),
        ("words for scales", "llama-4bit", |c| c.tensors(|t| retype(t, "scales")), &[DOWN, "Uint32"]),
    ];
    for (what, name, change, wanted) in others {
        let copy = Copy::of(name);
        change(&copy);
        let found = error(copy.folder.path());
        for part in *wanted {
            assert!(found.contains(part), "{what}: {found}");
        }
    }
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from));
    fs::write(path, text.replace(from, to)).unwrap();
}

fn rewrite(copy: &Copy, from: &str, to: &str) {
    edit(&copy.path("config.json"), from, to);
}

fn truncate(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

fn cut(tensors: &mut HashMap<String, Array>, part: &str, axis: i32) {
    let t = tensors.get_mut(&format!("{DOWN}.{part}")).unwrap();
    let keep = Array::from_iter(0..t.dim(axis) - 1, &[t.dim(axis) - 1]);
    *t = t.take_axis(&keep, axis).unwrap();
}

fn retype(tensors: &mut HashMap<String, Array>, part: &str) {
    let t = tensors.get_mut(&format!("{DOWN}.{part}")).unwrap();
    let to = if part == "weight" { mlx_rs::Dtype::Float32 } else { mlx_rs::Dtype::Uint32 };
    *t = t.as_dtype(to).unwrap();
}

#[test]
fn what_is_no_model_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    assert!(error(folder.path()).contains("config.json"));
    assert!(error(&folder.path().join("nowhere")).contains("does not exist"));
    let file = folder.path().join("notes.txt");
    fs::write(&file, "hello").unwrap();
    assert!(error(&file).contains("neither a folder"));
    fs::write(folder.path().join("model.gguf"), "GGUF").unwrap();
    assert!(error(&folder.path().join("model.gguf")).contains("model.gguf"));
}

#[test]
fn prompts_that_cannot_be_are_refused() {
    let model = load(&fixture("llama3"), false).model;
    let parameters = GenerateParameters::default();
    let start = |tokens: &[u32], context| {
        let mut cache = common::cache(model.as_ref());
        let sampler = Sampler::new(&parameters, &[]).unwrap();
        let prompt = Prompt { tokens, cached: 0, context };
        TokenIterator::new(model.as_ref(), &mut cache, &prompt, &parameters, sampler, &mut |_| true).err()
    };
    assert!(matches!(start(&[], None), Some(Error::EmptyPrompt)));
    assert!(matches!(start(&[1; 65], Some(64)), Some(Error::PromptTooLong { tokens: 65, limit: 64 })));
    let outside = start(&[1, 128], None).map(|e| e.to_string()).unwrap_or_default();
    assert!(outside.contains("token id 128") && outside.contains("below 128"), "{outside}");
    let mut cache = common::cache(model.as_ref());
    let sampler = Sampler::new(&parameters, &[]).unwrap();
    let prompt = Prompt { tokens: &[1, 2, 3], cached: 0, context: None };
    let called_off =
        TokenIterator::new(model.as_ref(), &mut cache, &prompt, &parameters, sampler, &mut |_| false).err();
    assert!(matches!(called_off, Some(Error::Cancelled)));
}
