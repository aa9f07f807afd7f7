//! One generation from start to end: prompt ids in, events out.

use super::{
    Detokenizer, ExtraEos, GenerateParameters, Prompt, PromptCache, Sampler, StopMatcher, Token,
    TokenIterator, TokenLogprobs,
};
use crate::{Error, Result, model::ModelContext, raw, tokenizer::Tokenizer};
use mlx_rs::memory;
use serde::Serialize;
use std::{collections::BTreeSet, ops::ControlFlow, time::Instant};

/// What happens during a generation, in order.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// So many of the prompt's tokens are done; the cache held `cached` of them.
    Prefill {
        /// Tokens done, cached ones included.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
        /// Tokens that needed no work.
        cached: usize,
    },
    /// A token was generated.
    Token {
        /// Its id.
        id: u32,
        /// Its log-probabilities, if they were asked for.
        logprobs: Option<TokenLogprobs>,
    },
    /// More text: whole characters, which may be of several tokens, and nothing that may still turn out to be a stop text.
    Text(String),
    /// The end.
    Done(Summary),
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended its text, or a stop text appeared.
    Stop,
    /// As many tokens as were asked for, or as the model's context holds.
    Length,
    /// Its reader went away or called it off.
    Cancelled,
}

/// The figures of a generation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that were in the cache already.
    pub cached_tokens: usize,
    /// Tokens generated, one that ended the text included.
    pub generated_tokens: usize,
    /// Seconds until the first token.
    pub prefill_seconds: f64,
    /// Seconds from the first token to the last.
    pub decode_seconds: f64,
    /// Most bytes of weights, caches and activations that were held at a time, since the process began.
    pub peak_bytes: usize,
    /// Why it ended.
    pub finish: FinishReason,
    /// What makes the same text again, if tokens were drawn.
    pub seed: Option<u64>,
}

impl Summary {
    /// Tokens of the prompt per second, without those that were cached.
    pub fn prefill_tokens_per_second(&self) -> f64 {
        rate(self.prompt_tokens - self.cached_tokens, self.prefill_seconds)
    }

    /// Tokens per second after the first.
    pub fn decode_tokens_per_second(&self) -> f64 {
        rate(self.generated_tokens.saturating_sub(1), self.decode_seconds)
    }
}

fn rate(count: usize, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

/// Generates from `prompt`, using what `cache` holds of it, on the thread of the model. `emit` gets every event and calls it off,
/// within one token or chunk, by breaking.
///
/// # Errors
/// Those of [`TokenIterator::new`], and what the tokenizer reports. The cache is then empty.
pub fn generate(
    context: &ModelContext,
    prompt: &[u32],
    cache: &mut PromptCache,
    parameters: &GenerateParameters,
    emit: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<Summary> {
    let result = run(context, prompt, cache, parameters, emit);
    if result.is_err() {
        cache.clear()?;
    }
    result
}

fn run(
    context: &ModelContext,
    prompt: &[u32],
    cache: &mut PromptCache,
    parameters: &GenerateParameters,
    emit: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<Summary> {
    parameters.validate()?;
    if prompt.is_empty() {
        return Err(Error::EmptyPrompt);
    }
    let tokenizer = context.tokenizer.as_ref();
    let eos = eos(context, parameters)?;
    let sampler = Sampler::new(parameters, &never_excluded(tokenizer, &eos, parameters)?)?;
    let seed = (!sampler.is_greedy()).then(|| sampler.seed());
    let (start, total, cached) = (Instant::now(), prompt.len(), cache.reuse(prompt)?);
    let mut text = Text {
        detokenizer: Detokenizer::new(context.tokenizer.clone(), true),
        stops: StopMatcher::new(&parameters.stop),
        discard: false,
    };
    let mut tokens = prompt.to_vec();
    let mut finish = FinishReason::Length;
    let mut first = None;
    let prompt_of = Prompt { tokens: prompt, cached, context: context.configuration.context_length };
    let mut on_chunk =
        |done| emit(Event::Prefill { done: cached + done, total, cached }) == ControlFlow::Continue(());
    let model = context.model.as_ref();
    let started =
        TokenIterator::new(model, cache.cache_mut(), &prompt_of, parameters, sampler, &mut on_chunk);
    let iterator = match started {
        Ok(iterator) => Some(iterator),
        Err(Error::Cancelled) => {
            finish = FinishReason::Cancelled;
            None
        }
        Err(e) => return Err(e),
    };
    for token in iterator.into_iter().flatten() {
        let Token { id, logprobs } = token?;
        first.get_or_insert_with(Instant::now);
        tokens.push(id);
        if eos.contains(&id) && !parameters.ignore_eos {
            finish = FinishReason::Stop;
            break;
        }
        let (more, stopped) = text.push(id)?;
        let mut flow = emit(Event::Token { id, logprobs });
        if !more.is_empty() && flow.is_continue() {
            flow = emit(Event::Text(more));
        }
        if flow.is_break() || stopped {
            finish = if stopped { FinishReason::Stop } else { FinishReason::Cancelled };
            text.discard = stopped;
            break;
        }
    }
    let end = Instant::now();
    let generated_tokens = tokens.len() - total;
    cache.record(tokens);
    let rest = text.flush()?;
    if !rest.is_empty() && finish != FinishReason::Cancelled {
        let _ = emit(Event::Text(rest));
    }
    let first = first.unwrap_or(end);
    let summary = Summary {
        prompt_tokens: total,
        cached_tokens: cached,
        generated_tokens,
        prefill_seconds: (first - start).as_secs_f64(),
        decode_seconds: (end - first).as_secs_f64(),
        peak_bytes: peak_bytes(),
        finish,
        seed,
    };
    let _ = emit(Event::Done(summary.clone()));
    Ok(summary)
}

/// Tokens to text, up to a stop text.
struct Text {
    detokenizer: Detokenizer,
    stops: StopMatcher,
    discard: bool,
}

impl Text {
    /// The text that is ready, and whether a stop text ended it.
    fn push(&mut self, id: u32) -> Result<(String, bool)> {
        let (ready, stopped) = self.stops.push(&self.detokenizer.push(id)?);
        Ok((ready, stopped.is_some()))
    }

    fn flush(&mut self) -> Result<String> {
        if self.discard {
            return Ok(String::new());
        }
        let (mut ready, stopped) = self.stops.push(&self.detokenizer.flush()?);
        if stopped.is_none() {
            ready += &self.stops.flush();
        }
        Ok(ready)
    }
}

/// Every token that ends a text, whoever says so.
fn eos(context: &ModelContext, parameters: &GenerateParameters) -> Result<BTreeSet<u32>> {
    let known = context.configuration.config.eos.iter().chain(context.tokenizer.eos());
    let mut eos: BTreeSet<u32> = known.copied().collect();
    for extra in &parameters.extra_eos {
        eos.insert(match extra {
            ExtraEos::Id(id) => *id,
            ExtraEos::Token(text) => context.tokenizer.token_id(text).ok_or_else(|| Error::Parameter {
                name: "extra_eos",
                found: format!("`{text}`"),
                wanted: "a token of the vocabulary".into(),
            })?,
        });
    }
    Ok(eos)
}

/// Tokens that XTC leaves alone: those that end a line or the text.
fn never_excluded(
    tokenizer: &dyn Tokenizer,
    eos: &BTreeSet<u32>,
    parameters: &GenerateParameters,
) -> Result<Vec<u32>> {
    if parameters.xtc_probability == 0.0 {
        return Ok(Vec::new());
    }
    Ok(tokenizer.encode("\n", false)?.into_iter().chain(eos.iter().copied()).collect())
}

/// Most bytes of weights and of MLX's arrays since the process began.
fn peak_bytes() -> usize {
    raw::resident() + memory::peak_memory().unwrap_or(0)
}
