//! Feed-forward blocks.

use super::{Linear, Norm, Projections};
use crate::{At, Result, raw::Device, weights::Weights};
use mlx_lm_kernels as kernels;
use mlx_rs::{Array, error::Exception, ops, transforms::compile::compile};
use std::cell::RefCell;

/// silu(gate) · up with silu(x) = x · sigmoid(x), elementwise (arXiv 2002.05202). One node on a GPU, where MLX's compiler fuses it; on
/// the CPU that compiler would start a C++ compiler at run time.
pub fn swiglu(gate: &Array, up: &Array, device: Device) -> Result<Array> {
    type Fused = Box<dyn for<'a> FnMut((&'a Array, &'a Array)) -> Result<Array, Exception>>;
    thread_local! {
        static FUSED: RefCell<Option<Fused>> = const { RefCell::new(None) };
    }
    let plain = |(gate, up): (&Array, &Array)| gate.multiply(ops::sigmoid(gate)?)?.multiply(up);
    match device {
        Device::Cpu => Ok(plain((gate, up))?),
        Device::Gpu => FUSED.with_borrow_mut(|fused| {
            let fused = fused.get_or_insert_with(|| Box::new(compile(plain, true)));
            Ok(fused((gate, up))?)
        }),
    }
}

/// The gated block SwiGLU (arXiv 2002.05202): down(silu(gate(x)) · up(x)).
#[derive(Clone, Debug)]
pub struct Mlp {
    gate_up: Projections,
    down: Linear,
    device: Device,
}

impl Mlp {
    /// Loads `gate_proj`, `up_proj` and `down_proj` below `w`, with or without biases.
    pub fn load(w: &Weights, dim: i32, hidden: i32, bias: bool) -> Result<Mlp> {
        let gate_up = Projections::load(w, dim, &[("gate_proj", hidden), ("up_proj", hidden)], bias)?;
        Ok(Mlp {
            gate_up,
            down: Linear::load(&w.pp("down_proj"), hidden, dim, bias)?,
            device: w.backend().device,
        })
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
        let inner = swiglu(&parts[0], &parts[1], self.device)?;
        self.down.forward_add(&inner, x).at("down_proj")
    }
}
