//! y = x · Wᵀ for quantized and dense matrices, straight from MLX's memory.

mod affine;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod dense;
mod gemm;
mod gemv;
#[cfg(target_arch = "x86_64")]
mod int8;
mod unpack;

pub use affine::{Activations, Affine};
#[cfg(feature = "blas")]
pub(crate) use dense::{Strided, few_strided, panel_strided};
pub(crate) use unpack::unpack_rows;

use crate::{
    pool::Pool,
    scratch::Shared,
    simd::{self, Isa},
    tiles::{Tiles, panel_width},
    view::View,
};
use affine::{Packed, Prepared};
use dense::Dense;
use std::ops::Range;

/// Up to this many rows go through the matrix-vector kernels.
pub(crate) const FEW_ROWS: usize = 8;

/// Float32 rows with the last axis contiguous: the left operand.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) data: *const f32,
    pub(crate) m: usize,
    pub(crate) k: usize,
    pub(crate) stride: usize,
}

// SAFETY: read-only during the call.
unsafe impl Send for Rows {}
// SAFETY: as above.
unsafe impl Sync for Rows {}

impl Rows {
    pub(crate) fn new(x: &[f32], m: usize, k: usize) -> Rows {
        assert!(x.len() >= m * k);
        Rows { data: x.as_ptr(), m, k, stride: k }
    }

    pub(crate) fn row(&self, i: usize) -> &[f32] {
        assert!(i < self.m);
        // SAFETY: inside the buffer that the caller described.
        unsafe { std::slice::from_raw_parts(self.data.add(i * self.stride), self.k) }
    }
}

/// Calls `f` with every row of `k` floats of `y` and its number, on several threads.
pub(crate) fn by_rows(y: &mut [f32], k: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    let (rows, y) = (y.len() / k.max(1), Shared(y.as_mut_ptr()));
    Pool::global().ranges(rows, (1 << 14) / k.max(1) + 1, |range| {
        // SAFETY: ranges are disjoint, and rows are inside `y`.
        range.for_each(|r| f(r, unsafe { std::slice::from_raw_parts_mut(y.at(r * k), k) }));
    });
}

/// A matrix whose shape, types and strides were checked.
#[derive(Clone, Copy)]
pub(crate) enum Matrix {
    Affine(Packed),
    Dense(Dense),
}

impl Matrix {
    pub(crate) fn affine(
        w: &View,
        scales: &View,
        biases: &View,
        q: Affine,
        activations: Activations,
    ) -> Result<Matrix, String> {
        Packed::new(w, scales, biases, q, activations).map(Matrix::Affine)
    }

    pub(crate) fn dense(w: &View) -> Result<Matrix, String> {
        Dense::new(w).map(Matrix::Dense)
    }

    /// Rows and columns of W.
    pub(crate) fn shape(&self) -> [usize; 2] {
        match self {
            Matrix::Affine(w) => [w.n, w.k],
            Matrix::Dense(w) => [w.n, w.k],
        }
    }

    fn row_bytes(&self) -> usize {
        match self {
            Matrix::Affine(w) => w.row_bytes,
            Matrix::Dense(w) => w.stride * w.dtype.size(),
        }
    }
}

/// One product of several that share their left operand.
#[derive(Clone, Copy)]
pub(crate) struct Job {
    w: Matrix,
    n: usize,
    /// As many rows of `n` floats as the left operand has.
    out: Shared<f32>,
}

impl Job {
    /// The product of `x` and `w` into `out`.
    pub(crate) fn new(w: Matrix, x: &Rows, out: &mut [f32]) -> Result<Job, String> {
        let [n, k] = w.shape();
        if k != x.k || out.len() != x.m * n {
            return Err(format!(
                "{} rows of {} with a matrix [{n}, {k}] into {} values",
                x.m,
                x.k,
                out.len()
            ));
        }
        Ok(Job { w, n, out: Shared(out.as_mut_ptr()) })
    }
}

/// How a matrix wants its left operand, and which kernel it goes to.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Few { group: usize, interleave: usize },
    FewDense,
    Many,
    ManyInt8 { group: usize },
}

impl Form {
    fn of(w: &Matrix, rows: usize) -> Form {
        match w {
            Matrix::Dense(_) if rows <= FEW_ROWS => Form::FewDense,
            Matrix::Affine(w) if rows <= FEW_ROWS => {
                Form::Few { group: w.group, interleave: gemv::interleave(w.bits) }
            }
            Matrix::Affine(w) if w.activations == Activations::Int8 && simd::isa() == Isa::Avx512 => {
                Form::ManyInt8 { group: w.group }
            }
            _ => Form::Many,
        }
    }
}

/// Computes all jobs, those that want x in the same form in one fork of the pool.
pub(crate) fn matmul(x: &Rows, jobs: &[Job]) {
    if x.m == 0 {
        return;
    }
    for jobs in jobs.chunk_by(|a, b| Form::of(&a.w, x.m) == Form::of(&b.w, x.m)) {
        // SAFETY (of all four): x is in the form of these matrices, columns are disjoint, and `Job::new` saw the sizes.
        match Form::of(&jobs[0].w, x.m) {
            Form::Few { group, interleave } => {
                let x = Prepared::new(x, group, interleave);
                by_columns(jobs, |j, cols| {
                    if let Matrix::Affine(w) = &j.w {
                        unsafe { gemv::run(&x, w, cols, j.out.at(0), j.n) }
                    }
                });
            }
            Form::FewDense => by_columns(jobs, |j, cols| {
                if let Matrix::Dense(w) = &j.w {
                    unsafe { dense::few(x, w, cols, j.out.at(0), j.n) }
                }
            }),
            Form::Many => {
                let x = Tiles::new(x);
                by_panels(jobs, |j, n0| unsafe {
                    match &j.w {
                        Matrix::Affine(w) => gemm::panel(&x, w, n0, j.out.at(0), j.n),
                        Matrix::Dense(w) => dense::panel(&x, w, n0, j.out.at(0), j.n),
                    }
                });
            }
            Form::ManyInt8 { group } => many_int8(x, group, jobs),
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn many_int8(x: &Rows, group: usize, jobs: &[Job]) {
    let x = int8::Rounded::new(x, group);
    by_panels(jobs, |j, n0| {
        if let Matrix::Affine(w) = &j.w {
            // SAFETY: as in `matmul`; the form says that the processor has AVX-512.
            unsafe { int8::panel(&x, w, n0, j.out.at(0), j.n) }
        }
    });
}

#[cfg(not(target_arch = "x86_64"))]
fn many_int8(_: &Rows, _: usize, _: &[Job]) {
    unreachable!("the form wants AVX-512");
}

/// Calls `f` with disjoint ranges of columns that cover all jobs, in one fork of the pool.
fn by_columns(jobs: &[Job], f: impl Fn(&Job, Range<usize>) + Sync) {
    let total = jobs.iter().map(|j| j.n).sum();
    // A chunk is worth a few microseconds of reading.
    let grain = (16 * 1024 / jobs[0].w.row_bytes().max(1)).max(8);
    Pool::global().ranges(total, grain, |cols| {
        let mut start = 0;
        for j in jobs {
            let within = |c: usize| c.clamp(start, start + j.n) - start;
            f(j, within(cols.start)..within(cols.end));
            start += j.n;
        }
    });
}

/// Calls `f` with the first column of every panel of all jobs, in one fork of the pool.
fn by_panels(jobs: &[Job], f: impl Fn(&Job, usize) + Sync) {
    let width = panel_width();
    let total: usize = jobs.iter().map(|j| j.n.div_ceil(width)).sum();
    Pool::global().run(total, |mut panel| {
        for j in jobs {
            let panels = j.n.div_ceil(width);
            if panel < panels {
                return f(j, panel * width);
            }
            panel -= panels;
        }
    });
}
