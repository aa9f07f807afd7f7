//! later
use clap::Args;
use mlx_llm::Result;
/// later
#[derive(Args)]
pub(crate) struct Arguments {}
pub(crate) fn run(_: &Arguments) -> Result<()> { Ok(()) }
