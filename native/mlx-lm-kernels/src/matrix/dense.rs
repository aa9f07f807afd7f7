//! Matrices of floats in any of the three types: rows are read once, in order, and widened in registers.

use super::Rows;
use crate::{
    scratch::Scratch,
    simd::{Bf16, Elem, F16, Simd, dispatch, prefetch},
    tiles::{KC, Tiles},
    view::{DType, View},
};
use std::ops::Range;

/// How far ahead of the reads the prefetches are, in bytes.
const AHEAD: usize = 4096;

/// N rows of K values: y = x · Wᵀ.
#[derive(Clone, Copy)]
pub(crate) struct Dense {
    pub(super) data: *const u8,
    pub(super) dtype: DType,
    /// Elements from one row to the next.
    pub(super) stride: usize,
    pub(super) n: usize,
    pub(super) k: usize,
}

// SAFETY: read-only memory that MLX keeps alive while the kernel runs.
unsafe impl Send for Dense {}
// SAFETY: as above.
unsafe impl Sync for Dense {}

impl Dense {
    /// Shape and type are those that `Linear::shape` saw; strides are checked here.
    pub(super) fn new(w: &View) -> Result<Dense, String> {
        if !w.is_dense(1) || w.stride(0) < 0 {
            return Err(format!("rows of a dense matrix must be contiguous, strides are {:?}", w.strides));
        }
        let [n, k] = [w.dim(0), w.dim(1)];
        Ok(Dense { data: w.ptr(), dtype: w.dtype, stride: w.stride(0) as usize, n, k })
    }

    fn rows<E>(&self) -> Strided<E> {
        Strided { data: self.data.cast(), row: 1, column: self.stride }
    }
}

/// A matrix B [k, n] with any strides, in elements: the right operand of a product.
pub(crate) struct Strided<E> {
    pub(crate) data: *const E,
    pub(crate) row: usize,
    pub(crate) column: usize,
}

impl<E> Clone for Strided<E> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<E> Copy for Strided<E> {}

// SAFETY: read-only during a call.
unsafe impl<E> Send for Strided<E> {}
// SAFETY: as above.
unsafe impl<E> Sync for Strided<E> {}

impl<E> Strided<E> {
    pub(crate) fn at(&self, i: usize, j: usize) -> *const E {
        self.data.wrapping_add(i * self.row + j * self.column)
    }
}

macro_rules! by_type {
    ($w:expr, $f:ident($($arg:expr),*)) => {
        match $w.dtype {
            DType::F32 => $f::<f32>($w.rows(), $($arg),*),
            DType::Bf16 => $f::<Bf16>($w.rows(), $($arg),*),
            _ => $f::<F16>($w.rows(), $($arg),*),
        }
    };
}

/// Writes columns `cols` of x · Wᵀ to `out`, whose rows are `stride` apart, for a few rows.
///
/// # Safety
/// Rows of x and W are equally long, and `out` has `x.m` rows.
pub(super) unsafe fn few(x: &Rows, w: &Dense, cols: Range<usize>, out: *mut f32, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe { by_type!(w, few_strided(x, cols, out, stride, false)) }
}

/// Writes the panel of columns that starts at `n0` to `out`, whose rows are `stride` apart.
///
/// # Safety
/// The tiles have `w.k` values, `out` has as many rows as the tiles, of at least `w.n` columns.
pub(super) unsafe fn panel(x: &Tiles, w: &Dense, n0: usize, out: *mut f32, stride: usize) {
    let cols = w.n - n0;
    // SAFETY: the caller's promise.
    unsafe { by_type!(w, panel_strided(x, w.k, n0, cols, out.add(n0), stride, false)) }
}

dispatch! {
    /// Writes (or adds, if `add`) the products of a few rows with columns `cols` of a matrix whose columns are contiguous.
    ///
    /// # Safety
    /// The matrix has `x.k` rows, and `out` has `x.m` rows, `stride` apart.
    pub(crate) unsafe fn few_strided<E: Elem>(b: Strided<E>, x: &Rows, cols: Range<usize>, out: *mut f32, stride: usize, add: bool) = few_body
}

#[inline(always)]
unsafe fn few_body<S: Simd, E: Elem>(
    b: Strided<E>,
    x: &Rows,
    cols: Range<usize>,
    out: *mut f32,
    stride: usize,
    add: bool,
) {
    let mut first = 0;
    while first < x.m {
        // SAFETY: see `few_strided`; `first + n <= x.m`.
        first += unsafe {
            match x.m - first {
                4.. => dots::<S, E, 4, 1>(b, x, first, cols.clone(), out, stride, add),
                2.. => dots::<S, E, 2, 2>(b, x, first, cols.clone(), out, stride, add),
                _ => dots::<S, E, 1, 4>(b, x, first, cols.clone(), out, stride, add),
            }
        };
    }
}

/// `M` rows, with `C` chains of additions for each. Returns `M`.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // register arrays are indexed side by side
unsafe fn dots<S: Simd, E: Elem, const M: usize, const C: usize>(
    b: Strided<E>,
    x: &Rows,
    first: usize,
    cols: Range<usize>,
    out: *mut f32,
    stride: usize,
    add: bool,
) -> usize {
    // SAFETY: see `few_strided`.
    unsafe {
        let step = 16 * C;
        let whole = x.k / step * step;
        let rows: [*const f32; M] = std::array::from_fn(|m| x.data.add((first + m) * x.stride));
        for n in cols {
            let column = b.at(0, n);
            let mut acc = [[S::splat(0.0); C]; M];
            for l in (0..whole).step_by(step) {
                let p = column.add(l);
                for line in (0..step * size_of::<E>()).step_by(64) {
                    prefetch(p.cast::<u8>().wrapping_add(AHEAD + line));
                }
                for c in 0..C {
                    let w = E::load::<S>(p.add(16 * c));
                    for m in 0..M {
                        acc[m][c] = S::fma(w, S::load(rows[m].add(l + 16 * c)), acc[m][c]);
                    }
                }
            }
            for l in (whole..x.k).step_by(16) {
                let w = E::load_part::<S>(column.add(l), x.k - l);
                for m in 0..M {
                    acc[m][0] = S::fma(w, S::load_part(rows[m].add(l), x.k - l), acc[m][0]);
                }
            }
            for m in 0..M {
                let mut total = acc[m][0];
                for c in 1..C {
                    total = S::add(total, acc[m][c]);
                }
                let (y, p) = (S::sum(total), out.add((first + m) * stride + n));
                *p = if add { *p + y } else { y };
            }
        }
    }
    M
}

dispatch! {
    /// Writes (or adds, if `add`) the product with a panel of columns from `n0` on, of which there are `cols` or more than a
    /// panel has.
    ///
    /// # Safety
    /// `b` is [k, n0 + cols] and contiguous along one of its axes, the tiles have `k` values, and `out` has as many rows as the
    /// tiles, `stride` apart.
    pub(crate) unsafe fn panel_strided<E: Elem>(b: Strided<E>, x: &Tiles, k: usize, n0: usize, cols: usize, out: *mut f32, stride: usize, add: bool) = panel_body
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn panel_body<S: Simd, E: Elem>(
    b: Strided<E>,
    x: &Tiles,
    k: usize,
    n0: usize,
    cols: usize,
    out: *mut f32,
    stride: usize,
    add: bool,
) {
    let width = 16 * S::NV;
    let cols = cols.min(width);
    let mut packed = Scratch::new(KC * width);
    let packed = packed.as_mut_ptr();
    // SAFETY: see `panel_strided`; parts of blocks that lie past the matrix's end are not read.
    unsafe {
        for k0 in (0..k).step_by(KC) {
            let kc = KC.min(k - k0);
            for v in (0..width).step_by(16) {
                let n = cols.saturating_sub(v).min(16);
                for l in (0..kc).step_by(16) {
                    let part = (kc - l).min(16);
                    let mut block = [S::splat(0.0); 16];
                    if b.column == 1 {
                        for (i, row) in block.iter_mut().enumerate().take(part) {
                            *row = E::load_part::<S>(b.at(k0 + l + i, n0 + v), n);
                        }
                    } else {
                        for (i, column) in block.iter_mut().enumerate().take(n) {
                            *column = E::load_part::<S>(b.at(k0 + l, n0 + v + i), part);
                        }
                        S::transpose(&mut block);
                    }
                    for (i, &row) in block.iter().enumerate().take(part) {
                        S::store(packed.add((l + i) * width + v), row);
                    }
                }
            }
            x.multiply::<S>(packed, k0, kc, out, stride, cols, add || k0 > 0);
        }
    }
}
