//! The filters of sampling. Each takes log-probabilities `[B, V]` (float32) and leaves negative infinity where a token may not
//! be drawn, with the rules of mlx-lm's `sample_utils`. Only differences within a row matter, so logits do as well.

use crate::Result;
use mlx_rs::{
    Array,
    ops::{self, indexing::TryIndexOp},
};

/// Rows up to this length are sorted as they are.
const SORTED: i32 = 1024;

/// The probabilities `[B, V]` that belong to log-probabilities, but for a factor: the greatest is 1.
fn scaled(logprobs: &Array) -> Result<Array> {
    Ok(logprobs.subtract(logprobs.max_axis(-1, true)?)?.exp()?)
}

/// The mass `[B, 1]` of each row, the likeliest token's being 1.
pub(super) fn mass(logprobs: &Array) -> Result<Array> {
    Ok(scaled(logprobs)?.sum_axis(-1, true)?)
}

/// Keeps the likeliest tokens that together reach the fraction `p` of the mass, and all that are as likely as the last of them.
/// The mass is `whole`, where the row is only the likeliest part of another.
///
/// With `narrow`, the part of the row that holds the threshold is found by halving before anything is sorted: the same
/// result, several times as fast where sorting a whole vocabulary takes milliseconds (MLX on the CPU), and slower elsewhere.
pub(super) fn top_p(logprobs: &Array, p: f32, whole: Option<&Array>, narrow: bool) -> Result<Array> {
    let probs = scaled(logprobs)?;
    let whole = whole.cloned().map_or_else(|| probs.sum_axis(-1, true), Ok)?;
    // The mass above the likeliest token is 0, below any target: it always stays.
    let target = whole.multiply(Array::from_f32(p.max(1e-30)))?;

    let none = Array::from_f32(0.0);
    let (part, above) = if narrow { narrow_down(&probs, &target)? } else { (probs.clone(), none) };
    let sorted = ops::sort_axis(&part, -1)?;
    let mass_above = sorted.cumsum(-1, true, false)?.add(&above)?;
    let dropped = mass_above.ge(&target)?.sum_axis(-1, true)?;
    let threshold = sorted.take_along_axis(&dropped, -1)?;
    remove(&probs.lt(&threshold)?, logprobs)
}

/// The part of each row in which the mass, summed from the greatest value down, reaches `target`; and the mass above that part.
fn narrow_down(probs: &Array, target: &Array) -> Result<(Array, Array)> {
    let mut part = probs.clone();
    let mut above = Array::zeros::<f32>(&[part.dim(0), 1])?;
    while part.dim(-1) > SORTED {
        if part.dim(-1) % 2 == 1 {
            part = ops::concatenate(&[part.clone(), Array::zeros::<f32>(&[part.dim(0), 1])?], -1)?;
        }
        let half = part.dim(-1) / 2;
        let split = ops::partition_axis(&part, half, -1)?;
        let (low, high) = (split.try_index((.., ..half))?, split.try_index((.., half..))?);
        let mass = high.sum_axis(-1, true)?.add(&above)?;
        let reached = mass.ge(target)?;
        part = ops::select(&reached, high, low)?;
        above = ops::select(&reached, above, mass)?;
    }
    Ok((part, above))
}

/// Keeps tokens at least `p` times as likely as the likeliest, and the `keep` likeliest in any case.
pub(super) fn min_p(logprobs: &Array, p: f32, keep: usize) -> Result<Array> {
    let keep = i32::try_from(keep).unwrap_or(i32::MAX);
    if keep >= logprobs.dim(-1) {
        return Ok(logprobs.clone());
    }
    let threshold = logprobs.max_axis(-1, true)?.add(Array::from_f32(p.ln()))?;
    let mut unlikely = logprobs.lt(&threshold)?;
    if keep > 1 {
        let order = ops::argpartition_axis(logprobs, -keep, -1)?;
        let likeliest = order.try_index((.., -keep..))?;
        unlikely = unlikely.put_along_axis(likeliest, Array::from_bool(false), -1)?;
    }
    remove(&unlikely, logprobs)
}

/// Removes every token more likely than the least likely of those above `threshold`; never one of `special`.
pub(super) fn xtc(logprobs: &Array, threshold: f32, special: &[u32]) -> Result<Array> {
    let probs = ops::softmax_axis(logprobs, -1, None)?;
    let above = ops::select(probs.gt(Array::from_f32(threshold))?, &probs, Array::from_f32(f32::INFINITY))?;
    let mut top = probs.gt(above.min_axis(-1, true)?)?;
    let special: Vec<u32> =
        special.iter().copied().filter(|&id| (id as usize) < logprobs.dim(-1) as usize).collect();
    if !special.is_empty() {
        let ids = Array::from_slice(&special, &[1, special.len() as i32]);
        let ids = ops::broadcast_to(ids, &[logprobs.dim(0), special.len() as i32])?;
        top = top.put_along_axis(ids, Array::from_bool(false), -1)?;
    }
    remove(&top, logprobs)
}

/// The ids `[B, k]` of the `k` likeliest tokens, in no order. `k` is from 1 to V - 1.
pub(super) fn top_k(logprobs: &Array, k: i32) -> Result<Array> {
    Ok(ops::argpartition_axis(logprobs.negative()?, k - 1, -1)?.try_index((.., ..k))?)
}

fn remove(mask: &Array, logprobs: &Array) -> Result<Array> {
    Ok(ops::select(mask, Array::from_f32(f32::NEG_INFINITY), logprobs)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use mlx_rs::random;

    #[test]
    fn halving_and_sorting_find_the_same_threshold() {
        // Few values, so that a threshold hangs on no rounding of a sum; odd and even lengths, below and above the limit.
        for (seed, width) in [1, 2, 7, 1023, 1024, 1025, 4099, 33333].into_iter().enumerate() {
            let key = random::key(seed as u64).unwrap();
            let logits = random::normal::<f32>(&[3, width], None, None, &key).unwrap();
            let logits = logits.multiply(Array::from_f32(8.0)).unwrap().round(0).unwrap();
            for p in [1e-6, 0.03, 0.35, 0.5, 0.77, 0.9, 0.993, 0.999] {
                let sorted = top_p(&logits, p, None, false).unwrap();
                let halved = top_p(&logits, p, None, true).unwrap();
                assert!(sorted.eq_exact(&halved).unwrap(), "{width} tokens, p = {p}");
            }
        }
    }

    #[test]
    fn one_half_of_a_row_holds_the_threshold() {
        // 2048 equal tokens, then 2048 with no mass: the halves meet at the target exactly.
        let row = [vec![0.0f32; 2048], vec![f32::NEG_INFINITY; 2048]].concat();
        let logits = Array::from_slice(&row, &[1, 4096]);
        for p in [0.25, 0.5, 0.75] {
            assert!(top_p(&logits, p, None, true).unwrap().eq_exact(&logits).unwrap());
        }
    }
}
