//! Chat templates: the Jinja programs that turn a conversation into the text a model was trained on.

mod functions;
mod generation;
mod json;
mod set;

pub use functions::Clock;
pub(crate) use set::ChatTemplates;

use crate::SpecialTokens;
use minijinja::{Environment, ErrorKind, Value, syntax::SyntaxConfig, value::Serde};
use mlx_lm_common::{Error, Result, input::ChatInput};
use serde_json::Map;
use std::{error::Error as _, io};

/// The name of the one template in its environment.
const NAME: &str = "chat template";

/// What a template may spend, so that a hostile one fails instead of filling the memory or running for hours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Steps of the interpreter. Data costs too: a step for 64 bytes of text.
    pub steps: u64,
    /// Bytes of the rendered text.
    pub output: usize,
}

impl Default for Limits {
    /// Far more than a long conversation needs, and a second or two of work at most.
    fn default() -> Limits {
        Limits { steps: 8_000_000, output: 64 << 20 }
    }
}

/// A compiled chat template, run as transformers runs it in Python's Jinja2: trimmed blocks, `break` and `continue`, Python's string
/// and dictionary methods, `tojson`, `raise_exception`, `strftime_now`, and `{% generation %}` blocks, which only mark text.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    limits: Limits,
}

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// [`Error::Template`] with the line, for a template that is not valid Jinja.
    pub fn new(source: &str) -> Result<ChatTemplate> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(describe)?;
        environment.set_syntax(syntax);
        environment.set_debug(false);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", json::tojson);
        environment.add_function("raise_exception", functions::raise_exception);
        environment.add_template_owned(NAME, generation::without_tags(source)).map_err(describe)?;
        let template = ChatTemplate { environment, limits: Limits::default() };
        Ok(template.with_limits(Limits::default()).with_clock(functions::system_clock()))
    }

    /// The same template with another clock behind `strftime_now`, for prompts that can be reproduced.
    pub fn with_clock(mut self, clock: Clock) -> ChatTemplate {
        self.environment.add_function("strftime_now", move |format: &str| functions::strftime(&clock, format));
        self
    }

    /// The same template with other limits.
    pub fn with_limits(mut self, limits: Limits) -> ChatTemplate {
        self.environment.set_fuel(Some(limits.steps));
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
        let template = self.environment.get_template(NAME).map_err(describe)?;
        let mut output = Bounded { bytes: Vec::new(), limit: self.limits.output, exceeded: false };
        let rendered = template.render_captured_to(variables(chat, special), &mut output).map(drop);
        if output.exceeded {
            let limit = self.limits.output;
            return Err(Error::Template(format!("the text grew beyond {limit} bytes: the template may not end")));
        }
        rendered.map_err(describe)?;
        String::from_utf8(output.bytes).map_err(|e| Error::Template(e.to_string()))
    }
}

/// What transformers passes to a template: `tools` and `documents` are always there, if only as none.
fn variables(chat: &ChatInput, special: &SpecialTokens) -> Value {
    let mut all = Map::new();
    all.insert("documents".into(), serde_json::Value::Null);
    all.extend(special.iter().map(|(name, token)| (name.clone(), token.clone())));
    all.extend(chat.context.iter().map(|(name, value)| (name.clone(), value.clone())));
    let fixed = [
        ("messages", Value::from(Serde(&chat.messages))),
        ("tools", Value::from(Serde(&chat.tools))),
        ("add_generation_prompt", Value::from(chat.add_generation_prompt)),
    ];
    let free = all.iter().map(|(name, value)| (name.as_str(), Value::from(Serde(value))));
    free.chain(fixed).collect()
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
        ErrorKind::OutOfFuel => "too much work or memory for one conversation: the template may not end".into(),
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
