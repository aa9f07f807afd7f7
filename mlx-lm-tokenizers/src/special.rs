//! The special tokens that a chat template may write.

use serde_json::{Map, Value};

/// Special tokens by the names that templates use: `bos_token`, `eos_token`, `unk_token`, `pad_token` …
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpecialTokens(Map<String, Value>);

impl SpecialTokens {
    /// No special tokens.
    pub fn new() -> SpecialTokens {
        SpecialTokens::default()
    }

    /// The same tokens and one more, say `with("bos_token", "<s>")`.
    pub fn with(mut self, name: &str, token: &str) -> SpecialTokens {
        self.0.insert(name.into(), token.into());
        self
    }

    /// The text of a token.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    pub(crate) fn insert(&mut self, name: &str, value: Value) {
        self.0.insert(name.into(), value);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.0.iter()
    }
}
