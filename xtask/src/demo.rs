//! `cargo xtask demo`: from a fresh clone to a chat with a real model.

use anyhow::Result;

use crate::{
    fetch,
    process::{LlmTool, Profile, replace},
};

/// Fetches the demo model, builds `llm-tool` and hands the terminal to it.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    fetch::demo_model()?;
    replace(LlmTool::built(Profile::Release)?.command("chat").args(["--model", "demo"]).args(arguments))
}
