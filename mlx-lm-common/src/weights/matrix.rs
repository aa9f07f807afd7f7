//! Matrices as checkpoints store them.

use super::{Rotated, Turned, stored::is_float};
use crate::{Error, Result, raw::Mode};
use mlx_rs::{Array, Dtype};

/// A matrix [.., out, in], dense or packed.
#[derive(Clone, Debug)]
pub enum Matrix {
    /// Plain floats.
    Dense(Array),
    /// Quantized values.
    Packed(Packed),
    /// Values of turned rows.
    Rotated(Rotated),
}

/// Quantized values in MLX's layout.
#[derive(Clone, Debug)]
pub struct Packed {
    /// uint32 words [.., out, in · bits / 32].
    pub weight: Array,
    /// One for each group [.., out, in / group].
    pub scales: Array,
    /// As `scales`; only in [`Mode::Affine`].
    pub biases: Option<Array>,
    /// Values that share a scale.
    pub group: i32,
    /// Bits a value.
    pub bits: i32,
    /// What codes mean.
    pub mode: Mode,
    /// What all values of a matrix, or of each row, are to be multiplied with besides: float32 [.., 1] or [.., out]. MLX's operations
    /// do not.
    pub factor: Option<Array>,
}

/// How the values of a matrix are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Packing {
    /// Bits a value, as stored.
    pub bits: i32,
    /// Values that share a scale.
    pub group: i32,
    /// What codes mean.
    pub mode: Mode,
}

/// The largest value of codes and scales together in [`Mode::Nvfp4`], 6 · 448. A global scale is the value that it stands for.
pub(crate) const NVFP4_MAX: f32 = 2688.0;

impl Packed {
    /// Finds bits, group and mode from the shapes, which the declared `shape` [.., out, in] makes exact: no configuration can
    /// contradict the tensors, and every mixture of precisions is the same case. `name` is for errors.
    pub fn new(
        name: &str,
        shape: &[i32],
        weight: Array,
        scales: Array,
        biases: Option<Array>,
    ) -> Result<Packed> {
        let bad = |why: String| Err(Error::tensor(name, why));
        let Some((&columns, rows)) = shape.split_last() else { return bad("a packed scalar".into()) };
        for (part, array) in
            [("weight", Some(&weight)), ("scales", Some(&scales)), ("biases", biases.as_ref())]
        {
            let Some(array) = array else { continue };
            if array.ndim() != shape.len() || array.shape()[..rows.len()] != *rows {
                let (found, wanted) = (array.shape().to_vec(), shape.to_vec());
                return Err(Error::Shape { name: format!("{name}.{part}"), found, wanted });
            }
        }
        let (words, groups) = (i64::from(weight.dim(-1)), i64::from(scales.dim(-1)));
        let columns = i64::from(columns);
        if columns == 0 || groups == 0 || columns % groups != 0 || words * 32 % columns != 0 {
            return bad(format!("{words} words and {groups} scales a row do not pack {columns} values"));
        }
        let (group, bits) = ((columns / groups) as i32, (words * 32 / columns) as i32);
        let with = if biases.is_some() { "with" } else { "without" };
        let mode = match (&biases, group, bits) {
            (Some(b), 32 | 64 | 128, 2 | 3 | 4 | 5 | 6 | 8) if b.shape() == scales.shape() => Mode::Affine,
            (None, 32, 4) => Mode::Mxfp4,
            (None, 32, 8) => Mode::Mxfp8,
            (None, 16, 4) => Mode::Nvfp4,
            _ => {
                return bad(format!(
                    "{bits} bits in groups of {group} {with} biases is no known quantization; known are affine (2, 3, 4, 5, \
                     6, 8 bits; groups of 32, 64, 128; biases), mxfp4, mxfp8 and nvfp4"
                ));
            }
        };
        let float = |a: &Array| matches!(a.dtype(), Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float32);
        let typed = match mode {
            Mode::Affine => float(&scales) && biases.as_ref().is_some_and(|b| b.dtype() == scales.dtype()),
            _ => scales.dtype() == Dtype::Uint8,
        };
        if weight.dtype() != Dtype::Uint32 || !typed {
            let (w, s) = (weight.dtype(), scales.dtype());
            return bad(format!(
                "weights of {w:?} with scales of {s:?} {with} biases are no {} quantization",
                mode.name()
            ));
        }
        Ok(Packed { weight, scales, biases, group, bits, mode, factor: None })
    }

    /// The same values under a global scale, as MLX defines it for [`Mode::Nvfp4`]: the magnitude that the largest codes stand for. One
    /// for all of a matrix `shape` [.., out, in], for each matrix of a stack, or for each row.
    ///
    /// # Errors
    /// [`Error::Tensor`] in other modes and for scales that are not finite, [`Error::Shape`] for another number of them.
    pub fn with_global_scale(self, name: &str, shape: &[i32], scale: &Array) -> Result<Packed> {
        let name = || format!("{name}.global_scale");
        if self.mode != Mode::Nvfp4 || !is_float(scale.dtype()) {
            let (found, mode) = (scale.dtype(), self.mode.name());
            return Err(Error::tensor(name(), format!("holds {found:?} for {mode}; nvfp4 has floats there")));
        }
        let rows = &shape[..shape.len().saturating_sub(1)];
        let stack = &rows[..rows.len().saturating_sub(1)];
        let each = [stack, &[1]].concat();
        let found = scale.shape();
        let shape = match scale.size() {
            1 => vec![1; rows.len()],
            _ if found == rows => rows.to_vec(),
            _ if found == stack || found == each || found == [&each[..], &[1]].concat() => each,
            _ => return Err(Error::Shape { name: name(), found: found.to_vec(), wanted: stack.to_vec() }),
        };
        let factor = scale.as_dtype(Dtype::Float32)?.divide(Array::from_f32(NVFP4_MAX))?.reshape(&shape)?;
        super::encodings::all_finite(&name(), &factor)?;
        Ok(Packed { factor: Some(factor), ..self })
    }

    fn arrays(&self) -> ([Option<&Array>; 2], Option<&Array>) {
        ([Some(&self.weight), Some(&self.scales)], self.biases.as_ref())
    }

    /// Group, bits and mode, as MLX's quantized operations take them.
    pub fn format(&self) -> (i32, i32, Mode) {
        (self.group, self.bits, self.mode)
    }

    /// The same values with float scales and biases in `dtype`, for MLX's operations, which would convert them at every call.
    pub fn with_scales_in(mut self, dtype: Dtype) -> Result<Packed> {
        if self.mode == Mode::Affine {
            self.scales = self.scales.as_dtype(dtype)?;
            self.biases = self.biases.map(|b| b.as_dtype(dtype)).transpose()?;
        }
        Ok(self)
    }
}

impl Matrix {
    /// The arrays that make it up.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        let (a, b) = match self {
            Matrix::Dense(w) => ([Some(w), None], None),
            Matrix::Packed(p) => p.arrays(),
            Matrix::Rotated(r) => match &r.values {
                Turned::Codes(c) => ([Some(&c.words), Some(&c.norms)], None),
                Turned::Packed(p) => p.arrays(),
            },
        };
        a.into_iter().chain([b]).flatten()
    }

    /// Bits a value takes, scales and biases included.
    pub fn bits_per_weight(&self) -> f64 {
        let each = |p: &Packed| p.scales.size() as f64 * f64::from(p.group);
        let values = match self {
            Matrix::Dense(w) => w.size() as f64,
            Matrix::Packed(p) => each(p),
            Matrix::Rotated(r) => match &r.values {
                Turned::Codes(c) => c.norms.size() as f64 * f64::from(c.columns),
                Turned::Packed(p) => each(p),
            },
        };
        let bytes: usize = self.arrays().map(Array::nbytes).sum();
        8.0 * bytes as f64 / values
    }
}
