//! `cargo xtask fixtures`: tiny models and their reference values, written by mlx-lm.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::{
    process::{run as attached, workspace},
    python::{Environment, ORACLE},
};

/// Options of `cargo xtask fixtures`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Every fixture instead of the small set that is committed
    #[arg(long)]
    all: bool,
    /// Folder to write to [default: fixtures/ of the workspace, for the committed set]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Draw other weights and other prompts
    #[arg(long, value_name = "N")]
    seed: Option<u32>,
    /// Only these architectures, for instance `llama3,qwen3`
    #[arg(long, value_name = "NAMES")]
    only: Option<String>,
}

/// Runs the generator.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let committed = workspace().join("fixtures");
    let is_committed_set = !arguments.all && arguments.seed.is_none();
    let out = match &arguments.out {
        Some(out) => std::path::absolute(out)?,
        None if is_committed_set => committed,
        None => {
            bail!("--all and --seed write other files than those of the repository: name a folder with --out")
        }
    };
    let mut script = Environment::ready(&ORACLE)?.script("tiny_archs.py");
    script.arg("--out").arg(out);
    if arguments.all {
        script.arg("--all");
    }
    if let Some(only) = &arguments.only {
        script.args(["--only", only]);
    }
    if let Some(seed) = arguments.seed {
        script.env("FIXTURE_SEED", seed.to_string());
    }
    attached(&mut script)
}
