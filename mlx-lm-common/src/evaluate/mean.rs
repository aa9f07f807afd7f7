//! A mean whose values are not kept.

use crate::{Error, Result};
use mlx_rs::{Array, Dtype};

/// The mean of values and its standard error, by the updates of Welford (1962) in double precision.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mean {
    count: u64,
    mean: f64,
    /// The sum of the squares of the distances from the mean.
    squares: f64,
}

impl Mean {
    /// Takes a value in.
    pub fn push(&mut self, value: f64) {
        self.count += 1;
        let before = value - self.mean;
        self.mean += before / self.count as f64;
        self.squares += before * (value - self.mean);
    }

    /// Takes in all values of an array, of any shape and numeric type; waits for the device.
    pub fn extend(&mut self, values: &Array) -> Result<()> {
        let values = values.as_dtype(Dtype::Float32)?.reshape(&[-1])?;
        values.eval()?;
        let values = values
            .try_as_slice::<f32>()
            .map_err(|e| Error::Mlx { at: "scores".into(), what: e.to_string() })?;
        values.iter().for_each(|v| self.push((*v).into()));
        Ok(())
    }

    /// How many values it is of.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The mean; zero of no values.
    pub fn value(&self) -> f64 {
        self.mean
    }

    /// The deviation of the values, for one degree of freedom less than there are values, over the root of their number; zero of fewer
    /// than two.
    pub fn standard_error(&self) -> f64 {
        if self.count < 2 {
            return 0.0;
        }
        let count = self.count as f64;
        (self.squares / (count - 1.0) / count).sqrt()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn as_the_two_pass_formula_has_it() {
        // Far from zero, where the textbook's sum of squares would lose all digits.
        let values: Vec<f64> = (0..1000).map(|i| 1e9 + f64::from(i * 7919 % 1009)).collect();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (n - 1.0);
        let mut found = Mean::default();
        values.iter().for_each(|v| found.push(*v));
        assert_eq!(found.count(), 1000);
        assert!((found.value() - mean).abs() < 1e-4, "{} {mean}", found.value());
        let wanted = (variance / n).sqrt();
        assert!((found.standard_error() / wanted - 1.0).abs() < 1e-9, "{} {wanted}", found.standard_error());
    }

    #[test]
    fn of_few_values() {
        let mut mean = Mean::default();
        assert_eq!((mean.value(), mean.standard_error()), (0.0, 0.0));
        mean.extend(&Array::from_f32(3.0)).unwrap();
        assert_eq!((mean.value(), mean.standard_error()), (3.0, 0.0));
        mean.extend(&Array::from_slice(&[true], &[1, 1])).unwrap();
        assert_eq!((mean.count(), mean.value(), mean.standard_error()), (2, 2.0, 1.0));
    }
}
