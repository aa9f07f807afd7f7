//! One task of attention: a tile of queries against blocks of keys.
//!
//! A block's keys are transposed so that lanes are keys, scores of several queries are computed at a time, and softmax is kept
//! running. What splits of the keys leave is joined at the end.

use super::mask::{KEYS, Mask, Seen};
use crate::{
    convert::narrow_to,
    scratch::Scratch,
    simd::{Elem, Simd, dispatch},
    view::View,
};
use std::ops::Range;

const MASKED: f32 = -1e30;

/// Runs `$call` for rows `$r..$r + R` of `$n`, as many at a time as there are registers for.
macro_rules! by_rows {
    ($simd:ident, $n:expr, $r:ident, $c:ident, $call:expr) => {{
        let mut $r = 0;
        while $r < $n {
            $r += match ($n - $r, $simd::NV) {
                (4.., 2..) => {
                    const $c: usize = 4;
                    $call
                    $c
                }
                (2.., _) => {
                    const $c: usize = 2;
                    $call
                    $c
                }
                _ => {
                    const $c: usize = 1;
                    $call
                    $c
                }
            };
        }
    }};
}

/// A task. Rows of `q` and `part` are `width` apart, heads in the cache have `d` values.
pub(super) struct Task {
    pub(super) q: *const f32,
    /// Rows of `q`: `share` heads for each of the tokens from slot `first` on.
    pub(super) n: usize,
    pub(super) share: usize,
    pub(super) first: usize,
    pub(super) d: usize,
    pub(super) width: usize,
    pub(super) scale: f32,
    pub(super) mask: Mask,
    pub(super) seen: Seen,
    /// Those of `seen` that are this task's.
    pub(super) blocks: Range<usize>,
    /// Takes `rows` rows of sums, then the rows' largest scores, then the sums of their weights.
    pub(super) part: *mut f32,
    pub(super) rows: usize,
}

dispatch! {
    /// # Safety
    /// `keys` and `values` are one head's slots, contiguous, as far as the task sees them; its pointers have room for its rows.
    pub(super) unsafe fn attend_block<E: Elem>(task: &Task, keys: *const E, values: *const E) = block_body
}

#[inline(always)]
unsafe fn block_body<S: Simd, E: Elem>(task: &Task, keys: *const E, values: *const E) {
    let &Task { q, n, share, first, d, width, scale, part, rows, .. } = task;
    let mut turned = Scratch::new(width * KEYS);
    let mut scores = Scratch::new(rows * KEYS);
    let (turned, scores) = (turned.as_mut_ptr(), scores.as_mut_ptr());
    // SAFETY: see `attend_block`.
    unsafe {
        let (largest, sums) = (part.add(rows * width), part.add(rows * (width + 1)));
        for r in 0..n {
            *largest.add(r) = 2.0 * MASKED;
            *sums.add(r) = 0.0;
        }
        std::slice::from_raw_parts_mut(part, n * width).fill(0.0);
        for (s0, count) in task.blocks.clone().map(|b| task.seen.block(b)) {
            turn::<S, E>(keys.add(s0 * d), count, d, turned);
            by_rows!(S, n, r, R, {
                score_rows::<S, R>(q.add(r * width), turned, d, width, scale, scores.add(r * KEYS));
            });
            for r in 0..n {
                let row = scores.add(r * KEYS);
                let Some((hidden, end)) = task.mask.hidden(first + r / share, s0, count) else {
                    std::slice::from_raw_parts_mut(row, KEYS).fill(0.0);
                    continue;
                };
                hidden.chain(end..KEYS).for_each(|i| *row.add(i) = MASKED);
                soften::<S>(row, largest.add(r), sums.add(r), part.add(r * width), width);
            }
            let v = values.add(s0 * d);
            by_rows!(S, n, r, R, {
                add_values::<S, E, R>(scores.add(r * KEYS), v, count, d, width, part.add(r * width));
            });
        }
    }
}

/// Keys become columns: `out[i][s]` is value `i` of key `s`; zeros past `count`.
#[inline(always)]
unsafe fn turn<S: Simd, E: Elem>(keys: *const E, count: usize, d: usize, out: *mut f32) {
    // SAFETY: see `attend_block`; `out` has KEYS floats for each value of the padded head.
    unsafe {
        for s in (0..KEYS).step_by(16) {
            for i in (0..d).step_by(16) {
                let mut block = [S::splat(0.0); 16];
                for (j, row) in block.iter_mut().enumerate().take(count.saturating_sub(s)) {
                    let p = keys.add((s + j) * d + i);
                    *row = if d - i >= 16 { E::load::<S>(p) } else { E::load_part::<S>(p, d - i) };
                }
                S::transpose(&mut block);
                for (j, &column) in block.iter().enumerate() {
                    S::store(out.add((i + j) * KEYS + s), column);
                }
            }
        }
    }
}

/// Scores of `R` queries with a block of transposed keys.
#[inline(always)]
unsafe fn score_rows<S: Simd, const R: usize>(
    q: *const f32,
    turned: *const f32,
    d: usize,
    width: usize,
    scale: f32,
    out: *mut f32,
) {
    // SAFETY: see `attend_block`.
    unsafe {
        if S::NV > 1 {
            score_part::<S, R, 4>(q, turned, d, width, scale, out);
        } else {
            score_part::<S, R, 2>(q, turned, d, width, scale, out);
            score_part::<S, R, 2>(q, turned.add(32), d, width, scale, out.add(32));
        }
    }
}

/// The same for `V` vectors of keys.
#[inline(always)]
unsafe fn score_part<S: Simd, const R: usize, const V: usize>(
    q: *const f32,
    turned: *const f32,
    d: usize,
    width: usize,
    scale: f32,
    out: *mut f32,
) {
    // SAFETY: see `attend_block`.
    unsafe {
        let mut acc = [[S::splat(0.0); V]; R];
        for i in 0..d {
            let k: [S::V; V] = std::array::from_fn(|v| S::load(turned.add(i * KEYS + 16 * v)));
            for (r, acc) in acc.iter_mut().enumerate() {
                let x = S::splat(*q.add(r * width + i));
                for v in 0..V {
                    acc[v] = S::fma(x, k[v], acc[v]);
                }
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (v, &a) in acc.iter().enumerate() {
                S::store(out.add(r * KEYS + 16 * v), S::mul(a, S::splat(scale)));
            }
        }
    }
}

/// Turns a row of scores into weights relative to the largest score so far, and brings earlier sums to the same measure.
#[inline(always)]
unsafe fn soften<S: Simd>(row: *mut f32, largest: *mut f32, sum: *mut f32, acc: *mut f32, width: usize) {
    // SAFETY: see `attend_block`.
    unsafe {
        let v: [S::V; 4] = std::array::from_fn(|i| S::load(row.add(16 * i)));
        let max = S::largest(S::max(S::max(v[0], v[1]), S::max(v[2], v[3])));
        if max > *largest {
            if *sum != 0.0 {
                let rescale = (*largest - max).exp();
                *sum *= rescale;
                for i in (0..width).step_by(16) {
                    S::store(acc.add(i), S::mul(S::load(acc.add(i)), S::splat(rescale)));
                }
            }
            *largest = max;
        }
        let shift = S::splat(*largest);
        let mut total = S::splat(0.0);
        for (i, v) in v.into_iter().enumerate() {
            let weight = S::exp(S::sub(v, shift));
            S::store(row.add(16 * i), weight);
            total = S::add(total, weight);
        }
        *sum += S::sum(total);
    }
}

/// Adds the weighted values of a block to the sums of `R` queries, 64 (or 32) values of a head at a time.
#[inline(always)]
unsafe fn add_values<S: Simd, E: Elem, const R: usize>(
    weights: *const f32,
    values: *const E,
    count: usize,
    d: usize,
    width: usize,
    out: *mut f32,
) {
    let mut i = 0;
    while i < d {
        // SAFETY: see `attend_block`.
        unsafe {
            let (v, out) = (values.add(i), out.add(i));
            i += match d - i {
                64.. if S::NV > 1 => add_part::<S, E, R, 4, true>(weights, v, count, d, width, 64, out),
                32.. => add_part::<S, E, R, 2, true>(weights, v, count, d, width, 32, out),
                16.. => add_part::<S, E, R, 1, true>(weights, v, count, d, width, 16, out),
                left => add_part::<S, E, R, 1, false>(weights, v, count, d, width, left, out),
            };
        }
    }
}

/// `V` vectors of every value, or their first `n` lanes unless `WHOLE`. Returns `n`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn add_part<S: Simd, E: Elem, const R: usize, const V: usize, const WHOLE: bool>(
    weights: *const f32,
    values: *const E,
    count: usize,
    d: usize,
    width: usize,
    n: usize,
    out: *mut f32,
) -> usize {
    // SAFETY: see `attend_block`; rows of `out` are padded to whole vectors.
    unsafe {
        let mut acc: [[S::V; V]; R] =
            std::array::from_fn(|r| std::array::from_fn(|v| S::load(out.add(r * width + 16 * v))));
        for s in 0..count {
            let p = values.add(s * d);
            let row: [S::V; V] = std::array::from_fn(|v| match WHOLE {
                true => E::load::<S>(p.add(16 * v)),
                false => E::load_part::<S>(p, n),
            });
            for (r, acc) in acc.iter_mut().enumerate() {
                let w = S::splat(*weights.add(r * KEYS + s));
                for v in 0..V {
                    acc[v] = S::fma(w, row[v], acc[v]);
                }
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (v, &a) in acc.iter().enumerate() {
                S::store(out.add(r * width + 16 * v), a);
            }
        }
    }
    n
}

/// Joins the splits' sums for row `r` of a tile, in the first split's place, and writes the result: zeros if the row saw
/// nothing.
///
/// # Safety
/// `parts` are `splits` parts of `size` floats, each of `rows` rows; `d` elements of `out` from `at` on are this row's.
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn join(
    parts: *mut f32,
    splits: usize,
    size: usize,
    rows: usize,
    r: usize,
    width: usize,
    d: usize,
    out: &View,
    at: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let largest = |s: usize| *parts.add(s * size + rows * width + r);
        let sum = |s: usize| *parts.add(s * size + rows * (width + 1) + r);
        let max = (0..splits).map(largest).fold(f32::NEG_INFINITY, f32::max);
        let factor = |s: usize| match sum(s) {
            0.0 => 0.0,
            _ if largest(s) == max => 1.0,
            _ => (largest(s) - max).exp(),
        };
        let total: f32 = (0..splits).map(|s| factor(s) * sum(s)).sum();
        // Sums of a row that saw nothing are zeros.
        let norm = if total == 0.0 { 1.0 } else { total };
        let row = |s: usize| std::slice::from_raw_parts_mut(parts.add(s * size + r * width), d);
        let joined = row(0);
        let scale = factor(0) / norm;
        joined.iter_mut().for_each(|x| *x *= scale);
        for s in 1..splits {
            let scale = factor(s) / norm;
            joined.iter_mut().zip(row(s)).for_each(|(x, y)| *x += scale * *y);
        }
        narrow_to(joined.as_ptr(), d, out, at);
    }
}
