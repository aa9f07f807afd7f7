//! `cargo xtask vocab`: tokenizers against llama.cpp's vocabularies.

use std::{collections::BTreeSet, fs, path::PathBuf};

use anyhow::{Context, Result, bail};

use crate::{
    fetch::{self, Files, LLAMA_CPP},
    process::{self, workspace},
};

/// Vocabularies without weights, with texts and the ids that llama.cpp's test expects for them, and the source that reads them.
const VOCABULARIES: Files = Files {
    package: &LLAMA_CPP,
    root: "llama_cpp_python-0.3.36/vendor/llama.cpp/",
    wanted: &["models/ggml-vocab-*", "src/llama-vocab.cpp"],
    folder: "vocabularies",
};

/// The folder of the vocabularies.
pub(crate) fn folder() -> Result<PathBuf> {
    Ok(fetch::fetch(&VOCABULARIES)?.join("models"))
}

/// Compares; an error if anything differs.
pub(crate) fn run() -> Result<()> {
    names_are_all_known()?;
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
    process::run(check.arg(folder()?)).context("token ids differ from llama.cpp's")
}

/// Whether the tables that the tests go by have every name in llama.cpp's source.
fn names_are_all_known() -> Result<()> {
    let source = fetch::fetch(&VOCABULARIES)?.join("src/llama-vocab.cpp");
    let source = fs::read_to_string(&source).with_context(|| source.display().to_string())?;
    for (variable, table) in [("tokenizer_pre", "pre.txt"), ("tokenizer_model", "models.txt")] {
        let start = format!("{variable} == \"");
        let names = source.split(&start).skip(1).filter_map(|rest| Some(rest.split_once('"')?.0));
        let names: BTreeSet<&str> = names.collect();
        let path = workspace().join("mlx-lm-tokenizers/tests/fixtures/llama_cpp").join(table);
        let table = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let known: BTreeSet<&str> = table.lines().filter_map(|line| line.split(' ').next()).collect();
        let missing: Vec<_> = names.difference(&known).copied().collect();
        if names.is_empty() || !missing.is_empty() {
            bail!(
                "{} lacks {} of {} names: {}",
                path.display(),
                missing.len(),
                names.len(),
                missing.join(", ")
            );
        }
        println!("{} names of {variable}, all known", names.len());
    }
    Ok(())
}
