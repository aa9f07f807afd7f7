//! A cache that knows which tokens it holds, and so how much of the next prompt it already answers.

use crate::{
    Error, Result,
    cache::{Cache, CachePolicy, CacheSpec, Metadata},
};
use std::path::Path;

/// A cache and its tokens.
pub struct PromptCache {
    cache: Cache,
    tokens: Vec<u32>,
    specs: Vec<CacheSpec>,
    policy: CachePolicy,
}

/// Under which name a file keeps the tokens.
const TOKENS: &str = "tokens";

impl PromptCache {
    /// An empty cache for layers of these kinds.
    pub fn new(specs: Vec<CacheSpec>, policy: CachePolicy) -> Result<PromptCache> {
        Ok(PromptCache { cache: Cache::new(&specs, &policy)?, tokens: Vec::new(), specs, policy })
    }

    /// The tokens that the cache holds.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The cache itself.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Keeps what `prompt` begins with and forgets the rest; returns how many tokens need not be computed again. At least the
    /// prompt's last token is left to compute.
    pub(super) fn reuse(&mut self, prompt: &[u32]) -> Result<usize> {
        let same = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let keep = same.min(prompt.len().saturating_sub(1));
        let surplus = i32::try_from(self.tokens.len() - keep).unwrap_or(i32::MAX);
        if keep == 0 || self.cache.trim(surplus) != surplus {
            self.clear()?;
            return Ok(0);
        }
        self.tokens.truncate(keep);
        Ok(keep)
    }

    /// Forgets everything.
    pub fn clear(&mut self) -> Result<()> {
        self.cache = Cache::new(&self.specs, &self.policy)?;
        self.tokens.clear();
        Ok(())
    }

    /// The cache, to be filled with `tokens` as far as it gets.
    pub(super) fn cache_mut(&mut self) -> &mut Cache {
        &mut self.cache
    }

    /// Says which tokens went through the model; the cache holds as many of them as it has positions.
    pub(super) fn record(&mut self, mut tokens: Vec<u32>) {
        tokens.truncate(usize::try_from(self.cache.offset()).unwrap_or(0));
        self.tokens = tokens;
    }

    /// Writes cache, tokens and `metadata` to one file, whole or not at all.
    pub fn save(&self, path: &Path, metadata: &[(String, String)]) -> Result<()> {
        let tokens = self.tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        self.cache.save(path, &[metadata, &[(TOKENS.into(), tokens)]].concat())
    }

    /// Reads what [`PromptCache::save`] wrote; returns its metadata.
    ///
    /// # Errors
    /// [`Error::Cache`] or [`Error::File`]; the cache is then as it was.
    pub fn restore(&mut self, path: &Path) -> Result<Metadata> {
        let (cache, metadata) = Cache::load(path, &self.specs, &self.policy)?;
        let tokens = metadata.iter().find(|(k, _)| k == TOKENS).map_or("", |(_, v)| v);
        let tokens: Vec<u32> = tokens.split_whitespace().map_while(|t| t.parse().ok()).collect();
        if i32::try_from(tokens.len()) != Ok(cache.offset()) {
            let (n, m) = (tokens.len(), cache.offset());
            return Err(Error::Cache(format!("{} lists {n} tokens for {m} positions", path.display())));
        }
        (self.cache, self.tokens) = (cache, tokens);
        Ok(metadata)
    }
}
