//! `cargo xtask test`: every test that there is, fetching what they need.

use std::{
    io::{BufRead, BufReader},
    ops::AddAssign,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{
    caches, convert, eval, fetch, fixtures, gguf, jang_written, mutate,
    process::{cargo, output, shown, spawn, workspace},
    real, vocab,
};

/// Tests and checks that passed and failed.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    passed: u32,
    failed: u32,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, more: Counts) {
        self.passed += more.passed;
        self.failed += more.failed;
    }
}

impl Counts {
    /// One check: its heading, then its errors if there are any. Nothing stops at the first failure.
    pub(crate) fn check(&mut self, name: &str, check: impl FnOnce() -> Result<()>) {
        println!("\n== {name}");
        match check() {
            Ok(()) => self.passed += 1,
            Err(error) => {
                self.failed += 1;
                println!("FAILED: {error:#}");
            }
        }
    }

    /// Tests that cargo runs.
    fn cargo_tests(&mut self, name: &str, command: &mut Command) {
        println!("\n== {name}");
        match cargo_tests(command) {
            Ok(counts) => *self += counts,
            Err(error) => {
                self.failed += 1;
                println!("FAILED: {error:#}");
            }
        }
    }

    /// The last line of a task, and its outcome.
    pub(crate) fn summary(self) -> Result<()> {
        println!("\n{} passed, {} failed", self.passed, self.failed);
        if self.failed > 0 {
            bail!("not everything passed");
        }
        Ok(())
    }
}

/// All tests, with a summary as the last line.
pub(crate) fn run() -> Result<()> {
    let mut counts = Counts::default();
    run_into(&mut counts);
    counts.summary()
}

/// All tests, counted together with other checks.
pub(crate) fn run_into(counts: &mut Counts) {
    counts.check("fetching the demo model", || fetch::demo_model().map(|_| ()));
    let mut tests = cargo();
    tests.args(["test", "--workspace", "--no-fail-fast"]);
    counts.check("the parity fixtures that are not committed", || {
        tests.env("MLX_LM_FIXTURES", fixtures::generated()?);
        Ok(())
    });
    counts.check("JANG bundles", || {
        tests.env("MLX_LM_JANG_FIXTURES", fixtures::jang()?);
        Ok(())
    });
    counts.cargo_tests("tests of the workspace", &mut tests);
    counts.cargo_tests("tests of a crate that uses mlx-llm alone", &mut downstream("test"));
    counts.check("that crate builds no tokenizer, no downloader, no image codec", downstream_is_lean);
    counts.check("tokenizers against llama.cpp's vocabularies", vocab::run);
    counts.check("broken copies of checkpoints", || mutate::run(&Default::default()));
    counts.check("prompt-cache files, exchanged with mlx-lm", || caches::run(&Default::default()));
    counts.check("JANG bundles that are written, against the format's package", jang_written::run);
    counts.check("converted models against mlx-lm's", || convert::run(&Default::default()));
    counts.check("GGUF files, read by the package gguf", || gguf::run(&gguf::Arguments::quick()));
    counts.check("a real model against mlx-lm", real::run);
    counts.check("perplexities and divergences against mlx-lm and numpy", eval::run);
}

/// A cargo command on `examples/downstream`, which is no member of the workspace: as a user's crate would be.
fn downstream(command: &str) -> Command {
    let mut cargo = cargo();
    cargo.args([command, "--manifest-path", "examples/downstream/Cargo.toml"]);
    if command == "test" {
        cargo.arg("--target-dir").arg(workspace().join("target"));
    }
    cargo
}

fn downstream_is_lean() -> Result<()> {
    const UNWANTED: [&str; 3] = ["tokenizers", "hf-hub", "image"];
    let tree =
        output(downstream("tree").args(["--edges", "normal,build", "--prefix", "none", "--format", "{p}"]))?;
    let has = |name: &&str| tree.lines().any(|line| line.split(' ').next() == Some(*name));
    let found: Vec<_> = UNWANTED.into_iter().filter(has).collect();
    if !found.is_empty() {
        bail!("examples/downstream depends on {}", found.join(", "));
    }
    Ok(())
}

/// Shows what `cargo test` prints, and adds up its "test result" lines.
fn cargo_tests(command: &mut Command) -> Result<Counts> {
    let mut cargo = spawn(command.stdout(Stdio::piped()))?;
    let mut counts = Counts::default();
    for line in BufReader::new(cargo.stdout.take().context("cargo's output")?).lines() {
        let line = line?;
        println!("{line}");
        if let Some(result) = line.strip_prefix("test result: ") {
            counts.passed += number_before(result, " passed");
            counts.failed += number_before(result, " failed");
        }
    }
    let status = cargo.wait()?;
    if !status.success() && counts.failed == 0 {
        // It did not compile, or a test ended the process: the tests counted so far stay counted.
        println!("FAILED: {} ({status})", shown(command));
        counts.failed = 1;
    }
    Ok(counts)
}

fn number_before(text: &str, word: &str) -> u32 {
    text.split(word).next().and_then(|head| head.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::number_before;

    #[test]
    fn counts_are_read_from_a_result_line() {
        let line = "FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!((number_before(line, " passed"), number_before(line, " failed")), (12, 3));
    }
}
