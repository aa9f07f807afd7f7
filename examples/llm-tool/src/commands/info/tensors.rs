//! Parameters and bits by class of tensor.

use mlx_llm::common::weights::{Checkpoint, Packing, Tensor};
use std::collections::BTreeMap;

/// How packed matrices are stored, by module.
type Packings = BTreeMap<String, Packing>;

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
    /// Adds up a checkpoint in the layout that architectures read, whose packed matrices are packed so.
    pub(super) fn of(checkpoint: &Checkpoint, packings: &Packings) -> Tally {
        let mut sums: BTreeMap<Class, Sum> = BTreeMap::new();
        for (name, tensor) in checkpoint.iter() {
            let sum = sums.entry(Class::of(name)).or_default();
            sum.bytes += tensor.bytes();
            sum.parameters += parameters(name, tensor, checkpoint, packings);
        }
        Tally(sums)
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

/// Values that a tensor stands for; scales and biases of packed matrices stand for none.
fn parameters(name: &str, tensor: &Tensor, checkpoint: &Checkpoint, packings: &Packings) -> u64 {
    let values = tensor.shape().iter().map(|n| *n as u64).product();
    let (module, part) = name.rsplit_once('.').unwrap_or(("", name));
    match packings.get(module) {
        Some(_) if matches!(part, "scales" | "biases" | "global_scale") => 0,
        Some(packing) if part == "weight" && tensor.dtype().is_some() => {
            let scales = checkpoint.get(&format!("{module}.scales"));
            let groups: u64 = scales.map_or(0, |t| t.shape().iter().map(|n| *n as u64).product());
            groups * packing.group as u64
        }
        _ => values,
    }
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
