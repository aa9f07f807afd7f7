//! What a layer asks of its cache, and the plain steps that caches share.

use crate::{
    Error, Result,
    nn::{Norm, Rope, fused_with, scalar},
};
use mlx_rs::{Array, Dtype, error::Exception, ops};

/// Everything about a layer's attention that does not change from token to token.
#[derive(Clone, Debug)]
pub struct AttentionSpec {
    /// Query heads.
    pub heads: i32,
    /// Key and value heads.
    pub kv_heads: i32,
    /// Width of a head.
    pub head_dim: i32,
    /// Multiplies the scores.
    pub scale: f32,
    /// Normalizes each query head before rotation.
    pub q_norm: Option<Norm>,
    /// Normalizes each key head before rotation.
    pub k_norm: Option<Norm>,
    /// Normalizes each value head.
    pub v_norm: Option<Norm>,
    /// Whether queries and keys are rotated first and then normalized.
    pub norm_after_rope: bool,
    /// Rotates queries and keys by position.
    pub rope: Option<Rope>,
    /// Makes queries longer as the text grows.
    pub q_scale: Option<PositionScale>,
    /// A score for each head that takes its share of the softmax and gives nothing, `[heads]`.
    pub sinks: Option<Array>,
    /// Keeps scores within bounds.
    pub softcap: Option<Softcap>,
    /// Whether the CPU kernels may attend.
    pub fused: bool,
}

impl AttentionSpec {
    /// Plain attention: scores are multiplied by head_dim^-½; no norms, no rotation.
    pub fn new(heads: i32, kv_heads: i32, head_dim: i32, fused: bool) -> AttentionSpec {
        AttentionSpec {
            heads,
            kv_heads,
            head_dim,
            scale: (head_dim as f32).powf(-0.5),
            q_norm: None,
            k_norm: None,
            v_norm: None,
            norm_after_rope: false,
            rope: None,
            q_scale: None,
            sinks: None,
            softcap: None,
            fused,
        }
    }
}

/// Keeps scores within ±cap: cap · tanh(score / cap) (arXiv 2408.00118).
#[derive(Clone, Copy, Debug)]
pub struct Softcap {
    /// The bound.
    pub cap: f32,
    /// As in [`fused`](crate::nn::fused).
    pub compile: bool,
}

/// A factor for the queries of position p: 1 + factor · ln(1 + ⌊(p + from) / every⌋), against scores that flatten as the text grows
/// (arXiv 2501.19399).
#[derive(Clone, Copy, Debug)]
pub struct PositionScale {
    /// Grows with each further such number of positions.
    pub every: i32,
    /// How fast it grows.
    pub factor: f32,
    /// What the first position counts as.
    pub from: i32,
}

impl PositionScale {
    fn at(self, position: i32) -> f32 {
        let steps = (position + self.from).max(0) / self.every.max(1);
        1.0 + self.factor * (1.0 + steps as f32).ln()
    }

    /// The factor of all positions from `first` to `last`, if they have the same.
    pub(super) fn uniform(self, first: i32, last: i32) -> Option<f32> {
        let factor = self.at(first);
        (factor == self.at(last)).then_some(factor)
    }

    /// Multiplies queries [B, heads, L, D].
    pub(super) fn apply(self, q: Array, at: Positions) -> Result<Array> {
        let (first, len) = (at.first, q.dim(2));
        let last = first + len - 1;
        if self.at(last) == 1.0 {
            return Ok(q);
        }
        let scale = match at.padding {
            None if len == 1 => scalar(self.at(first), &q)?,
            None => {
                let scales: Vec<f32> = (first..=last).map(|p| self.at(p)).collect();
                Array::from_slice(&scales, &[len, 1])
            }
            Some(padding) => {
                let positions = ops::arange::<_, i32>(first + self.from, last + self.from + 1, 1)?;
                let positions = positions.subtract(padding.expand_dims(-1)?)?;
                let steps = ops::maximum(&positions, Array::from_int(0))?
                    .floor_divide(Array::from_int(self.every.max(1)))?;
                let logs = ops::log1p(steps.as_dtype(Dtype::Float32)?)?;
                let scales = logs.multiply(Array::from_f32(self.factor))?.add(Array::from_f32(1.0))?;
                scales.expand_dims_axes(&[1, 3])?
            }
        };
        Ok(q.multiply(scale.as_dtype(q.dtype())?)?)
    }
}

/// Projected and not yet split into heads: q [B, L, heads · head_dim], k and v [B, L, kv_heads · head_dim].
#[derive(Clone, Debug)]
pub struct Qkv {
    /// Queries.
    pub q: Array,
    /// Keys.
    pub k: Array,
    /// Values.
    pub v: Array,
}

impl Qkv {
    /// From the outputs of three projections.
    pub fn from(projected: Vec<Array>) -> Result<Qkv> {
        let [q, k, v] = <[Array; 3]>::try_from(projected).map_err(|p| {
            Error::Unsupported(format!("attention wants q, k and v, but got {} arrays", p.len()))
        })?;
        Ok(Qkv { q, k, v })
    }
}

/// Where the new positions of a batch lie.
#[derive(Clone, Copy)]
pub(super) struct Positions<'a> {
    /// Of the first new column.
    pub(super) first: i32,
    /// Left padding of each row [B]: its positions are so much less.
    pub(super) padding: Option<&'a Array>,
}

/// Splits into heads, normalizes and rotates: q [B, heads, L, D], k and v [B, kv_heads, L, D].
pub(super) fn heads(qkv: &Qkv, spec: &AttentionSpec, at: Positions) -> Result<[Array; 3]> {
    let k = turned(&qkv.k, spec.kv_heads, spec.k_norm.as_ref(), spec, at)?;
    Ok([queries(&qkv.q, spec, at)?, k, split(&qkv.v, spec.kv_heads, spec.v_norm.as_ref())?])
}

/// Queries [B, L, heads · D] as they meet the keys: [B, heads, L, D].
pub(super) fn queries(q: &Array, spec: &AttentionSpec, at: Positions) -> Result<Array> {
    let q = turned(q, spec.heads, spec.q_norm.as_ref(), spec, at)?;
    match spec.q_scale {
        Some(scale) => scale.apply(q, at),
        None => Ok(q),
    }
}

/// Queries or keys, normalized and rotated.
fn turned(x: &Array, heads: i32, norm: Option<&Norm>, spec: &AttentionSpec, at: Positions) -> Result<Array> {
    let (before, after) = if spec.norm_after_rope { (None, norm) } else { (norm, None) };
    let x = split(x, heads, before)?;
    let x = match &spec.rope {
        Some(rope) => rope.forward(&x, at.first, at.padding)?,
        None => x,
    };
    match after {
        Some(norm) => norm.forward(&x),
        None => Ok(x),
    }
}

/// [B, L, heads · D] to [B, heads, L, D], each head normalized.
fn split(x: &Array, heads: i32, norm: Option<&Norm>) -> Result<Array> {
    let (batch, len, dim) = (x.dim(0), x.dim(1), x.dim(2) / heads);
    // One position lies in memory as its heads do.
    let shape = if len == 1 { [batch, heads, 1, dim] } else { [batch, len, heads, dim] };
    let x = x.reshape(&shape)?;
    let x = match norm {
        Some(norm) => norm.forward(&x)?,
        None => x,
    };
    Ok(if len == 1 { x } else { x.transpose_axes(&[0, 2, 1, 3])? })
}

/// Attention with capped scores, operation by operation: q [B, heads, L, D] over k and v [B, kv_heads, T, D].
pub(super) fn capped(
    [q, k, v]: [&Array; 3],
    spec: &AttentionSpec,
    Softcap { cap, compile }: Softcap,
    mask: Option<&Array>,
) -> Result<Array> {
    let (batch, len) = (q.dim(0), q.dim(2));
    // The heads that share keys, as more queries of one head.
    let grouped = |x: &Array, last: i32| x.reshape(&[batch, spec.kv_heads, -1, last]);
    let scores = ops::matmul(grouped(q, q.dim(3))?, k.swap_axes(-1, -2)?)?;
    let [mut scores] = fused_with(compile, softcap, [&scores], [spec.scale / cap, cap])?;
    if let Some(mask) = mask {
        let each = scores.reshape(&[batch, spec.heads, len, -1])?;
        let masked = ops::select(mask, each, scalar(lowest(q.dtype()), q)?)?;
        scores = grouped(&masked, k.dim(2))?;
    }
    let y = ops::matmul(ops::softmax_axis(&scores, -1, true)?, v)?;
    Ok(y.reshape(&[batch, spec.heads, len, -1])?)
}

/// cap · tanh(scale · x), where the scale divides by the cap.
fn softcap([x]: [&Array; 1], [scale, cap]: [f32; 2]) -> Result<[Array; 1], Exception> {
    Ok([ops::tanh(x.multiply(scalar(scale, x)?)?)?.multiply(scalar(cap, x)?)?])
}

/// The lowest finite number of a type. (Of rows that see nothing, -∞ would make NaN.)
fn lowest(dtype: Dtype) -> f32 {
    match dtype {
        Dtype::Float16 => half::f16::MIN.to_f32(),
        Dtype::Bfloat16 => half::bf16::MIN.to_f32(),
        _ => f32::MIN,
    }
}

/// [B, heads, L, D] to [B, L, heads · D].
pub(super) fn merge(y: &Array) -> Result<Array> {
    let (batch, len) = (y.dim(0), y.dim(2));
    if len == 1 {
        return Ok(y.reshape(&[batch, 1, -1])?);
    }
    Ok(y.transpose_axes(&[0, 2, 1, 3])?.reshape(&[batch, len, -1])?)
}
