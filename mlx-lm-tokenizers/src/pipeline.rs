//! Any pipeline of the crate `tokenizers`, behind one small trait.

use mlx_lm_common::{Error, Result};
use serde::Serialize;
use serde_json::Value;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tokenizers::{AddedToken, Decoder, Model, Normalizer, PostProcessor, PreTokenizer, TokenizerImpl};

/// What we need of a `TokenizerImpl`, whatever its parts.
pub(crate) trait Pipeline: Send + Sync {
    fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>>;
    /// Ids that are in no vocabulary leave nothing.
    fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String>;
    fn token_to_id(&self, token: &str) -> Option<u32>;
    fn id_to_token(&self, id: u32) -> Option<String>;
    fn add_tokens(&mut self, tokens: Vec<AddedToken>) -> Result<()>;
    /// One more than the highest id.
    fn vocab_size(&self) -> usize;
    /// As `tokenizer.json` has it.
    fn json(&self) -> Result<Value>;
}

impl<M, N, P, Q, D> Pipeline for TokenizerImpl<M, N, P, Q, D>
where
    M: Model + Serialize + Send + Sync,
    N: Normalizer + Serialize + Send + Sync,
    P: PreTokenizer + Serialize + Send + Sync,
    Q: PostProcessor + Serialize + Send + Sync,
    D: Decoder + Serialize + Send + Sync,
{
    fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let encoding = guarded("encode", || self.encode_fast(text, add_special))?;
        Ok(encoding.get_ids().to_vec())
    }

    fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        guarded("decode", || self.decode(ids, skip_special))
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.token_to_id(token)
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.id_to_token(id)
    }

    fn add_tokens(&mut self, tokens: Vec<AddedToken>) -> Result<()> {
        guarded("add tokens", || self.add_tokens(tokens)).map(drop)
    }

    fn vocab_size(&self) -> usize {
        self.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
    }

    fn json(&self) -> Result<Value> {
        guarded("write it", || Ok(serde_json::to_value(self)?))
    }
}

/// Runs `work`; its errors and panics are ours. Parts of the crate panic on files that deserialize but make no sense, and where its
/// regular expressions reach their limits on very long texts.
pub(crate) fn guarded<T>(what: &str, work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    let words = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(e)) => e.to_string(),
        Err(panic) => match panic.downcast::<String>() {
            Ok(words) => *words,
            Err(panic) => {
                panic.downcast::<&str>().map_or_else(|_| "it panicked".into(), |words| words.to_string())
            }
        },
    };
    Err(Error::Tokenizer(format!("cannot {what}: {words}")))
}
