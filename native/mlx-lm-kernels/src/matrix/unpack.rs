//! Single rows of a matrix in float32: what an embedding looks up.

use super::{Matrix, affine::Packed, by_rows};
use crate::{
    simd::{Bf16, Elem, F16, Simd, dispatch},
    view::DType,
};

/// Writes rows `rows` of the matrix, one after the other. They must be inside it.
pub(crate) fn unpack_rows(w: &Matrix, rows: &[usize], out: &mut [f32]) {
    let [n, k] = w.shape();
    assert!(rows.iter().all(|&r| r < n) && out.len() == rows.len() * k);
    by_rows(out, k, |i, out| {
        // SAFETY: the row is inside the matrix, and `out` has the length of a row.
        unsafe {
            match w {
                Matrix::Affine(w) => affine_row(w, rows[i], out),
                Matrix::Dense(w) => {
                    let at = rows[i] * w.stride;
                    match w.dtype {
                        DType::F32 => row(w.data.cast::<f32>().add(at), out),
                        DType::Bf16 => row(w.data.cast::<Bf16>().add(at), out),
                        _ => row(w.data.cast::<F16>().add(at), out),
                    }
                }
            }
        }
    });
}

unsafe fn row<E: Elem>(p: *const E, out: &mut [f32]) {
    for (i, out) in out.iter_mut().enumerate() {
        // SAFETY: the row is as long as `out`.
        *out = unsafe { *p.add(i) }.to_f32();
    }
}

dispatch! {
    /// SAFETY: row `n` is inside the matrix, and `out` has the length of a row.
    unsafe fn affine_row(w: &Packed, n: usize, out: &mut [f32]) = affine_row_body
}

#[inline(always)]
unsafe fn affine_row_body<S: Simd>(w: &Packed, n: usize, out: &mut [f32]) {
    macro_rules! by_bits {
        ($($bits:literal)*) => {
            match w.bits {
                $($bits => row_of_bits::<S, $bits>(w, n, out),)*
                _ => unreachable!("checked by Affine::supported"),
            }
        };
    }
    // SAFETY: see `affine_row`.
    unsafe { by_bits!(2 3 4 5 6 8) }
}

#[inline(always)]
unsafe fn row_of_bits<S: Simd, const BITS: usize>(w: &Packed, n: usize, out: &mut [f32]) {
    // SAFETY: see `affine_row`; groups are whole units of 32 values.
    unsafe {
        let mut p = w.packed.add(n * w.row_bytes);
        for (g, group) in out.chunks_exact_mut(w.group).enumerate() {
            let mut scale = [0f32; 16];
            let mut bias = [0f32; 16];
            S::store(scale.as_mut_ptr(), w.load_scales::<S>(w.scales, n, g));
            S::store(bias.as_mut_ptr(), w.load_scales::<S>(w.biases, n, g));
            let (scale, bias) = (S::splat(scale[0]), S::splat(bias[0]));
            for unit in group.chunks_exact_mut(32) {
                let [a, b] = S::unpack32::<BITS>(p);
                S::store(unit.as_mut_ptr(), S::fma(a, scale, bias));
                S::store(unit.as_mut_ptr().add(16), S::fma(b, scale, bias));
                p = p.add(4 * BITS);
            }
        }
    }
}
