//! Templates come with models, from strangers. Steps bound most of what they do, but not everything: values can nest so deeply that to
//! drop or compare them overflows the stack, and comparing two that share parts takes forever. So they run on a thread of their own.

use mlx_lm_common::{Error, Result};
use std::{
    sync::mpsc::{RecvTimeoutError, sync_channel},
    thread,
    time::Duration,
};

/// Address space, not memory: only what is used becomes real. Enough for the deepest value that [`super::Limits`] allow.
const STACK: usize = 1 << 30;

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
    let fail = |why: String| Failure::Failed(Error::Template(why));
    let (send, receive) = sync_channel(1);
    let worker = thread::Builder::new().name("chat template".into()).stack_size(STACK).spawn(move || {
        let _ = send.send(work());
    });
    worker.map_err(|e| fail(format!("there is no thread to run it on: {e}")))?;
    match receive.recv_timeout(DEADLINE) {
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
