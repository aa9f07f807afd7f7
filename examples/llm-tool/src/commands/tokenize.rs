//! `llm-tool tokenize`: text to token ids.

use crate::{model, terminal};
use clap::Args;
use mlx_llm::{Error, Result, Tokenizer};
use serde_json::json;
use std::{fs, path::PathBuf};

/// Print the token ids of a text as a JSON array
#[derive(Args)]
#[command(after_help = "\
Examples:
  llm-tool tokenize --model demo --file text.txt
  llm-tool tokenize --model ggml-vocab-llama-bpe.gguf --no-special --file text.txt")]
pub(crate) struct Arguments {
    /// A folder, a .gguf file (a vocabulary is enough), owner/name[@revision], or `demo`
    #[arg(long, value_name = "MODEL")]
    model: String,
    /// Leave out the tokens that the model expects around a text
    #[arg(long)]
    no_special: bool,
    /// The text, in UTF-8
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let text = fs::read_to_string(&arguments.file).map_err(|e| Error::io(&arguments.file, e))?;
    let ids = model::tokenizer(&arguments.model)?.encode(&text, !arguments.no_special)?;
    terminal::print(&format!("{}\n", json!(ids)))
}
