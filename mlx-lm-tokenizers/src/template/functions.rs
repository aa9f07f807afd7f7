//! The functions that transformers adds to Jinja.

use chrono::{DateTime, FixedOffset, Local, format::StrftimeItems};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;
use std::{fmt, sync::Arc};

/// Tells templates what time it is, and in which zone.
pub type Clock = Arc<dyn Fn() -> DateTime<FixedOffset> + Send + Sync>;

/// The computer's clock in the computer's zone.
pub(super) fn system_clock() -> Clock {
    Arc::new(|| Local::now().fixed_offset())
}

/// The time as Python's `strftime` writes it.
pub(super) fn strftime(clock: &Clock, format: &str) -> Result<String, Error> {
    let fail = || {
        let shown: String = format.chars().take(60).collect();
        Error::new(ErrorKind::InvalidOperation, format!("strftime_now: cannot write a time as {shown:?}"))
    };
    const LONGEST: usize = 200;
    if format.len() > LONGEST {
        return Err(fail());
    }
    let items = StrftimeItems::new(format).parse().map_err(|_| fail())?;
    let mut text = String::new();
    fmt::write(&mut text, format_args!("{}", clock().format_with_items(items.iter()))).map_err(|_| fail())?;
    Ok(text)
}

/// Python cannot iterate over None; minijinja can.
pub(super) fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// Methods of Python's strings, lists and dictionaries.
pub(super) fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    match (name, value.as_str()) {
        // minijinja's way to write a title leaves letters alone that do not follow a space.
        ("title", Some(text)) if args.is_empty() => Ok(title(text).into()),
        _ => unknown_method_callback(state, value, name, args),
    }
}

/// Python's `str.title`: whatever follows something other than a letter begins a word.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase())
        } else {
            out.extend(c.to_uppercase())
        }
        inside = c.is_alphabetic();
    }
    out
}

/// Ends the rendering with the template's own words.
pub(super) fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

/// Marks an error as raised by the template itself.
#[derive(Debug)]
pub(super) struct Raised(pub(super) String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}
