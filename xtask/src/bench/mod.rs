//! `cargo xtask bench`: this project beside mlx-lm and llama.cpp, in one run and in turn, so that a busy or throttled machine
//! slows all of them.

mod engines;
mod models;
mod nodes;
mod report;

use std::{path::PathBuf, thread::available_parallelism};

use anyhow::Result;
use clap::ValueEnum;
use serde_json::{Value, json};

use engines::{Engine, Figures, Programs};
use models::Model;

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
#[command(after_help = nodes::HELP)]
pub(crate) struct Arguments {
    /// One short run of the small model instead of medians
    #[arg(long)]
    quick: bool,
    /// Print JSON with every single run instead of tables
    #[arg(long)]
    json: bool,
    /// Whom to measure
    #[arg(long, value_delimiter = ',', default_value = "ours,mlx-lm,llama.cpp", value_name = "NAMES")]
    peers: Vec<Peer>,
    /// What to measure
    #[arg(long, value_delimiter = ',', default_value = "demo,random", value_name = "NAMES")]
    models: Vec<Weights>,
    /// Count operations of a decoding step for every parity fixture, and fail where there are more than mlx-lm's
    #[arg(long)]
    nodes: bool,
    /// The 4-bit twins, not the plain fixtures
    #[arg(long, requires = "nodes")]
    quantized: bool,
    /// Let mlx-lm use the kernels that it has for Metal
    #[arg(long, requires = "nodes")]
    metal: bool,
    /// The folder of the fixtures [default: all that `cargo xtask fixtures --all` writes]
    #[arg(long, requires = "nodes", value_name = "DIR")]
    fixtures: Option<PathBuf>,
    /// Only these fixtures, for instance `llama3,qwen3`
    #[arg(long, requires = "nodes", value_delimiter = ',', value_name = "NAMES")]
    only: Vec<String>,
}

/// Which model is measured.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Weights {
    /// The small real model
    Demo,
    /// Random weights in the shape of a larger one
    Random,
}

/// Whose program is measured.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(crate) enum Peer {
    /// `llm-tool`, always measured
    Ours,
    /// The Python package, on the same version of MLX
    MlxLm,
    /// The C++ program, built for this machine
    #[value(name = "llama.cpp")]
    LlamaCpp,
}

/// What was measured for one model.
struct Measured {
    model: Model,
    engines: Vec<(Engine, Vec<Figures>)>,
}

/// Measures and reports.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.nodes {
        return nodes::run(arguments);
    }
    let programs = Programs::ready(&arguments.peers)?;
    let cores = available_parallelism()?.get();
    let mut models = Vec::new();
    if arguments.quick {
        models.push(Model { prompt_tokens: 32, generated_tokens: 16, rounds: 1, ..models::demo()? });
    } else {
        for which in &arguments.models {
            models.push(match which {
                Weights::Demo => models::demo()?,
                Weights::Random => models::random()?,
            });
        }
    }
    // Programs whose threads wait for one another suffer most from a core that others use.
    let load = report::load_average();
    if load.is_some_and(|l| l > 0.5) {
        eprintln!("warning: other programs are running; the ratios mean little");
    }
    let mut measured = Vec::new();
    for model in models {
        let mut engines: Vec<_> =
            Engine::all(&arguments.peers, &model, cores).into_iter().map(|e| (e, Vec::new())).collect();
        for round in 1..=model.rounds {
            for (engine, runs) in &mut engines {
                eprintln!("  {}: round {round} of {}: {engine}", model.title, model.rounds);
                runs.push(engine.run(&programs, &model)?);
            }
        }
        measured.push(Measured { model, engines });
    }
    if arguments.json {
        let models: Vec<Value> = measured.iter().map(report::json).collect();
        println!(
            "{}",
            json!({ "processor": report::processor(), "cores": cores, "load_average_before": load, "models": models })
        );
    } else {
        let load = load.map_or(String::new(), |l| format!(", load average before {l}"));
        println!("{}, {cores} cores{load}", report::processor());
        measured.iter().for_each(report::print);
    }
    Ok(())
}
