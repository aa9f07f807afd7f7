//! Every architecture against files that lie: each key of each configuration changed, each tensor missing, mis-shaped or surplus.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{fixtures, ids, wanted};
use mlx_llm::{
    LoadOptions,
    common::{
        cache::{Cache, CachePolicy},
        config::json,
        raw::Device,
    },
    load_local,
};
use mlx_rs::Array;
use serde_json::{Value, json};
use std::{
    collections::{HashMap, HashSet},
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

/// One fixture for each architecture in its plain form; twins share its code.
fn architectures() -> Vec<PathBuf> {
    let plain = |folder: &PathBuf| !folder.file_name().unwrap().to_string_lossy().contains('-');
    fixtures().into_iter().filter(plain).filter(|f| wanted(f)).collect()
}

/// Loads, and runs what loads: a few tokens, one more, and back.
fn attempt(folder: &Path) -> Result<(), String> {
    let options = LoadOptions { device: Some(Device::Cpu), ..Default::default() };
    let outcome = catch_unwind(AssertUnwindSafe(|| -> mlx_llm::Result<()> {
        let model = load_local(folder, &options)?.model;
        let policy = CachePolicy { rewind: 2, ..Default::default() };
        let mut cache = Cache::new(&model.cache_specs(), &policy)?;
        for tokens in [&[1u32, 2, 3][..], &[4]] {
            model.forward(&ids(tokens), &mut cache)?.eval()?;
        }
        cache.trim(1);
        model.forward(&ids(&[5]), &mut cache)?.eval()?;
        Ok(())
    }));
    match outcome {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_string()));
            panic!("panicked: {}", text.unwrap_or_default())
        }
    }
}

/// Every place in a configuration.
fn places(value: &Value, at: &str, into: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, v)| {
            let at = format!("{at}/{key}");
            into.push(at.clone());
            places(v, &at, into);
        }),
        // One of a list stands for all.
        Value::Array(list) => {
            if let Some(first) = list.first() {
                let at = format!("{at}/0");
                into.push(at.clone());
                places(first, &at, into);
            }
        }
        _ => {}
    }
}

#[test]
fn no_value_of_any_key_makes_an_architecture_panic() {
    let values = [
        json!(0),
        json!(-1),
        json!(1),
        json!(3),
        json!(1u64 << 31),
        json!(1u64 << 40),
        json!(0.3),
        json!(1e300),
        json!(null),
        json!(true),
        json!("x"),
        json!([]),
        json!([1]),
        json!({}),
    ];
    let mut failed = Vec::new();
    // A key that has the same value in another model of the type has been changed there.
    let mut known = HashSet::new();
    for folder in architectures() {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let config = json::parse(&fs::read(folder.join("config.json")).unwrap()).unwrap();
        let mut all = Vec::new();
        places(&config, "", &mut all);
        let kind = config["model_type"].to_string();
        all.retain(|place| {
            known.insert((kind.clone(), place.clone(), config.pointer(place).unwrap().to_string()))
        });
        let copy = tempfile::tempdir().unwrap();
        fs::copy(folder.join("model.safetensors"), copy.path().join("model.safetensors")).unwrap();
        for place in &all {
            for value in &values {
                let mut changed = config.clone();
                *changed.pointer_mut(place).unwrap() = value.clone();
                fs::write(copy.path().join("config.json"), changed.to_string()).unwrap();
                if catch_unwind(|| attempt(copy.path())).is_err() {
                    failed.push(format!("{name}: {place} = {value}"));
                }
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn every_tensor_is_wanted_and_checked() {
    let mut failed = Vec::new();
    for folder in architectures() {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let tensors = Array::load_safetensors(folder.join("model.safetensors")).unwrap();
        tensors.values().for_each(|t| t.eval().unwrap());
        let copy = tempfile::tempdir().unwrap();
        fs::copy(folder.join("config.json"), copy.path().join("config.json")).unwrap();
        let mut refused = |what: &str, tensor: &str, changed: &HashMap<String, Array>| {
            Array::save_safetensors(changed, None, copy.path().join("model.safetensors")).unwrap();
            // The words of an error name the tensor, or the module that could not be built of it.
            let module = tensor.rsplit('.').nth(1).unwrap();
            match catch_unwind(|| attempt(copy.path())) {
                Ok(Err(error)) if error.contains(module) => {}
                Ok(Err(error)) => failed.push(format!("{name}: {tensor} {what}: {error}")),
                Ok(Ok(())) => failed.push(format!("{name}: {tensor} {what}: it runs")),
                Err(_) => failed.push(format!("{name}: {tensor} {what}: a panic")),
            }
        };
        for (tensor, values) in &tensors {
            let mut changed = tensors.clone();
            changed.remove(tensor);
            refused("missing", tensor, &changed);
            let mut changed = tensors.clone();
            let [first, rest @ ..] = values.shape() else { continue };
            let more = [&[first + 1][..], rest].concat();
            changed.insert(tensor.clone(), mlx_rs::ops::zeros_dtype(&more, values.dtype()).unwrap());
            refused("mis-shaped", tensor, &changed);
        }
        let mut changed = tensors.clone();
        changed.insert("model.layers.0.stranger.weight".into(), Array::from_slice(&[1.0f32], &[1]));
        refused("surplus", "model.layers.0.stranger.weight", &changed);
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Files of caches that lie about positions and sizes.
#[test]
fn no_number_of_a_cache_file_makes_a_model_panic() {
    let numbers = [i32::MIN, -1, 0, 1, 3, 6, 8, 1 << 20, 1 << 30, i32::MAX];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.safetensors");
    let mut failed = Vec::new();
    for fixture in architectures() {
        let name = fixture.file_name().unwrap().to_string_lossy().into_owned();
        let options = LoadOptions { device: Some(Device::Cpu), ..Default::default() };
        let model = load_local(&fixture, &options).unwrap().model;
        let (specs, policy) = (model.cache_specs(), CachePolicy::default());
        let mut cache = Cache::new(&specs, &policy).unwrap();
        model.forward(&ids(&[1, 2, 3, 4, 5, 6, 7]), &mut cache).unwrap();
        cache.save(&path, &[]).unwrap();
        let (tensors, metadata) = Array::load_safetensors_with_metadata(&path).unwrap();
        tensors.values().for_each(|t| t.eval().unwrap());
        let scalars = tensors.iter().filter(|(_, t)| t.ndim() == 0).map(|(name, _)| Some(name.clone()));
        // The number of positions is no tensor.
        for scalar in scalars.chain([None]) {
            for number in numbers {
                let (mut tensors, mut metadata) = (tensors.clone(), metadata.clone());
                match &scalar {
                    Some(scalar) => {
                        tensors.insert(scalar.clone(), Array::from_int(number));
                    }
                    None => {
                        metadata.insert("2.0".into(), number.to_string());
                    }
                }
                Array::save_safetensors(&tensors, &metadata, &path).unwrap();
                let run = || -> mlx_llm::Result<()> {
                    let (mut cache, _) = Cache::load(&path, &specs, &policy)?;
                    model.forward(&ids(&[8, 9]), &mut cache)?.eval()?;
                    cache.trim(1);
                    model.forward(&ids(&[10]), &mut cache)?.eval()?;
                    Ok(())
                };
                if catch_unwind(AssertUnwindSafe(run)).is_err() {
                    failed.push(format!("{name}: {scalar:?} = {number}"));
                }
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
