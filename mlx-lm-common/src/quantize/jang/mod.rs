//! Writing JANG bundles, version 2: MLX's packed layout with a width for every module, which its name decides.
//!
//! A bundle is made from a checkpoint of floats as it was published. Names sort matrices into three tiers, a [`Profile`] gives
//! each tier a width, and modules get the names that they have where a model runs. Values are rounded to float16 before they are
//! quantized; what is not quantized is float16 too. The rules are those of the package `jang` 2.5.50, and so are the results, but where
//! it goes wrong:
//!
//! - Experts that were published one by one share a width, the greatest that one of them was given. The package gives them several
//!   where a budget ends within a layer (3K to 6K), and fails to stack them.
//! - A stack must have its experts from 0 on without a gap, whatever key of the configuration counts them; and it is renamed like
//!   everything else, also where it stays in floats or belongs to a model around a text model.
//! - Experts of a layer itself (`layers.3.experts.gate_up_proj`) go to `experts.switch_glu`, which is what such models have, not to
//!   a `switch_mlp` that nothing reads.
//! - A fused `gate_up_proj` of two axes stays fused, as the models that have one expect it.
//! - Fused experts with other axes than [experts, 2 · inner, outer], or with gates and what they gate in turn, are refused.
//! - Float8 sources are read by the blocks that they have. The package derives a block's size, wrongly where a dimension is no
//!   multiple of it.
//! - Whether norms have their one already is told by the layout of convolutions for all families alike.
//! - Values that float16 does not have are an error, not infinity.
//! - `jang_config.json` does not have the `capabilities`, parsers of one program, without which the package refuses its own bundles of
//!   families that it does not list, nor notes on options that are not offered here.
//! - Files appear all at once or not at all.

mod allocate;
mod fold;
mod metadata;
mod plan;
mod profile;
mod tier;
mod values;

pub use profile::Profile;
use tier::Tier;

use super::{Converted, OnProgress};
use crate::{
    Config, Error, Progress, Result,
    config::json,
    raw::Arena,
    weights::{
        Checkpoint, Layout, Tensor,
        index::Shards,
        open,
        write::{FolderWriter, WriteOptions},
    },
};
use fold::Folds;
use metadata::{Marks, Quantized};
use mlx_rs::{Array, Dtype, ops};
use plan::{Form, Piece, Plan, Source};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, fs, path::Path};

/// Files of a published folder that a bundle has too, besides code.
const COPIED: [&str; 13] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "merges.txt",
    "vocab.json",
    "added_tokens.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "chat_template.json",
    "chat_template.jinja",
    "generation_config.json",
];

/// Values that keep float32 if they were published in it: what is added to the scores of experts.
const EXACT: &str = "e_score_correction_bias";

/// A family whose fused experts have a row of the gate and a row of what it gates in turn.
const INTERLEAVED: &str = "gpt_oss";

/// Writes the checkpoint of floats in the folder `from` as a JANG bundle in the folder `to`, which must not exist.
///
/// # Errors
/// Those of [`open`] and of [`FolderWriter`]; [`Error::Cancelled`] if `on_progress` returns `false`; [`Error::Unsupported`] for a
/// GGUF file and for a model that is quantized already; [`Error::Tensor`] for what the format has no layout for.
pub fn convert(from: &Path, to: &Path, profile: Profile, on_progress: OnProgress<'_>) -> Result<Converted> {
    if from.is_file() {
        let why = "a JANG bundle is made from a folder as it was published: convert the file to one first, with --dequantize";
        return Err(Error::Unsupported(why.into()));
    }
    let (config, mut checkpoint) = open(from)?;
    let published = json::read(&from.join("config.json"))?;
    refuse_quantized(&config, &checkpoint)?;
    let sources = sources(from, &checkpoint)?;
    let plan = Plan::new(profile, &published, &sources)?;
    let is_wrapped = sources.iter().any(|source| plan::is_wrapped(&source.name));
    let is_raw = matches!(checkpoint.layout(), Layout::Published);
    let folds = Folds::new(&config, is_raw, is_wrapped)?;
    let marks = Marks {
        norms_are_whole: fold::has_centred_norms(&config) && !is_wrapped,
        has_folded_factors: folds.has_factors(),
    };
    let mut bundle = Bundle {
        writer: FolderWriter::create(to, WriteOptions { is_numbered: true, ..WriteOptions::default() })?,
        modules: Vec::new(),
        bytes: 0,
        parameters: 0,
        folds,
        total: checkpoint.bytes(),
        done: 0,
        on_progress,
    };
    for piece in &plan.pieces {
        bundle.piece(piece, &mut checkpoint)?;
    }
    let Bundle { mut writer, modules, bytes, parameters, .. } = bundle;
    copy_files(&mut writer, from, &published)?;
    let name = from.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let provenance = metadata::provenance(profile, &name, &published, &plan, &modules, bytes);
    writer.json("jang_config.json", &provenance)?;
    writer.json("config.json", &metadata::config(&published, &plan, &modules, marks))?;
    let index = [("format".to_string(), json!("jang")), ("format_version".into(), json!("2.0"))];
    let written = writer.finish(Map::from_iter(index))?;
    Ok(Converted { bytes: written.bytes, parameters, shards: written.shards })
}

fn refuse_quantized(config: &Config, checkpoint: &Checkpoint) -> Result<()> {
    if checkpoint.jang().is_some() {
        return Err(Error::Unsupported(
            "this is a JANG bundle already; name the model that it was made from".into(),
        ));
    }
    if config.model_type == INTERLEAVED {
        let why = format!("the JANG format has no layout for the experts of {INTERLEAVED}");
        return Err(Error::Unsupported(why));
    }
    let is_packed = |(name, tensor): &(&str, &Tensor)| {
        name.ends_with(".scales") || matches!(tensor.dtype(), None | Some(Dtype::Uint32))
    };
    match checkpoint.iter().find(is_packed) {
        None => Ok(()),
        Some((name, _)) => Err(Error::Unsupported(format!(
            "`{name}` says that the model is quantized: a JANG bundle is made from floats, so name the original, or dequantize it first"
        ))),
    }
}

/// The published tensors in the order of their files, and by name in each.
fn sources(folder: &Path, checkpoint: &Checkpoint) -> Result<Vec<Source>> {
    let headers = Shards::find(folder)?.headers()?;
    let files: BTreeMap<&str, usize> = (headers.iter().enumerate())
        .flat_map(|(file, (_, header))| header.tensors.keys().map(move |name| (name.as_str(), file)))
        .collect();
    let mut sources: Vec<(usize, Source)> = checkpoint
        .iter()
        .map(|(name, tensor)| {
            let file = files.get(name).copied().unwrap_or_default();
            (file, Source { name: name.into(), shape: tensor.shape().to_vec() })
        })
        .collect();
    sources.sort_by_key(|(file, _)| *file);
    Ok(sources.into_iter().map(|(_, source)| source).collect())
}

/// A bundle that is being written.
struct Bundle<'a> {
    writer: FolderWriter,
    modules: Vec<Quantized>,
    /// Of all tensors that were written.
    bytes: u64,
    /// Values that were read.
    parameters: u64,
    folds: Folds,
    /// Bytes of the checkpoint, and those that were read.
    total: u64,
    done: u64,
    on_progress: OnProgress<'a>,
}

impl Bundle<'_> {
    fn piece(&mut self, piece: &Piece, checkpoint: &mut Checkpoint) -> Result<()> {
        match &piece.form {
            Form::Quantized { bits, group } => {
                let mut all = [const { Vec::new() }; 3];
                for name in &piece.sources {
                    let values = self.read(name, checkpoint)?;
                    let fold = self.folds.of(name, values.shape())?;
                    let parts = values::quantized(name, &values, fold, (*bits, *group))?;
                    all.iter_mut().zip(parts).for_each(|(all, part)| all.push(part));
                }
                let [codes, scales, biases] = all.map(stacked);
                self.write_module(piece, (*bits, *group), [codes?, scales?, biases?])
            }
            Form::Plain(axes) => {
                let mut all = Vec::new();
                for name in &piece.sources {
                    let values = self.read(name, checkpoint)?;
                    let fold = self.folds.of(name, values.shape())?;
                    let is_exact = name.to_lowercase().ends_with(EXACT) && values.dtype() == Dtype::Float32;
                    all.push(values::plain(name, &values, fold, *axes, is_exact)?);
                }
                let name = piece.to.first().map_or("", String::as_str);
                self.write(name, &stacked(all)?)
            }
        }
    }

    /// A tensor as it is stored, whose memory goes with it.
    fn read(&mut self, name: &str, checkpoint: &mut Checkpoint) -> Result<Array> {
        let tensor = checkpoint.take(name).ok_or_else(|| Error::MissingTensor(name.into()))?;
        let values = tensor.load(&Arena::new(0), None)?.plain(name)?;
        self.done += tensor.bytes();
        self.parameters += values.size() as u64;
        let progress = Progress { what: "weights".into(), done: self.done, total: self.total };
        if !(self.on_progress)(&progress) {
            return Err(Error::Cancelled);
        }
        Ok(values)
    }

    /// Writes a quantized module, or the two that its rows belong to.
    fn write_module(&mut self, piece: &Piece, (bits, group): (u8, i32), parts: values::Parts) -> Result<()> {
        let halves = match piece.to.len() {
            2 => {
                let [codes, scales, biases] = parts.map(|part| part.split_equal(2, -2));
                let [codes, scales, biases] = [codes?, scales?, biases?];
                let both = codes.into_iter().zip(scales).zip(biases);
                both.map(|((codes, scales), biases)| [codes, scales, biases]).collect()
            }
            _ => vec![parts],
        };
        for (module, parts) in piece.to.iter().zip(halves) {
            for (part, array) in ["weight", "scales", "biases"].iter().zip(&parts) {
                self.write(&format!("{module}.{part}"), array)?;
            }
            let source = piece.sources.iter().max().cloned().unwrap_or_default();
            let shapes = parts.each_ref().map(|part| part.shape().to_vec());
            self.modules.push(Quantized { module: module.clone(), source, bits, group, shapes });
        }
        Ok(())
    }

    fn write(&mut self, name: &str, array: &Array) -> Result<()> {
        self.bytes += array.nbytes() as u64;
        self.writer.tensor(name, array)
    }
}

/// One of several along a new first axis.
fn stacked(mut arrays: Vec<Array>) -> Result<Array> {
    match (arrays.len(), arrays.pop()) {
        (1, Some(one)) => Ok(one),
        (_, Some(last)) => {
            arrays.push(last);
            Ok(ops::stack(&arrays, 0)?)
        }
        (_, None) => Err(Error::Unsupported("a module without tensors".into())),
    }
}

/// Copies what is beside the tensors, mended where the format's package mends it.
fn copy_files(writer: &mut FolderWriter, from: &Path, published: &Value) -> Result<()> {
    for name in COPIED {
        let path = from.join(name);
        if !path.is_file() {
            continue;
        }
        let is_mended = ["tokenizer_config.json", "generation_config.json"].contains(&name);
        match is_mended
            .then(|| json::read(&path))
            .transpose()?
            .and_then(|file| metadata::mended(published, &file))
        {
            Some(mended) => writer.json(name, &mended)?,
            None => writer.copy(&path)?,
        }
    }
    let entries = fs::read_dir(from).map_err(|e| Error::io(from, e))?;
    let mut code: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    code.retain(|path| path.extension().is_some_and(|end| end == "py") && path.is_file());
    code.sort();
    code.iter().try_for_each(|path| writer.copy(path))
}
