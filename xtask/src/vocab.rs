//! `cargo xtask vocab`: tokenizers against llama.cpp's vocabularies.

use anyhow::{Result, bail};

/// Compares; an error if anything differs.
pub(crate) fn run() -> Result<()> {
    bail!("not there yet")
}
