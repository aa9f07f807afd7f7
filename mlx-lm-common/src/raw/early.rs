//! When MLX begins to compute.

use mlx_rs::{Array, error::Exception, transforms};
use std::cell::Cell;

thread_local! {
    static WHOLE: Cell<bool> = const { Cell::new(false) };
}

/// Lets MLX compute `x` while the caller goes on building; not within [`whole_graphs`].
pub fn begin(x: &Array) -> Result<(), Exception> {
    if WHOLE.get() { Ok(()) } else { transforms::async_eval([x]) }
}

/// Runs `f`, on whose way nothing is computed before its value is asked for: what has been computed is no longer part of a graph.
pub fn whole_graphs<T>(f: impl FnOnce() -> T) -> T {
    let before = WHOLE.replace(true);
    let result = f();
    WHOLE.set(before);
    result
}
