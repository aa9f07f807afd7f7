//! The conversation, and the model's memory of it.

use crate::{
    answer::{Answer, Speaker, figures},
    caches,
    generation::GenerationArgs,
    prompt::Prompter,
    terminal::Interrupt,
    units::size,
};
use mlx_llm::{
    Error, FinishReason, GenerateParameters, ModelContainer, Result, Summary,
    common::{
        input::{Message, Role},
        model::CacheHandle,
    },
};
use std::path::Path;

/// Under which name a file keeps the messages.
const MESSAGES: &str = "messages";

/// A conversation with a model.
pub(super) struct Session<'a> {
    model: &'a ModelContainer,
    parameters: GenerateParameters,
    prompter: Prompter,
    speaker: Speaker,
    cache: CacheHandle,
    messages: Vec<Message>,
    last: Option<Summary>,
}

impl<'a> Session<'a> {
    /// A conversation that has not begun.
    pub(super) fn new(
        model: &'a ModelContainer,
        arguments: &GenerationArgs,
        parameters: GenerateParameters,
    ) -> Result<Session<'a>> {
        let prompter = Prompter::new(model.tokenizer(), arguments);
        if !prompter.has_template() && !arguments.ignore_chat_template {
            eprintln!("this model has no chat template: it continues texts rather than answering");
        }
        Ok(Session {
            cache: model.new_cache(&parameters)?,
            speaker: Speaker::new(arguments.json, model.tokenizer()),
            messages: arguments.system_prompt.iter().map(Message::system).collect(),
            last: None,
            model,
            parameters,
            prompter,
        })
    }

    /// Answers the user. If that fails the conversation is as before; what Ctrl-C leaves of an answer is part of it.
    pub(super) fn answer(&mut self, text: &str, interrupt: &Interrupt) -> Result<()> {
        self.messages.push(Message::user(text));
        let stream = self
            .prompter
            .ids(&self.messages)
            .and_then(|ids| self.model.generate(ids, self.parameters.clone(), Some(&self.cache)));
        match stream.and_then(|stream| self.speaker.answer(stream, interrupt)) {
            Ok(Answer { text, summary }) => {
                if text.is_empty() && summary.is_none() {
                    self.messages.pop();
                } else {
                    self.messages.push(Message::assistant(text));
                }
                self.last = summary;
                self.tell_if_full();
                Ok(())
            }
            Err(e) => {
                self.messages.pop();
                Err(self.speaker.failed(e))
            }
        }
    }

    fn tell_if_full(&self) {
        let Some(summary) = self.last.as_ref().filter(|s| s.finish == FinishReason::Length) else { return };
        if self.parameters.max_tokens.is_none_or(|most| summary.generated_tokens < most) {
            let positions = self.model.configuration().context_length.unwrap_or_default();
            eprintln!("the context of {positions} tokens is full: /reset starts anew");
        }
    }

    /// Starts anew, with the same instructions to the model.
    pub(super) fn reset(&mut self) -> Result<()> {
        self.messages.retain(|m| m.role == Role::System);
        self.last = None;
        self.cache.run(|cache| cache.clear())
    }

    /// Starts anew with other instructions to the model, or none.
    pub(super) fn set_system(&mut self, text: &str) -> Result<()> {
        self.messages.clear();
        if !text.is_empty() {
            self.messages.push(Message::system(text));
        }
        self.reset()
    }

    /// Writes conversation and cache to one file.
    pub(super) fn save(&self, file: &Path) -> Result<()> {
        let messages =
            serde_json::to_string(&self.messages).map_err(|e| Error::Unsupported(e.to_string()))?;
        let path = file.to_path_buf();
        self.cache.run(move |cache| cache.save(&path, &[(MESSAGES.into(), messages)]))?;
        eprintln!("saved {} messages to {}", self.messages.len(), file.display());
        Ok(())
    }

    /// Goes on with what [`Session::save`] wrote. If that fails the conversation is as before.
    pub(super) fn load(&mut self, file: &Path) -> Result<()> {
        let path = file.to_path_buf();
        let metadata = self.cache.run(move |cache| cache.restore(&path))?;
        let messages = metadata.iter().find(|(name, _)| name == MESSAGES).map(|(_, messages)| messages);
        let messages: Option<Vec<Message>> = messages.and_then(|m| serde_json::from_str(m).ok());
        let Some(messages) = messages else {
            // The cache is of something else now, which costs time at the next turn and nothing more.
            self.cache.run(|cache| cache.clear())?;
            return Err(Error::file(file, "is a prompt cache without a conversation"));
        };
        self.messages = messages;
        self.last = None;
        eprintln!("{} messages from {}", self.messages.len(), file.display());
        Ok(())
    }

    /// Prints the figures of the last answer, and what the model remembers.
    pub(super) fn tell_stats(&self) -> Result<()> {
        match &self.last {
            Some(summary) => eprintln!("{}", figures(summary)),
            None => eprintln!("nothing was answered so far, or not to the end"),
        }
        self.cache.run(|cache| {
            let (tokens, cache) = (cache.tokens().len(), cache.cache());
            eprintln!("{} for {tokens} tokens ({})", size(cache.nbytes() as u64), caches::in_words(cache));
            Ok(())
        })
    }
}
