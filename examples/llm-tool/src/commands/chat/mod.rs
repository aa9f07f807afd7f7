//! `llm-tool chat`: a conversation.

mod command;
mod input;
mod session;

use crate::{failure, generation::GenerationArgs, model::ModelArgs, terminal::Interrupt};
use clap::Args;
use command::{Command, HELP};
use input::Input;
use mlx_llm::{Error, Result};
use session::Session;
use std::io::{self, IsTerminal};

/// Have a conversation
///
/// On a terminal: with a history of what was typed, and Ctrl-C to stop an answer. Otherwise every line of standard input is
/// answered, and standard output has the answers alone.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    generation: GenerationArgs,
}

const EXAMPLES: &str = "\
Without --max-tokens an answer ends when the model ends it, or when its context is full.

While chatting: /help, /reset, /system TEXT, /save FILE, /load FILE, /stats, /quit

Examples:
  llm-tool chat --model demo
  llm-tool chat --model mlx-community/Qwen3-0.6B-4bit --temp 0.7 --top-p 0.8 --system-prompt 'Answer in one sentence.'
  printf 'Name a river.\\nWhere is it?\\n' | llm-tool chat --model demo";

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, interrupt: &Interrupt) -> Result<()> {
    let parameters = arguments.generation.parameters(None);
    let model = arguments.model.load()?;
    let mut session = Session::new(&model, &arguments.generation, parameters)?;
    let mut input = Input::open()?;
    let is_terminal = io::stdin().is_terminal();
    if is_terminal {
        eprintln!("{} is ready; /help lists commands, /quit ends.", arguments.model.model);
    }
    while let Some(line) = input.line()? {
        let result = match Command::parse(&line) {
            None if line.trim().is_empty() => Ok(()),
            None => session.answer(&line, interrupt),
            Some(Command::Quit) => break,
            Some(Command::Help) => {
                eprintln!("{HELP}");
                Ok(())
            }
            Some(Command::Reset) => session.reset(),
            Some(Command::System(text)) => session.set_system(text),
            Some(Command::Save(file)) => session.save(file),
            Some(Command::Load(file)) => session.load(file),
            Some(Command::Stats) => session.tell_stats(),
            Some(Command::Incomplete(wanted)) => Err(Error::Unsupported(format!("wanted {wanted}"))),
        };
        match result {
            // A person can do something about it; a script learns of it.
            Err(e) if is_terminal && !failure::is_closed_pipe(&e) => failure::tell(&e),
            result => result?,
        }
    }
    Ok(())
}
