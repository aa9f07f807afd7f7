//! `llm-tool template`: a conversation as a chat template writes it.

use crate::{model, terminal};
use clap::Args;
use mlx_llm::{Error, Result, Tokenizer, common::input::ChatInput};
use mlx_lm_tokenizers::{ChatTemplate, SpecialTokens};
use serde::de::DeserializeOwned;
use std::{fs, path::Path, path::PathBuf};

/// Print a conversation as a chat template writes it, and nothing else
#[derive(Args)]
#[command(after_help = "\
Examples:
  llm-tool template --model demo --messages messages.json --add-generation-prompt
  llm-tool template --template chat.jinja --messages messages.json --tools tools.json --context context.json

messages.json holds [{\"role\": \"user\", \"content\": \"Hello!\"}], tools.json a list of JSON schemas, and context.json an object with
further variables of the template, special tokens such as bos_token among them.")]
pub(crate) struct Arguments {
    /// A model whose template is used
    #[arg(long, value_name = "MODEL", required_unless_present = "template", conflicts_with = "template")]
    model: Option<String>,
    /// A template
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
    /// The messages, a JSON array of objects
    #[arg(long, value_name = "FILE")]
    messages: PathBuf,
    /// The tools that the model may call, a JSON array
    #[arg(long, value_name = "FILE")]
    tools: Option<PathBuf>,
    /// Further variables of the template, a JSON object
    #[arg(long, value_name = "FILE")]
    context: Option<PathBuf>,
    /// End with the opening of the assistant's message
    #[arg(long)]
    add_generation_prompt: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let chat = ChatInput {
        messages: read(&arguments.messages, "a JSON array of messages")?,
        tools: arguments.tools.as_deref().map(|path| read(path, "a JSON array of tools")).transpose()?,
        context: match &arguments.context {
            Some(path) => read(path, "a JSON object")?,
            None => Default::default(),
        },
        add_generation_prompt: arguments.add_generation_prompt,
    };
    let text = match (&arguments.template, &arguments.model) {
        (Some(path), _) => {
            let source = fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
            ChatTemplate::new(&source)?.render(&chat, &SpecialTokens::new())?
        }
        (None, Some(model)) => model::tokenizer(model)?.render(&chat)?,
        (None, None) => String::new(), // refused with the arguments
    };
    terminal::print(&text)
}

fn read<T: DeserializeOwned>(path: &Path, wanted: &str) -> Result<T> {
    let text = fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    serde_json::from_str(&text).map_err(|e| Error::file(path, format!("is not {wanted}: {e}")))
}
