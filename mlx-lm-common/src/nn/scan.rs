//! What chunked forms of linear recurrences have in common.

use super::wide::widen;
use crate::{Error, Result};
use mlx_rs::{Array, ops};

/// How much of what entered at position j is left at position i, [.., i, j], zero where j comes after i, for logarithms [.., L] of
/// what each position keeps: exp of their sums over the positions after j up to i. Sums are formed one by one: differences of
/// running sums would lose the small among the large.
pub(super) fn decays(log: &Array) -> Result<Array> {
    let len = log.dim(-1);
    let shape = [log.shape(), &[len]].concat();
    let each = ops::tril(ops::broadcast_to(log.expand_dims(-1)?, &shape)?, -1)?;
    Ok(ops::tril(ops::exp(each.cumsum(-2, None, None)?)?, 0)?)
}

/// `x` [B, L, ..], in float32, with positions of zeros at the end so that there are `len`.
pub(super) fn padded(x: &Array, len: i32) -> Result<Array> {
    let x = widen(x)?;
    if x.dim(1) == len {
        return Ok(x);
    }
    let mut shape = x.shape().to_vec();
    shape[1] = len - x.dim(1);
    Ok(ops::concatenate(&[x, ops::zeros::<f32>(&shape)?], 1)?)
}

/// The parts of `x` between `at` along its axis `axis`; N = at.len() + 1.
pub(super) fn split<const N: usize>(x: &Array, axis: i32, at: &[i32]) -> Result<[Array; N]> {
    exactly(x.split_at_indices(at, axis)?)
}

/// So many arrays and no other number.
pub(super) fn exactly<const N: usize>(arrays: impl Into<Vec<Array>>) -> Result<[Array; N]> {
    <[Array; N]>::try_from(arrays.into())
        .map_err(|a| Error::Unsupported(format!("{} arrays where {N} were meant", a.len())))
}

#[cfg(test)]
pub(super) mod testing {
    #![allow(clippy::unwrap_used)]

    use mlx_rs::{Array, random};

    /// Normally distributed values, the same for the same seed.
    pub(crate) fn random(shape: &[i32], seed: u64) -> Array {
        random::normal::<f32>(shape, None, None, &random::key(seed).unwrap()).unwrap()
    }

    pub(crate) fn floats(x: &Array) -> Vec<f64> {
        x.contiguous().unwrap().to_vec_cast::<f64>().unwrap()
    }

    /// The largest difference, in units of the largest value.
    pub(crate) fn distance(a: &Array, b: &[f64]) -> f64 {
        let a = floats(a);
        assert_eq!(a.len(), b.len());
        let most = b.iter().fold(0.0, |m: f64, b| m.max(b.abs()));
        a.iter().zip(b).fold(0.0, |m: f64, (a, b)| m.max((a - b).abs())) / most
    }
}
