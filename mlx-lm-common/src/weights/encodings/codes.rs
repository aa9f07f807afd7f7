//! Small integers in bytes and words, and 8-bit floats.

use crate::{
    Error, Result,
    raw::{Mode, size_of},
    weights::Tensor,
};
use mlx_rs::{Array, Dtype, ops};

/// Every `bits` of the bytes `x`, lowest first: as many arrays like `x` as codes fit into a byte.
pub(super) fn planes(x: &Array, bits: u32) -> Result<Vec<Array>> {
    if bits == 8 {
        return Ok(vec![x.clone()]);
    }
    let plane = |i: u32| Ok(x.floor_divide(byte(1 << (bits * i)))?.remainder(byte(1 << bits))?);
    (0..8 / bits).map(plane).collect()
}

/// The codes of `bits` in words or bytes [.., n], lowest first: bytes [.., codes].
pub(super) fn unpack(x: &Array, bits: u32) -> Result<Array> {
    let per_entry = size_of(x.dtype()) as i32 * 8 / bits as i32;
    // In one row: MLX sees bytes wrongly in matrices of one column that were turned.
    let bytes = x.reshape(&[x.size() as i32])?.view_dtype(Dtype::Uint8)?;
    let codes = ops::stack(&planes(&bytes, bits)?, -1)?;
    Ok(codes.reshape(&with_last(x, x.dim(-1).saturating_mul(per_entry)))?)
}

/// The codes of `bits` in 32-bit words [n, words], lowest first and across words: [n, codes].
pub(super) fn numbers(words: &Array, bits: u32) -> Result<Array> {
    if 8 % bits == 0 {
        return unpack(words, bits);
    }
    // MLX packs like that: 32 codes in as many words as a code has bits.
    let shape = [words.dim(0), words.dim(1) / bits as i32];
    let [ones, zeros] = [1.0, 0.0].map(|n: f32| ops::broadcast_to(Array::from_f32(n), &shape));
    Ok(crate::raw::dequantize(words, &ones?, Some(&zeros?), (32, bits as i32, Mode::Affine))?)
}

/// The tensor `name` of words, or of bytes in rows of whole words, as MLX's words.
pub(super) fn as_words(name: &str, tensor: Tensor) -> Result<Tensor> {
    let Tensor::Plain(mut stored) = tensor else {
        return Err(Error::tensor(name, "must be stored as it is"));
    };
    if size_of(stored.dtype) == 1 {
        match stored.shape.last_mut() {
            Some(bytes) if *bytes % 4 == 0 => *bytes /= 4,
            _ => return Err(Error::tensor(name, "has rows that are no whole number of 32-bit words")),
        }
    }
    stored.dtype = Dtype::Uint32;
    stored.float8 = None;
    Ok(Tensor::Plain(stored))
}

/// Codes of `bits`, one in a byte, [.., n], as words [.., n · bits / 32] in MLX's order.
pub(super) fn pack(codes: &Array, bits: u32) -> Result<Array> {
    let per_byte = 8 / bits;
    let shifts: Vec<u8> = (0..per_byte).map(|i| 1 << (bits * i)).collect();
    let shape = [&with_last(codes, codes.dim(-1) / per_byte as i32)[..], &[per_byte as i32]].concat();
    let placed = codes.reshape(&shape)?.multiply(Array::from_slice(&shifts, &[per_byte as i32]))?;
    Ok(placed.sum_axis(-1, false)?.as_dtype(Dtype::Uint8)?.view_dtype(Dtype::Uint32)?)
}

/// Floats with 4 bits of exponent and 3 of mantissa, in float32: those of a float16 with the same bits are smaller by 2^8.
pub(super) fn e4m3(x: &Array) -> Result<Array> {
    let x = x.as_dtype(Dtype::Uint16)?;
    let magnitude = x.remainder(word(128))?.multiply(word(1 << 7))?;
    let sign = x.floor_divide(word(128))?.multiply(word(1 << 15))?;
    let half = magnitude.add(sign)?.view_dtype(Dtype::Float16)?;
    let values = half.as_dtype(Dtype::Float32)?.multiply(Array::from_f32(256.0))?;
    let nan = x.remainder(word(128))?.eq(word(127))?;
    Ok(ops::select(nan, Array::from_f32(f32::NAN), values)?)
}

/// Floats with 5 bits of exponent and 2 of mantissa, in float32: the upper halves of float16.
pub(super) fn e5m2(x: &Array) -> Result<Array> {
    let half = x.as_dtype(Dtype::Uint16)?.multiply(word(1 << 8))?.view_dtype(Dtype::Float16)?;
    Ok(half.as_dtype(Dtype::Float32)?)
}

/// Powers of two, from their biased exponent.
pub(super) fn e8m0(x: &Array) -> Result<Array> {
    let bits = x.as_dtype(Dtype::Uint32)?.multiply(Array::from_slice(&[1u32 << 23], &[]))?;
    // The smallest is half the smallest normal one.
    let bits = ops::maximum(bits, Array::from_slice(&[1u32 << 22], &[]))?;
    Ok(bits.view_dtype(Dtype::Float32)?)
}

/// Each entry of the last axis `count` times.
pub(super) fn repeat(x: &Array, count: i32) -> Result<Array> {
    if count == 1 {
        return Ok(x.clone());
    }
    let columns = x.dim(-1);
    let wide = ops::broadcast_to(x.expand_dims(-1)?, &[x.shape(), &[count]].concat())?;
    Ok(wide.reshape(&with_last(x, columns.saturating_mul(count)))?)
}

fn with_last(x: &Array, columns: i32) -> Vec<i32> {
    match x.shape() {
        [rows @ .., _] => [rows, &[columns]].concat(),
        [] => vec![columns],
    }
}

fn byte(n: u8) -> Array {
    Array::from_slice(&[n], &[])
}

fn word(n: u16) -> Array {
    Array::from_slice(&[n], &[])
}
