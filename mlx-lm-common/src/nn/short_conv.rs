//! The gated short convolution of LFM2.

use super::{CausalConv, Linear, Norm, Projections};
use crate::{At, Error, Result, cache::LayerCache, weights::Weights};
use mlx_rs::Array;

/// A convolution over a few positions between two gates: out(c · conv(b · x)) with b, c and x projected from the input
/// (arXiv 2511.23404).
#[derive(Clone, Debug)]
pub struct ShortConv {
    /// To b, c and x.
    input: Projections,
    conv: CausalConv,
    output: Linear,
}

impl ShortConv {
    /// Loads `in_proj`, `conv` and `out_proj` below `w`, of the model's width and a kernel of so many positions; with biases or
    /// without.
    pub fn load(w: &Weights, dim: i32, width: i32, bias: bool) -> Result<ShortConv> {
        let inputs =
            dim.checked_mul(3).ok_or_else(|| Error::config("hidden_size", dim, "a third of 2147483647"))?;
        Ok(ShortConv {
            input: Projections::load(w, dim, &[("in_proj", inputs)], bias)?,
            conv: CausalConv::load(&w.pp("conv"), dim, width, bias)?,
            output: Linear::load(&w.pp("out_proj"), dim, dim, bias)?,
        })
    }

    /// x + block(norm(x)), for x [B, L, dim]. Remembers in slot 0.
    pub fn forward_add(&self, norm: &Norm, x: &Array, cache: &mut LayerCache) -> Result<Array> {
        let cache = cache.state_cache()?;
        let projected = self.input.forward(Some(norm), x).at("in_proj")?;
        let parts = projected.first().map(|bcx| bcx.split_equal(3, -1)).transpose()?.unwrap_or_default();
        let [b, c, inner] = &parts[..] else {
            return Err(Error::Unsupported(format!("a short convolution of {} parts", parts.len())));
        };
        let y = self.conv.forward(&b.multiply(inner)?, cache, 0).at("conv")?;
        cache.advance(x.dim(1));
        self.output.forward_add(&c.multiply(y)?, x).at("out_proj")
    }
}
