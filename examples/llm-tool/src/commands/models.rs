//! `llm-tool models`: what can be loaded.

use crate::terminal;
use clap::Args;
use mlx_llm::{Result, registry};
use serde_json::json;

/// List the supported model types
#[derive(Args)]
#[command(after_help = "\
Examples:
  llm-tool models
  llm-tool models --json")]
pub(crate) struct Arguments {
    /// Print a JSON array of objects
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let types = registry().model_types();
    if arguments.json {
        let list: Vec<_> = types.iter().map(|t| json!({ "model_type": t })).collect();
        return terminal::print(&format!("{}\n", json!(list)));
    }
    terminal::print(&(types.join("\n") + "\n"))
}
