//! `cargo xtask vocab`: tokenizers against llama.cpp's vocabularies.

use anyhow::{Context, Result};

use crate::{
    fetch::{self, Files, LLAMA_CPP},
    process,
};

/// Vocabularies without weights, with texts and the ids that llama.cpp's test expects for them.
const VOCABULARIES: Files = Files {
    package: &LLAMA_CPP,
    root: "llama_cpp_python-0.3.36/vendor/llama.cpp/models/",
    wanted: &["ggml-vocab-*"],
    folder: "vocabularies",
};

/// Compares; an error if anything differs.
pub(crate) fn run() -> Result<()> {
    let folder = fetch::fetch(&VOCABULARIES)?;
    let mut check = process::cargo();
    check.args([
        "run",
        "--release",
        "--quiet",
        "--package",
        "mlx-lm-tokenizers",
        "--example",
        "vocab_check",
        "--",
    ]);
    process::run(check.arg(folder)).context("token ids differ from llama.cpp's")
}
