//! Feed-forward blocks.

use super::{Linear, Norm, Projections};
use crate::{At, Result, weights::Weights};
use mlx_lm_kernels as kernels;
use mlx_rs::{Array, ops};

/// x · sigmoid(x), elementwise (arXiv 1606.08415).
pub fn silu(x: &Array) -> Result<Array> {
    Ok(x.multiply(ops::sigmoid(x)?)?)
}

/// The gated block SwiGLU (arXiv 2002.05202): down(silu(gate(x)) · up(x)).
#[derive(Clone, Debug)]
pub struct Mlp {
    gate_up: Projections,
    down: Linear,
}

impl Mlp {
    /// Loads `gate_proj`, `up_proj` and `down_proj` below `w`, with or without biases.
    pub fn load(w: &Weights, dim: i32, hidden: i32, bias: bool) -> Result<Mlp> {
        let gate_up = Projections::load(w, dim, &[("gate_proj", hidden), ("up_proj", hidden)], bias)?;
        Ok(Mlp { gate_up, down: Linear::load(&w.pp("down_proj"), hidden, dim, bias)? })
    }

    /// x + block(norm(x)), for x [B, L, dim].
    pub fn forward_add(&self, norm: &Norm, x: &Array) -> Result<Array> {
        let [gate, up] = self.gate_up.linears() else {
            return Err(crate::Error::Unsupported("an MLP of two".into()));
        };
        if let (Some(norm), Some(gate), Some(up), Some(down)) =
            (norm.kernel(), gate.kernel(), up.kernel(), self.down.kernel())
        {
            return Ok(kernels::Mlp { norm: Some(norm), gate, up, down }.forward_add(x)?);
        }
        let parts = self.gate_up.forward(Some(norm), x)?;
        let inner = silu(&parts[0])?.multiply(&parts[1])?;
        self.down.forward_add(&inner, x).at("down_proj")
    }
}
