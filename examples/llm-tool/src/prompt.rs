//! From messages to the ids that a model reads.

use crate::generation::GenerationArgs;
use mlx_llm::{
    Result, Tokenizer,
    common::input::{ChatInput, Message},
};
use serde_json::{Map, Value};
use std::sync::Arc;

/// Turns conversations into prompts.
pub(crate) struct Prompter {
    tokenizer: Arc<dyn Tokenizer>,
    has_template: bool,
    context: Map<String, Value>,
}

impl Prompter {
    /// Uses the model's chat template, if there is one and the arguments do not forbid it.
    pub(crate) fn new(tokenizer: &Arc<dyn Tokenizer>, arguments: &GenerationArgs) -> Prompter {
        Prompter {
            tokenizer: tokenizer.clone(),
            has_template: tokenizer.has_chat_template() && !arguments.ignore_chat_template,
            context: arguments.chat_template_config.clone().unwrap_or_default(),
        }
    }

    /// Whether a chat template is used.
    pub(crate) fn has_template(&self) -> bool {
        self.has_template
    }

    /// The prompt that lets the model answer. Without a template it is the messages' text, a line break between two of them.
    pub(crate) fn ids(&self, messages: &[Message]) -> Result<Vec<u32>> {
        if self.has_template {
            let chat = ChatInput { context: self.context.clone(), ..ChatInput::new(messages) };
            return self.tokenizer.encode_chat(&chat);
        }
        let texts: Vec<_> = messages.iter().map(|m| m.content.as_str()).collect();
        self.tokenizer.encode(&texts.join("\n"), true)
    }
}
