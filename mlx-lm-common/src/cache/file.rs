//! Prompt-cache files in mlx-lm's layout (since its version 0.32): a safetensors file whose tensors are `layer.index`, scalars among
//! them, and whose metadata are, flattened, the user's values (`0`), each layer's class name (`1`), and which tensors are scalars or
//! stand for nothing (`2`, from its second entry on).

use super::{LayerState, Metadata};
use crate::{Error, Result, raw::Arena, weights};
use mlx_rs::{Array, Dtype};
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

/// Most layers and tags a file may claim.
const MOST: usize = 4096;

const SCALAR: &str = "scalar";
const NONE: &str = "none";

pub(super) fn save(path: &Path, states: &[LayerState], user: &[(String, String)]) -> Result<()> {
    let mut arrays = HashMap::new();
    let mut metadata: HashMap<String, String> =
        user.iter().map(|(k, v)| (format!("0.{k}"), v.clone())).collect();
    metadata.insert("2.0".into(), String::new());
    let mut tags = 0;
    for (i, state) in states.iter().enumerate() {
        metadata.insert(format!("1.{i}"), state.class.clone());
        let mut tag = |at: &str, kind: &str| {
            tags += 1;
            metadata.insert(format!("2.{tags}.0"), at.into());
            metadata.insert(format!("2.{tags}.1"), kind.into());
        };
        for j in 0..2 {
            let at = format!("{i}.{j}");
            let array = match state.kv.as_ref() {
                // Views of a larger buffer; the file holds what they show.
                Some(kv) => kv[j].contiguous()?,
                None => {
                    tag(&at, NONE);
                    mlx_rs::ops::zeros_dtype(&[0], Dtype::Float32)?
                }
            };
            arrays.insert(at, array);
        }
        for (j, scalar) in state.scalars.iter().enumerate() {
            let at = format!("{i}.{}", j + 2);
            tag(&at, SCALAR);
            arrays.insert(at, Array::from_int(*scalar));
        }
    }
    // MLX wants the extension; the name is taken only once the file is whole.
    let partial = path.with_extension(format!("{}.partial.safetensors", std::process::id()));
    let written = Array::save_safetensors(&arrays, &metadata, &partial)
        .map_err(|e| Error::file(path, format!("cannot be written: {e}")))
        .and_then(|()| std::fs::rename(&partial, path).map_err(|e| Error::io(path, e)));
    if written.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    written
}

/// The layers' states and the user's metadata.
pub(super) fn load(path: &Path) -> Result<(Vec<LayerState>, Metadata)> {
    let (mut tensors, metadata) = weights::open_file(path)?;
    let bad = || Error::file(path, "is no prompt cache of this version");
    let tag = |n: usize| Some((metadata.get(&format!("2.{n}.0"))?, metadata.get(&format!("2.{n}.1"))?));
    let tags: BTreeMap<_, _> = (1..MOST).map_while(tag).collect();
    let arena = Arena::new(0);
    let mut states = Vec::new();
    for i in 0..MOST {
        let Some(class) = metadata.get(&format!("1.{i}")) else { break };
        let (mut arrays, mut scalars) = (Vec::new(), Vec::new());
        for j in 0..MOST {
            let at = format!("{i}.{j}");
            let Some(tensor) = tensors.remove(&at) else { break };
            match tags.get(&at).map(|kind| kind.as_str()) {
                None => arrays.push(tensor.load(&arena, None)?),
                Some(SCALAR) if tensor.shape.is_empty() => {
                    let value = tensor.load(&arena, None)?;
                    scalars.push(value.try_item_cast::<i32>().map_err(|_| bad())?);
                }
                Some(NONE) => {}
                Some(_) => return Err(bad()),
            }
        }
        let kv = match <[Array; 2]>::try_from(arrays) {
            Ok(kv) => Some(kv),
            Err(none) if none.is_empty() => None,
            Err(_) => return Err(bad()),
        };
        states.push(LayerState { class: class.clone(), kv, scalars });
    }
    if states.is_empty() || !tensors.is_empty() {
        return Err(bad());
    }
    let user = metadata.iter().filter_map(|(k, v)| Some((k.strip_prefix("0.")?.to_string(), v.clone())));
    Ok((states, user.collect()))
}
