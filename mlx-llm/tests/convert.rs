//! Converting: what is written loads, gives the logits of what it was made from, and is there whole or not at all.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Reference, cache, fixture, fixtures, ids, load, near, wanted};
use mlx_llm::{
    Error, Result,
    common::{
        Progress,
        model::LanguageModel,
        quantize::{Converted, Format, Plan, Recipe, Source, Target, convert},
        raw::Mode,
    },
    registry,
};
use mlx_rs::{Array, Dtype};
use serde_json::{Value, json};
use std::{fs, path::Path};
use tempfile::tempdir;

fn write(from: &Path, plan: Plan, dtype: Option<Dtype>, out: &Path) -> Result<Converted> {
    let source = Source::open(from, &registry())?;
    convert(&source, Target::Mlx(plan), dtype, out, &[], &mut |_: &Progress| true)
}

fn affine(bits: i32, group: i32) -> Format {
    Format::new(Mode::Affine, Some(bits), Some(group)).unwrap()
}

fn prefill(model: &dyn LanguageModel, reference: &Reference) -> Array {
    model.forward(&ids(&reference.tokens("prompt")), &mut cache(model)).unwrap()
}

fn config(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap()
}

#[test]
fn a_gguf_file_gives_the_same_logits_as_a_folder() {
    let dir = tempdir().unwrap();
    let mut failed = Vec::new();
    for folder in fixtures().into_iter().filter(|folder| wanted(folder)) {
        let file = folder.join("model.gguf");
        if !file.exists() {
            continue;
        }
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let (reference, out) = (Reference::of(&name), dir.path().join(&name));
        let same =
            write(&file, Plan::Keep, Some(Dtype::Float32), &out).map_err(|e| e.to_string()).and_then(|_| {
                let (found, wanted) = (load(&out, true).model, load(&file, true).model);
                near(&prefill(found.as_ref(), &reference), &prefill(wanted.as_ref(), &reference), "prefill")
            });
        failed.extend(same.err().map(|why| format!("{name}: {why}")));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn what_is_quantized_here_gives_the_logits_that_mlx_lm_has_for_its_own() {
    let dir = tempdir().unwrap();
    for (name, twin) in [("llama", "llama-4bit"), ("qwen3", "qwen3-4bit"), ("qwen3_moe-hf", "qwen3_moe-4bit")]
    {
        let (out, reference) = (dir.path().join(name), Reference::of(twin));
        write(&fixture(name), Plan::quantize(affine(4, 32), None).unwrap(), None, &out).unwrap();
        assert_eq!(config(&out)["quantization"], config(&fixture(twin))["quantization"], "{name}");
        let found = prefill(load(&out, false).model.as_ref(), &reference);
        near(&found, reference.array("prefill"), name).unwrap();
    }
}

#[test]
fn floats_of_what_was_quantized_give_its_logits() {
    let dir = tempdir().unwrap();
    for name in
        ["llama-4bit", "qwen3_moe-4bit", "llama3-mixed", "llama3-mixed-bare", "llama3-mxfp8", "llama3-nvfp4"]
    {
        let (out, reference) = (dir.path().join(name), Reference::of(name));
        write(&fixture(name), Plan::Dequantize, Some(Dtype::Float32), &out).unwrap();
        assert!(config(&out).get("quantization").is_none());
        let found = prefill(load(&out, false).model.as_ref(), &reference);
        near(&found, reference.array("prefill"), name).unwrap();
    }
}

#[test]
fn mixtures_without_a_configuration_get_one() {
    let (dir, reference) = (tempdir().unwrap(), Reference::of("llama3-mixed-bare"));
    let out = dir.path().join("out");
    write(&fixture("llama3-mixed-bare"), Plan::Keep, None, &out).unwrap();
    let settings = &config(&out)["quantization"];
    assert!(settings["bits"].is_u64() && settings["group_size"].is_u64(), "{settings}");
    assert!(settings.as_object().unwrap().values().any(Value::is_object), "{settings}");
    let found = prefill(load(&out, false).model.as_ref(), &reference);
    near(&found, reference.array("prefill"), "prefill").unwrap();
}

#[test]
fn entries_that_say_false_are_about_floats() {
    let (dir, reference) = (tempdir().unwrap(), Reference::of("llama"));
    let (mixed, out) = (dir.path().join("mixed"), dir.path().join("out"));
    fs::create_dir(&mixed).unwrap();
    let mut settings = config(&fixture("llama-4bit"));
    settings["quantization"]["model.layers.0.mlp.down_proj"] = json!(false);
    fs::write(mixed.join("config.json"), settings.to_string()).unwrap();
    let read = |name: &str| Array::load_safetensors(fixture(name).join("model.safetensors")).unwrap();
    let (mut tensors, floats) = (read("llama-4bit"), read("llama"));
    let name = "model.layers.0.mlp.down_proj.weight";
    tensors.remove(&name.replace("weight", "scales"));
    tensors.remove(&name.replace("weight", "biases"));
    tensors.insert(name.into(), floats[name].clone());
    Array::save_safetensors(&tensors, None, mixed.join("model.safetensors")).unwrap();
    let wanted = prefill(load(&mixed, false).model.as_ref(), &reference);
    write(&mixed, Plan::Keep, None, &out).unwrap();
    let found = prefill(load(&out, false).model.as_ref(), &reference);
    near(&found, &wanted, "prefill").unwrap();
    // Packing the rest leaves alone what is packed.
    let all = dir.path().join("all");
    write(&mixed, Plan::quantize(affine(8, 32), None).unwrap(), None, &all).unwrap();
    let entry = &config(&all)["quantization"]["model.layers.0.mlp.down_proj"];
    assert_eq!(*entry, json!({ "group_size": 32, "bits": 8, "mode": "affine" }));
}

#[test]
fn what_cannot_be_done_says_why() {
    let dir = tempdir().unwrap();
    let out = dir.path().join("out");
    let message = |from: &str, plan: Plan| write(&fixture(from), plan, None, &out).unwrap_err().to_string();
    let plan = Plan::quantize(affine(4, 32), None).unwrap();
    assert!(message("llama-4bit", plan).contains("is quantized already"), "{}", message("llama-4bit", plan));
    let mxfp4 = Format::new(Mode::Mxfp4, None, None).unwrap();
    let recipe = Some(Recipe::named("mixed_3_6").unwrap());
    assert!(Plan::quantize(mxfp4, recipe).unwrap_err().to_string().contains("wanted affine"));
    for (mode, bits, group) in
        [(Mode::Affine, Some(7), None), (Mode::Affine, None, Some(16)), (Mode::Nvfp4, Some(8), None)]
    {
        assert!(
            matches!(Format::new(mode, bits, group), Err(Error::Parameter { .. })),
            "{mode:?} {bits:?} {group:?}"
        );
    }
    fs::create_dir(&out).unwrap();
    fs::write(out.join("mine"), "mine").unwrap();
    assert!(message("llama", Plan::Keep).contains("name another folder"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn what_is_called_off_leaves_nothing() {
    let dir = tempdir().unwrap();
    let source = Source::open(&fixture("llama"), &registry()).unwrap();
    let plan = Target::Mlx(Plan::quantize(affine(4, 32), None).unwrap());
    let mut last = 0;
    // Midway, when tensors are on disk already.
    let mut on_progress = |p: &Progress| {
        last = p.done;
        p.done < p.total / 2
    };
    let stopped = convert(&source, plan, None, &dir.path().join("out"), &[], &mut on_progress);
    assert!(matches!(stopped, Err(Error::Cancelled)));
    assert!(last > 0);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
