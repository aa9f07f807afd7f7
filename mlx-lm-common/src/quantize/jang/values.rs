//! Values as a bundle has them: rounded to float16 first, whatever is made of them.

use super::fold::Fold;
use crate::{Error, Result};
use mlx_rs::{Array, Dtype, memory, ops};

/// How many values are in memory at once in float32, beside the tensor that they are of.
const AT_ONCE: usize = 64 << 20;

/// The greatest value that rounds to a float16, and not to infinity.
const FLOAT16_MAX: f32 = 65_519.996;

/// The parts of a quantized matrix: codes, scales and biases.
pub(super) type Parts = [Array; 3];

/// Quantizes `values` [.., out, in] as they are in float16, some rows at a time.
///
/// # Errors
/// [`Error::Tensor`] for values that float16 does not have.
pub(super) fn quantized(
    name: &str,
    values: &Array,
    fold: Option<Fold>,
    (bits, group): (u8, i32),
) -> Result<Parts> {
    let mut all = [const { Vec::new() }; 3];
    let shape = values.shape().to_vec();
    let Some((columns, outer)) = shape.split_last() else {
        return Err(Error::tensor(name, "is a single number, which cannot be quantized"));
    };
    let rows = values.reshape(&[-1, *columns])?;
    let each = (AT_ONCE / (*columns).max(1) as usize).max(1) as i32;
    for first in (0..rows.dim(0)).step_by(each as usize) {
        let some = rows_of(&rows, first, each.min(rows.dim(0) - first))?;
        let halves = float16(name, &some, fold.as_ref(), first as usize)?;
        let (codes, scales, biases) = ops::quantize(&halves, group, i32::from(bits))?;
        for (all, part) in all.iter_mut().zip([codes, scales, biases]) {
            part.eval()?;
            all.push(part);
        }
        memory::clear_cache()?;
    }
    let whole = |parts: Vec<Array>| -> Result<Array> {
        let joined = match &parts[..] {
            [one] => one.clone(),
            several => ops::concatenate(several, 0)?,
        };
        let whole = joined.reshape(&[outer, &[joined.dim(-1)]].concat())?;
        whole.eval()?;
        Ok(whole)
    };
    let [codes, scales, biases] = all;
    Ok([whole(codes)?, whole(scales)?, whole(biases)?])
}

/// `values` as they stay unquantized, in float16 or, with `is_exact`, in float32. What are no floats is left as it is.
///
/// # Errors
/// [`Error::Tensor`] for values that float16 does not have.
pub(super) fn plain(
    name: &str,
    values: &Array,
    fold: Option<Fold>,
    axes: Option<&[i32]>,
    is_exact: bool,
) -> Result<Array> {
    let is_float = matches!(values.dtype(), Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float32);
    let kept = match is_float && !is_exact {
        true => float16(name, values, fold.as_ref(), 0)?,
        false => values.clone(),
    };
    let ordered = match axes {
        Some(axes) => kept.transpose_axes(axes)?.contiguous()?,
        None => kept,
    };
    ordered.eval()?;
    Ok(ordered)
}

/// `count` rows from `first` on.
fn rows_of(rows: &Array, first: i32, count: i32) -> Result<Array> {
    if count == rows.dim(0) {
        return Ok(rows.clone());
    }
    Ok(crate::raw::slice(rows, 0, first, count)?)
}

/// `values` in float16, after what is to be done to them in float32. They begin with row `first` of their tensor.
fn float16(name: &str, values: &Array, fold: Option<&Fold>, first: usize) -> Result<Array> {
    if fold.is_none() && values.dtype() == Dtype::Float16 {
        return Ok(values.clone());
    }
    let floats = values.as_dtype(Dtype::Float32)?.contiguous()?;
    floats.eval()?;
    let floats = match fold {
        None => floats,
        Some(fold) => {
            let shape = floats.shape().to_vec();
            let columns = shape.last().map_or(1, |n| *n as usize);
            let flat = floats.reshape(&[-1])?;
            flat.eval()?;
            let slice = flat.try_as_slice::<f32>().map_err(|e| Error::Unsupported(e.to_string()))?;
            let mut changed = slice.to_vec();
            fold.apply(&mut changed, columns, first);
            Array::from_slice(&changed, &shape)
        }
    };
    if floats.size() > 0 {
        let largest = floats.abs()?.max(None)?;
        let largest = largest.item_exact::<f32>();
        // The maximum of values that are no numbers is none either.
        if largest.is_nan() || largest > FLOAT16_MAX {
            return Err(Error::tensor(
                name,
                format!("has the value {largest}, and JANG bundles hold float16"),
            ));
        }
    }
    let halves = floats.as_dtype(Dtype::Float16)?;
    halves.eval()?;
    Ok(halves)
}
