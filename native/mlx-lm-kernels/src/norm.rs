//! Root mean square norms.

use crate::{
    convert::{Floats, with_rows},
    graph::{self, Output},
    linear::{Inputs, Norm, float_type},
    matrix::Rows,
    pool::Pool,
    scratch::Shared,
    simd::{Simd, dispatch},
};
use mlx_rs::{Array, error::Result};

/// x / √(mean(x²) + ε) · weight along the last axis, computed in float32, in x's type.
///
/// Errors: an x that is not floating-point, or a weight of another length.
pub fn rms_norm(x: &Array, norm: Norm) -> Result<Array> {
    norm.check(x.shape().last().copied().unwrap_or(0))?;
    float_type(x.dtype())?;
    let mut inputs = Inputs(vec![x]);
    let at = inputs.norm(norm);
    let out = Output::new(x.shape(), x.dtype());
    let [y] = graph::apply_to("RustRmsNorm", &inputs.0, [out], move |i, o| {
        let (weight, eps) = at.load(i)?;
        let mut y = Floats::new(&o[0]);
        with_rows(&i[0], |x| rms_norm_rows(x, &weight, eps, Shared(y.values().as_mut_ptr())))?;
        y.finish();
        Ok(())
    })?;
    Ok(y)
}

/// Normalizes rows into `out`, where they are contiguous and have room.
pub(crate) fn rms_norm_rows(x: &Rows, weight: &[f32], eps: f32, out: Shared<f32>) {
    assert!(weight.len() == x.k);
    Pool::global().ranges(x.m, (1 << 14) / x.k.max(1) + 1, |rows| {
        for r in rows {
            // SAFETY: row `r` of both, and a weight for each value.
            unsafe { rms_norm_row(x.data.add(r * x.stride), weight.as_ptr(), x.k, eps, out.at(r * x.k)) }
        }
    });
}

dispatch! {
    /// One row; `out` may be `x`. SAFETY: `k` values of all three.
    pub(crate) unsafe fn rms_norm_row(x: *const f32, weight: *const f32, k: usize, eps: f32, out: *mut f32) = row_body
}

#[inline(always)]
unsafe fn row_body<S: Simd>(x: *const f32, weight: *const f32, k: usize, eps: f32, out: *mut f32) {
    // SAFETY: see `rms_norm_row`.
    unsafe {
        let mut squares = [S::splat(0.0); 2];
        for (n, i) in (0..k).step_by(16).enumerate() {
            let v = S::load_part(x.add(i), k - i);
            squares[n % 2] = S::fma(v, v, squares[n % 2]);
        }
        let mean = S::sum(S::add(squares[0], squares[1])) / k as f32;
        let scale = S::splat(1.0 / (mean + eps).sqrt());
        for i in (0..k).step_by(16) {
            let v = S::mul(S::load_part(x.add(i), k - i), scale);
            S::store_part(out.add(i), S::mul(v, S::load_part(weight.add(i), k - i)), k - i);
        }
    }
}
