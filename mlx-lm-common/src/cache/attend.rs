//! What a layer asks of its cache, and the plain steps that caches share.

use crate::{
    Error, Result,
    nn::{Norm, Rope},
};
use mlx_rs::Array;

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
    /// Rotates queries and keys by position.
    pub rope: Option<Rope>,
    /// Whether the CPU kernels may attend.
    pub fused: bool,
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
    let (batch, len) = (qkv.q.dim(0), qkv.q.dim(1));
    let split = |x: &Array, heads: i32, norm: Option<&Norm>| -> Result<Array> {
        // One position lies in memory as its heads do.
        let shape =
            if len == 1 { [batch, heads, 1, spec.head_dim] } else { [batch, len, heads, spec.head_dim] };
        let x = x.reshape(&shape)?;
        let x = match norm {
            Some(norm) => norm.forward(&x)?,
            None => x,
        };
        Ok(if len == 1 { x } else { x.transpose_axes(&[0, 2, 1, 3])? })
    };
    let turn = |x: Array| match &spec.rope {
        Some(rope) => rope.forward(&x, at.first, at.padding),
        None => Ok(x),
    };
    Ok([
        turn(split(&qkv.q, spec.heads, spec.q_norm.as_ref())?)?,
        turn(split(&qkv.k, spec.kv_heads, spec.k_norm.as_ref())?)?,
        split(&qkv.v, spec.kv_heads, None)?,
    ])
}

/// [B, heads, L, D] to [B, L, heads · D].
pub(super) fn merge(y: &Array) -> Result<Array> {
    let (batch, len) = (y.dim(0), y.dim(2));
    if len == 1 {
        return Ok(y.reshape(&[batch, 1, -1])?);
    }
    Ok(y.transpose_axes(&[0, 2, 1, 3])?.reshape(&[batch, len, -1])?)
}
