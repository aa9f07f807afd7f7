//! A part of an array along one axis, one node: mlx-rs's indexing adds nodes of its own.

use super::one;
use mlx_rs::{Array, error::Exception};

/// Entries `from..to` of `a` along `axis`.
pub fn slice(a: &Array, axis: usize, from: i32, to: i32) -> Result<Array, Exception> {
    let shape = a.shape();
    if !shape.get(axis).is_some_and(|&n| 0 <= from && from <= to && to <= n) {
        return Err(Exception::custom(format!("entries {from}..{to} of axis {axis} of {shape:?}")));
    }
    let (mut start, mut stop, strides) = (vec![0; shape.len()], shape.to_vec(), vec![1; shape.len()]);
    (start[axis], stop[axis]) = (from, to);
    let n = shape.len();
    one(|out, stream| {
        // SAFETY: the handle and the arrays of `n` numbers are alive for the call.
        unsafe {
            mlx_sys::mlx_slice(
                out,
                a.as_ptr(),
                start.as_ptr(),
                n,
                stop.as_ptr(),
                n,
                strides.as_ptr(),
                n,
                stream,
            )
        }
    })
}
