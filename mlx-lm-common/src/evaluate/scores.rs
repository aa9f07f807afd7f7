//! Figures of single tokens, from logits.

use crate::Result;
use mlx_rs::{
    Array, Dtype,
    ops::{self, indexing},
};

/// The losses [B, L] of `targets` [B, L] (ids) under `logits` [B, L, V]: the negated log-probabilities, in nats and float32.
pub fn losses(logits: &Array, targets: &Array) -> Result<Array> {
    let logits = logits.as_dtype(Dtype::Float32)?;
    let found = logits.take_along_axis(targets.expand_dims(-1)?, -1)?.squeeze_axes(&[-1])?;
    Ok(ops::logsumexp_axis(&logits, -1, false)?.subtract(found)?)
}

/// KL(reference || model) [B, L], in nats and float32, of two arrays of logits [B, L, V]. Tokens that are impossible to the reference
/// add nothing.
pub fn divergence(reference: &Array, model: &Array) -> Result<Array> {
    let (reference, model) = (log_softmax(reference)?, log_softmax(model)?);
    let likely = ops::exp(&reference)?;
    let terms = likely.multiply(reference.subtract(model)?)?;
    let nothing = Array::from_f32(0.0);
    let terms = ops::select(likely.gt(&nothing)?, terms, &nothing)?;
    Ok(ops::sum_axis(&terms, -1, false)?)
}

/// Whether two arrays of logits [B, L, V] have the same likeliest token: [B, L], of booleans.
pub fn agreement(a: &Array, b: &Array) -> Result<Array> {
    let likeliest = |logits: &Array| indexing::argmax_axis(logits, -1, None);
    Ok(likeliest(a)?.eq(likeliest(b)?)?)
}

fn log_softmax(logits: &Array) -> Result<Array> {
    let logits = logits.as_dtype(Dtype::Float32)?;
    let sum = ops::logsumexp_axis(&logits, -1, true)?;
    Ok(logits.subtract(sum)?)
}
