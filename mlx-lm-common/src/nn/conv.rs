//! Short convolutions over the positions of a text.

use crate::{
    Result,
    cache::StateCache,
    raw::{self, Device},
    weights::Weights,
};
use mlx_rs::{Array, ops};

/// A convolution of each channel with the latest few positions: `y[t] = b + Σ w[k] · x[t + k - (width - 1)]`.
#[derive(Clone, Debug)]
pub struct CausalConv {
    width: i32,
    form: Form,
    /// [C]
    bias: Option<Array>,
}

#[derive(Clone, Debug)]
enum Form {
    /// MLX's convolution, with a kernel [C, width, 1].
    Whole(Array),
    /// Products and a sum, with kernels [1, width, C] and [C] for each k: on the CPU many times as fast.
    Parts(Array, Vec<Array>),
}

impl CausalConv {
    /// Loads `weight` `[channels, width, 1]` of this view, and `bias` `[channels]` if the layer has one.
    pub fn load(w: &Weights, channels: i32, width: i32, bias: bool) -> Result<CausalConv> {
        let kernel = w.tensor("weight", &[channels, width, 1])?;
        let backend = w.backend();
        let form = if backend.device == Device::Gpu || backend.compile {
            Form::Whole(kernel)
        } else {
            let rows = kernel.transpose_axes(&[2, 1, 0])?.contiguous()?;
            let parts = (0..width).map(|k| Ok(raw::slice(&rows, 1, k, k + 1)?.reshape(&[channels])?));
            let parts: Vec<Array> = parts.collect::<Result<_>>()?;
            mlx_rs::transforms::eval(parts.iter().chain([&rows]))?;
            Form::Parts(rows, parts)
        };
        let bias = bias.then(|| w.tensor("bias", &[channels])).transpose()?;
        Ok(CausalConv { width, form, bias })
    }

    /// [B, L, C] to [B, L, C]: x follows what a slot of `cache` remembers, which then ends with x. Padding takes no part.
    pub fn forward(&self, x: &Array, cache: &mut StateCache, slot: usize) -> Result<Array> {
        let len = x.dim(1);
        let masked = match cache.mask(len)? {
            Some(mask) => Some(x.multiply(mask.expand_dims(-1)?.as_dtype(x.dtype())?)?),
            None => None,
        };
        let input = cache.conv_input(slot, masked.as_ref().unwrap_or(x), self.width)?;
        let y = match &self.form {
            Form::Whole(kernel) => ops::conv1d(&input, kernel, None, None, None, kernel.dim(0))?,
            Form::Parts(rows, _) if len == 1 => input.multiply(rows)?.sum_axis(1, true)?,
            Form::Parts(_, parts) => {
                let terms =
                    (0..).zip(parts).map(|(k, w)| Ok(raw::slice(&input, 1, k, k + len)?.multiply(w)?));
                let sum = terms.reduce(|sum: Result<Array>, term| Ok(sum?.add(term?)?));
                sum.unwrap_or_else(|| Ok(x.clone()))?
            }
        };
        Ok(match &self.bias {
            Some(bias) => y.add(bias)?,
            None => y,
        })
    }
}
