//! `llm-tool generate`: one prompt, one answer.

use crate::{
    answer::{Speaker, figures},
    generation::GenerationArgs,
    model::ModelArgs,
    prompt::Prompter,
    terminal::Interrupt,
};
use clap::Args;
use mlx_llm::{Error, ModelContainer, Result, common::input::Message};
use std::io;

/// As mlx-lm's.
const MAX_TOKENS: usize = 100;

/// Answer one prompt
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    /// The prompt; `-` reads it from standard input
    #[arg(long, short, value_name = "TEXT")]
    prompt: String,
    /// Print statistics to standard error
    #[arg(long)]
    verbose: bool,
    #[command(flatten)]
    generation: GenerationArgs,
}

const EXAMPLES: &str = "\
The chat template of the model is applied if there is one. Without --max-tokens the answer has at most 100 tokens.

Examples:
  llm-tool generate --model demo -p 'Why is the sky blue?' --verbose
  llm-tool generate --model demo -p - --max-tokens 500 --temp 0.7 --top-p 0.9 --seed 1 < question.txt
  llm-tool generate --model ./base-model --ignore-chat-template -p 'Once upon a time' --stop '\n\n' --json";

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, interrupt: &Interrupt) -> Result<()> {
    let parameters = arguments.generation.parameters(Some(MAX_TOKENS));
    let prompt = match arguments.prompt.as_str() {
        "-" => io::read_to_string(io::stdin()).map_err(|e| Error::io("standard input", e))?,
        text => text.into(),
    };
    let model = arguments.model.load()?;
    let speaker = Speaker::new(arguments.generation.json, model.tokenizer());
    let answer = ids(&model, &prompt, &arguments.generation)
        .and_then(|ids| model.generate(ids, parameters, None))
        .and_then(|stream| speaker.answer(stream, interrupt))
        .map_err(|e| speaker.failed(e))?;
    let summary = answer.summary.ok_or(Error::Cancelled)?;
    if arguments.verbose {
        eprintln!("{}", figures(&summary));
    }
    Ok(())
}

fn ids(model: &ModelContainer, prompt: &str, arguments: &GenerationArgs) -> Result<Vec<u32>> {
    let prompt = prompt.strip_suffix('\n').unwrap_or(prompt);
    let system = arguments.system_prompt.as_deref().map(Message::system);
    let messages: Vec<_> = system.into_iter().chain([Message::user(prompt)]).collect();
    Prompter::new(model.tokenizer(), arguments).ids(&messages)
}
