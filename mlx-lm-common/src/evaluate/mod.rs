//! How good a model is: its perplexity on a text, and how far it is from another model (KL divergence, agreement), in bounded memory.
//!
//! Perplexity is that of `mlx_lm.perplexity`: the exponential of the mean loss of all tokens but the first of each sample, in nats and
//! float32; its standard error is that of the mean loss times the perplexity (the delta method).

mod mean;
mod samples;
mod scores;

pub use mean::Mean;
pub use samples::samples;
pub use scores::{agreement, divergence, losses};

use crate::{
    Error, Result,
    cache::{Cache, CachePolicy},
    model::LanguageModel,
};
use mlx_rs::{Array, ops::indexing::IndexOp, transforms};

/// Logits of a piece of a batch, over all its rows, so many at most.
const LOGITS: usize = 1 << 24;

/// How samples go through a model. Neither changes a figure by more than rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvaluateParameters {
    /// Samples that go through it together.
    pub batch_size: usize,
    /// Positions that go through it at once.
    pub step: usize,
}

impl Default for EvaluateParameters {
    fn default() -> EvaluateParameters {
        EvaluateParameters { batch_size: 8, step: 512 }
    }
}

/// How well a model foretells a text.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Perplexity {
    /// The loss of a token, in nats.
    pub loss: Mean,
}

impl Perplexity {
    /// The exponential of the mean loss.
    pub fn value(&self) -> f64 {
        self.loss.value().exp()
    }

    /// Its standard error.
    pub fn standard_error(&self) -> f64 {
        self.value() * self.loss.standard_error()
    }
}

/// How far a model is from a reference.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Comparison {
    /// Of the model.
    pub model: Perplexity,
    /// Of the reference.
    pub reference: Perplexity,
    /// KL(reference || model) of a token, in nats.
    pub divergence: Mean,
    /// Whether both have the same likeliest token: 1 or 0.
    pub agreement: Mean,
}

/// The perplexity of a model on samples of equal length, two tokens or more each. `on_tokens` is told how many tokens are done, and calls
/// it off by returning false.
///
/// # Errors
/// [`Error::Parameter`] for samples that the model cannot read, [`Error::Cancelled`], or what the model reports.
pub fn perplexity(
    model: &dyn LanguageModel,
    samples: &[&[u32]],
    parameters: &EvaluateParameters,
    on_tokens: &mut dyn FnMut(usize) -> bool,
) -> Result<Perplexity> {
    let mut found = Perplexity::default();
    each_piece(&[model], samples, parameters, on_tokens, &mut |logits, targets| {
        found.loss.extend(&losses(&logits[0], targets)?)
    })?;
    Ok(found)
}

/// As [`perplexity`], of a model and a reference that has the same vocabulary, and how far they are apart.
///
/// # Errors
/// As [`perplexity`]; [`Error::Unsupported`] if the vocabularies differ in size.
pub fn compare(
    model: &dyn LanguageModel,
    reference: &dyn LanguageModel,
    samples: &[&[u32]],
    parameters: &EvaluateParameters,
    on_tokens: &mut dyn FnMut(usize) -> bool,
) -> Result<Comparison> {
    let (own, other) = (model.vocab_size(), reference.vocab_size());
    if own != other {
        return Err(Error::Unsupported(format!(
            "models with vocabularies of {own} and {other} tokens cannot be compared"
        )));
    }
    let mut found = Comparison::default();
    each_piece(&[model, reference], samples, parameters, on_tokens, &mut |logits, targets| {
        found.model.loss.extend(&losses(&logits[0], targets)?)?;
        found.reference.loss.extend(&losses(&logits[1], targets)?)?;
        found.divergence.extend(&divergence(&logits[1], &logits[0])?)?;
        found.agreement.extend(&agreement(&logits[1], &logits[0])?)
    })?;
    Ok(found)
}

/// Runs samples through models and hands on the logits [B, L, V] of each for the same piece, with the tokens [B, L] that follow.
fn each_piece(
    models: &[&dyn LanguageModel],
    samples: &[&[u32]],
    parameters: &EvaluateParameters,
    on_tokens: &mut dyn FnMut(usize) -> bool,
    f: &mut dyn FnMut(&[Array], &Array) -> Result<()>,
) -> Result<()> {
    let vocab = models.iter().map(|m| usize::try_from(m.vocab_size()).unwrap_or(0)).min().unwrap_or(0);
    let length = check(samples, vocab)?;
    let mut done = 0;
    for batch in samples.chunks(parameters.batch_size.max(1)) {
        let rows = batch.len();
        let new = |m: &&dyn LanguageModel| Cache::new(&m.cache_specs(), &CachePolicy::default());
        let mut caches = models.iter().map(new).collect::<Result<Vec<_>>>()?;
        let positions: Vec<usize> = (0..length - 1).collect();
        for step in positions.chunks(parameters.step.max(1)) {
            let (start, end) = (step[0], step[0] + step.len());
            let (inputs, targets) = (ids(batch, start, end), ids(batch, start + 1, end + 1));
            let hidden = models.iter().zip(&mut caches).map(|(m, cache)| m.hidden(m.embed(&inputs)?, cache));
            let hidden = hidden.collect::<Result<Vec<_>>>()?;
            let piece = (LOGITS / (rows * vocab)).max(1);
            for from in (0..step.len()).step_by(piece) {
                if !on_tokens(done) {
                    return Err(Error::Cancelled);
                }
                let to = step.len().min(from + piece);
                let part = from as i32..to as i32;
                let logits = models.iter().zip(&hidden);
                let logits = logits.map(|(m, h)| m.logits(&h.index((.., part.clone(), ..))));
                f(&logits.collect::<Result<Vec<_>>>()?, &targets.index((.., part.clone())))?;
                done += rows * (to - from);
            }
            // What is kept must not keep the graph that made it.
            transforms::eval(caches.iter().flat_map(Cache::arrays))?;
        }
    }
    on_tokens(done);
    Ok(())
}

/// The length of the samples.
fn check(samples: &[&[u32]], vocab: usize) -> Result<usize> {
    let wrong = |found: String, wanted: String| Err(Error::Parameter { name: "samples", found, wanted });
    let Some(length) = samples.first().map(|s| s.len()) else {
        return wrong("none".into(), "one or more".into());
    };
    if length < 2 || i32::try_from(length).is_err() {
        return wrong(format!("{length} tokens in a sample"), "two or more".into());
    }
    if let Some(other) = samples.iter().find(|s| s.len() != length) {
        return wrong(format!("one of {length} tokens and one of {}", other.len()), "equal lengths".into());
    }
    match samples.iter().flat_map(|s| s.iter()).find(|id| **id as usize >= vocab) {
        Some(id) => wrong(format!("token id {id}"), format!("ids below {vocab}, the size of the vocabulary")),
        None => Ok(length),
    }
}

/// Tokens of a batch [B, end - start].
fn ids(batch: &[&[u32]], start: usize, end: usize) -> Array {
    let ids: Vec<u32> = batch.iter().flat_map(|sample| &sample[start..end]).copied().collect();
    Array::from_slice(&ids, &[batch.len() as i32, (end - start) as i32])
}
