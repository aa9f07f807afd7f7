//! A folder that mlx-lm loads.

use super::{Converted, Module, OnProgress, Plan, SideFile, Sink, Source, configuration::Packing};
use crate::{
    Error, Result,
    weights::{
        Matrix,
        write::{FolderWriter, WriteOptions},
    },
};
use mlx_rs::{Array, Dtype};
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Writes `source` into the new folder `out`.
pub(super) fn write(
    source: &Source,
    plan: Plan,
    dtype: Option<Dtype>,
    out: &Path,
    files: &[SideFile],
    on_progress: OnProgress<'_>,
) -> Result<Converted> {
    let choices = plan.choices(source.modules(), &source.written, source.is_gguf())?;
    let writer = FolderWriter::create(out, WriteOptions::default())?;
    let mut sink = MlxSink { writer, packings: BTreeMap::new(), parameters: 0 };
    source.convert(&choices, dtype, &mut sink, on_progress)?;
    let MlxSink { mut writer, packings, parameters } = sink;
    for path in side_files(&source.path)? {
        writer.copy(&path)?;
    }
    for (name, bytes) in files {
        writer.file(name, bytes)?;
    }
    let config = super::configuration::write(source, plan, &choices, &packings);
    writer.json("config.json", &Value::Object(config))?;
    let index = Map::from_iter([("total_parameters".to_string(), json!(parameters))]);
    let written = writer.finish(index)?;
    Ok(Converted { bytes: written.bytes, parameters, shards: written.shards })
}

/// Writes tensors under mlx-lm's names, and notes how they are packed.
struct MlxSink {
    writer: FolderWriter,
    packings: BTreeMap<String, Packing>,
    parameters: u64,
}

impl Sink for MlxSink {
    fn matrix(&mut self, module: &Module, matrix: &Matrix) -> Result<()> {
        let rows: u64 = module.rows.iter().map(|n| n.unsigned_abs() as u64).product();
        self.parameters += rows * module.columns.unsigned_abs() as u64;
        let mut part =
            |name: &str, array: &Array| self.writer.tensor(&format!("{}.{name}", module.path), array);
        match matrix {
            Matrix::Dense(w) => part("weight", w),
            Matrix::Packed(p) => {
                part("weight", &p.weight)?;
                part("scales", &p.scales)?;
                p.biases.iter().try_for_each(|biases| part("biases", biases))?;
                let packing = Packing { format: p.packing(), has_global_scale: false };
                self.packings.insert(module.path.clone(), packing);
                Ok(())
            }
            Matrix::Rotated(_) => {
                Err(Error::tensor(&module.path, "has turned rows, which mlx-lm has no layout for"))
            }
        }
    }

    fn tensor(&mut self, name: &str, array: &Array) -> Result<()> {
        match name.strip_suffix(".global_scale").and_then(|path| self.packings.get_mut(path)) {
            Some(packing) => packing.has_global_scale = true,
            None => self.parameters += array.size() as u64,
        }
        self.writer.tensor(name, array)
    }
}

/// What mlx-lm takes over from a model's folder besides: tokenizer, chat template, defaults of generation, code.
fn side_files(model: &Path) -> Result<Vec<PathBuf>> {
    const NAMES: [&str; 7] = [
        "generation_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "chat_template.json",
    ];
    if !model.is_dir() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(model).map_err(|e| Error::io(model, e))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| Error::io(model, e))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let ends = [".jinja", ".model", ".tiktoken", ".py"].iter().any(|end| name.ends_with(end));
        if path.is_file() && (ends || NAMES.contains(&name) || name.starts_with("tokenizer")) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
