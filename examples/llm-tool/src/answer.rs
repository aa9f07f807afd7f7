//! An answer on its way to standard output, as text or as events.

use crate::{
    progress,
    terminal::{Interrupt, harmless, print},
};
use indicatif::ProgressBar;
use mlx_llm::{
    Error, Event, Result, Summary, Tokenizer,
    common::{generate::TokenLogprobs, model::GenerationStream},
};
use serde_json::{Value, json};
use std::sync::Arc;

/// Prompts with more tokens left to compute get a progress bar.
const LONG_PREFILL: usize = 1024;

/// Shows answers.
pub(crate) struct Speaker {
    json: bool,
    tokenizer: Arc<dyn Tokenizer>,
}

/// What was generated.
pub(crate) struct Answer {
    /// Its text.
    pub(crate) text: String,
    /// Its figures; none if Ctrl-C ended it.
    pub(crate) summary: Option<Summary>,
}

impl Speaker {
    /// Prints text, or JSON events.
    pub(crate) fn new(json: bool, tokenizer: &Arc<dyn Tokenizer>) -> Speaker {
        Speaker { json, tokenizer: tokenizer.clone() }
    }

    /// Prints an answer as it comes, until its end or Ctrl-C; a line break after it.
    pub(crate) fn answer(&self, mut stream: GenerationStream, interrupt: &Interrupt) -> Result<Answer> {
        let watch = interrupt.watch();
        let (mut text, mut logprobs, mut tokens) = (String::new(), Vec::new(), 0);
        let bar = progress::tokens("reading the prompt");
        let summary = loop {
            let event = stream.blocking_recv();
            if watch.interrupted() {
                break None;
            }
            let ended = || Error::Unsupported("a bug: the generation ended without a word".into());
            let event = event.ok_or_else(ended)??;
            if self.json {
                self.print_event(&event)?;
            }
            match event {
                Event::Prefill { done, total, cached } => show_prefill(&bar, done, total, cached),
                Event::Token { logprobs: of_token, .. } => {
                    tokens += 1;
                    logprobs.extend(of_token);
                }
                Event::Text(piece) => {
                    if !self.json {
                        print(&harmless(&piece))?;
                    }
                    text += &piece;
                }
                Event::Done(summary) => break Some(summary),
                _ => {}
            }
        };
        bar.finish_and_clear();
        match (&summary, self.json) {
            (None, true) => print_line(&json!({
                "event": "done", "summary": { "generated_tokens": tokens, "finish": "cancelled" }
            }))?,
            (_, false) => print("\n")?,
            _ => {}
        }
        if !self.json {
            logprobs.iter().for_each(|l| self.tell_logprobs(l));
        }
        Ok(Answer { text, summary })
    }

    /// Tells of an error among the events too, if events are what is wanted.
    pub(crate) fn failed(&self, error: Error) -> Error {
        if self.json {
            // Standard error gets the same message.
            let _ = print_line(&json!({ "event": "error", "message": crate::failure::one_line(&error) }));
        }
        error
    }

    fn print_event(&self, event: &Event) -> Result<()> {
        print_line(&match event {
            Event::Prefill { done, total, cached } => {
                json!({ "event": "prefill", "done": done, "total": total, "cached": cached })
            }
            Event::Token { id, logprobs: None } => json!({ "event": "token", "id": id }),
            Event::Token { id, logprobs: Some(l) } => {
                json!({ "event": "token", "id": id, "logprob": l.logprob, "top": l.top })
            }
            Event::Text(text) => json!({ "event": "text", "text": text }),
            Event::Done(summary) => {
                let mut figures = json!(summary);
                figures["prefill_tok_s"] = summary.prefill_tokens_per_second().into();
                figures["decode_tok_s"] = summary.decode_tokens_per_second().into();
                json!({ "event": "done", "summary": figures })
            }
            _ => return Ok(()),
        })
    }

    /// A line on standard error: the token, then the likeliest ones.
    fn tell_logprobs(&self, logprobs: &TokenLogprobs) {
        let shown = |id: u32, logprob: f32| {
            let text = self.tokenizer.decode(&[id], false).unwrap_or_default();
            format!("{id} {text:?} {logprob:.4}")
        };
        let top: Vec<_> = logprobs.top.iter().map(|&(id, logprob)| shown(id, logprob)).collect();
        eprintln!("{} | {}", shown(logprobs.token, logprobs.logprob), top.join(", "));
    }
}

fn show_prefill(bar: &ProgressBar, done: usize, total: usize, cached: usize) {
    if done >= total {
        bar.finish_and_clear();
    } else if total - cached > LONG_PREFILL {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    }
}

fn print_line(event: &Value) -> Result<()> {
    print(&format!("{event}\n"))
}

/// The figures of an answer, for people.
pub(crate) fn figures(summary: &Summary) -> String {
    format!(
        "prompt: {} tokens, {} of them cached, {:.1} tokens/s\nanswer: {} tokens, {:.1} tokens/s\nmemory: {:.2} GB at most",
        summary.prompt_tokens,
        summary.cached_tokens,
        summary.prefill_tokens_per_second(),
        summary.generated_tokens,
        summary.decode_tokens_per_second(),
        summary.peak_bytes as f64 / 1e9
    )
}
