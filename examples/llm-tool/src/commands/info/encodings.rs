//! How tensors are stored, and what becomes of them.

use super::{
    name,
    tensors::{PARTS, Packings},
};
use crate::units::size;
use mlx_llm::{
    Config, Result,
    common::weights::{Checkpoint, Kept},
};
use mlx_rs::Dtype;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Tensors that are stored alike.
pub(super) struct Row {
    /// How: `GPTQ 4-bit, groups of 128`, or a type of plain numbers.
    stored: String,
    becomes: Becomes,
    tensors: u64,
    /// In the files, scales and the like included.
    bytes: u64,
}

/// What becomes of them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Becomes {
    /// What other toolkits have encoded.
    Kept(Kept),
    /// Numbers of this type.
    Plain(String),
}

/// The encodings of a checkpoint as it was opened, those with most bytes first. Floats become `compute`.
pub(super) fn rows(checkpoint: &Checkpoint, config: &Config, compute: Dtype) -> Result<Vec<Row>> {
    let packings = Packings::read(checkpoint, config)?;
    let mut sums: BTreeMap<(String, Becomes), (u64, u64)> = BTreeMap::new();
    for (tensor_name, tensor) in checkpoint.iter() {
        let row = match (checkpoint.encoding(tensor_name), packings.packing(tensor_name)) {
            (Some(encoding), _) => (encoding.stored.clone(), Becomes::Kept(encoding.kept.clone())),
            (None, Some(packing)) => {
                (format!("MLX {packing}"), Becomes::Kept(Kept::Packed(packing.code())))
            }
            (None, None) => {
                let own = tensor.dtype().or(tensor.float_type()).unwrap_or(Dtype::Float32);
                let to = if tensor.float_type().is_some() { compute } else { own };
                (name(own), Becomes::Plain(name(to)))
            }
        };
        let sum = sums.entry(row).or_default();
        // A matrix counts once.
        let part = tensor_name.rsplit_once('.').map_or("", |(_, part)| part);
        sum.0 += u64::from(!PARTS[1..].contains(&part));
        sum.1 += tensor.bytes();
    }
    let row = |((stored, becomes), (tensors, bytes))| Row { stored, becomes, tensors, bytes };
    let mut rows: Vec<Row> = sums.into_iter().map(row).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.bytes));
    Ok(rows)
}

impl Row {
    pub(super) fn json(&self, compute: Dtype) -> Value {
        let (kept, to, why) = match &self.becomes {
            Becomes::Kept(Kept::Packed(code)) => ("packed", code.clone(), None),
            Becomes::Kept(Kept::Widened(why)) => ("widened", name(compute), Some(why)),
            Becomes::Plain(to) => ("plain", to.clone(), None),
        };
        json!({ "stored": self.stored, "kept": kept, "as": to, "why": why, "tensors": self.tensors, "bytes": self.bytes })
    }

    /// A line of the table, whose first column is so wide.
    pub(super) fn text(&self, compute: Dtype, width: usize) -> String {
        let becomes = match &self.becomes {
            Becomes::Kept(Kept::Packed(code)) => format!("kept packed as {code}"),
            Becomes::Kept(Kept::Widened(why)) => format!("widened to {}: {why}", name(compute)),
            Becomes::Plain(to) if *to == self.stored => "kept".into(),
            Becomes::Plain(to) => format!("converted to {to}"),
        };
        format!("{:<width$}  {:>6} tensors  {:>9}  {becomes}", self.stored, self.tensors, size(self.bytes))
    }

    /// How wide the first column must be for it.
    pub(super) fn width(&self) -> usize {
        self.stored.chars().count()
    }
}
