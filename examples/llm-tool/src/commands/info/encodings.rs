//! How tensors are stored, and what becomes of them.

use super::name;
use crate::units::size;
use mlx_llm::common::{
    raw::Mode,
    weights::{Checkpoint, Kept, Packing},
};
use mlx_rs::Dtype;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What a packed matrix consists of, beside its bias.
const PARTS: [&str; 5] = ["weight", "scales", "biases", "global_scale", "tq_bits"];

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

/// The encodings of a checkpoint, those with most bytes first: as it was opened, `published`, if other toolkits have encoded it, or
/// in the layout that architectures read, `read`, whose matrices are packed so. Floats become `compute`.
pub(super) fn rows(
    published: &Checkpoint,
    read: &Checkpoint,
    packings: &BTreeMap<String, Packing>,
    compute: Dtype,
) -> Vec<Row> {
    let checkpoint = if published.encodings().next().is_some() { published } else { read };
    let mut sums: BTreeMap<(String, Becomes), (u64, u64)> = BTreeMap::new();
    for (tensor_name, tensor) in checkpoint.iter() {
        let (module, part) = tensor_name.rsplit_once('.').unwrap_or(("", tensor_name));
        let is_part = PARTS.contains(&part);
        let packing = packings.get(module).filter(|_| is_part);
        let row = match (checkpoint.encoding(tensor_name), packing) {
            (Some(encoding), _) => (encoding.stored.clone(), Becomes::Kept(encoding.kept.clone())),
            (None, Some(Packing { bits, group, mode })) => {
                let code = match mode {
                    Mode::Affine => format!("affine {bits}-bit"),
                    _ => mode.name().into(),
                };
                (format!("MLX {code}, groups of {group}"), Becomes::Kept(Kept::Packed(code)))
            }
            (None, None) if is_part && checkpoint.contains(&format!("{module}.tq_bits")) => {
                ("JANGTQ codes".into(), Becomes::Kept(Kept::Packed("levels of turned rows".into())))
            }
            (None, None) => {
                let own = tensor.dtype().or(tensor.float_type()).unwrap_or(Dtype::Float32);
                let to = if tensor.float_type().is_some() { compute } else { own };
                (name(own), Becomes::Plain(name(to)))
            }
        };
        let sum = sums.entry(row).or_default();
        // A matrix counts once.
        sum.0 += u64::from(!PARTS[1..].contains(&part));
        sum.1 += tensor.bytes();
    }
    let row = |((stored, becomes), (tensors, bytes))| Row { stored, becomes, tensors, bytes };
    let mut rows: Vec<Row> = sums.into_iter().map(row).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.bytes));
    rows
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
