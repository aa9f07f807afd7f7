//! Mixtures of experts.

use super::{Linear, Norm, linear::plain, swiglu};
use crate::{
    Result,
    raw::{self, Device},
    weights::{Matrix, Weights},
};
use mlx_rs::{
    Array,
    ops::{self, indexing::IndexOp},
};

/// From so many (token, expert) pairs on, pairs are sorted by expert, so that each expert's weights are read once.
const SORT_FROM: usize = 64;

/// Experts as one matrix each [E, out, in] for gate, up and down.
#[derive(Clone, Debug)]
pub struct SwitchGlu {
    gate: Matrix,
    up: Matrix,
    down: Matrix,
    device: Device,
}

impl SwitchGlu {
    /// Loads `gate_proj`, `up_proj` and `down_proj` below `w`, stacked over `experts`.
    pub fn load(w: &Weights, dim: i32, hidden: i32, experts: i32) -> Result<SwitchGlu> {
        let load = |name: &str, input, output| {
            let compute = w.backend().compute;
            plain(w.pp(name).matrix(&[experts, output, input], Some(compute))?, compute)
        };
        Ok(SwitchGlu {
            gate: load("gate_proj", dim, hidden)?,
            up: load("up_proj", dim, hidden)?,
            down: load("down_proj", hidden, dim)?,
            device: w.backend().device,
        })
    }

    /// The outputs of the experts `ids` [B, L, k] for x [B, L, dim], as [B, L, k, dim].
    pub fn forward(&self, x: &Array, ids: &Array) -> Result<Array> {
        let x = x.expand_dims_axes(&[-2, -3])?;
        if ids.size() < SORT_FROM {
            return Ok(self.run(&x, ids, false)?.squeeze_axes(&[-2])?);
        }
        let k = ids.dim(-1);
        let flat = ids.flatten(None, None)?;
        let order = ops::argsort(&flat)?;
        let back = ops::argsort(&order)?;
        let rows = x.flatten(0, -3)?.take_axis(order.floor_divide(Array::from_int(k))?, 0)?;
        let y = self.run(&rows, &flat.take_axis(&order, 0)?, true)?.take_axis(&back, 0)?;
        Ok(ops::unflatten(&y, 0, ids.shape())?.squeeze_axes(&[-2])?)
    }

    fn run(&self, x: &Array, ids: &Array, sorted: bool) -> Result<Array> {
        let (gate, up) = (gather(&self.gate, x, ids, sorted)?, gather(&self.up, x, ids, sorted)?);
        let inner = swiglu(&gate, &up, self.device)?;
        gather(&self.down, &inner, ids, sorted)
    }
}

/// x · w[ids]ᵀ.
fn gather(matrix: &Matrix, x: &Array, ids: &Array, sorted: bool) -> Result<Array> {
    Ok(match matrix {
        Matrix::Dense(w) => ops::gather_mm(x, w.swap_axes(-1, -2)?, None, ids, sorted)?,
        Matrix::Packed(p) => {
            raw::gather_qmm(x, &p.weight, &p.scales, p.biases.as_ref(), ids, p.format(), sorted)?
        }
    })
}

/// A mixture whose router takes the softmax over all experts, then the best `k` (Qwen3-MoE, arXiv 2505.09388).
#[derive(Clone, Debug)]
pub struct Moe {
    gate: Linear,
    experts: SwitchGlu,
    k: i32,
    normalize: bool,
}

/// The sizes of a [`Moe`].
#[derive(Clone, Copy, Debug)]
pub struct MoeConfig {
    /// Width of the model.
    pub dim: i32,
    /// Width of an expert.
    pub moe_intermediate_size: i32,
    /// Experts in all.
    pub num_experts: i32,
    /// Experts that a token goes to.
    pub num_experts_per_tok: i32,
    /// Whether the weights of the chosen experts are made to sum to one.
    pub norm_topk_prob: bool,
}

impl Moe {
    /// Loads the router `gate` and the experts `switch_mlp` below `w`.
    pub fn load(w: &Weights, c: MoeConfig) -> Result<Moe> {
        Ok(Moe {
            gate: Linear::load(&w.pp("gate"), c.dim, c.num_experts, false)?,
            experts: SwitchGlu::load(&w.pp("switch_mlp"), c.dim, c.moe_intermediate_size, c.num_experts)?,
            k: c.num_experts_per_tok,
            normalize: c.norm_topk_prob,
        })
    }

    /// x + mixture(norm(x)), for x [B, L, dim].
    pub fn forward_add(&self, norm: &Norm, x: &Array) -> Result<Array> {
        let h = norm.forward(x)?;
        let scores = ops::softmax_axis(self.gate.forward(&h)?, -1, true)?;
        let ids = ops::argpartition_axis(&scores, -self.k, -1)?.index((.., .., -self.k..));
        let mut weights = scores.take_along_axis(&ids, -1)?;
        if self.normalize {
            weights = weights.divide(weights.sum_axis(-1, true)?)?;
        }
        let y = self.experts.forward(&h, &ids)?;
        let mixed = y.multiply(weights.expand_dims(-1)?)?.sum_axis(-2, false)?;
        Ok(x.add(mixed)?)
    }
}
