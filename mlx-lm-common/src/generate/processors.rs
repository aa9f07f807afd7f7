//! Changes to the logits before they become probabilities.

use super::GenerateParameters;
use crate::{Error, Result};
use mlx_rs::{
    Array,
    ops::{self, indexing::TryIndexOp},
};

/// Logit bias, then the repetition, presence and frequency penalties, as mlx-lm's `make_logits_processors` does them.
///
/// The penalties look at the latest tokens, the prompt's included. These are kept as a small array that may hold tokens not
/// computed yet, so the next step can be built before a token is known. One value serves one sequence.
#[derive(Debug, Clone)]
pub struct Processors {
    vocabulary: i32,
    bias: Option<Bias>,
    penalties: Vec<Penalty>,
    /// The latest tokens `[1, n]`, as many as the longest context wants.
    window: Option<Array>,
    capacity: i32,
}

#[derive(Debug, Clone)]
struct Bias {
    /// `[n]`
    ids: Array,
    /// `[n, 1, 1]`
    values: Array,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Repetition,
    Presence,
    Frequency,
}

#[derive(Debug, Clone, Copy)]
struct Penalty {
    kind: Kind,
    value: f32,
    context: i32,
}

impl Processors {
    /// The processors that `params` asks for, of logits over `vocabulary` tokens.
    ///
    /// # Errors
    /// [`Error::Parameter`] if [`GenerateParameters::validate`] finds one, or `logit_bias` names a token that does not exist.
    pub fn new(params: &GenerateParameters, vocabulary: usize) -> Result<Processors> {
        params.validate()?;
        if let Some(&id) = params.logit_bias.keys().find(|&&id| id as usize >= vocabulary) {
            return Err(unknown("logit_bias", id, vocabulary));
        }
        let bias = (!params.logit_bias.is_empty()).then(|| {
            let n = params.logit_bias.len() as i32;
            let (ids, values): (Vec<u32>, Vec<f32>) = params.logit_bias.iter().unzip();
            Bias { ids: Array::from_slice(&ids, &[n]), values: Array::from_slice(&values, &[n, 1, 1]) }
        });
        let penalty = |kind, value: Option<f32>, context: usize, neutral: f32| {
            let value = value.filter(|&v| v != 0.0 && v != neutral)?;
            Some(Penalty { kind, value, context: i32::try_from(context).unwrap_or(i32::MAX) })
        };
        let penalties: Vec<Penalty> = [
            penalty(Kind::Repetition, params.repetition_penalty, params.repetition_context_size, 1.0),
            penalty(Kind::Presence, params.presence_penalty, params.presence_context_size, 0.0),
            penalty(Kind::Frequency, params.frequency_penalty, params.frequency_context_size, 0.0),
        ]
        .into_iter()
        .flatten()
        .collect();
        let capacity = penalties.iter().map(|p| p.context).max().unwrap_or(0);
        let vocabulary = i32::try_from(vocabulary).unwrap_or(i32::MAX);
        Ok(Processors { vocabulary, bias, penalties, window: None, capacity })
    }

    /// Whether nothing is to be done: then neither [`process`](Self::process) nor [`push`](Self::push) need be called.
    pub fn is_empty(&self) -> bool {
        self.bias.is_none() && self.penalties.is_empty()
    }

    /// Starts over after these tokens: the whole text so far, or its end.
    ///
    /// # Errors
    /// [`Error::Parameter`] if one of those that the penalties look at is not in the vocabulary.
    pub fn prompt(&mut self, tokens: &[u32]) -> Result<()> {
        let recent = &tokens[tokens.len().saturating_sub(self.capacity as usize)..];
        if let Some(&id) = recent.iter().find(|&&id| id as usize >= self.vocabulary as usize) {
            return Err(unknown("prompt", id, self.vocabulary as usize));
        }
        self.window = (!recent.is_empty()).then(|| Array::from_slice(recent, &[1, recent.len() as i32]));
        Ok(())
    }

    /// The logits `[1, V]` with bias and penalties, in their own type.
    ///
    /// # Errors
    /// [`Error::Parameter`] for another shape; [`Error::Mlx`] if MLX refuses an operation.
    pub fn process(&mut self, logits: Array) -> Result<Array> {
        if self.is_empty() {
            return Ok(logits);
        }
        if logits.shape() != [1, self.vocabulary] {
            let wanted = format!("[1, {}]", self.vocabulary);
            return Err(Error::Parameter {
                name: "logits",
                found: format!("shape {:?}", logits.shape()),
                wanted,
            });
        }
        let mut logits = logits;
        if let Some(bias) = &self.bias {
            let values = bias.values.as_dtype(logits.dtype())?;
            logits = ops::indexing::scatter_add_single(&logits, &bias.ids, values, 1)?;
        }
        if let Some(window) = &self.window {
            for penalty in &self.penalties {
                logits = penalty.apply(&logits, &latest(window, penalty.context)?)?;
            }
        }
        Ok(logits)
    }

    /// Takes a new token (one id, computed or not) into account.
    ///
    /// # Errors
    /// [`Error::Mlx`] if `token` holds more or less than one id.
    pub fn push(&mut self, token: &Array) -> Result<()> {
        if self.capacity == 0 {
            return Ok(());
        }
        let token = token.as_dtype(mlx_rs::Dtype::Uint32)?.reshape(&[1, 1])?;
        self.window = Some(match &self.window {
            None => token,
            Some(window) => ops::concatenate(&[latest(window, self.capacity - 1)?, token], 1)?,
        });
        Ok(())
    }
}

impl Penalty {
    fn apply(&self, logits: &Array, recent: &Array) -> Result<Array> {
        let value = Array::from_f32(self.value);
        let changed = match self.kind {
            Kind::Repetition => {
                let seen = logits.take_along_axis(recent, 1)?;
                let negative = seen.lt(Array::from_f32(0.0))?;
                ops::select(negative, seen.multiply(&value)?, seen.divide(&value)?)?
            }
            Kind::Presence => logits.take_along_axis(recent, 1)?.subtract(&value)?,
            Kind::Frequency => {
                let each =
                    ops::broadcast_to(value.negative()?.as_dtype(logits.dtype())?, &[recent.dim(1), 1, 1])?;
                return Ok(ops::indexing::scatter_add_single(logits, recent.reshape(&[-1])?, each, 1)?);
            }
        };
        // A token that was seen twice is written twice with the same value.
        Ok(logits.put_along_axis(recent, changed.as_dtype(logits.dtype())?, 1)?)
    }
}

/// The last `n` of a window `[1, ..]`, or all of it.
fn latest(window: &Array, n: i32) -> Result<Array> {
    let len = window.dim(1);
    Ok(if len > n { window.try_index((.., len - n..))? } else { window.clone() })
}

fn unknown(name: &'static str, id: u32, vocabulary: usize) -> Error {
    Error::Parameter { name, found: format!("token {id}"), wanted: format!("ids below {vocabulary}") }
}
