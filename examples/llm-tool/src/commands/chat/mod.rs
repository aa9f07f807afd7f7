//! later
use clap::Args;
use mlx_llm::Result;
/// later
#[derive(Args)]
pub(crate) struct Arguments {}
pub(crate) fn run(_: &Arguments, _: &crate::terminal::Interrupt) -> Result<()> { Ok(()) }
