//! Normalization over the last axis.

use crate::{Backend, Result, weights::Weights};
use mlx_lm_kernels as kernels;
use mlx_rs::{Array, Dtype, error::Exception, fast, ops};

/// A normalization and its weights.
#[derive(Clone, Debug)]
pub enum Norm {
    /// x / rms(x) · weight (arXiv 1910.07467), computed in float32.
    Rms {
        /// `[D]`
        weight: Array,
        /// Added to the mean square.
        eps: f32,
        /// Whether the CPU kernels may compute it.
        fused: bool,
    },
    /// (x - mean) / deviation · weight + bias (arXiv 1607.06450).
    Layer {
        /// `[D]`, or `[heads, 1, D]` for heads that have one each; all ones if absent.
        weight: Option<Array>,
        /// `[D]`
        bias: Option<Array>,
        /// Added to the variance.
        eps: f32,
    },
}

impl Norm {
    /// Loads `weight` `[dim]` of this view as an RMS norm.
    pub fn rms(w: &Weights, dim: i32, eps: f32) -> Result<Norm> {
        Ok(Norm::Rms { weight: w.tensor("weight", &[dim])?, eps, fused: w.backend().kernels })
    }

    /// As [`Norm::rms`], for a checkpoint that stores the weight less one (Gemma, arXiv 2403.08295). The one is added in float32.
    pub fn rms_plus_one(w: &Weights, dim: i32, eps: f32) -> Result<Norm> {
        Norm::rms_folded(w, "weight", dim, eps, |weight| weight.add(Array::from_f32(1.0)))
    }

    /// An RMS norm whose weight is `fold` of the tensor `name` `[dim]` of this view: computed once, in float32.
    pub fn rms_folded(
        w: &Weights,
        name: &str,
        dim: i32,
        eps: f32,
        fold: impl FnOnce(Array) -> Result<Array, Exception>,
    ) -> Result<Norm> {
        let weight = fold(w.tensor_in(name, &[dim], Dtype::Float32)?)?.as_dtype(w.backend().compute)?;
        weight.eval()?;
        Ok(Norm::Rms { weight, eps, fused: w.backend().kernels })
    }

    /// An RMS norm without a weight, over `[dim]`.
    pub fn rms_unit(backend: Backend, dim: i32, eps: f32) -> Result<Norm> {
        let weight = ops::ones_dtype(&[dim], backend.compute)?;
        weight.eval()?;
        Ok(Norm::Rms { weight, eps, fused: backend.kernels })
    }

    /// Loads `weight` `[dim]` of this view, and `bias` if the norm has one, as a layer norm.
    pub fn layer(w: &Weights, dim: i32, eps: f32, bias: bool) -> Result<Norm> {
        let bias = bias.then(|| w.tensor("bias", &[dim])).transpose()?;
        Ok(Norm::Layer { weight: Some(w.tensor("weight", &[dim])?), bias, eps })
    }

    /// As [`Norm::layer`] without a bias, for heads with a weight each: `weight` `[heads, dim]`.
    pub fn layer_by_head(w: &Weights, heads: i32, dim: i32, eps: f32) -> Result<Norm> {
        let weight = w.tensor("weight", &[heads, dim])?.expand_dims(1)?;
        weight.eval()?;
        Ok(Norm::Layer { weight: Some(weight), bias: None, eps })
    }

    /// [.., D] to [.., D]; heads that have a weight each, [B, L, heads, D] or [B, heads, 1, D].
    pub fn forward(&self, x: &Array) -> Result<Array> {
        Ok(match self {
            Norm::Rms { weight, eps, fused: true } => {
                kernels::rms_norm(x, kernels::Norm { weight, eps: *eps })?
            }
            Norm::Rms { weight, eps, .. } => fast::rms_norm(x, Some(weight), *eps)?,
            Norm::Layer { weight: Some(weight), eps, .. } if weight.ndim() > 1 => {
                let x = fast::layer_norm(x, None, None, *eps)?;
                if x.dim(-2) == 1 { x.multiply(weight)? } else { x.multiply(weight.squeeze_axes(&[1])?)? }
            }
            Norm::Layer { weight, bias, eps } => fast::layer_norm(x, weight.as_ref(), bias.as_ref(), *eps)?,
        })
    }

    /// The norm as the CPU kernels take it, if they do.
    pub(crate) fn kernel(&self) -> Option<kernels::Norm<'_>> {
        match self {
            Norm::Rms { weight, eps, fused: true } => Some(kernels::Norm { weight, eps: *eps }),
            _ => None,
        }
    }
}
