//! Log-probabilities for those who ask for them.

use crate::{Error, Result};
use mlx_rs::{Array, Dtype};
use serde::Serialize;
use std::cmp::Ordering;

/// How likely a chosen token was, and which were likeliest.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenLogprobs {
    /// The chosen token.
    pub token: u32,
    /// Its natural log-probability.
    pub logprob: f32,
    /// The likeliest tokens and their log-probabilities, the likeliest first; of equals, the lower id first.
    pub top: Vec<(u32, f32)>,
}

impl TokenLogprobs {
    /// Reads one row of log-probabilities (`[V]` or `[1, V]`, any float type): waits for the device and copies the row.
    ///
    /// # Errors
    /// [`Error::Parameter`] if `token` is not below V; [`Error::Mlx`] if the row cannot be computed.
    pub fn read(token: u32, logprobs: &Array, top: usize) -> Result<TokenLogprobs> {
        let row = logprobs.as_dtype(Dtype::Float32)?.reshape(&[-1])?;
        row.eval()?;
        let values = row
            .try_as_slice::<f32>()
            .map_err(|e| Error::Mlx { at: "logprobs".into(), what: e.to_string() })?;
        Self::of_row(token, values, top)
    }

    /// The same for a row `[V]` that is on the host.
    ///
    /// # Errors
    /// [`Error::Parameter`] if `token` is not below V.
    pub fn of_row(token: u32, logprobs: &[f32], top: usize) -> Result<TokenLogprobs> {
        let Some(&logprob) = logprobs.get(token as usize) else {
            let wanted = format!("an id below {}", logprobs.len());
            return Err(Error::Parameter { name: "token", found: token.to_string(), wanted });
        };
        Ok(TokenLogprobs { token, logprob, top: likeliest(logprobs, top) })
    }
}

/// The `n` greatest values with their indices, in order. Not-a-number counts as least.
fn likeliest(values: &[f32], n: usize) -> Vec<(u32, f32)> {
    let order = |a: &(u32, f32), b: &(u32, f32)| -> Ordering {
        let value = |x: f32| if x.is_nan() { f32::NEG_INFINITY } else { x };
        value(b.1).total_cmp(&value(a.1)).then(a.0.cmp(&b.0))
    };
    let mut all: Vec<(u32, f32)> = (0..).zip(values.iter().copied()).collect();
    if n == 0 {
        return Vec::new();
    }
    if n < all.len() {
        all.select_nth_unstable_by(n - 1, order);
        all.truncate(n);
    }
    all.sort_unstable_by(order);
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn the_likeliest_come_in_order_and_equals_by_id() {
        let row = [-3.0, -1.0, f32::NEG_INFINITY, -1.0, -0.5, f32::NAN];
        let got = TokenLogprobs::of_row(0, &row, 3).unwrap();
        assert_eq!(
            got,
            TokenLogprobs { token: 0, logprob: -3.0, top: vec![(4, -0.5), (1, -1.0), (3, -1.0)] }
        );
        assert_eq!(TokenLogprobs::of_row(4, &row, 2).unwrap().top, [(4, -0.5), (1, -1.0)]);
        assert_eq!(TokenLogprobs::of_row(4, &row, 0).unwrap().top, []);
        let all = TokenLogprobs::of_row(4, &row, 100).unwrap().top;
        assert_eq!(all.iter().map(|t| t.0).collect::<Vec<_>>(), [4, 1, 3, 0, 2, 5]);
    }

    #[test]
    fn a_token_beyond_the_row_is_an_error() {
        assert!(matches!(
            TokenLogprobs::of_row(2, &[0.0, 0.0], 1),
            Err(Error::Parameter { name: "token", .. })
        ));
    }

    #[test]
    fn an_array_of_any_float_type_is_read() {
        let row = Array::from_slice(&[-2.0f32, -0.25, -4.0], &[1, 3]);
        let wanted = TokenLogprobs { token: 2, logprob: -4.0, top: vec![(1, -0.25)] };
        assert_eq!(TokenLogprobs::read(2, &row, 1).unwrap(), wanted);
        assert_eq!(TokenLogprobs::read(2, &row.as_dtype(Dtype::Bfloat16).unwrap(), 1).unwrap(), wanted);
    }
}
