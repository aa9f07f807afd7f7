//! AVX-512's own way with 2 and 4 bits.

// Register arrays are indexed side by side.
#![allow(clippy::needless_range_loop)]

use super::{
    affine::{Packed, Prepared},
    gemv::{AHEAD, scales_ahead, warm_up},
};
use crate::simd::{self, Avx512 as S, Simd, prefetch};
use std::{arch::x86_64::*, ops::Range};

/// AVX-512, 2 or 4 bits: as many of the `n` rows from `first` on as one pass takes. Returns their number.
pub(super) unsafe fn lut<const BITS: usize>(
    x: &Prepared,
    first: usize,
    n: usize,
    w: &Packed,
    cols: Range<usize>,
    out: *mut f32,
    stride: usize,
) -> usize {
    unsafe {
        match n {
            8.. => lut_rows::<BITS, 8>(x, first, w, cols, out, stride),
            4..8 => lut_rows::<BITS, 4>(x, first, w, cols, out, stride),
            2..4 => lut_rows::<BITS, 2>(x, first, w, cols, out, stride),
            _ => lut_rows::<BITS, 1>(x, first, w, cols, out, stride),
        }
    }
    [1, 2, 4, 8].into_iter().rfind(|&m| m <= n).unwrap_or(1)
}

/// Sixteen words at a time. `vpermps` looks only at the low four bits of its index, so a shifted word is a valid index into
/// a table of floats as it is: one shift and one permutation turn sixteen nibbles into floats.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni,avx2,fma,f16c")]
unsafe fn lut_rows<const BITS: usize, const M: usize>(
    x: &Prepared,
    first: usize,
    w: &Packed,
    cols: Range<usize>,
    out: *mut f32,
    stride: usize,
) {
    unsafe {
        let per_word = 32 / BITS;
        let mut table = [0f32; 16];
        for (i, t) in table.iter_mut().enumerate() {
            *t = (i & ((1 << BITS) - 1)) as f32;
        }
        let table = _mm512_loadu_ps(table.as_ptr());
        let groups = w.groups();
        let words = w.k / per_word;
        // Lanes of a block that share a group, blocks that share a vector of sixteen scales, groups in a block.
        let lanes = w.group / per_word;
        let blocks = lanes;
        let step = 16 / lanes;
        let lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let start = _mm512_srl_epi32(lane, _mm_cvtsi32_si128(lanes.trailing_zeros() as i32));
        let next = _mm512_set1_epi32(step as i32);
        warm_up(w, cols.start);
        for n in cols {
            scales_ahead(w, n);
            let row = w.packed.add(n * w.row_bytes);
            let mut total = [_mm512_setzero_ps(); M];
            let mut word = 0;
            let mut xs: [*const f32; M] = std::array::from_fn(|m| x.x.as_ptr().add((first + m) * x.x_stride));
            for g0 in (0..groups).step_by(16) {
                let scales = w.load_scales::<S>(w.scales, n, g0);
                let bias = w.load_scales::<S>(w.biases, n, g0);
                for m in 0..M {
                    let sums = x.sums.as_ptr().add((first + m) * x.sum_stride + g0);
                    total[m] = _mm512_fmadd_ps(bias, _mm512_loadu_ps(sums), total[m]);
                }
                let mut pick = start;
                for _ in 0..blocks.min((words - word).div_ceil(16)) {
                    let p = row.add(word * 4);
                    let v = match words - word {
                        16.. => _mm512_loadu_si512(p.cast()),
                        left => _mm512_maskz_loadu_epi32(simd::first(left), p.cast()),
                    };
                    prefetch(p.wrapping_add(AHEAD));
                    let mut acc = [[_mm512_setzero_ps(); 2]; M];
                    for s in 0..per_word {
                        let shifted = _mm512_srl_epi32(v, _mm_cvtsi32_si128((s * BITS) as i32));
                        let q = _mm512_permutexvar_ps(shifted, table);
                        for m in 0..M {
                            // Two chains where there is room for them.
                            let chain = if M == 1 { s % 2 } else { 0 };
                            acc[m][chain] =
                                _mm512_fmadd_ps(q, _mm512_loadu_ps(xs[m].add(16 * s)), acc[m][chain]);
                        }
                    }
                    let scale = _mm512_permutexvar_ps(pick, scales);
                    for m in 0..M {
                        let sum = if M == 1 { _mm512_add_ps(acc[m][0], acc[m][1]) } else { acc[m][0] };
                        total[m] = _mm512_fmadd_ps(sum, scale, total[m]);
                        xs[m] = xs[m].add(16 * per_word);
                    }
                    pick = _mm512_add_epi32(pick, next);
                    word += 16;
                }
            }
            for m in 0..M {
                *out.add((first + m) * stride + n) = _mm512_reduce_add_ps(total[m]);
            }
        }
    }
}

/// Four bits with AVX-512: whole words are transposed, eight values at once, and come apart as in the matrix-vector kernel.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn unpack_nibbles(
    w: &Packed,
    n0: usize,
    k0: usize,
    kc: usize,
    scales: &[f32],
    biases: &[f32],
    out: *mut f32,
) {
    const WIDTH: usize = 16 * S::NV;
    unsafe {
        let table = _mm512_setr_ps(0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.);
        for v in 0..S::NV {
            for k in (0..kc).step_by(128) {
                let words = (kc - k).min(128) / 8;
                let mut block = [S::splat(0.0); 16];
                for (i, b) in block.iter_mut().enumerate() {
                    let n = (n0 + 16 * v + i).min(w.n - 1);
                    let p = w.packed.add(n * w.row_bytes + (k0 + k) / 2);
                    *b = S::load_part(p.cast(), words);
                    prefetch(p.wrapping_add(128));
                }
                S::transpose(&mut block);
                for (j, &b) in block.iter().enumerate().take(words) {
                    let k = k + 8 * j;
                    let at = (k0 + k) / w.group * WIDTH + 16 * v;
                    let scale = S::load(scales.as_ptr().add(at));
                    let bias = S::load(biases.as_ptr().add(at));
                    let word = _mm512_castps_si512(b);
                    let out = out.add(k * WIDTH + 16 * v);
                    macro_rules! nibble {
                        ($($s:literal)*) => {
                            $(let q = _mm512_permutexvar_ps(_mm512_srli_epi32(word, 4 * $s), table);
                            S::store(out.add($s * WIDTH), S::fma(q, scale, bias));)*
                        };
                    }
                    nibble!(0 1 2 3 4 5 6 7);
                }
            }
        }
    }
}
