//! Threads that models live on.
//!
//! A lazy array belongs to the thread that built it, and a thread that used MLX leaves a worker behind. So a model is loaded, run and
//! dropped on one thread, and threads are reused, never spawned per request.

use crate::{Error, Result, raw};
use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, Once, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

type Work = Box<dyn FnOnce(&mut Option<Box<dyn Any>>) + Send>;

/// Threads without a model, ready for the next one.
static IDLE: Mutex<Vec<mpsc::Sender<Work>>> = Mutex::new(Vec::new());

/// Jobs that are queued or running, on all threads.
static PENDING: AtomicUsize = AtomicUsize::new(0);

/// How long the end of the process waits for them.
const PATIENCE: Duration = Duration::from_secs(3);

/// A thread that owns a value of type `T` (a model and what belongs to it) and runs jobs on it, in order. Dropping the handle drops
/// the value on its thread, which then waits for the next one.
pub struct ModelThread<T: 'static> {
    jobs: mpsc::Sender<Work>,
    value: std::marker::PhantomData<fn() -> T>,
}

impl<T: 'static> ModelThread<T> {
    /// Takes an idle thread, or starts one, and makes the value there. Blocks until that is done.
    pub fn start(make: impl FnOnce() -> Result<T> + Send + 'static) -> Result<ModelThread<T>> {
        let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let jobs = match idle {
            Some(jobs) => jobs,
            None => spawn()?,
        };
        let thread = ModelThread { jobs, value: std::marker::PhantomData };
        let (ready, made) = mpsc::sync_channel(1);
        thread.send(Box::new(move |slot| {
            let result = guard(make).map(|value| *slot = Some(Box::new(value)));
            let _ = ready.send(result);
        }))?;
        made.recv().map_err(|_| gone())??;
        Ok(thread)
    }

    /// Queues a job. What it returns is lost: let it send its results somewhere.
    pub fn submit(&self, job: impl FnOnce(&mut T) + Send + 'static) -> Result<()> {
        self.send(Box::new(move |slot| {
            if let Some(value) = slot.as_mut().and_then(|v| v.downcast_mut::<T>()) {
                // A panic ends the job, not the thread: whoever waits for its results sees their channel close.
                let _ = guard(|| {
                    job(value);
                    Ok(())
                });
            }
        }))
    }

    /// Runs a job and waits for its result.
    pub fn run<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut T) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let (done, result) = mpsc::sync_channel(1);
        self.submit(move |value| {
            let _ = done.send(job(value));
        })?;
        result.recv().map_err(|_| gone())?
    }

    fn send(&self, work: Work) -> Result<()> {
        PENDING.fetch_add(1, SeqCst);
        self.jobs.send(work).map_err(|_| {
            PENDING.fetch_sub(1, SeqCst);
            gone()
        })
    }
}

impl<T: 'static> Drop for ModelThread<T> {
    fn drop(&mut self) {
        let jobs = self.jobs.clone();
        let _ = self.send(Box::new(move |slot| {
            *slot = None;
            // Buffers that MLX keeps for reuse have the sizes of a model that is gone.
            let _ = mlx_rs::memory::clear_cache();
            IDLE.lock().unwrap_or_else(PoisonError::into_inner).push(jobs);
        }));
    }
}

fn spawn() -> Result<mpsc::Sender<Work>> {
    let (jobs, inbox) = mpsc::channel::<Work>();
    let run = move || {
        raw::init();
        static AT_EXIT: Once = Once::new();
        AT_EXIT.call_once(|| raw::at_exit(finish_jobs));
        let mut slot = None;
        for work in inbox {
            work(&mut slot);
            PENDING.fetch_sub(1, SeqCst);
        }
    };
    let failed = |e| Error::Unsupported(format!("cannot start a thread for the model: {e}"));
    thread::Builder::new().name("mlx-model".into()).spawn(run).map_err(failed)?;
    Ok(jobs)
}

/// Runs before MLX's own data are destroyed: a job that uses them afterwards, and be it the one that drops a model, would end the
/// process with an error.
extern "C" fn finish_jobs() {
    let start = Instant::now();
    while PENDING.load(SeqCst) > 0 && start.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(1));
    }
}

fn guard<R>(f: impl FnOnce() -> Result<R>) -> Result<R> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let text =
            panic.downcast_ref::<&str>().map(|s| s.to_string()).or_else(|| panic.downcast_ref().cloned());
        Err(Error::Unsupported(format!("a bug: the model's thread panicked: {}", text.unwrap_or_default())))
    })
}

fn gone() -> Error {
    Error::Unsupported("a bug: a job on the model's thread ended without a result".into())
}
