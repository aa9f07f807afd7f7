//! The functions that transformers adds to Jinja.

use chrono::{DateTime, FixedOffset, Local, format::StrftimeItems};
use minijinja::{Error, ErrorKind};
use std::{fmt, sync::Arc};

/// Tells templates what time it is, and in which zone.
pub type Clock = Arc<dyn Fn() -> DateTime<FixedOffset> + Send + Sync>;

/// The computer's clock in the computer's zone.
pub(super) fn system_clock() -> Clock {
    Arc::new(|| Local::now().fixed_offset())
}

/// The time as Python's `strftime` writes it.
pub(super) fn strftime(clock: &Clock, format: &str) -> Result<String, Error> {
    let fail = || Error::new(ErrorKind::InvalidOperation, format!("strftime_now: cannot write a time as {format:?}"));
    let items = StrftimeItems::new(format).parse().map_err(|_| fail())?;
    let mut text = String::new();
    fmt::write(&mut text, format_args!("{}", clock().format_with_items(items.iter()))).map_err(|_| fail())?;
    Ok(text)
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
