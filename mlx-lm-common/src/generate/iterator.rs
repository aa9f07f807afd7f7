//! The loop at the core: a plain iterator of tokens, one step ahead of its reader.

use super::{GenerateParameters, Processors, Sampler, TokenLogprobs};
use crate::{Error, Result, cache::Cache, model::LanguageModel, raw::Device};
use mlx_rs::{
    Array, memory,
    ops::{self, indexing::IndexOp},
    transforms::async_eval,
};

/// MLX keeps freed buffers for reuse; as the cache grows their sizes go out of use.
const CLEAR_EVERY: usize = 256;

/// A token and, if they were asked for, its log-probabilities.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// The id.
    pub id: u32,
    /// Of this token and the likeliest ones.
    pub logprobs: Option<TokenLogprobs>,
}

/// A token that is computed or about to be.
struct Step {
    /// [1]
    token: Array,
    /// [V]
    logprobs: Option<Array>,
}

/// Generates tokens from a prompt. It ends after `max_tokens`; stopping earlier is up to its reader. While a token is read, the next
/// one is computed already, so that the device never waits.
pub struct TokenIterator<'a> {
    model: &'a dyn LanguageModel,
    cache: &'a mut Cache,
    sampler: Sampler,
    processors: Processors,
    logprobs: Option<usize>,
    next: Option<Step>,
    left: usize,
    made: usize,
}

/// What a [`TokenIterator`] starts from.
pub struct Prompt<'a> {
    /// The whole prompt.
    pub tokens: &'a [u32],
    /// How many of its tokens the cache holds already.
    pub cached: usize,
    /// Positions that the model has.
    pub context: Option<usize>,
}

impl<'a> TokenIterator<'a> {
    /// Runs the prompt through the model, in chunks, with logits for its last position only. `on_chunk` is told how many tokens
    /// are done, and calls it off by returning false.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::PromptTooLong`], [`Error::Parameter`], [`Error::Cancelled`], or what the model reports.
    pub fn new(
        model: &'a dyn LanguageModel,
        cache: &'a mut Cache,
        prompt: &Prompt,
        parameters: &GenerateParameters,
        sampler: Sampler,
        on_chunk: &mut dyn FnMut(usize) -> bool,
    ) -> Result<TokenIterator<'a>> {
        let Some(rest) = prompt.tokens.get(prompt.cached..) else { return Err(Error::EmptyPrompt) };
        let mut processors = Processors::new(parameters, usize::try_from(model.vocab_size()).unwrap_or(0))?;
        processors.prompt(prompt.tokens)?;
        let prefilled = prefill(model, cache, rest, parameters.prefill_step_size, prompt.context, on_chunk)?;
        // The last token needs no position: nothing is computed from it.
        let room = prompt.context.map_or(usize::MAX, |c| (c + 1).saturating_sub(prompt.tokens.len()));
        let mut iterator = TokenIterator {
            model,
            cache,
            sampler,
            processors,
            logprobs: parameters.logprobs,
            next: None,
            left: parameters.max_tokens.unwrap_or(usize::MAX).min(room),
            made: 0,
        };
        let first = iterator.choose(&prefilled)?;
        iterator.next = Some(first);
        memory::clear_cache()?;
        Ok(iterator)
    }

    /// From hidden states [1, 1, D] to the next token, queued on the device.
    fn choose(&mut self, hidden: &Array) -> Result<Step> {
        let mut logits = self.model.logits(hidden)?.reshape(&[1, -1])?;
        if !self.processors.is_empty() {
            logits = self.processors.process(logits)?;
        }
        // Samplers look at differences alone.
        if self.logprobs.is_some() {
            logits = logits.subtract(ops::logsumexp_axis(&logits, -1, true)?)?;
        }
        let token = self.sampler.sample(&logits)?;
        if !self.processors.is_empty() {
            self.processors.push(&token)?;
        }
        let logprobs = self.logprobs.map(|_| logits.reshape(&[-1])).transpose()?;
        async_eval([Some(&token), logprobs.as_ref()].into_iter().flatten())?;
        Ok(Step { token, logprobs })
    }

    fn step(&mut self) -> Result<Option<Token>> {
        let Some(step) = self.next.take().filter(|_| self.left > 0) else { return Ok(None) };
        self.left -= 1;
        self.made += 1;
        if self.left > 0 {
            let hidden = self.model.hidden(self.model.embed(&step.token.reshape(&[1, 1])?)?, self.cache)?;
            self.next = Some(self.choose(&hidden)?);
        }
        if self.made.is_multiple_of(CLEAR_EVERY) {
            memory::clear_cache()?;
        }
        let id = step
            .token
            .try_item_cast::<u32>()
            .map_err(|e| Error::Mlx { at: "token".into(), what: e.to_string() })?;
        let logprobs = match (step.logprobs, self.logprobs) {
            (Some(row), Some(top)) => Some(TokenLogprobs::read(id, &row, top)?),
            _ => None,
        };
        Ok(Some(Token { id, logprobs }))
    }
}

impl Iterator for TokenIterator<'_> {
    type Item = Result<Token>;

    fn next(&mut self) -> Option<Result<Token>> {
        let result = self.step().transpose();
        if let Some(Err(_)) = result {
            self.next = None;
        }
        result
    }
}

/// Runs tokens through the model `step` at a time and returns the hidden state of the last one, [1, 1, D]. The caches are evaluated
/// after each chunk and nothing else is: most of the last layer is never computed.
pub fn prefill(
    model: &dyn LanguageModel,
    cache: &mut Cache,
    tokens: &[u32],
    step: usize,
    context: Option<usize>,
    on_chunk: &mut dyn FnMut(usize) -> bool,
) -> Result<Array> {
    let vocab = u32::try_from(model.vocab_size()).unwrap_or(0);
    if let Some(id) = tokens.iter().find(|id| **id >= vocab) {
        let wanted = format!("ids below {vocab}, the size of the vocabulary");
        return Err(Error::Parameter { name: "prompt", found: format!("token id {id}"), wanted });
    }
    let length = tokens.len() + usize::try_from(cache.offset()).unwrap_or(0);
    if let Some(limit) = context.filter(|c| length > *c) {
        return Err(Error::PromptTooLong { tokens: length, limit });
    }
    // Rows of the last layer that nobody reads cost as much as others in MLX's CPU code, so there the last token goes alone; where a
    // step costs more than they do, it goes with the rest.
    let slow = model.backend().device == Device::Cpu && !model.backend().kernels;
    let (rest, alone) = tokens.split_at(tokens.len() - usize::from(slow && tokens.len() > 1));
    let mut done = 0;
    let mut last = None;
    for chunk in rest.chunks(step.max(1)).chain(alone.chunks(1)) {
        if !on_chunk(done) {
            return Err(Error::Cancelled);
        }
        let ids = Array::from_slice(chunk, &[1, chunk.len() as i32]);
        let hidden = model.hidden(model.embed(&ids)?, cache)?;
        done += chunk.len();
        if done < tokens.len() {
            cache.eval()?;
        }
        last = Some(hidden.index((.., -1.., ..)));
    }
    on_chunk(done);
    last.ok_or(Error::EmptyPrompt)
}
