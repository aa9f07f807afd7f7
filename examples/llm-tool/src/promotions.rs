//! Where a decoding step computes in float32 though nothing asks for it.

use crate::graph::{successor, warm};
use mlx_llm::{
    Result,
    common::{cache::CachePolicy, model::LanguageModel, nn::widened, raw::whole_graphs},
};
use mlx_lm_kernels::{Node, id, walk};
use mlx_rs::{Array, Dtype};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Operations that get a half-precision value widened to float32 without a block's asking for it, with the types and shapes of their
/// inputs, and how often each is in a step. Nothing is evaluated.
///
/// Blocks ask through [`widen`](mlx_llm::common::nn::widen). Functions of MLX that it spells out on the CPU, as norms, widen what they
/// go on with in more than one way; but an operation of half precision and float32 widens the former for itself alone.
pub(crate) fn promotions(model: &dyn LanguageModel, policy: &CachePolicy) -> Result<BTreeMap<String, usize>> {
    whole_graphs(|| {
        let mut cache = warm(model, policy)?;
        let token = successor(model, &[1], &mut cache)?;
        let mut outputs = cache.arrays();
        outputs.push(&token);
        let before: HashSet<usize> = walk(&outputs)?.iter().map(|node| node.id).collect();
        let (token, asked) = widened(|| successor(model, &[1], &mut cache));
        let (token, asked) = (token?, asked.iter().map(id).collect::<Result<HashSet<_>, _>>()?);
        let mut outputs = cache.arrays();
        outputs.push(&token);
        let graph = Graph::new(walk(&outputs)?);
        let mut counts = BTreeMap::new();
        for node in graph.nodes.values().filter(|n| !before.contains(&n.id) && !asked.contains(&n.id)) {
            if let Some(operation) = graph.stray(node) {
                *counts.entry(operation).or_default() += 1;
            }
        }
        Ok(counts)
    })
}

struct Graph {
    nodes: HashMap<usize, Node>,
    /// What an array goes into.
    users: HashMap<usize, Vec<usize>>,
}

impl Graph {
    fn new(nodes: Vec<Node>) -> Graph {
        let mut users: HashMap<usize, Vec<usize>> = HashMap::new();
        for node in &nodes {
            node.inputs.iter().for_each(|input| users.entry(*input).or_default().push(node.id));
        }
        Graph { nodes: nodes.into_iter().map(|node| (node.id, node)).collect(), users }
    }

    /// The operation that `node` widens something for, if it is of float32 otherwise.
    fn stray(&self, node: &Node) -> Option<String> {
        let halves = || node.inputs.iter().any(|input| is_half(&self.nodes[input].array));
        if node.array.dtype() != Dtype::Float32 || !halves() {
            return None;
        }
        if node.operation.as_deref() != Some("AsType") {
            return Some(self.describe(node));
        }
        let mut wide = node;
        loop {
            let [user] = self.users.get(&wide.id)?.as_slice() else { return None };
            wide = &self.nodes[user];
            // Both sides of an operation get a common shape after their common type.
            if wide.operation.as_deref() != Some("Broadcast") {
                break;
            }
        }
        let floats = wide.inputs.iter().filter(|i| self.nodes[i].array.dtype() == Dtype::Float32).count();
        (floats > 1).then(|| self.describe(wide))
    }

    /// Name and inputs of an operation, these as they were before they were widened.
    fn describe(&self, node: &Node) -> String {
        let inputs = node.inputs.iter().map(|input| {
            let mut input = &self.nodes[input];
            while let (Some("AsType" | "Broadcast"), [first, ..]) =
                (input.operation.as_deref(), input.inputs.as_slice())
            {
                input = &self.nodes[first];
            }
            format!("{:?} {:?}", input.array.dtype(), input.array.shape()).to_lowercase()
        });
        let inputs: Vec<_> = inputs.collect();
        format!("{} of {}", node.operation.as_deref().unwrap_or("nothing"), inputs.join(" and "))
    }
}

fn is_half(array: &Array) -> bool {
    matches!(array.dtype(), Dtype::Float16 | Dtype::Bfloat16)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use mlx_llm::common::nn::widen;
    use mlx_rs::{fast, ops};

    fn stray(outputs: &[&Array], asked: &[Array]) -> Vec<String> {
        let graph = Graph::new(walk(outputs).unwrap());
        let asked: Vec<_> = asked.iter().map(|a| id(a).unwrap()).collect();
        let mut found: Vec<_> =
            graph.nodes.values().filter(|n| !asked.contains(&n.id)).filter_map(|n| graph.stray(n)).collect();
        found.sort();
        found
    }

    #[test]
    fn what_a_float32_operand_widens_is_found() {
        let half = ops::ones_dtype(&[2, 3], Dtype::Bfloat16).unwrap();
        let weights = ops::ones_dtype(&[3, 3], Dtype::Float32).unwrap();
        let product = ops::matmul(&half, &weights).unwrap();
        let shifted = half.add(Array::from_f32(1.0)).unwrap();
        assert_eq!(
            stray(&[&product, &shifted], &[]),
            ["Add of bfloat16 [2, 3] and float32 []", "Matmul of bfloat16 [2, 3] and float32 [3, 3]"]
        );
    }

    #[test]
    fn what_is_asked_for_and_what_mlx_spells_out_is_not() {
        let half = ops::ones_dtype(&[2, 3], Dtype::Bfloat16).unwrap();
        let (shifted, asked) =
            widened(|| widen(&half).unwrap().add(Array::from_f32(1.0)).unwrap().exp().unwrap());
        assert_eq!(stray(&[&shifted], &asked), [""; 0]);
        assert_eq!(stray(&[&shifted], &[]).len(), 1);
        let weight = ops::ones_dtype(&[3], Dtype::Bfloat16).unwrap();
        let norm = fast::rms_norm(&half, Some(&weight), 1e-5).unwrap();
        assert_eq!(norm.dtype(), Dtype::Bfloat16);
        assert_eq!(stray(&[&norm], &[]), [""; 0]);
    }
}
