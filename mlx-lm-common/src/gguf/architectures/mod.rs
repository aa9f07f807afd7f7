//! Architectures by the names that llama.cpp gives them: metadata in the words of a Hugging Face `config.json`, tensors under names
//! and in shapes that [`Architecture::remap`](crate::model::Architecture) knows.
//!
//! A family is a file and a line of [`TABLE`]. It says how metadata become a configuration, which names differ from the usual
//! ([`names`]), which rows come in another order, and what else has to be undone: rules of llama.cpp's converters.

mod common;
mod deepseek;
mod gemma;
mod gemma4;
mod gpt_oss;
mod keys;
mod lfm2;
mod llama;
mod llama4;
mod mamba;
mod names;
mod others;
mod phi;
mod qwen;
mod qwen_next;
mod rope;

pub(super) use gemma::SANDWICH;
pub(super) use llama::interleaved_row;
pub(super) use names::{ROPE_FREQS, in_file};

use super::{Gguf, GgufTensor, header::TensorInfo};
use crate::{
    Error, Result,
    weights::{Checkpoint, Layout},
};
use keys::Keys;
use names::Names;
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
const TABLE: &[(&str, Family)] = &[
    ("llama", llama::LLAMA),
    ("qwen2", qwen::QWEN2),
    ("qwen3", qwen::QWEN3),
    ("bitnet", llama::BITNET),
    ("chatglm", others::CHATGLM),
    ("cohere2", others::COHERE2),
    ("command-r", others::COMMAND_R),
    ("deepseek2", deepseek::DEEPSEEK2),
    ("dots1", others::DOTS1),
    ("ernie4_5", others::ERNIE),
    ("exaone", others::EXAONE3),
    ("exaone4", others::EXAONE4),
    ("falcon-h1", mamba::FALCON_H1),
    ("gemma", gemma::GEMMA),
    ("gemma2", gemma::GEMMA2),
    ("gemma3", gemma::GEMMA3),
    ("gemma4", gemma4::GEMMA4),
    ("glm4", phi::GLM4),
    ("glm4moe", others::GLM4_MOE),
    ("gpt-oss", gpt_oss::GPT_OSS),
    ("granite", llama::GRANITE),
    ("granitehybrid", mamba::GRANITE_HYBRID),
    ("granitemoe", llama::GRANITE_MOE),
    ("lfm2", lfm2::LFM2),
    ("lfm2moe", lfm2::LFM2_MOE),
    ("llama4", llama4::LLAMA4),
    ("minicpm", llama::GRANITE),
    ("minimax-m2", others::MINIMAX_M2),
    ("mistral3", llama::MISTRAL3),
    ("mistral4", deepseek::MISTRAL4),
    ("nemotron", others::NEMOTRON),
    ("nemotron_h", mamba::NEMOTRON_H),
    ("nemotron_h_moe", mamba::NEMOTRON_H),
    ("olmo2", others::OLMO2),
    ("olmoe", others::OLMOE),
    ("phi2", others::PHI2),
    ("phi3", phi::PHI3),
    ("qwen2moe", qwen::QWEN2_MOE),
    ("qwen35", qwen_next::QWEN35),
    ("qwen35moe", qwen_next::QWEN35_MOE),
    ("qwen3moe", qwen::QWEN3_MOE),
    ("qwen3next", qwen_next::QWEN3_NEXT),
    ("seed_oss", others::SEED_OSS),
    ("smollm3", llama::SMOLLM3),
    ("stablelm", others::STABLELM),
    ("starcoder2", others::STARCODER2),
];

/// The architecture of a whole model that can be read.
fn family(gguf: &Gguf) -> Result<(Keys<'_>, &'static Family)> {
    gguf.metadata().required("general.architecture", |field| {
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
    let further = keys.count("nextn_predict_layers")?;
    let first = if further > 0 { common::layers(&keys)? } else { i32::MAX };
    // Layers that predict further tokens are left out, and what is part of the configuration.
    let is_further = |name: &str| {
        names::in_layer(name).is_some_and(|(layer, _)| layer.parse().is_ok_and(|n: i32| n >= first))
    };
    for info in gguf.infos.iter().filter(|info| !names::is_config(&info.name) && !is_further(&info.name)) {
        let name = names::published(&info.name, family.top, family.layer);
        if !seen.insert(name.clone()) {
            return Err(Error::tensor(&info.name, format!("another tensor of the file is `{name}` too")));
        }
        let tensor = GgufTensor::new(info, name)?;
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
    let mut checkpoint = Checkpoint::of_gguf(tensors(gguf)?).with_layout(Layout::Mlx);
    common::unfuse(&keys, &mut checkpoint)?;
    (family.weights)(&keys, &mut checkpoint)?;
    Ok(checkpoint)
}
