//! `llm-tool`: chat with, inspect and measure language models at a terminal.
#![allow(clippy::print_stderr, reason = "standard error is where a command-line program speaks to its user")]
#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "comments of arguments are help texts, whose brackets are no links"
)]

mod answer;
mod caches;
mod commands;
mod failure;
mod generation;
mod graph;
mod kv;
mod model;
mod paths;
mod progress;
mod promotions;
mod prompt;
mod terminal;
mod tokens;
mod units;

use clap::{Parser, Subcommand};
use commands::{bench, chat, convert, eval, generate, info, logits, models, nodes, template, tokenize};
use std::io;
use terminal::Interrupt;

/// Chat with, inspect and measure language models at a terminal
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
A model is a folder in the Hugging Face layout, a .gguf file, owner/name[@revision] on the hub, or `demo`, which
`cargo xtask demo` fetches.

Examples:
  llm-tool chat --model demo
  llm-tool generate --model mlx-community/Qwen3-0.6B-4bit -p 'Why is the sky blue?' --temp 0.7
  llm-tool info --model ./my-model

Exit status: 0 fine, 1 error, 2 wrong usage, 130 after Ctrl-C.";

#[derive(Subcommand)]
enum Command {
    Chat(chat::Arguments),
    Generate(generate::Arguments),
    Info(info::Arguments),
    Models(models::Arguments),
    Tokenize(tokenize::Arguments),
    Template(template::Arguments),
    Logits(logits::Arguments),
    Bench(bench::Arguments),
    Eval(eval::Arguments),
    Convert(convert::Arguments),
    Nodes(nodes::Arguments),
}

fn main() {
    let status = run(Cli::parse().command);
    // Without destructors: MLX's would pull the ground from under threads that are still letting go of a model.
    signal_hook::low_level::exit(status.into())
}

/// Runs a command and returns the exit status.
fn run(command: Command) -> u8 {
    let log = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_writer(io::stderr);
    log.without_time().with_target(false).init();
    let interrupt = match Interrupt::install() {
        Ok(interrupt) => interrupt,
        Err(e) => return failure::report(&e),
    };
    let done = match command {
        Command::Chat(arguments) => chat::run(&arguments, &interrupt),
        Command::Generate(arguments) => generate::run(&arguments, &interrupt),
        Command::Info(arguments) => info::run(&arguments),
        Command::Models(arguments) => models::run(&arguments),
        Command::Tokenize(arguments) => tokenize::run(&arguments),
        Command::Template(arguments) => template::run(&arguments),
        Command::Logits(arguments) => logits::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Eval(arguments) => eval::run(&arguments, &interrupt),
        Command::Convert(arguments) => convert::run(&arguments, &interrupt),
        Command::Nodes(arguments) => nodes::run(&arguments),
    };
    match done {
        Ok(()) => 0,
        Err(e) => failure::report(&e),
    }
}
