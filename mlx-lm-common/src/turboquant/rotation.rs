//! The rotation that spreads a vector's coordinates evenly.

use super::signs;
use crate::Result;
use mlx_rs::{Array, Dtype, ops};

/// The widest transform that MLX has for float32.
const WIDEST: i32 = 8192;

/// A randomized Hadamard transform (QuIP#, arXiv 2402.04396): every coordinate gets a sign, then blocks of 2^k of them, the largest
/// first, go through an orthonormal Walsh-Hadamard transform. 192 coordinates are a block of 128 and one of 64.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// [dim], float32
    signs: Array,
}

impl Rotation {
    /// The rotation of `dim` coordinates by the signs of `seed`.
    pub fn new(dim: i32, seed: u64) -> Rotation {
        let signs = signs(seed, usize::try_from(dim).unwrap_or(0));
        Rotation { signs: Array::from_slice(&signs, &[dim.max(0)]) }
    }

    /// How many coordinates it turns.
    pub fn dim(&self) -> i32 {
        self.signs.dim(0)
    }

    /// x [.., dim], turned, in float32.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        hadamard(&x.as_dtype(Dtype::Float32)?.multiply(&self.signs)?)
    }

    /// What [`Rotation::forward`] turns into y [.., dim], in float32.
    pub fn inverse(&self, y: &Array) -> Result<Array> {
        Ok(hadamard(&y.as_dtype(Dtype::Float32)?)?.multiply(&self.signs)?)
    }
}

/// Every block through its own transform, each of which is its own inverse.
fn hadamard(x: &Array) -> Result<Array> {
    let dim = x.dim(-1);
    let sizes: Vec<i32> = (0..31).rev().map(|bit| dim & 1 << bit).filter(|size| *size > 0).collect();
    let ends: Vec<i32> = sizes
        .iter()
        .scan(0, |end, size| {
            Some({
                *end += size;
                *end
            })
        })
        .collect();
    match &ends[..] {
        [] | [_] => block(x),
        [inner @ .., _] => {
            let blocks = x.split_at_indices(inner, -1)?;
            let blocks = blocks.iter().map(block).collect::<Result<Vec<_>>>()?;
            Ok(ops::concatenate(&blocks, -1)?)
        }
    }
}

/// 2^k coordinates; more than MLX takes at a time as the rows and columns of a square, of whose transforms theirs is the product.
fn block(x: &Array) -> Result<Array> {
    let dim = x.dim(-1);
    if dim <= 1 {
        return Ok(x.clone());
    }
    if dim <= WIDEST {
        return Ok(x.hadamard_transform(None)?);
    }
    let shape = x.shape().to_vec();
    let outer = [&shape[..shape.len() - 1], &[dim / WIDEST, WIDEST]].concat();
    let columns = x.reshape(&outer)?.hadamard_transform(None)?.swap_axes(-1, -2)?;
    Ok(columns.hadamard_transform(None)?.swap_axes(-1, -2)?.reshape(&shape)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Row i, column j of a Walsh-Hadamard matrix: the parity of the bits that i and j share.
    fn expected(x: &[f32], signs: &[f32]) -> Vec<f32> {
        let (mut y, mut start) = (Vec::new(), 0);
        for size in (0..31).rev().map(|bit| x.len() & 1 << bit).filter(|size| *size > 0) {
            for i in 0..size {
                let sum: f64 = (0..size)
                    .map(|j| {
                        let sign = if (i & j).count_ones() % 2 == 0 { 1.0 } else { -1.0 };
                        sign * f64::from(x[start + j] * signs[start + j])
                    })
                    .sum();
                y.push((sum / (size as f64).sqrt()) as f32);
            }
            start += size;
        }
        y
    }

    #[test]
    fn blocks_are_turned_one_by_one_and_back() {
        crate::raw::init();
        crate::raw::set_default_device(crate::raw::Device::Cpu);
        // A block of its own, three blocks, a single coordinate, and one that is wider than MLX's own transform.
        for dim in [64, 192 + 4, 1, 16384 + 1] {
            let x: Vec<f32> = (0..dim).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
            let rotation = Rotation::new(dim, 42);
            let array = Array::from_slice(&[&x[..], &x].concat(), &[2, dim]);
            let turned = rotation.forward(&array).unwrap();
            let wanted = expected(&x, &super::signs(42, dim as usize));
            let found = turned.as_slice::<f32>();
            let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 2e-6);
            assert!(
                close(&found[..dim as usize], &wanted) && close(&found[dim as usize..], &wanted),
                "{dim}"
            );
            let back = rotation.inverse(&turned).unwrap();
            assert!(close(&back.as_slice::<f32>()[dim as usize..], &x), "{dim}");
        }
    }
}
