//! Activations, plain and gated. All are elementwise.

use super::fused::{fused, fused_with, scalar};
use crate::{Error, Result};
use mlx_rs::{Array, error::Exception, ops};
use std::f32::consts::{FRAC_1_SQRT_2, PI};

/// A function of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x · σ(x), also called swish (arXiv 1702.03118).
    Silu,
    /// x · Φ(x) with the normal distribution Φ (arXiv 1606.08415).
    Gelu,
    /// Its approximation x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³))).
    GeluTanh,
    /// max(x, 0).
    Relu,
    /// max(x, 0)² (arXiv 2109.08668).
    Relu2,
}

impl Activation {
    /// The activation that published configurations call `name`; `key` is where it says so.
    ///
    /// # Errors
    /// [`Error::Config`] for another name.
    pub fn from_config(key: &str, name: &str) -> Result<Activation> {
        Ok(match name {
            "silu" | "swish" => Activation::Silu,
            "gelu" => Activation::Gelu,
            "gelu_pytorch_tanh" | "gelu_new" | "gelu_fast" => Activation::GeluTanh,
            "relu" => Activation::Relu,
            "relu2" => Activation::Relu2,
            _ => {
                let wanted = "silu, swish, gelu, gelu_pytorch_tanh, gelu_new, gelu_fast, relu or relu2";
                return Err(Error::config(key, name, wanted));
            }
        })
    }

    /// Applies it to every value; `compile` as in [`fused`].
    pub fn forward(self, x: &Array, compile: bool) -> Result<Array> {
        let chain = match self {
            Activation::Silu => |[x]: [&Array; 1]| silu(x).map(|y| [y]),
            Activation::Gelu => |[x]: [&Array; 1]| gelu(x).map(|y| [y]),
            Activation::GeluTanh => |[x]: [&Array; 1]| gelu_tanh(x).map(|y| [y]),
            Activation::Relu => |[x]: [&Array; 1]| relu(x).map(|y| [y]),
            Activation::Relu2 => |[x]: [&Array; 1]| relu2(x).map(|y| [y]),
        };
        fused(compile, chain, [x]).map(|[y]| y)
    }
}

/// How a gate acts on what it gates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Glu {
    /// act(gate) · up (arXiv 2002.05202).
    Act(Activation),
    /// g · σ(alpha · g) · (u + 1) with g = min(gate, limit) and u = up within ±limit (GPT-OSS, arXiv 2508.10925).
    Clamped {
        /// Steepness of the sigmoid.
        alpha: f32,
        /// The largest value on either side.
        limit: f32,
    },
}

impl Glu {
    /// SwiGLU: silu(gate) · up.
    pub const SILU: Glu = Glu::Act(Activation::Silu);

    /// The gated values, for two arrays of one shape; `compile` as in [`fused`].
    pub fn forward(self, gate: &Array, up: &Array, compile: bool) -> Result<Array> {
        let act = match self {
            Glu::Act(act) => act,
            Glu::Clamped { alpha, limit } => {
                return fused_with(compile, clamped, [gate, up], [alpha, limit]).map(|[y]| y);
            }
        };
        let chain = match act {
            Activation::Silu => |[g, u]: [&Array; 2]| Ok([silu(g)?.multiply(u)?]),
            Activation::Gelu => |[g, u]: [&Array; 2]| Ok([gelu(g)?.multiply(u)?]),
            Activation::GeluTanh => |[g, u]: [&Array; 2]| Ok([gelu_tanh(g)?.multiply(u)?]),
            Activation::Relu => |[g, u]: [&Array; 2]| Ok([relu(g)?.multiply(u)?]),
            Activation::Relu2 => |[g, u]: [&Array; 2]| Ok([relu2(g)?.multiply(u)?]),
        };
        fused(compile, chain, [gate, up]).map(|[y]| y)
    }
}

impl From<Activation> for Glu {
    fn from(act: Activation) -> Glu {
        Glu::Act(act)
    }
}

pub(super) fn silu(x: &Array) -> Result<Array, Exception> {
    x.multiply(ops::sigmoid(x)?)
}

fn gelu(x: &Array) -> Result<Array, Exception> {
    let erf = ops::erf(x.multiply(scalar(FRAC_1_SQRT_2, x)?)?)?;
    x.multiply(erf.add(scalar(1.0, x)?)?)?.multiply(scalar(0.5, x)?)
}

fn gelu_tanh(x: &Array) -> Result<Array, Exception> {
    let cubic = x.square()?.multiply(x)?.multiply(scalar(0.044_715, x)?)?;
    let tanh = ops::tanh(x.add(cubic)?.multiply(scalar((2.0 / PI).sqrt(), x)?)?)?;
    x.multiply(scalar(0.5, x)?)?.multiply(tanh.add(scalar(1.0, x)?)?)
}

fn relu(x: &Array) -> Result<Array, Exception> {
    ops::maximum(x, scalar(0.0, x)?)
}

fn relu2(x: &Array) -> Result<Array, Exception> {
    relu(x)?.square()
}

fn clamped([gate, up]: [&Array; 2], [alpha, limit]: [f32; 2]) -> Result<[Array; 1], Exception> {
    let gate = ops::minimum(gate, scalar(limit, gate)?)?;
    let up = ops::minimum(ops::maximum(up, scalar(-limit, up)?)?, scalar(limit, up)?)?;
    let sigmoid = ops::sigmoid(gate.multiply(scalar(alpha, &gate)?)?)?;
    Ok([up.add(scalar(1.0, &up)?)?.multiply(gate.multiply(sigmoid)?)?])
}
