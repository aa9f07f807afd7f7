//! Token ids on the command line, and models without a tokenizer.

use mlx_llm::{Error, Result, Tokenizer};
use std::str::FromStr;

/// Ids separated by commas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TokenIds(pub(crate) Vec<u32>);

impl FromStr for TokenIds {
    type Err = String;

    fn from_str(text: &str) -> Result<TokenIds, String> {
        if text.trim().is_empty() {
            return Ok(TokenIds::default());
        }
        let id = |t: &str| {
            t.trim().parse().map_err(|_| format!("`{}` is no token id; wanted ids such as 1,2,3", t.trim()))
        };
        text.split(',').map(id).collect::<Result<_, _>>().map(TokenIds)
    }
}

impl TokenIds {
    /// Fails if an id is not below `vocab`.
    pub(crate) fn check(&self, name: &'static str, vocab: i32) -> Result<()> {
        match self.0.iter().find(|id| i64::from(**id) >= i64::from(vocab)) {
            Some(id) => Err(Error::Parameter {
                name,
                found: format!("token id {id}"),
                wanted: format!("ids below {vocab}, the size of the vocabulary"),
            }),
            None => Ok(()),
        }
    }
}

/// Stands in where a model is run on ids alone.
pub(crate) struct NoTokenizer;

impl Tokenizer for NoTokenizer {
    fn encode(&self, _: &str, _: bool) -> Result<Vec<u32>> {
        Err(Error::Tokenizer("this model has none".into()))
    }

    fn decode(&self, _: &[u32], _: bool) -> Result<String> {
        Ok(String::new())
    }

    fn eos(&self) -> &[u32] {
        &[]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lists_of_ids() {
        assert_eq!("1, 2,3".parse(), Ok(TokenIds(vec![1, 2, 3])));
        assert_eq!("".parse(), Ok(TokenIds::default()));
        for text in ["1,,2", "-1", "a", "1;2", "4294967296"] {
            assert!(text.parse::<TokenIds>().unwrap_err().contains("no token id"), "{text}");
        }
    }

    #[test]
    fn ids_beyond_the_vocabulary_are_refused() {
        TokenIds(vec![0, 9]).check("prompt-tokens", 10).unwrap();
        let error = TokenIds(vec![0, 10]).check("prompt-tokens", 10).unwrap_err().to_string();
        assert!(error.contains("prompt-tokens") && error.contains("10"), "{error}");
    }
}
