//! Prompt-cache files in mlx-lm's layout: a safetensors file whose tensors are `layer.index`, and whose metadata are, flattened, each
//! layer's scalars (`0`), the user's values (`1`) and each layer's class name (`2`).

use super::{LayerState, Metadata};
use crate::{Error, Result, raw::Arena, weights};
use mlx_rs::Array;
use std::{collections::HashMap, path::Path};

/// Most layers and values a file may claim.
const MOST: usize = 4096;

pub(super) fn save(path: &Path, states: &[LayerState], user: &[(String, String)]) -> Result<()> {
    let mut arrays = HashMap::new();
    let mut metadata: HashMap<String, String> =
        user.iter().map(|(k, v)| (format!("1.{k}"), v.clone())).collect();
    for (i, state) in states.iter().enumerate() {
        for (j, array) in state.arrays.iter().enumerate() {
            // Views of a larger buffer; the file holds what they show.
            arrays.insert(format!("{i}.{j}"), array.contiguous()?);
        }
        if state.meta.is_empty() {
            metadata.insert(format!("0.{i}"), String::new());
        }
        for (j, value) in state.meta.iter().enumerate() {
            metadata.insert(format!("0.{i}.{j}"), value.clone());
        }
        metadata.insert(format!("2.{i}"), state.class.clone());
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
    let arena = Arena::new(0);
    let mut states = Vec::new();
    for i in 0..MOST {
        let Some(class) = metadata.get(&format!("2.{i}")) else { break };
        let indexed = |j: usize| metadata.get(&format!("0.{i}.{j}")).cloned();
        let mut arrays = Vec::new();
        while let Some(tensor) = tensors.remove(&format!("{i}.{}", arrays.len())) {
            arrays.push(tensor.load(&arena, None)?);
        }
        states.push(LayerState {
            class: class.clone(),
            arrays,
            meta: (0..MOST).map_while(indexed).collect(),
        });
    }
    if states.is_empty() || !tensors.is_empty() {
        return Err(Error::file(path, "is no prompt cache"));
    }
    let user = metadata.into_iter().filter_map(|(k, v)| Some((k.strip_prefix("1.")?.to_string(), v)));
    Ok((states, user.collect()))
}
