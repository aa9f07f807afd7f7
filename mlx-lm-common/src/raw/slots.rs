//! Slices of a cache's buffer, one node each: mlx-rs's indexing adds nodes of its own.

use super::one;
use mlx_rs::{Array, error::Exception};

/// Slots `from..to` of a [B, heads, slots, D].
pub fn slots(a: &Array, from: i32, to: i32) -> Result<Array, Exception> {
    let (start, stop, strides) = bounds(a, from, to)?;
    one(|out, stream| {
        // SAFETY: the handle and the arrays of four numbers are alive for the call.
        unsafe {
            mlx_sys::mlx_slice(
                out,
                a.as_ptr(),
                start.as_ptr(),
                4,
                stop.as_ptr(),
                4,
                strides.as_ptr(),
                4,
                stream,
            )
        }
    })
}

/// `a` [B, heads, slots, D] with `update` in slots `from..to`: in place, if nobody else holds `a` when it is evaluated.
pub fn with_slots(a: &Array, update: &Array, from: i32, to: i32) -> Result<Array, Exception> {
    let (start, stop, strides) = bounds(a, from, to)?;
    one(|out, stream| {
        // SAFETY: as above.
        unsafe {
            mlx_sys::mlx_slice_update(
                out,
                a.as_ptr(),
                update.as_ptr(),
                start.as_ptr(),
                4,
                stop.as_ptr(),
                4,
                strides.as_ptr(),
                4,
                stream,
            )
        }
    })
}

type Bounds = ([i32; 4], [i32; 4], [i32; 4]);

fn bounds(a: &Array, from: i32, to: i32) -> Result<Bounds, Exception> {
    match *a.shape() {
        [b, heads, slots, d] if 0 <= from && from <= to && to <= slots => {
            Ok(([0, 0, from, 0], [b, heads, to, d], [1; 4]))
        }
        ref shape => Err(Exception::custom(format!("slots {from}..{to} of a buffer {shape:?}"))),
    }
}
