//! A matrix for each head.

use super::{
    experts::constant,
    linear::{plain, with_factor},
    wide::widen,
};
use crate::{
    Result, raw,
    weights::{Matrix, Packed, Weights},
};
use mlx_rs::{Array, ops};

/// A linear layer without bias for each head, which can be applied in both directions.
#[derive(Clone, Debug)]
pub struct MultiLinear {
    matrices: Matrices,
    /// Whether they are stored [H, in, out].
    flipped: bool,
}

#[derive(Clone, Debug)]
enum Matrices {
    /// The weight and the same with its last two axes swapped.
    Dense([Array; 2]),
    Packed(Packed),
}

impl MultiLinear {
    /// Loads `weight` [heads, output, input] of this view, dense or packed.
    pub fn load(w: &Weights, heads: i32, input: i32, output: i32) -> Result<MultiLinear> {
        MultiLinear::new(w, w.matrix(&[heads, output, input], Some(w.backend().compute))?, false)
    }

    /// Loads `weight` [heads · output, input] of this view: the matrices of all heads, one below the other.
    pub fn load_rows(w: &Weights, heads: i32, input: i32, output: i32) -> Result<MultiLinear> {
        MultiLinear::new(w, stacked(w, heads, output, input)?, false)
    }

    /// Loads `weight` [heads · input, output] of this view: the transposed matrices of all heads, one below the other.
    pub fn load_flipped_rows(w: &Weights, heads: i32, input: i32, output: i32) -> Result<MultiLinear> {
        MultiLinear::new(w, stacked(w, heads, input, output)?, true)
    }

    fn new(w: &Weights, matrices: Matrix, flipped: bool) -> Result<MultiLinear> {
        // Views with the axes that a batch of one has: made once, they are no nodes of every step's graph.
        let batch = |a: &Array| constant(a.expand_dims(0)?);
        let compute = w.backend().compute;
        let dense = |weight: Array| -> Result<Matrices> {
            Ok(Matrices::Dense([batch(&weight)?, batch(&weight.swap_axes(-1, -2)?)?]))
        };
        let matrices = match plain(matrices, compute)? {
            Matrix::Dense(weight) => dense(weight)?,
            // Of turned rows only one direction would be a product.
            Matrix::Rotated(r) => dense(constant(r.dense()?.as_dtype(compute)?)?)?,
            Matrix::Packed(p) => Matrices::Packed(Packed {
                weight: batch(&p.weight)?,
                scales: batch(&p.scales)?,
                biases: p.biases.as_ref().map(batch).transpose()?,
                factor: p.factor.as_ref().map(batch).transpose()?,
                ..p
            }),
        };
        Ok(MultiLinear { matrices, flipped })
    }

    /// x [B, H, L, in], or [B, 1, L, in] for all heads, to [B, H, L, out].
    pub fn forward(&self, x: &Array) -> Result<Array> {
        self.product(x, !self.flipped)
    }

    /// x [B, H, L, out], or [B, 1, L, out] for all heads, times the transposed matrices: [B, H, L, in].
    pub fn backward(&self, x: &Array) -> Result<Array> {
        self.product(x, self.flipped)
    }

    fn product(&self, x: &Array, transpose: bool) -> Result<Array> {
        Ok(match &self.matrices {
            Matrices::Dense([weight, swapped]) => ops::matmul(x, if transpose { swapped } else { weight })?,
            Matrices::Packed(p) => {
                let product = |x: &Array| {
                    let biases = p.biases.as_ref();
                    Ok(raw::quantized_matmul(x, &p.weight, &p.scales, biases, transpose, p.format())?)
                };
                // [1, H, 1, 1 or rows]
                match p.factor.as_ref().map(|f| f.expand_dims(-2)).transpose()? {
                    Some(factor) if !transpose => product(&widen(x)?.multiply(factor)?.as_dtype(x.dtype())?)?,
                    factor => with_factor(x, factor.as_ref(), product)?,
                }
            }
        })
    }
}

/// `weight` [heads · rows, columns] of `w` as [heads, rows, columns].
fn stacked(w: &Weights, heads: i32, rows: i32, columns: i32) -> Result<Matrix> {
    let all = heads.checked_mul(rows).ok_or_else(|| {
        crate::Error::config("num_attention_heads", heads, format!("fewer heads of {rows}"))
    })?;
    let stack = |a: &Array| a.reshape(&[heads, rows, -1]);
    Ok(match w.matrix(&[all, columns], Some(w.backend().compute))? {
        Matrix::Dense(weight) => Matrix::Dense(stack(&weight)?),
        Matrix::Rotated(r) => Matrix::Dense(stack(&r.dense()?)?),
        Matrix::Packed(p) => Matrix::Packed(Packed {
            weight: stack(&p.weight)?,
            scales: stack(&p.scales)?,
            biases: p.biases.as_ref().map(stack).transpose()?,
            factor: match &p.factor {
                Some(f) if f.size() > 1 => Some(f.reshape(&[heads, rows])?),
                Some(f) => Some(f.reshape(&[1, 1])?),
                None => None,
            },
            ..p
        }),
    })
}
