//! Tensors of two programs, side by side.

use anyhow::{Result, anyhow, bail};
use safetensors::{Dtype, SafeTensors};

/// Largest difference of two logits, relative to the largest logit (but at least absolute): float32 sums in another order.
const TOLERANCE: f32 = 1e-4;

/// How far logits are apart.
pub(crate) struct Distance {
    /// Of the two that are farthest apart.
    pub(crate) found: f32,
    /// What counts as equal.
    pub(crate) allowed: f32,
}

impl Distance {
    /// Between two lists of the same length.
    pub(crate) fn between(found: &[f32], wanted: &[f32]) -> Result<Distance> {
        if found.len() != wanted.len() {
            bail!("found {} logits, wanted {}", found.len(), wanted.len());
        }
        let largest = wanted.iter().fold(1.0_f32, |m, w| m.max(w.abs()));
        let differences = found.iter().zip(wanted).map(|(f, w)| (f - w).abs());
        // `max` would drop a NaN.
        let found = differences.fold(0.0_f32, |m, d| if d > m || d.is_nan() { d } else { m });
        Ok(Distance { found, allowed: TOLERANCE * largest })
    }

    /// Whether they are equal.
    pub(crate) fn is_small(&self) -> bool {
        self.found <= self.allowed
    }
}

/// A word for a table.
pub(crate) fn verdict(is_equal: bool) -> &'static str {
    if is_equal { "ok" } else { "FAILED" }
}

/// A tensor of float32.
pub(crate) fn floats(file: &SafeTensors, name: &str) -> Result<Vec<f32>> {
    Ok(words(file, name, Dtype::F32)?.into_iter().map(f32::from_le_bytes).collect())
}

/// A tensor of int32.
pub(crate) fn integers(file: &SafeTensors, name: &str) -> Result<Vec<i32>> {
    Ok(words(file, name, Dtype::I32)?.into_iter().map(i32::from_le_bytes).collect())
}

fn words(file: &SafeTensors, name: &str, dtype: Dtype) -> Result<Vec<[u8; 4]>> {
    let tensor = file.tensor(name).map_err(|e| anyhow!("tensor `{name}`: {e}"))?;
    if tensor.dtype() != dtype {
        bail!("tensor `{name}`: found {:?}, wanted {dtype:?}", tensor.dtype());
    }
    Ok(tensor.data().as_chunks::<4>().0.to_vec())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::Distance;

    #[test]
    fn nothing_equals_what_is_not_a_number() {
        for (found, is_small) in [(2.0001, true), (2.001, false), (f32::NAN, false), (f32::INFINITY, false)] {
            assert_eq!(
                Distance::between(&[0.0, found], &[0.0, 2.0]).unwrap().is_small(),
                is_small,
                "{found}"
            );
        }
        assert!(Distance::between(&[0.0], &[]).is_err());
    }
}
