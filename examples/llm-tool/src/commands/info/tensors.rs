//! Parameters and bits by class of tensor.

use mlx_llm::{
    Config, Result,
    common::weights::{Checkpoint, Tensor},
};
use mlx_rs::Dtype;
use serde_json::Value;
use std::collections::BTreeMap;

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    Embedding,
    Attention,
    Mlp,
    Experts,
    Norms,
    Head,
    Other,
}

impl Class {
    pub(super) fn name(self) -> &'static str {
        match self {
            Class::Embedding => "embedding",
            Class::Attention => "attention",
            Class::Mlp => "mlp",
            Class::Experts => "experts",
            Class::Norms => "norms",
            Class::Head => "head",
            Class::Other => "other",
        }
    }

    /// The class of a tensor by its published name.
    fn of(name: &str) -> Class {
        let has = |part: &str| name.contains(part);
        if has("norm") {
            Class::Norms
        } else if has("embed_tokens") {
            Class::Embedding
        } else if has("lm_head") {
            Class::Head
        } else if has("experts") || has("switch_mlp") {
            Class::Experts
        } else if has("attn") || has("attention") {
            Class::Attention
        } else if has("mlp") || has("feed_forward") {
            Class::Mlp
        } else {
            Class::Other
        }
    }
}

/// Tensors added up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sum {
    pub(super) parameters: u64,
    /// In the files, scales and the like included.
    pub(super) bytes: u64,
}

impl Sum {
    pub(super) fn bits_per_weight(self) -> f64 {
        if self.parameters == 0 { 0.0 } else { self.bytes as f64 * 8.0 / self.parameters as f64 }
    }
}

/// Sums by class.
pub(super) struct Tally(BTreeMap<Class, Sum>);

impl Tally {
    /// Adds up a checkpoint in the layout that architectures read.
    pub(super) fn of(checkpoint: &Checkpoint, config: &Config) -> Result<Tally> {
        let packings = Packings::read(checkpoint, config)?;
        let mut sums: BTreeMap<Class, Sum> = BTreeMap::new();
        for (name, tensor) in checkpoint.iter() {
            let sum = sums.entry(Class::of(name)).or_default();
            sum.bytes += tensor.bytes();
            sum.parameters += packings.parameters(name, tensor);
        }
        Ok(Tally(sums))
    }

    /// The classes that there are.
    pub(super) fn classes(&self) -> impl Iterator<Item = (Class, Sum)> {
        self.0.iter().map(|(class, sum)| (*class, *sum))
    }

    pub(super) fn total(&self) -> Sum {
        self.classes().fold(Sum::default(), |a, (_, b)| Sum {
            parameters: a.parameters + b.parameters,
            bytes: a.bytes + b.bytes,
        })
    }
}

/// How packed matrices are unpacked: what a loader reads off the shapes that the architecture declares, here found without one.
struct Packings<'a> {
    tensors: BTreeMap<&'a str, &'a Tensor>,
    /// `quantization` of the configuration: settings for all matrices, and for single ones by name.
    settings: Value,
    hidden_size: Option<u64>,
}

impl Packings<'_> {
    fn read<'a>(checkpoint: &'a Checkpoint, config: &Config) -> Result<Packings<'a>> {
        let settings: Option<Value> = match config.get("quantization")? {
            None => config.get("quantization_config")?,
            settings => settings,
        };
        Ok(Packings {
            tensors: checkpoint.iter().collect(),
            settings: settings.unwrap_or_default(),
            hidden_size: config.get("hidden_size")?,
        })
    }

    /// Values that a tensor stands for; scales and biases of packed matrices stand for none.
    fn parameters(&self, name: &str, tensor: &Tensor) -> u64 {
        let values = tensor.shape().iter().map(|n| *n as u64).product();
        let Some(dtype) = tensor.dtype() else { return values };
        let (matrix, part) = name.rsplit_once('.').unwrap_or(("", name));
        let of = |part: &str| self.tensors.get(format!("{matrix}.{part}").as_str());
        let Some(scales) = of("scales") else { return values };
        match part {
            "scales" | "biases" => 0,
            "weight" if dtype == Dtype::Uint32 => {
                let (words, groups) = (size(tensor, 1), size(scales, 1));
                values / words.max(1) * self.columns(matrix, words, groups, of("biases").is_some())
            }
            _ => values,
        }
    }

    /// Columns of a matrix whose rows have so many 32-bit words and groups.
    fn columns(&self, matrix: &str, words: u64, groups: u64, has_biases: bool) -> u64 {
        // The formats without biases differ in bits per group.
        let sizes: &[u64] = match (has_biases, words.checked_div(groups)) {
            (true, _) => &[64, 32, 128],
            (false, Some(2)) => &[16],
            (false, _) => &[32],
        };
        let fits = |columns: &u64| {
            *columns > 0 && (words * 32).is_multiple_of(*columns) && matches!(words * 32 / columns, 2..=6 | 8)
        };
        let candidates = || sizes.iter().map(|group| group * groups).filter(fits);
        let group = |settings: &Value| settings.get("group_size").and_then(Value::as_u64);
        let told = self.settings.get(matrix).and_then(group).or_else(|| group(&self.settings));
        let known = self.width_of_input(matrix).filter(|width| candidates().any(|c| c == *width));
        let told = || told.map(|group| group * groups).filter(|width| candidates().any(|c| c == *width));
        known.or_else(told).or_else(|| candidates().next()).unwrap_or(sizes[0] * groups)
    }

    /// What a matrix reads: the output of the one before it, or hidden states.
    fn width_of_input(&self, matrix: &str) -> Option<u64> {
        let before = [("o_proj", "q_proj"), ("down_proj", "up_proj")];
        let before = before.into_iter().find_map(|(name, input)| Some((matrix.strip_suffix(name)?, input)));
        let Some((block, input)) = before else { return self.hidden_size };
        self.tensors.get(format!("{block}{input}.weight").as_str()).map(|t| size(t, 2))
    }
}

/// The size of an axis, counted from the last one, which is 1.
fn size(tensor: &Tensor, from_last: usize) -> u64 {
    let shape = tensor.shape();
    shape.len().checked_sub(from_last).map_or(0, |axis| shape[axis] as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_by_name() {
        for (name, wanted) in [
            ("model.embed_tokens.weight", Class::Embedding),
            ("model.layers.0.self_attn.q_proj.weight", Class::Attention),
            ("model.layers.0.self_attn.q_norm.weight", Class::Norms),
            ("model.layers.0.mlp.gate_proj.scales", Class::Mlp),
            ("model.layers.1.mlp.switch_mlp.up_proj.weight", Class::Experts),
            ("model.layers.1.mlp.gate.weight", Class::Mlp),
            ("model.norm.weight", Class::Norms),
            ("lm_head.weight", Class::Head),
            ("visual.patch.weight", Class::Other),
        ] {
            assert_eq!(Class::of(name), wanted, "{name}");
        }
    }
}
