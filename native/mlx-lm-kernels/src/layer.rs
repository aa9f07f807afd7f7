//! The joint operations around attention. Each is one node of MLX's graph.

use crate::{
    convert::{Floats, with_rows},
    graph::{self, Outcome, Output},
    linear::{Inputs, Linear, LinearAt, Norm, float_type, unsupported, with_normed},
    matrix::{Job, Rows, by_rows, matmul, unpack_rows},
    pool::Pool,
    scratch::{Scratch, Shared},
    simd::{Simd, dispatch},
    view::{DType, View},
};
use mlx_rs::{Array, Dtype, error::Result};

/// RMS norm (if there is one), then linear layers that share their input: from x [..., K] to one y [..., Nᵢ] for each layer, in
/// x's type.
///
/// Layers of the same form are computed together. With the final norm and one linear layer this is a language model's head.
///
/// Errors: shapes or types that do not go together, or that [`Linear::supported`] denies.
pub fn project(x: &Array, norm: Option<Norm>, linears: &[Linear]) -> Result<Vec<Array>> {
    let mut inputs = Inputs(vec![x]);
    let norm = norm.map(|n| n.check(last(x)).map(|()| inputs.norm(n))).transpose()?;
    let mut outputs = Vec::with_capacity(linears.len());
    for l in linears {
        outputs.push(Output::new(&with_last(x, l.columns(x)?), x.dtype()));
    }
    if outputs.is_empty() {
        return Ok(Vec::new());
    }
    let at: Vec<LinearAt> = linears.iter().map(|l| inputs.linear(*l)).collect();
    graph::apply("RustProject", &inputs.0, &outputs, move |i, o| {
        with_normed(&i[0], i, norm, |x| {
            let mut y: Vec<Floats> = o.iter().map(Floats::new).collect();
            products(x, &at, i, &mut y.iter_mut().map(Floats::values).collect::<Vec<_>>())?;
            y.into_iter().for_each(Floats::finish);
            Ok(())
        })?
    })
}

/// residual + linear(x), for x [..., K] and a residual [..., N], in the residual's type.
///
/// Errors: shapes or types that do not go together, or that [`Linear::supported`] denies.
pub fn linear_add(x: &Array, linear: Linear, residual: &Array) -> Result<Array> {
    let shape = with_last(x, linear.columns(x)?);
    if residual.shape() != shape {
        return Err(unsupported(format!("a residual {:?} for a result {shape:?}", residual.shape())));
    }
    float_type(residual.dtype())?;
    let mut inputs = Inputs(vec![x, residual]);
    let at = inputs.linear(linear);
    let out = Output::new(&shape, residual.dtype());
    let [y] = graph::apply_to("RustLinearAdd", &inputs.0, [out], move |i, o| {
        let mut y = Floats::new(&o[0]);
        with_rows(&i[0], |x| products(x, &[at], i, &mut [y.values()]))??;
        add_residual(y.values(), &i[1])?;
        y.finish();
        Ok(())
    })?;
    Ok(y)
}

/// A feed-forward block gated with SiLU, with its norm and its residual.
#[derive(Clone, Copy, Debug)]
pub struct Mlp<'a> {
    /// Before the block.
    pub norm: Option<Norm<'a>>,
    /// [inner, hidden]
    pub gate: Linear<'a>,
    /// [inner, hidden]
    pub up: Linear<'a>,
    /// [hidden, inner]
    pub down: Linear<'a>,
}

impl Mlp<'_> {
    /// x + down(silu(gate(norm x)) · up(norm x)) for x [..., hidden], in x's type.
    ///
    /// Errors: shapes or types that do not go together, or that [`Linear::supported`] denies.
    pub fn forward_add(&self, x: &Array) -> Result<Array> {
        let (hidden, inner) = (last(x), self.gate.columns(x)?);
        if self.up.columns(x)? != inner || self.down.shape()? != [hidden, inner] {
            let [up, down] = [self.up.shape()?, self.down.shape()?];
            return Err(unsupported(format!("a gate [{inner}, {hidden}] with up {up:?} and down {down:?}")));
        }
        let mut inputs = Inputs(vec![x]);
        let norm = self.norm.map(|n| n.check(hidden).map(|()| inputs.norm(n))).transpose()?;
        let [gate, up, down] = [self.gate, self.up, self.down].map(|l| inputs.linear(l));
        let out = Output::new(x.shape(), x.dtype());
        let [y] = graph::apply_to("RustMlp", &inputs.0, [out], move |i, o| {
            let (m, inner) = (i[0].rows(), inner as usize);
            let (mut a, mut b) = (Scratch::new(m * inner), Scratch::new(m * inner));
            with_normed(&i[0], i, norm, |x| products(x, &[gate, up], i, &mut [&mut a, &mut b]))??;
            gated(&mut a, &b);
            let mut y = Floats::new(&o[0]);
            products(&Rows::new(&a, m, inner), &[down], i, &mut [y.values()])?;
            add_residual(y.values(), &i[0])?;
            y.finish();
            Ok(())
        })?;
        Ok(y)
    }
}

/// Rows of an embedding: for ids [..., L] of int32 or uint32 and a matrix [N, K], the unpacked rows [..., L, K] in `dtype`. The
/// layer's bias takes no part.
///
/// Errors: shapes or types that are not supported; at evaluation, an id that is not below N.
pub fn embed(ids: &Array, linear: Linear, dtype: Dtype) -> Result<Array> {
    let linear = Linear { bias: None, ..linear };
    let [n, k] = linear.shape()?;
    float_type(dtype)?;
    if !matches!(ids.dtype(), Dtype::Int32 | Dtype::Uint32) || ids.ndim() == 0 {
        return Err(unsupported(format!("token ids {:?} of {:?}", ids.shape(), ids.dtype())));
    }
    let mut shape = ids.shape().to_vec();
    shape.push(k);
    let mut inputs = Inputs(vec![ids]);
    let at = inputs.linear(linear);
    let [y] = graph::apply_to("RustEmbed", &inputs.0, [Output::new(&shape, dtype)], move |i, o| {
        let w = at.matrix(i)?;
        let rows = numbers(&i[0], n, "token id")?;
        let mut y = Floats::new(&o[0]);
        unpack_rows(&w, &rows, y.values());
        y.finish();
        Ok(())
    })?;
    Ok(y)
}

/// The integers of an array in row-major order, all below `n`. An error says `what` one is that is not.
pub(crate) fn numbers(ids: &View, n: i32, what: &str) -> std::result::Result<Vec<usize>, String> {
    let len = ids.dim(-1);
    let mut all = Vec::with_capacity(ids.len());
    for r in 0..ids.rows() {
        let start = ids.row_offset(r);
        for l in 0..len {
            // SAFETY: element `l` of row `r`; both types have 32 bits.
            let bits = unsafe { *ids.ptr::<u32>().offset(start + l as isize * ids.stride(-1)) };
            // A negative int32 is a uint32 that is never below `n`.
            if bits >= n as u32 {
                let id = if ids.dtype == DType::I32 { i64::from(bits as i32) } else { i64::from(bits) };
                return Err(format!("{what} {id} is not one of {n}"));
            }
            all.push(bits as usize);
        }
    }
    Ok(all)
}

fn last(x: &Array) -> i32 {
    x.shape().last().copied().unwrap_or(0)
}

/// The shape of `x` with another last axis. (`Linear::columns` has seen that there is one.)
fn with_last(x: &Array, n: i32) -> Vec<i32> {
    let mut shape = x.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = n;
    }
    shape
}

/// Writes x · Wᵀ + bias of every layer to the slice beside it.
fn products(x: &Rows, linears: &[LinearAt], i: &[View], y: &mut [&mut [f32]]) -> Outcome {
    let mut jobs = Vec::with_capacity(linears.len());
    for (l, y) in linears.iter().zip(&mut *y) {
        jobs.push(Job::new(l.matrix(i)?, x, y)?);
    }
    matmul(x, &jobs);
    linears.iter().zip(y).try_for_each(|(l, y)| l.add_bias(i, y))
}

fn add_residual(y: &mut [f32], residual: &View) -> Outcome {
    with_rows(residual, |r| {
        by_rows(y, r.k, |i, y| y.iter_mut().zip(r.row(i)).for_each(|(y, r)| *y += r));
    })
}

/// gate ← silu(gate) · up.
fn gated(gate: &mut [f32], up: &[f32]) {
    let n = gate.len().min(up.len());
    let (gate, up) = (Shared(gate.as_mut_ptr()), Shared(up.as_ptr().cast_mut()));
    Pool::global().ranges(n, 1 << 13, |r| {
        // SAFETY: ranges are disjoint, and both buffers hold `n` values.
        unsafe { gate_part(gate.at(r.start), up.at(r.start), r.len()) }
    });
}

dispatch! {
    /// SAFETY: `n` values of both.
    unsafe fn gate_part(gate: *mut f32, up: *const f32, n: usize) = gate_part_body
}

#[inline(always)]
unsafe fn gate_part_body<S: Simd>(gate: *mut f32, up: *const f32, n: usize) {
    // SAFETY: see `gate_part`.
    unsafe {
        for i in (0..n).step_by(16) {
            let g = S::load_part(gate.add(i), n - i);
            let one = S::splat(1.0);
            let sigmoid = S::div(one, S::add(one, S::exp(S::sub(S::splat(0.0), g))));
            let y = S::mul(S::mul(g, sigmoid), S::load_part(up.add(i), n - i));
            S::store_part(gate.add(i), y, n - i);
        }
    }
}
