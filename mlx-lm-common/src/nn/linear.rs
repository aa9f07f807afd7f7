//! Linear layers over any storage.

use super::wide::widen;
use crate::{
    Backend, Result, raw,
    turboquant::Rotation,
    weights::{Matrix, Weights},
};
use mlx_lm_kernels as kernels;
use mlx_rs::{Array, Dtype, ops};

/// y = x · Wᵀ + b for a weight [out, in], dense or packed.
#[derive(Clone, Debug)]
pub struct Linear {
    matrix: Matrix,
    bias: Option<Array>,
    /// Whether the CPU kernels take it; then it stays as it is stored.
    fused: bool,
}

impl Linear {
    /// Loads `weight` (with `scales` and `biases` if it is packed) of this view, and `bias` if the layer has one.
    pub fn load(w: &Weights, input: i32, output: i32, bias: bool) -> Result<Linear> {
        Linear::load_in(w, input, output, bias, w.backend().compute)
    }

    /// As [`Linear::load`], for inputs in a type of the block's choice: for what must be float32 whatever the rest computes in.
    pub fn load_in(w: &Weights, input: i32, output: i32, bias: bool, dtype: Dtype) -> Result<Linear> {
        let bias = bias.then(|| w.tensor_in("bias", &[output], dtype)).transpose()?;
        Linear::new(w, &[output, input], bias, dtype)
    }

    fn new(w: &Weights, shape: &[i32; 2], bias: Option<Array>, compute: Dtype) -> Result<Linear> {
        let backend = Backend { compute, ..w.backend() };
        let matrix = w.matrix(shape, (!backend.kernels).then_some(backend.compute))?;
        let fused = backend.kernels && kernel(&matrix, None).is_some_and(|l| l.supported());
        let matrix = if fused { matrix } else { plain(matrix, backend.compute)? };
        Ok(Linear { matrix, bias, fused })
    }

    /// [.., in] to [.., out].
    pub fn forward(&self, x: &Array) -> Result<Array> {
        if let Some(linear) = self.kernel() {
            return Ok(kernels::project(x, None, &[linear])?.remove(0));
        }
        let y = match (&self.matrix, &self.bias) {
            (Matrix::Dense(w), Some(b)) => return Ok(ops::addmm(b, x, w.t(), None, None)?),
            (Matrix::Dense(w), None) => return Ok(ops::matmul(x, w.t())?),
            (Matrix::Packed(p), _) => with_factor(x, p.factor.as_ref(), |x| {
                Ok(raw::quantized_matmul(x, &p.weight, &p.scales, p.biases.as_ref(), true, p.format())?)
            })?,
            (Matrix::Rotated(r), _) => return self.forward_turned(x, &r.rotation.forward(x)?),
        };
        self.with_bias(y)
    }

    /// As [`Linear::forward`], for an `x` of which `turned` is what [`Linear::rotation`] makes, if there is one.
    fn forward_turned(&self, x: &Array, turned: &Array) -> Result<Array> {
        match &self.matrix {
            Matrix::Rotated(r) => self.with_bias(r.product(turned)?.as_dtype(x.dtype())?),
            _ => self.forward(x),
        }
    }

    /// What turns the layer's input, which layers of the same input have in common.
    fn rotation(&self) -> Option<&Rotation> {
        rotation(&self.matrix)
    }

    fn with_bias(&self, y: Array) -> Result<Array> {
        Ok(match &self.bias {
            Some(b) => y.add(b)?,
            None => y,
        })
    }

    /// residual + forward(x).
    pub fn forward_add(&self, x: &Array, residual: &Array) -> Result<Array> {
        match self.kernel() {
            Some(linear) => Ok(kernels::linear_add(x, linear, residual)?),
            None => Ok(residual.add(self.forward(x)?)?),
        }
    }

    /// The layer as the CPU kernels take it.
    pub(super) fn kernel(&self) -> Option<kernels::Linear<'_>> {
        self.fused.then(|| kernel(&self.matrix, self.bias.as_ref())).flatten()
    }

    /// How the weight is stored.
    pub fn matrix(&self) -> &Matrix {
        &self.matrix
    }
}

/// A matrix whose rows are looked up by id: [B, L] to [B, L, dim]. Also serves as a tied output layer.
#[derive(Clone, Debug)]
pub struct Embedding {
    linear: Linear,
    compute: Dtype,
}

impl Embedding {
    /// Loads `weight` [count, dim] of this view.
    pub fn load(w: &Weights, count: i32, dim: i32) -> Result<Embedding> {
        let compute = w.backend().compute;
        Ok(Embedding { linear: Linear::new(w, &[count, dim], None, compute)?, compute })
    }

    /// The rows of `ids`, in the compute type.
    pub fn forward(&self, ids: &Array) -> Result<Array> {
        if let Some(linear) = self.linear.kernel() {
            return Ok(kernels::embed(ids, linear, self.compute)?);
        }
        let rows = |a: &Array| a.take_axis(ids, 0);
        let x = match &self.linear.matrix {
            Matrix::Dense(w) => rows(w)?,
            Matrix::Packed(p) => {
                let biases = p.biases.as_ref().map(rows).transpose()?;
                let x = raw::dequantize(&rows(&p.weight)?, &rows(&p.scales)?, biases.as_ref(), p.format())?;
                match &p.factor {
                    Some(factor) if factor.size() > 1 => {
                        widen(&x)?.multiply(rows(factor)?.expand_dims(-1)?)?
                    }
                    Some(factor) => widen(&x)?.multiply(factor)?,
                    None => x,
                }
            }
            Matrix::Rotated(r) => r.rows(ids)?,
        };
        Ok(if x.dtype() == self.compute { x } else { x.as_dtype(self.compute)? })
    }

    /// The same matrix as a linear layer [.., dim] to [.., count].
    pub fn as_linear(&self) -> &Linear {
        &self.linear
    }
}

/// The output layer: of its own, or the embedding's matrix.
#[derive(Clone, Debug)]
pub enum Head {
    /// Shares the embedding's matrix.
    Tied,
    /// `lm_head` of the checkpoint.
    Own(Linear),
}

impl Head {
    /// Loads `lm_head` below `w`, unless it is tied.
    pub fn load(w: &Weights, tied: bool, dim: i32, vocab: i32) -> Result<Head> {
        if tied { Ok(Head::Tied) } else { Linear::load(&w.pp("lm_head"), dim, vocab, false).map(Head::Own) }
    }

    /// [.., dim] to logits [.., vocab].
    pub fn forward(&self, x: &Array, embedding: &Embedding) -> Result<Array> {
        match self {
            Head::Tied => embedding.as_linear().forward(x),
            Head::Own(linear) => linear.forward(x),
        }
    }
}

/// Several linear layers of one input: queries, keys and values, or gate and up.
#[derive(Clone, Debug)]
pub struct Projections {
    linears: Vec<Linear>,
}

impl Projections {
    /// Loads a layer for each name and output size, with or without biases.
    pub fn load(w: &Weights, input: i32, outputs: &[(&str, i32)], bias: bool) -> Result<Projections> {
        let linears = outputs.iter().map(|(name, output)| Linear::load(&w.pp(name), input, *output, bias));
        Ok(Projections { linears: linears.collect::<Result<_>>()? })
    }

    /// These layers, which have the same input.
    pub fn new(linears: Vec<Linear>) -> Projections {
        Projections { linears }
    }

    /// Norm, then every layer: [B, L, in] to [B, L, out] each.
    pub fn forward(&self, norm: Option<&super::Norm>, x: &Array) -> Result<Vec<Array>> {
        let fused: Option<Vec<_>> = self.linears.iter().map(Linear::kernel).collect();
        match (fused, norm.map(super::Norm::kernel)) {
            (Some(linears), None) => return Ok(kernels::project(x, None, &linears)?),
            (Some(linears), Some(Some(norm))) => return Ok(kernels::project(x, Some(norm), &linears)?),
            _ => {}
        }
        let normed = norm.map(|n| n.forward(x)).transpose()?;
        let x = normed.as_ref().unwrap_or(x);
        match self.linears.iter().find_map(Linear::rotation) {
            Some(rotation) => {
                let turned = rotation.forward(x)?;
                self.linears.iter().map(|l| l.forward_turned(x, &turned)).collect()
            }
            None => self.linears.iter().map(|l| l.forward(x)).collect(),
        }
    }

    /// The layers, in the order of loading.
    pub fn linears(&self) -> &[Linear] {
        &self.linears
    }
}

/// product(x) · factor, in x's type. The multiplication is in float32: rounded, the factor would be off by the same for all numbers.
pub(super) fn with_factor(
    x: &Array,
    factor: Option<&Array>,
    product: impl FnOnce(&Array) -> Result<Array>,
) -> Result<Array> {
    let Some(factor) = factor else { return product(x) };
    let y = match x.dtype() {
        // Codes alone are up to 2688 times larger than what they stand for.
        Dtype::Float16 => product(&widen(x)?)?,
        _ => product(x)?,
    };
    Ok(widen(&y)?.multiply(factor)?.as_dtype(x.dtype())?)
}

/// What MLX's own operations want: dense values and scales in the compute type.
pub(super) fn plain(matrix: Matrix, compute: Dtype) -> Result<Matrix> {
    Ok(match matrix {
        Matrix::Dense(w) if w.dtype() != compute => Matrix::Dense(w.as_dtype(compute)?),
        Matrix::Dense(w) => Matrix::Dense(w),
        Matrix::Packed(p) => Matrix::Packed(p.with_scales_in(compute)?),
        Matrix::Rotated(r) => Matrix::Rotated(r),
    })
}

/// What turns the rows that a matrix is multiplied with, if its own are turned.
pub(super) fn rotation(matrix: &Matrix) -> Option<&Rotation> {
    match matrix {
        Matrix::Rotated(r) => Some(&r.rotation),
        _ => None,
    }
}

fn kernel<'a>(matrix: &'a Matrix, bias: Option<&'a Array>) -> Option<kernels::Linear<'a>> {
    let weight = match matrix {
        Matrix::Dense(w) => kernels::Weight::Dense(w),
        Matrix::Packed(p) => kernels::Weight::Affine {
            weight: &p.weight,
            scales: &p.scales,
            biases: p.biases.as_ref()?,
            affine: kernels::Affine { group: p.group, bits: p.bits },
        },
        Matrix::Rotated(_) => return None,
    };
    Some(kernels::Linear { bias, ..weight.into() })
}
