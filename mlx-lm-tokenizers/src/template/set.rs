//! The templates of one model: `default`, and perhaps `tool_use`, `rag` and others.

use super::ChatTemplate;
use crate::SpecialTokens;
use mlx_lm_common::{Error, Result, input::ChatInput};
use std::collections::BTreeMap;

/// Named templates. One that does not compile says so when it is wanted: text can be completed without it.
#[derive(Clone, Debug, Default)]
pub(crate) struct ChatTemplates(BTreeMap<String, Entry>);

#[derive(Clone, Debug)]
struct Entry {
    origin: String,
    template: Result<ChatTemplate, String>,
}

impl ChatTemplates {
    /// A template of the caller's own.
    pub(crate) fn of(template: ChatTemplate) -> ChatTemplates {
        let entry = Entry { origin: String::new(), template: Ok(template) };
        ChatTemplates(BTreeMap::from([("default".into(), entry)]))
    }

    /// Adds a template; `origin` is where it was found, for errors.
    pub(crate) fn insert(&mut self, name: &str, source: &str, origin: impl Into<String>) {
        let template = ChatTemplate::new(source).map_err(words);
        self.0.insert(name.into(), Entry { origin: origin.into(), template });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// All templates changed by `change`.
    pub(crate) fn map(self, change: impl Fn(ChatTemplate) -> ChatTemplate) -> ChatTemplates {
        let entries = self
            .0
            .into_iter()
            .map(|(name, e)| (name, Entry { origin: e.origin, template: e.template.map(&change) }));
        ChatTemplates(entries.collect())
    }

    pub(crate) fn render(&self, chat: &ChatInput, special: &SpecialTokens) -> Result<String> {
        let Entry { origin, template } = self.choose(chat)?;
        let template = template.as_ref().map_err(|e| Error::Template(format!("{origin}: {e}")))?;
        template.render(chat, special)
    }

    /// `tool_use` for a conversation with tools and `rag` for one with documents, where there are such templates, else `default`.
    fn choose(&self, chat: &ChatInput) -> Result<&Entry> {
        let tools = chat.tools.as_ref().and_then(|_| self.0.get("tool_use"));
        let has_documents = chat.context.get("documents").is_some_and(|d| !d.is_null());
        let documents = || has_documents.then(|| self.0.get("rag")).flatten();
        let entry = tools.or_else(documents).or_else(|| self.0.get("default"));
        entry.ok_or_else(|| match self.names().collect::<Vec<_>>() {
            names if names.is_empty() => Error::Template("this tokenizer has no chat template".into()),
            names => Error::Template(format!("there is no default template, only {}", names.join(", "))),
        })
    }
}

fn words(e: Error) -> String {
    match e {
        Error::Template(words) => words,
        other => other.to_string(),
    }
}
