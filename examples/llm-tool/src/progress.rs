//! Progress bars: on standard error, and only if that is a terminal.

use indicatif::{ProgressBar, ProgressStyle};
use mlx_llm::common::Progress;

/// A bar that counts bytes.
pub(crate) fn bytes(what: &str) -> ProgressBar {
    bar(what, "{msg} {wide_bar} {bytes}/{total_bytes} {eta}")
}

/// A bar that counts tokens.
pub(crate) fn tokens(what: &str) -> ProgressBar {
    bar(what, "{msg} {wide_bar} {pos}/{len} tokens {eta}")
}

/// Shows how far something has come.
pub(crate) fn show(bar: &ProgressBar, progress: &Progress) {
    bar.set_length(progress.total);
    bar.set_position(progress.done);
}

fn bar(what: &str, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    // Bars draw to standard error, and hide themselves where that is no terminal.
    ProgressBar::new(0).with_style(style).with_message(what.to_string())
}
