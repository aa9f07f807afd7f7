//! y = x · Wᵀ for matrices whose values are numbers of levels: rows are looked up in the first-level cache, a few at a time.

// Register arrays are indexed side by side.
#![allow(clippy::needless_range_loop)]

use crate::{
    convert::with_rows,
    graph::{self, Output},
    layer::numbers,
    linear::{is_floating, unsupported},
    matrix::Rows,
    pool::Pool,
    scratch::{Scratch, Shared},
    simd::{Simd, dispatch},
};
use mlx_rs::{Array, Dtype, error::Result};

/// Rows that are looked up together.
const TOGETHER: usize = 4;

/// Values that one thread looks up before it asks for more.
const GRAIN: usize = 1 << 16;

/// A matrix [N, K], or a stack of them [E, N, K]: value k of row n is `norms[n] · level`, and a code says which level.
#[derive(Clone, Copy, Debug)]
pub struct Codes<'a> {
    /// uint32 [.., N, ⌈K / ⌊32 / bits⌋⌉]; the first code of a word is in its lowest bits.
    pub words: &'a Array,
    /// float32 [.., N]
    pub norms: &'a Array,
    /// The levels of several codes at a time, by the bits that these take together: float32 [2^(n · bits), n]. Words hold a whole
    /// number of such groups.
    pub levels: &'a Array,
    /// Bits a code, from 1 to 8.
    pub bits: i32,
    /// Values in a row: K.
    pub columns: i32,
}

/// Sizes that were checked.
#[derive(Clone, Copy)]
struct Sizes {
    matrices: usize,
    rows: usize,
    columns: usize,
    words: usize,
    bits: u32,
    /// Codes that are looked up at a time, and how many such groups a word has.
    together: usize,
    groups: usize,
}

impl Codes<'_> {
    fn sizes(&self) -> Result<Sizes> {
        let (words, levels) = (self.words.shape(), self.levels.shape());
        let bad = || {
            let types = [self.words, self.norms, self.levels].map(Array::dtype);
            let (bits, columns, norms) = (self.bits, self.columns, self.norms.shape());
            unsupported(format!(
                "{columns} codes of {bits} bits in {words:?} with norms {norms:?} and levels {levels:?} of {types:?}"
            ))
        };
        let (&[ref stack @ .., rows, width], &[all, together]) = (words, levels) else { return Err(bad()) };
        let typed = self.words.dtype() == Dtype::Uint32
            && self.norms.dtype() == Dtype::Float32
            && self.levels.dtype() == Dtype::Float32;
        if !typed || !(1..=8).contains(&self.bits) || !(1..=8).contains(&together) || stack.len() > 1 {
            return Err(bad());
        }
        let in_word = 32 / self.bits;
        let fits = in_word % together == 0
            && together * self.bits <= 16
            && all == 1 << (together * self.bits)
            && self.columns > 0
            && (self.columns - 1) / in_word + 1 == width
            && self.norms.shape() == &words[..words.len() - 1];
        if !fits {
            return Err(bad());
        }
        Ok(Sizes {
            matrices: stack.first().map_or(1, |n| *n as usize),
            rows: rows as usize,
            columns: self.columns as usize,
            words: width as usize,
            bits: self.bits as u32,
            together: together as usize,
            groups: (in_word / together) as usize,
        })
    }
}

/// x · Wᵀ in float32, for floating-point x [.., K] and a single matrix: [.., N].
///
/// With `to`, `x[rows] · W[ids]ᵀ` for a stack: matrix `ids[i]` gets the row `rows[i]` of x, or row i if there are no `rows`. Both are
/// integers of one shape [..], and the result is [.., 1, N].
///
/// Errors: shapes or types that do not go together; at evaluation, numbers of rows or matrices that are not there.
pub fn codes_product(x: &Array, codes: Codes, to: Option<(Option<&Array>, &Array)>) -> Result<Array> {
    let sizes = codes.sizes()?;
    let is_number = |a: &Array| matches!(a.dtype(), Dtype::Int32 | Dtype::Uint32);
    let shape = match to {
        None if codes.words.ndim() == 2 => [&x.shape()[..x.ndim().max(1) - 1], &[sizes.rows as i32]].concat(),
        Some((rows, ids)) if codes.words.ndim() == 3 => {
            if !is_number(ids) || rows.is_some_and(|r| !is_number(r) || r.shape() != ids.shape()) {
                let rows = rows.map(|r| (r.shape().to_vec(), r.dtype()));
                return Err(unsupported(format!("matrices {:?} with rows {rows:?}", ids.shape())));
            }
            [ids.shape(), &[1, sizes.rows as i32]].concat()
        }
        _ => return Err(unsupported(format!("a choice of matrices of {:?}", codes.words.shape()))),
    };
    if !is_floating(x) || x.shape().last() != Some(&codes.columns) {
        return Err(unsupported(format!(
            "x {:?} of {:?} for rows of {}",
            x.shape(),
            x.dtype(),
            codes.columns
        )));
    }
    let mut inputs = vec![x, codes.words, codes.norms, codes.levels];
    let (ids, rows) = (to.map(|(_, ids)| ids), to.and_then(|(rows, _)| rows));
    inputs.extend(ids.into_iter().chain(rows));
    let out = Output::new(&shape, Dtype::Float32);
    let [y] = graph::apply_to("RustCodes", &inputs, [out], move |i, o| {
        if !i[1..4].iter().all(|part| part.is_contiguous()) {
            return Err("codes, norms or levels are not in order".into());
        }
        with_rows(&i[0], |x| {
            let matrices = match i.get(4) {
                Some(ids) => numbers(ids, sizes.matrices as i32, "matrix")?,
                None => vec![0; x.m],
            };
            let rows: Vec<usize> = match i.get(5) {
                Some(rows) => numbers(rows, x.m as i32, "row")?,
                None if matrices.len() == x.m => (0..x.m).collect(),
                None => return Err(format!("{} rows for {} matrices", x.m, matrices.len())),
            };
            let table = Table { words: i[1].ptr(), norms: i[2].ptr(), levels: i[3].ptr(), sizes };
            product(x, &rows, &matrices, table, Shared(o[0].ptr()));
            Ok(())
        })?
    })?;
    Ok(y)
}

/// Where the parts of checked codes are.
#[derive(Clone, Copy)]
struct Table {
    words: *const u32,
    norms: *const f32,
    levels: *const f32,
    sizes: Sizes,
}

// SAFETY: read-only during the call.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}

/// Writes row i of x[rows] · W[matrices]ᵀ to row i of `out`.
fn product(x: &Rows, rows: &[usize], matrices: &[usize], table: Table, out: Shared<f32>) {
    let n = table.sizes.rows;
    let mut pairs: Vec<usize> = (0..rows.len()).collect();
    pairs.sort_by_key(|i| matrices[*i]);
    let groups: Vec<&[usize]> = pairs.chunk_by(|a, b| matrices[*a] == matrices[*b]).collect();
    // Each matrix in parts of whole blocks of rows.
    let part = (GRAIN / table.sizes.columns).max(1).next_multiple_of(TOGETHER);
    let parts = n.div_ceil(part);
    Pool::global().run(groups.len() * parts, |unit| {
        let (group, start) = (groups[unit / parts], unit % parts * part);
        let end = n.min(start + part);
        // SAFETY: rows and matrices are there; parts of groups write disjoint values.
        unsafe { rows_of_one(x, rows, group, matrices[group[0]], start..end, table, out) }
    });
}

dispatch! {
    /// SAFETY: the pairs `group` have this matrix, whose rows `part` are there, and `out` has a row for each pair.
    unsafe fn rows_of_one(x: &Rows, rows: &[usize], group: &[usize], matrix: usize, part: std::ops::Range<usize>, table: Table, out: Shared<f32>) = rows_of_one_body
}

#[inline(always)]
unsafe fn rows_of_one_body<S: Simd>(
    x: &Rows,
    rows: &[usize],
    group: &[usize],
    matrix: usize,
    part: std::ops::Range<usize>,
    table: Table,
    out: Shared<f32>,
) {
    let Sizes { rows: n, columns, words, .. } = table.sizes;
    let stride = words * table.sizes.together * table.sizes.groups;
    let mut values = Scratch::new(TOGETHER * stride);
    // SAFETY: see `rows_of_one`.
    unsafe {
        for start in part.clone().step_by(TOGETHER) {
            let count = TOGETHER.min(part.end - start);
            let first = matrix * n + start;
            for r in 0..count {
                look_up(table, first + r, values.as_mut_ptr().add(r * stride));
            }
            // Of the last block, the last row stands for those that are not there.
            let w: [*const f32; TOGETHER] =
                std::array::from_fn(|r| values.as_ptr().add(r.min(count - 1) * stride));
            for &pair in group {
                let x = x.row(rows[pair]).as_ptr();
                let mut sums = [S::splat(0.0); TOGETHER];
                let whole = columns / 16 * 16;
                for k in (0..whole).step_by(16) {
                    let x = S::load(x.add(k));
                    for r in 0..TOGETHER {
                        sums[r] = S::fma(S::load(w[r].add(k)), x, sums[r]);
                    }
                }
                if whole < columns {
                    let x = S::load_part(x.add(whole), columns - whole);
                    for r in 0..TOGETHER {
                        sums[r] = S::fma(S::load_part(w[r].add(whole), columns - whole), x, sums[r]);
                    }
                }
                for (r, sum) in sums.iter().enumerate().take(count) {
                    *out.at(pair * n + start + r) = S::sum(*sum) * *table.norms.add(first + r);
                }
            }
        }
    }
}

/// The levels of a row, and of what its last word has besides.
#[inline(always)]
unsafe fn look_up(table: Table, row: usize, out: *mut f32) {
    // SAFETY: see `rows_of_one`; the row of `out` has room for all codes of all words.
    unsafe {
        let words = table.words.add(row * table.sizes.words);
        match table.sizes.together {
            8 => groups::<8>(table, words, out),
            4 => groups::<4>(table, words, out),
            2 => groups::<2>(table, words, out),
            1 => groups::<1>(table, words, out),
            n => unreachable!("no word has groups of {n}"),
        }
    }
}

#[inline(always)]
unsafe fn groups<const N: usize>(table: Table, words: *const u32, mut out: *mut f32) {
    let width = table.sizes.bits * N as u32;
    let mask = (1u32 << width) - 1;
    // SAFETY: see `look_up`; the mask keeps to the levels.
    unsafe {
        for i in 0..table.sizes.words {
            let mut word = *words.add(i);
            for _ in 0..table.sizes.groups {
                let levels = table.levels.add((word & mask) as usize * N).cast::<[f32; N]>();
                *out.cast::<[f32; N]>() = *levels;
                out = out.add(N);
                word = word.checked_shr(width).unwrap_or(0);
            }
        }
    }
}
