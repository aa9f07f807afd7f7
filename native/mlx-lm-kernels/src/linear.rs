//! Linear layers and norms as callers describe them, and as kernels find them among a primitive's inputs.

use crate::{
    convert::vector,
    graph::Outcome,
    matrix::{Activations, Affine, Matrix, Rows, by_rows},
    norm::rms_norm_rows,
    scratch::{Scratch, Shared},
    view::{DType, View},
};
use mlx_rs::{
    Array, Dtype,
    error::{Exception, Result},
};

/// A matrix W [N, K], of which a linear layer computes x · Wᵀ.
#[derive(Clone, Copy, Debug)]
pub enum Weight<'a> {
    /// MLX's affine quantization: w = scale · q + bias, with a scale and a bias for every group of values along a row.
    Affine {
        /// uint32 [N, K · bits / 32]
        weight: &'a Array,
        /// float32, float16 or bfloat16 [N, K / group]
        scales: &'a Array,
        /// Shape and type of the scales.
        biases: &'a Array,
        /// How it is packed.
        affine: Affine,
    },
    /// float32, float16 or bfloat16 [N, K]
    Dense(&'a Array),
}

/// A linear layer: y = x · Wᵀ, and + bias if there is one.
#[derive(Clone, Copy, Debug)]
pub struct Linear<'a> {
    /// The matrix [N, K].
    pub weight: Weight<'a>,
    /// Floating-point, `[N]`.
    pub bias: Option<&'a Array>,
    /// What x may be rounded to.
    pub activations: Activations,
}

impl<'a> From<Weight<'a>> for Linear<'a> {
    /// Without a bias, and exact.
    fn from(weight: Weight<'a>) -> Linear<'a> {
        Linear { weight, bias: None, activations: Activations::Exact }
    }
}

impl Linear<'_> {
    /// Whether the kernels take this layer: its quantization, its shapes and its types.
    pub fn supported(&self) -> bool {
        self.shape().is_ok()
    }

    /// [N, K], or what the kernels do not take about this layer.
    pub(crate) fn shape(&self) -> Result<[i32; 2]> {
        let [n, k] = match self.weight {
            Weight::Affine { weight, scales, biases, affine } => {
                affine_shape(weight, scales, biases, affine)?
            }
            Weight::Dense(w) => match w.shape() {
                &[n, k] if is_floating(w) => [n, k],
                _ => return Err(unsupported(format!("a dense matrix {:?} of {:?}", w.shape(), w.dtype()))),
            },
        };
        if n == 0 || k == 0 {
            return Err(unsupported(format!("an empty matrix [{n}, {k}]")));
        }
        match self.bias {
            Some(b) if !is_floating(b) || b.shape() != [n] => {
                Err(unsupported(format!("a bias {:?} of {:?} for {n} columns", b.shape(), b.dtype())))
            }
            _ => Ok([n, k]),
        }
    }

    /// The number of columns of x · Wᵀ; an error if `x` does not go with the matrix.
    pub(crate) fn columns(&self, x: &Array) -> Result<i32> {
        let [n, k] = self.shape()?;
        match (is_floating(x), x.shape().last()) {
            (true, Some(&last)) if last == k => Ok(n),
            _ => Err(unsupported(format!("x {:?} of {:?} with a matrix [{n}, {k}]", x.shape(), x.dtype()))),
        }
    }
}

fn affine_shape(weight: &Array, scales: &Array, biases: &Array, q: Affine) -> Result<[i32; 2]> {
    let (&[n, packed], &[rows, groups]) = (weight.shape(), scales.shape()) else {
        return Err(unsupported(format!("weights {:?} with scales {:?}", weight.shape(), scales.shape())));
    };
    if !q.supported() || weight.dtype() != Dtype::Uint32 {
        return Err(unsupported(format!("{q:?} in {:?}", weight.dtype())));
    }
    if !is_floating(scales) || scales.dtype() != biases.dtype() {
        return Err(unsupported(format!("scales are {:?} and biases {:?}", scales.dtype(), biases.dtype())));
    }
    // In 64 bits: the sizes come from files.
    let k = i64::from(groups) * i64::from(q.group);
    let fits = k * i64::from(q.bits) == i64::from(packed) * 32;
    if !fits || rows != n || biases.shape() != scales.shape() || k > i64::from(i32::MAX) {
        return Err(unsupported(format!(
            "weights {:?} with {q:?} do not match scales {:?} and biases {:?}",
            weight.shape(),
            scales.shape(),
            biases.shape()
        )));
    }
    Ok([n, k as i32])
}

/// A root mean square norm along the last axis.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// Floating-point, one factor for each value of the axis.
    pub weight: &'a Array,
    /// Added to the mean of the squares.
    pub eps: f32,
}

impl Norm<'_> {
    /// An error unless the norm is for `size` values.
    pub(crate) fn check(&self, size: i32) -> Result<()> {
        match self.weight.shape() {
            [n] if *n == size && is_floating(self.weight) => Ok(()),
            shape => {
                Err(unsupported(format!("a norm {shape:?} of {:?} for rows of {size}", self.weight.dtype())))
            }
        }
    }
}

pub(crate) fn is_floating(a: &Array) -> bool {
    matches!(a.dtype(), Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16)
}

pub(crate) fn unsupported(what: String) -> Exception {
    Exception::custom(format!("the CPU kernels do not take {what}"))
}

/// Collects a primitive's inputs; what is added is found again by its index.
#[derive(Default)]
pub(crate) struct Inputs<'a>(pub(crate) Vec<&'a Array>);

/// Where a linear layer is among the inputs.
#[derive(Clone, Copy)]
pub(crate) struct LinearAt {
    first: usize,
    affine: Option<Affine>,
    bias: Option<usize>,
    activations: Activations,
}

/// Where a norm is among the inputs.
#[derive(Clone, Copy)]
pub(crate) struct NormAt {
    weight: usize,
    eps: f32,
}

impl<'a> Inputs<'a> {
    fn push(&mut self, a: &'a Array) -> usize {
        self.0.push(a);
        self.0.len() - 1
    }

    pub(crate) fn linear(&mut self, l: Linear<'a>) -> LinearAt {
        let (first, affine) = match l.weight {
            Weight::Affine { weight, scales, biases, affine } => {
                let first = self.push(weight);
                self.0.extend([scales, biases]);
                (first, Some(affine))
            }
            Weight::Dense(w) => (self.push(w), None),
        };
        LinearAt { first, affine, bias: l.bias.map(|b| self.push(b)), activations: l.activations }
    }

    pub(crate) fn norm(&mut self, n: Norm<'a>) -> NormAt {
        NormAt { weight: self.push(n.weight), eps: n.eps }
    }
}

impl LinearAt {
    /// The matrix, once its strides are known to be what kernels take.
    pub(crate) fn matrix(&self, i: &[View]) -> std::result::Result<Matrix, String> {
        let w = &i[self.first];
        match self.affine {
            Some(q) => Matrix::affine(w, &i[self.first + 1], &i[self.first + 2], q, self.activations),
            None => Matrix::dense(w),
        }
    }

    /// Adds the bias to rows of `y`, which are `stride` apart.
    pub(crate) fn add_bias(&self, i: &[View], y: &mut [f32]) -> Outcome {
        if let Some(bias) = self.bias {
            let bias = vector(&i[bias])?;
            by_rows(y, bias.len(), |_, row| row.iter_mut().zip(&*bias).for_each(|(y, b)| *y += b));
        }
        Ok(())
    }
}

impl NormAt {
    /// The weight in float32, and epsilon.
    pub(crate) fn load(&self, i: &[View]) -> std::result::Result<(Scratch, f32), String> {
        Ok((vector(&i[self.weight])?, self.eps))
    }
}

/// Calls `f` with the normalized rows of `x`.
pub(crate) fn with_normed<R>(
    x: &View,
    i: &[View],
    norm: Option<NormAt>,
    f: impl FnOnce(&Rows) -> R,
) -> std::result::Result<R, String> {
    let Some(norm) = norm else { return crate::convert::with_rows(x, f) };
    let (weight, eps) = norm.load(i)?;
    crate::convert::with_rows(x, |x| {
        let mut y = Scratch::new(x.m * x.k);
        rms_norm_rows(x, &weight, eps, Shared(y.as_mut_ptr()));
        f(&Rows::new(&y, x.m, x.k))
    })
}

/// The types that a floating-point result may have.
pub(crate) fn float_type(d: Dtype) -> Result<DType> {
    match d {
        Dtype::Float32 => Ok(DType::F32),
        Dtype::Float16 => Ok(DType::F16),
        Dtype::Bfloat16 => Ok(DType::Bf16),
        other => Err(unsupported(format!("a result of {other:?}"))),
    }
}
