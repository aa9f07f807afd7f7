//! Chat templates: the Jinja programs that turn a conversation into the text a model was trained on.

mod bounded;
mod confine;
mod functions;
mod json;
mod rewrite;
mod set;

pub use functions::Clock;
pub(crate) use set::ChatTemplates;

use crate::SpecialTokens;
use confine::{Failure, confined};
use minijinja::{Environment, ErrorKind, Value, syntax::SyntaxConfig, value::Serde};
use mlx_lm_common::{Error, Result, input::ChatInput};
use std::{
    collections::BTreeMap,
    error::Error as _,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

/// The name of the one template in its environment.
const NAME: &str = "chat template";

/// Bytes of a template's source. The longest in use has 17 thousand.
const LONGEST: usize = 64 << 10;

/// What a template may spend, so that a hostile one fails instead of filling the memory or running for hours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Steps of the interpreter. Data costs too: a step for 64 bytes of text. Most templates take under a hundred steps a message;
    /// a few look at all messages for each, and need more for conversations of more than a thousand.
    pub steps: u64,
    /// Bytes of the rendered text.
    pub output: usize,
}

impl Default for Limits {
    /// Far more than a long conversation needs, and a second or two of work at most.
    fn default() -> Limits {
        Limits { steps: 8_000_000, output: 16 << 20 }
    }
}

/// A compiled chat template, run as transformers runs it in Python's Jinja2: trimmed blocks, `break` and `continue`, Python's string
/// and dictionary methods, `tojson`, `raise_exception`, `strftime_now`, and `{% generation %}` blocks, which only mark text.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    limits: Limits,
    /// A rendering of this template has not come to an end; no other is begun.
    endless: Arc<AtomicBool>,
}

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// [`Error::Template`] with the line, for a template that is not valid Jinja.
    pub fn new(source: &str) -> Result<ChatTemplate> {
        if source.len() > LONGEST {
            return Err(Error::Template(format!(
                "the template has {} bytes, more than {LONGEST}",
                source.len()
            )));
        }
        let source = rewrite::rewrite(source);
        let limits = Limits::default();
        let environment = Arc::new(confined(move || compile(source))?);
        let template = ChatTemplate { environment, limits, endless: Arc::default() };
        Ok(template.with_limits(limits).with_clock(functions::system_clock()))
    }

    /// The same template with another clock behind `strftime_now`, for prompts that can be reproduced.
    pub fn with_clock(mut self, clock: Clock) -> ChatTemplate {
        let strftime_now = move |format: &str| functions::strftime(&clock, format);
        Arc::make_mut(&mut self.environment).add_function("strftime_now", strftime_now);
        self
    }

    /// The same template with other limits.
    pub fn with_limits(mut self, limits: Limits) -> ChatTemplate {
        Arc::make_mut(&mut self.environment).set_fuel(Some(limits.steps));
        self.limits = limits;
        self
    }

    /// The conversation as this template writes it.
    ///
    /// The template sees `messages`, `tools`, `add_generation_prompt`, the special tokens (`bos_token` …) and everything in
    /// `chat.context`, `documents` for one; the context hides special tokens of the same name.
    ///
    /// # Errors
    /// [`Error::Template`]: in the template's own words where it calls `raise_exception`, with the line where it fails or exceeds
    /// its [`Limits`].
    pub fn render(&self, chat: &ChatInput, special: &SpecialTokens) -> Result<String> {
        if self.endless.load(Relaxed) {
            return Err(Failure::Endless.into());
        }
        let (environment, limit) = (self.environment.clone(), self.limits.output);
        let variables = variables(chat, special);
        confined(move || render(&environment, variables, limit)).map_err(|failure| {
            self.endless.fetch_or(matches!(failure, Failure::Endless), Relaxed);
            failure.into()
        })
    }
}

fn compile(source: String) -> Result<Environment<'static>> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(describe)?;
    environment.set_syntax(syntax);
    environment.set_debug(false);
    environment.set_unknown_method_callback(functions::method);
    environment.set_formatter(json::write_value);
    environment.add_filter("tojson", json::tojson);
    environment.add_filter(rewrite::BOUNDED, bounded::bounded);
    environment.add_filter(rewrite::FACTOR, bounded::factor);
    environment.add_test("iterable", functions::is_iterable);
    environment.add_function("raise_exception", functions::raise_exception);
    environment.add_template_owned(NAME, source).map_err(describe)?;
    Ok(environment)
}

fn render(environment: &Environment, variables: Value, limit: usize) -> Result<String> {
    let template = environment.get_template(NAME).map_err(describe)?;
    let mut output = Bounded { bytes: Vec::new(), limit, exceeded: false };
    let rendered = template.render_captured_to(variables, &mut output).map(drop);
    if output.exceeded {
        return Err(Error::Template(format!("the text grew beyond {limit} bytes: the template may not end")));
    }
    rendered.map_err(describe)?;
    String::from_utf8(output.bytes).map_err(|e| Error::Template(e.to_string()))
}

/// What transformers passes to a template: `tools` and `documents` are always there, if only as none.
fn variables(chat: &ChatInput, special: &SpecialTokens) -> Value {
    let mut all = BTreeMap::from([("documents", Value::from(()))]);
    all.extend(
        special.iter().chain(&chat.context).map(|(name, value)| (name.as_str(), Value::from(Serde(value)))),
    );
    all.insert("messages", Value::from(Serde(&chat.messages)));
    all.insert("tools", Value::from(Serde(&chat.tools)));
    all.insert("add_generation_prompt", chat.add_generation_prompt.into());
    Value::from(all)
}

/// Our error for one of minijinja's: what `raise_exception` said, or line, kind and detail.
fn describe(e: minijinja::Error) -> Error {
    let mut cause = e.source();
    while let Some(error) = cause {
        if let Some(functions::Raised(message)) = error.downcast_ref() {
            return Error::Template(message.clone());
        }
        cause = error.source();
    }
    let line = e.line().map(|n| format!("line {n}: ")).unwrap_or_default();
    let what = match e.kind() {
        ErrorKind::OutOfFuel => {
            "too much work or memory for one conversation: the template may not end".into()
        }
        kind => e.detail().map_or_else(|| kind.to_string(), |detail| format!("{kind}: {detail}")),
    };
    Error::Template(line + &what)
}

/// A buffer that refuses to grow beyond its limit.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
    exceeded: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.limit - self.bytes.len() {
            self.exceeded = true;
            return Err(io::Error::other("too long"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_template_that_hung_once_is_not_tried_again() {
        let template = ChatTemplate::new("x").unwrap();
        let copy = template.clone();
        let render = |t: &ChatTemplate| t.render(&ChatInput::default(), &SpecialTokens::new());
        assert_eq!(render(&template).unwrap(), "x");
        template.endless.store(true, Relaxed);
        assert!(render(&copy).unwrap_err().to_string().contains("did not end"));
    }
}
