//! A few rows times a quantized matrix: weights are read once, in order, and unpacked in registers.

// Register arrays are indexed side by side.
#![allow(clippy::needless_range_loop)]

use super::affine::{Packed, Prepared};
#[cfg(target_arch = "x86_64")]
use super::avx512;
use crate::simd::{self, Isa, Simd, dispatch, prefetch};
use std::ops::Range;

/// How far ahead of the reads the prefetches are, in bytes.
pub(super) const AHEAD: usize = 4096;

/// The order in which the kernel for this matrix wants its rows; see [`Prepared::new`].
pub(crate) fn interleave(bits: usize) -> usize {
    match (simd::isa(), bits) {
        (Isa::Avx512, 2 | 4) => 32 / bits,
        _ => 1,
    }
}

/// Fetches the beginnings of the three streams that the kernels read: hardware notices a stream only after a few misses, and
/// the matrices of a small model are short.
#[inline(always)]
pub(super) fn warm_up(w: &Packed, first: usize) {
    let p = w.packed.wrapping_add(first * w.row_bytes);
    let size = w.scale_type.size();
    let (s, b) = scale_streams(w, first);
    for i in (0..AHEAD).step_by(64) {
        prefetch(p.wrapping_add(i));
    }
    for i in (0..AHEAD / w.row_bytes.max(1) * w.scale_stride * size).step_by(64) {
        prefetch(s.wrapping_add(i));
        prefetch(b.wrapping_add(i));
    }
}

#[inline(always)]
fn scale_streams(w: &Packed, row: usize) -> (*const u8, *const u8) {
    let at = row * w.scale_stride * w.scale_type.size();
    (w.scales.wrapping_add(at), w.biases.wrapping_add(at))
}

/// Fetches the scales of the row that is as far ahead as the weights that are being fetched.
#[inline(always)]
pub(super) fn scales_ahead(w: &Packed, row: usize) {
    let (s, b) = scale_streams(w, row + AHEAD / w.row_bytes.max(1) + 1);
    prefetch(s);
    prefetch(b);
}

/// Writes columns `cols` of x · Wᵀ to `out`, whose rows are `stride` apart.
///
/// # Safety
/// `x` was prepared for this matrix, and `out` has `x.m` rows.
pub(crate) unsafe fn run(x: &Prepared, w: &Packed, cols: Range<usize>, out: *mut f32, stride: usize) {
    let mut first = 0;
    while first < x.m {
        // SAFETY: the caller's promise; `first + n <= x.m`.
        let n = unsafe {
            match (w.bits, x.m - first) {
                #[cfg(target_arch = "x86_64")]
                (4, n) if simd::isa() == Isa::Avx512 => {
                    avx512::lut::<4>(x, first, n, w, cols.clone(), out, stride)
                }
                #[cfg(target_arch = "x86_64")]
                (2, n) if simd::isa() == Isa::Avx512 => {
                    avx512::lut::<2>(x, first, n, w, cols.clone(), out, stride)
                }
                (_, n) => {
                    let n = if n >= 4 { 4 } else { n.min(2) };
                    any(x, first, n, w, cols.clone(), out, stride);
                    n
                }
            }
        };
        first += n;
    }
}

dispatch! {
    unsafe fn any(x: &Prepared, first: usize, n: usize, w: &Packed, cols: Range<usize>, out: *mut f32, stride: usize) = any_rows
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn any_rows<S: Simd>(
    x: &Prepared,
    first: usize,
    n: usize,
    w: &Packed,
    cols: Range<usize>,
    out: *mut f32,
    stride: usize,
) {
    macro_rules! by_bits {
        ($($bits:literal)*) => {
            match w.bits {
                $($bits => match n {
                    4 => any_bits::<S, $bits, 4>(x, first, w, cols, out, stride),
                    2 => any_bits::<S, $bits, 2>(x, first, w, cols, out, stride),
                    _ => any_bits::<S, $bits, 1>(x, first, w, cols, out, stride),
                },)*
                _ => unreachable!("checked by Affine::supported"),
            }
        };
    }
    unsafe { by_bits!(2 3 4 5 6 8) }
}

/// `M` rows from `first` on; any width of value, any instruction set.
#[inline(always)]
unsafe fn any_bits<S: Simd, const BITS: usize, const M: usize>(
    x: &Prepared,
    first: usize,
    w: &Packed,
    cols: Range<usize>,
    out: *mut f32,
    stride: usize,
) {
    unsafe {
        let groups = w.groups();
        let units = w.group / 32;
        warm_up(w, cols.start);
        for n in cols {
            scales_ahead(w, n);
            let mut p = w.packed.add(n * w.row_bytes);
            let mut total = [S::splat(0.0); M];
            let mut xs: [*const f32; M] = std::array::from_fn(|m| x.x.as_ptr().add((first + m) * x.x_stride));
            for g0 in (0..groups).step_by(16) {
                let mut scales = [0f32; 16];
                S::store(scales.as_mut_ptr(), w.load_scales::<S>(w.scales, n, g0));
                let bias = w.load_scales::<S>(w.biases, n, g0);
                for m in 0..M {
                    let sums = x.sums.as_ptr().add((first + m) * x.sum_stride + g0);
                    total[m] = S::fma(bias, S::load(sums), total[m]);
                }
                for &scale in &scales[..(groups - g0).min(16)] {
                    let mut acc = [S::splat(0.0); M];
                    prefetch(p.wrapping_add(AHEAD));
                    for _ in 0..units {
                        let [a, b] = S::unpack32::<BITS>(p);
                        p = p.add(4 * BITS);
                        for m in 0..M {
                            acc[m] = S::fma(a, S::load(xs[m]), acc[m]);
                            acc[m] = S::fma(b, S::load(xs[m].add(16)), acc[m]);
                            xs[m] = xs[m].add(32);
                        }
                    }
                    for m in 0..M {
                        total[m] = S::fma(acc[m], S::splat(scale), total[m]);
                    }
                }
            }
            for m in 0..M {
                *out.add((first + m) * stride + n) = S::sum(total[m]);
            }
        }
    }
}
