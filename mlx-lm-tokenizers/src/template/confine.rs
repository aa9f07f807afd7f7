//! Templates come with models, from strangers. Their steps, their values and their text are bounded, but the compiler overflows the
//! stack for expressions of thousands of terms, and some operations of a single step take very long. So they run on a thread of
//! their own.

use mlx_lm_common::{Error, Result};
use std::{
    sync::mpsc::{RecvTimeoutError, sync_channel},
    thread,
    time::Duration,
};

/// Enough for the longest source that is accepted. This is address space: only what is used becomes memory.
const STACK: usize = 512 << 20;

/// An honest template takes milliseconds.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why there is no result.
pub(super) enum Failure {
    /// The work is still going on: nothing can end it from outside.
    Endless,
    /// The work failed.
    Failed(Error),
}

/// Runs `work` on a thread with a large stack, and waits for it, but not for ever.
pub(super) fn confined<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T, Failure> {
    confined_until(DEADLINE, work)
}

fn confined_until<T: Send + 'static>(
    deadline: Duration,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T, Failure> {
    let fail = |why: String| Failure::Failed(Error::Template(why));
    let (send, receive) = sync_channel(1);
    let worker = thread::Builder::new().name("chat template".into()).stack_size(STACK).spawn(move || {
        let _ = send.send(work());
    });
    worker.map_err(|e| fail(format!("there is no thread to run it on: {e}")))?;
    match receive.recv_timeout(deadline) {
        Ok(done) => done.map_err(Failure::Failed),
        Err(RecvTimeoutError::Timeout) => Err(Failure::Endless),
        Err(RecvTimeoutError::Disconnected) => Err(fail("the interpreter panicked".into())),
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure {
            Failure::Endless => {
                Error::Template(format!("it did not end within {} seconds", DEADLINE.as_secs()))
            }
            Failure::Failed(e) => e,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_does_not_end_is_given_up() {
        let work = || {
            loop {
                thread::park();
            }
        };
        let given_up: Result<(), _> = confined_until(Duration::from_millis(10), work);
        assert!(matches!(given_up, Err(Failure::Endless)));
    }

    #[test]
    fn a_panic_is_an_error() {
        let panicked: Result<(), _> = confined(|| panic!("as this test wants"));
        assert!(matches!(panicked, Err(Failure::Failed(Error::Template(_)))));
        assert!(matches!(confined(|| Ok(1)), Ok(1)));
    }
}
