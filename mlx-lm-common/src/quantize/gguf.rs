//! A GGUF file that llama.cpp loads.

use super::{Choice, Converted, Module, OnProgress, Sink, Source};
use crate::{
    Error, Result,
    gguf::{FileType, GgufWriter, Metadata},
    model::Written,
    weights::Matrix,
};
use mlx_rs::{Array, Dtype};
use std::{collections::BTreeSet, path::Path};

/// Writes `source` into the new file `out`.
pub(super) fn write(
    source: &Source,
    kind: FileType,
    metadata: &Metadata,
    out: &Path,
    on_progress: OnProgress<'_>,
) -> Result<Converted> {
    let mut tensors: Vec<(String, Vec<i32>)> = Vec::new();
    let mut parts = BTreeSet::new();
    for Module { path, rows, columns, .. } in source.modules() {
        let path = inner(path);
        parts.extend(["weight", "scales", "biases", "global_scale"].map(|part| format!("{path}.{part}")));
        tensors.push((format!("{path}.weight"), [&rows[..], &[*columns]].concat()));
    }
    let others = source.checkpoint().iter().filter(|(name, _)| !parts.contains(*name));
    tensors.extend(others.map(|(name, tensor)| (name.into(), tensor.shape().to_vec())));
    let parameters = tensors.iter().map(|(_, shape)| shape.iter().map(|n| *n as u64).product::<u64>()).sum();
    let writer = GgufWriter::create(out, &source.config, kind, &tensors, metadata)?;
    let mut sink = GgufSink { writer };
    let choices = vec![Choice::Float; source.modules().len()];
    source.convert(&choices, Some(Dtype::Float32), &mut sink, on_progress)?;
    Ok(Converted { bytes: sink.writer.finish()?, parameters, shards: 1 })
}

struct GgufSink {
    writer: GgufWriter,
}

impl Sink for GgufSink {
    fn matrix(&mut self, module: &Module, matrix: &Matrix) -> Result<()> {
        let name = format!("{}.weight", inner(&module.path));
        match matrix {
            Matrix::Dense(w) => self.writer.tensor(&name, w),
            _ => Err(Error::tensor(name, "is in a form that cannot be written as GGUF")),
        }
    }

    fn tensor(&mut self, name: &str, array: &Array) -> Result<()> {
        self.writer.tensor(inner(name), array)
    }
}

/// A name without what the text part of a larger model has in front.
fn inner(name: &str) -> &str {
    name.strip_prefix(Written::WRAPPED).unwrap_or(name)
}
