//! Architectures by the names that llama.cpp gives them: metadata in the words of a Hugging Face `config.json`, tensors under names
//! and in shapes that [`Architecture::remap`](crate::model::Architecture) knows.
//!
//! A family is a file and a line of [`TABLE`]. It says how metadata become a configuration, which names differ from the usual
//! ([`names`]), which rows come in another order, and what else has to be undone: rules of llama.cpp's converters.

mod common;
mod keys;
mod llama;
mod names;
mod qwen;
mod rope;

use super::{Gguf, GgufTensor, header::TensorInfo};
use crate::{Error, Result, weights::Checkpoint};
use keys::Keys;
use names::{Names, ROPE_FREQS};
use serde_json::Value;
use std::collections::BTreeSet;

/// What is known of the files of an architecture.
struct Family {
    /// The metadata as a `config.json` has them.
    config: fn(&Keys<'_>) -> Result<Value>,
    /// Names outside layers that differ from the usual.
    top: Names,
    /// Names in layers that differ from the usual, or are added to them.
    layer: Names,
    /// Which row of the published tensor each row is, if they are in another order.
    order: fn(&Keys<'_>, &TensorInfo) -> Result<Option<Vec<u32>>>,
    /// Brings tensors with published names into published shapes and values.
    weights: fn(&Keys<'_>, &mut Checkpoint) -> Result<()>,
}

impl Family {
    /// With the usual names, and tensors as they are published.
    const fn plain(config: fn(&Keys<'_>) -> Result<Value>) -> Family {
        Family { config, top: &[], layer: &[], order: |_, _| Ok(None), weights: |_, _| Ok(()) }
    }
}

/// Every architecture that can be read.
const TABLE: &[(&str, Family)] = &[("llama", llama::LLAMA), ("qwen2", qwen::QWEN2), ("qwen3", qwen::QWEN3)];

/// The architecture of a whole model that can be read.
fn family(gguf: &Gguf) -> Result<(Keys<'_>, &'static Family)> {
    let metadata = gguf.metadata();
    if let Some(parts) = metadata.get("split.count").filter(|field| !matches!(field.u32(), Ok(0 | 1))) {
        return Err(parts.wanted("1: a model in one file (merge the parts with llama.cpp's gguf-split)"));
    }
    metadata.required("general.architecture", |field| {
        let name = field.str()?;
        let found = TABLE.iter().find(|(known, _)| *known == name);
        let (architecture, family) = found.ok_or_else(|| {
            let names: Vec<&str> = TABLE.iter().map(|(name, _)| *name).collect();
            field.wanted(names.join(", "))
        })?;
        Ok((Keys { gguf, architecture }, family))
    })
}

/// The metadata as a `config.json` has them.
pub(super) fn config(gguf: &Gguf) -> Result<Value> {
    let (keys, family) = family(gguf)?;
    (family.config)(&keys)
}

/// The tensors under published names, their rows in the published order.
pub(super) fn tensors(gguf: &Gguf) -> Result<Vec<GgufTensor>> {
    let (keys, family) = family(gguf)?;
    let mut seen = BTreeSet::new();
    let mut tensors = Vec::with_capacity(gguf.infos.len());
    for info in gguf.infos.iter().filter(|info| info.name != ROPE_FREQS) {
        let name = names::published(&info.name, family.top, family.layer);
        if !seen.insert(name.clone()) {
            return Err(Error::tensor(&info.name, format!("another tensor of the file is `{name}` too")));
        }
        let tensor = GgufTensor::new(&gguf.source, info, name)?;
        tensors.push(match (family.order)(&keys, info)? {
            Some(order) => tensor.reordered(tensor.shape().to_vec(), &order)?,
            None => tensor,
        });
    }
    Ok(tensors)
}

/// The tensors as they are published.
pub(super) fn checkpoint(gguf: &Gguf) -> Result<Checkpoint> {
    let (keys, family) = family(gguf)?;
    let mut checkpoint = Checkpoint::of_gguf(tensors(gguf)?);
    (family.weights)(&keys, &mut checkpoint)?;
    Ok(checkpoint)
}
