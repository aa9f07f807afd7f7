//! A text, cut into samples.

use crate::{Error, Result, generate::splitmix64};

/// Cuts tokens into samples of `length`, one after another, as `mlx_lm.perplexity` does; tokens at the end that fill no sample are left
/// out. At most `count` are kept: the first ones, or, with a seed, some from all over the text, in an order that the seed decides.
///
/// # Errors
/// [`Error::Parameter`] if there are not tokens enough for one sample, or a sample has fewer than two.
pub fn samples(
    tokens: &[u32],
    length: usize,
    count: Option<usize>,
    seed: Option<u64>,
) -> Result<Vec<&[u32]>> {
    if length < 2 || length > tokens.len() {
        let wanted = match tokens.len() {
            0 | 1 => "a text of two tokens or more".into(),
            n => format!("2 to {n}, the tokens of the text"),
        };
        return Err(Error::Parameter { name: "sequence_length", found: length.to_string(), wanted });
    }
    let mut samples: Vec<_> = tokens.chunks_exact(length).collect();
    if let Some(seed) = seed {
        // Fisher and Yates, from the start, so that fewer samples are the first ones of more.
        for i in 0..samples.len() {
            let left = (samples.len() - i) as u64;
            samples.swap(i, i + (splitmix64(seed, i as u64) % left) as usize);
        }
    }
    samples.truncate(count.unwrap_or(usize::MAX));
    Ok(samples)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn in_order_unless_drawn() {
        let tokens: Vec<u32> = (0..23).collect();
        let firsts = |count, seed| -> Vec<u32> {
            samples(&tokens, 5, count, seed).unwrap().iter().map(|s| s[0]).collect()
        };
        assert_eq!(firsts(None, None), [0, 5, 10, 15]);
        assert_eq!(firsts(Some(2), None), [0, 5]);
        let drawn = firsts(None, Some(1));
        assert_eq!(firsts(Some(2), Some(1)), drawn[..2]);
        assert!((2..20).any(|seed| firsts(None, Some(seed)) != drawn));
        let mut sorted = drawn;
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 5, 10, 15]);
    }

    #[test]
    fn a_text_that_is_too_short() {
        for (tokens, length) in [(0, 2), (1, 2), (5, 6), (5, 1), (5, 0)] {
            let tokens = vec![0; tokens];
            assert!(matches!(samples(&tokens, length, None, None), Err(Error::Parameter { .. })));
        }
    }
}
