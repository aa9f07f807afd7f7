//! Drawing the next token.

use super::{GenerateParameters, filters};
use crate::{Error, Result};
use mlx_rs::{Array, Device, DeviceType, Dtype, ops, random};
use std::hash::{BuildHasher, Hasher, RandomState};

/// Draws tokens from log-probabilities, on the device: nothing waits for a value.
///
/// Filters work on probabilities at temperature 1, in mlx-lm's order: top-p, min-p, XTC, top-k; then the temperature is applied
/// and a token drawn. They compute in float32. Only differences within a row matter, so logits may be given as well.
///
/// Every draw has a random key of its own, made from the seed and the number of the step. The same seed therefore gives the
/// same tokens on any thread.
#[derive(Debug, Clone)]
pub struct Sampler {
    temperature: Option<f32>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    min_tokens_to_keep: usize,
    xtc: Option<Xtc>,
    top_k: Option<i32>,
    /// Sorting a vocabulary is slow on the CPU alone.
    narrow: bool,
    seed: u64,
    step: u64,
}

#[derive(Debug, Clone)]
struct Xtc {
    probability: f32,
    threshold: f32,
    special: Vec<u32>,
}

/// What a random number is for. Each purpose has numbers of its own.
#[derive(Clone, Copy)]
enum Draw {
    Token,
    Xtc,
}

impl Sampler {
    /// A sampler for `params`. XTC never excludes the tokens `xtc_special`; mlx-lm gives it the line break and those that end
    /// a generation.
    ///
    /// # Errors
    /// [`Error::Parameter`] if [`GenerateParameters::validate`] finds one.
    pub fn new(params: &GenerateParameters, xtc_special: &[u32]) -> Result<Sampler> {
        params.validate()?;
        let (probability, threshold) = (params.xtc_probability, params.xtc_threshold);
        Ok(Sampler {
            temperature: (!params.is_greedy()).then_some(params.temperature),
            top_p: Some(params.top_p).filter(|&p| 0.0 < p && p < 1.0),
            min_p: Some(params.min_p).filter(|&p| p > 0.0),
            min_tokens_to_keep: params.min_tokens_to_keep,
            xtc: (probability > 0.0).then(|| Xtc { probability, threshold, special: xtc_special.to_vec() }),
            top_k: Some(i32::try_from(params.top_k).unwrap_or(i32::MAX)).filter(|&k| k > 0),
            narrow: matches!(Device::try_default()?.get_type()?, DeviceType::Cpu),
            seed: params.seed.unwrap_or_else(entropy),
            step: 0,
        })
    }

    /// The seed in use: the one asked for, or the one drawn instead.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Whether the likeliest token is always taken, so that unnormalized logits give the same tokens as log-probabilities.
    pub fn is_greedy(&self) -> bool {
        self.temperature.is_none()
    }

    /// Draws one token per row of `logprobs` `[B, V]`: ids `[B]`, uint32. Nothing is evaluated.
    ///
    /// # Errors
    /// [`Error::Parameter`] for another shape; [`Error::Mlx`] if MLX refuses an operation.
    pub fn sample(&mut self, logprobs: &Array) -> Result<Array> {
        let logprobs = rows(logprobs)?;
        let Some(temperature) = self.temperature else {
            return Ok(ops::indexing::argmax_axis(logprobs, -1, None)?);
        };
        let (logprobs, candidates) = self.candidates(&logprobs)?;
        let key = random::key(self.random(Draw::Token))?;
        self.step += 1;
        let drawn =
            random::categorical(logprobs.multiply(Array::from_f32(1.0 / temperature))?, -1, None, &key)?;
        match candidates {
            Some(ids) => Ok(ids.take_along_axis(drawn.reshape(&[-1, 1])?, -1)?.reshape(&[-1])?),
            None => Ok(drawn),
        }
    }

    /// The log-probabilities `[B, V]` (float32) that the next [`sample`](Self::sample) draws from, before the temperature:
    /// negative infinity for tokens that the filters exclude, the others as they were. A greedy sampler excludes none.
    ///
    /// # Errors
    /// As [`sample`](Self::sample).
    pub fn filter(&self, logprobs: &Array) -> Result<Array> {
        let logprobs = rows(logprobs)?;
        if self.is_greedy() {
            return Ok(logprobs);
        }
        let (left, ids) = self.candidates(&logprobs)?;
        let Some(ids) = ids else { return Ok(left) };
        let none = ops::full_like(&logprobs, Array::from_f32(f32::NEG_INFINITY), None)?;
        Ok(none.put_along_axis(&ids, &left, -1)?)
    }

    /// The log-probabilities `[B, n]` that the filters leave, and the ids they belong to, if these are not 0, 1, 2 …
    ///
    /// Random numbers for a whole vocabulary cost more than finding the few tokens that are left. What the filters before top-k
    /// keep are the likeliest tokens, unless XTC is one of them: top-k then comes first, with the same result, and the others
    /// have only its few tokens to look at.
    fn candidates(&self, logprobs: &Array) -> Result<(Array, Option<Array>)> {
        // One draw decides for the whole batch. It is made here and not on the device: most steps then skip the filter.
        let xtc = self.xtc.as_ref().filter(|xtc| self.uniform(Draw::Xtc) <= xtc.probability);
        let top_k = self.top_k.filter(|&k| k < logprobs.dim(-1));
        if let (Some(k), None) = (top_k, xtc) {
            let ids = filters::top_k(logprobs, k)?;
            let whole = self.top_p.map(|_| filters::mass(logprobs)).transpose()?;
            let left = self.nucleus(logprobs.take_along_axis(&ids, -1)?, whole.as_ref())?;
            return Ok((left, Some(ids)));
        }
        let mut left = self.nucleus(logprobs.clone(), None)?;
        if let Some(xtc) = xtc {
            left = filters::xtc(&left, xtc.threshold, &xtc.special)?;
        }
        let Some(k) = top_k else { return Ok((left, None)) };
        let ids = filters::top_k(&left, k)?;
        Ok((left.take_along_axis(&ids, -1)?, Some(ids)))
    }

    /// Top-p, of the mass `whole`, and min-p.
    fn nucleus(&self, mut logprobs: Array, whole: Option<&Array>) -> Result<Array> {
        if let Some(p) = self.top_p {
            logprobs = filters::top_p(&logprobs, p, whole, self.narrow)?;
        }
        if let Some(p) = self.min_p {
            logprobs = filters::min_p(&logprobs, p, self.min_tokens_to_keep)?;
        }
        Ok(logprobs)
    }

    fn random(&self, draw: Draw) -> u64 {
        splitmix64(self.seed, self.step.wrapping_mul(2).wrapping_add(draw as u64))
    }

    /// A number from 0 to 1, 1 excluded.
    fn uniform(&self, draw: Draw) -> f32 {
        (self.random(draw) >> 40) as f32 / (1u32 << 24) as f32
    }
}

/// `logprobs` as float32, if it is a matrix with something in each row.
fn rows(logprobs: &Array) -> Result<Array> {
    match logprobs.shape() {
        [_, vocabulary] if *vocabulary > 0 => Ok(logprobs.as_dtype(Dtype::Float32)?),
        shape => Err(Error::Parameter {
            name: "logprobs",
            found: format!("shape {shape:?}"),
            wanted: "[batch, vocabulary]".into(),
        }),
    }
}

/// The `n`th number, from 0, of the generator SplitMix64 (Steele, Lea and Flood 2014) started at `seed`.
pub(crate) fn splitmix64(seed: u64, n: u64) -> u64 {
    let mut z = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A seed that nobody can foresee: the standard library's hash keys come from the operating system.
fn entropy() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    hasher.write_u128(now.as_nanos());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_gives_its_published_numbers() {
        let wanted = [
            6457827717110365317,
            3203168211198807973,
            9817491932198370423,
            4593380528125082431,
            16408922859458223821,
        ];
        for (n, wanted) in (0..).zip(wanted) {
            assert_eq!(splitmix64(1234567, n), wanted);
        }
    }
}
