//! Standard output, and Ctrl-C.

use mlx_llm::{Error, Result};
use signal_hook::{consts::SIGINT, flag};
use std::{
    borrow::Cow,
    io::{self, IsTerminal, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

/// The exit status after Ctrl-C, as shells have it.
pub(crate) const INTERRUPTED: u8 = 130;

/// Writes to standard output at once.
///
/// # Errors
/// [`Error::Io`], for one if the reader went away.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| Error::io("standard output", e))
}

/// Text of a model as it may be shown: a terminal would obey its control characters.
pub(crate) fn harmless(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !io::stdout().is_terminal() || !text.contains(obeyed) {
        return text.into();
    }
    text.chars().map(|c| if obeyed(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Ctrl-C: it ends the program, except while an answer is being watched, when the first one only ends the answer.
pub(crate) struct Interrupt {
    /// Whether the next Ctrl-C ends the program.
    ends: Arc<AtomicBool>,
}

/// As long as this lives, the first Ctrl-C is only noted.
pub(crate) struct Watch<'a>(&'a AtomicBool);

impl Interrupt {
    /// Takes over the signal.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses.
    pub(crate) fn install() -> Result<Interrupt> {
        let ends = Arc::new(AtomicBool::new(true));
        // In this order: the one that is noted must not be the one that ends.
        flag::register_conditional_shutdown(SIGINT, INTERRUPTED.into(), ends.clone())
            .and_then(|_| flag::register(SIGINT, ends.clone()))
            .map_err(|e| Error::io("signal handler", e))?;
        Ok(Interrupt { ends })
    }

    /// From now on the first Ctrl-C is only noted.
    pub(crate) fn watch(&self) -> Watch<'_> {
        self.ends.store(false, SeqCst);
        Watch(&self.ends)
    }
}

impl Watch<'_> {
    /// Whether Ctrl-C was pressed.
    pub(crate) fn interrupted(&self) -> bool {
        self.0.load(SeqCst)
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}
