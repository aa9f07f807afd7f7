//! What the runtime wants of a downloader. `mlx-lm-hub` implements it; so can you.

use crate::Result;
use async_trait::async_trait;
use std::{fmt, path::PathBuf, str::FromStr};

/// A repository and a revision: `owner/name` or `owner/name@revision`.
///
/// ```
/// use mlx_lm_common::RepoId;
/// let id: RepoId = "mlx-community/Qwen3-0.6B-4bit@main".parse()?;
/// assert_eq!((id.name.as_str(), id.revision.as_deref()), ("mlx-community/Qwen3-0.6B-4bit", Some("main")));
/// assert!("../../etc".parse::<RepoId>().is_err());
/// # Ok::<(), mlx_lm_common::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RepoId {
    /// `owner/name`.
    pub name: String,
    /// A branch, tag or commit; the default branch if absent.
    pub revision: Option<String>,
}

impl FromStr for RepoId {
    type Err = crate::Error;

    /// Accepts letters, digits, `-`, `_` and `.` in both parts, and no part that could leave the cache folder.
    fn from_str(text: &str) -> Result<RepoId> {
        let (name, revision) = match text.split_once('@') {
            Some((name, revision)) => (name, Some(revision)),
            None => (text, None),
        };
        let part = |s: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !s.is_empty()
                && s.len() <= 96
                && !s.starts_with(['.', '-'])
                && !s.contains("..")
                && s.chars().all(plain)
        };
        let named =
            matches!(name.split('/').collect::<Vec<_>>()[..], [owner, repo] if part(owner) && part(repo));
        if !named || !revision.is_none_or(|r| r.split('/').all(part)) {
            return Err(crate::Error::Parameter {
                name: "repository",
                found: format!("`{text}`"),
                wanted: "owner/name or owner/name@revision".into(),
            });
        }
        Ok(RepoId { name: name.into(), revision: revision.map(Into::into) })
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.revision {
            Some(r) => write!(f, "{}@{r}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// How far a download or a load has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being worked on: a file's name, or a stage.
    pub what: String,
    /// Bytes (or steps) done.
    pub done: u64,
    /// Bytes (or steps) in all; 0 if that is not known.
    pub total: u64,
}

/// Receives progress. Called often: keep it cheap.
pub type OnProgress<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// The files of a model that inference needs.
pub const MODEL_FILES: &[&str] =
    &["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "tokenizer*", "*.tiktoken"];

/// Makes a repository's files available in a local folder.
#[async_trait]
pub trait Downloader: Send + Sync {
    /// Fetches the files of `repo` whose names match one of `patterns` (`*` matches any characters) and returns their folder.
    ///
    /// # Errors
    /// [`Error::Download`](crate::Error::Download) with advice: a missing or gated repository, no network, a wrong size or hash.
    async fn download(
        &self,
        repo: &RepoId,
        patterns: &[&str],
        on_progress: OnProgress<'_>,
    ) -> Result<PathBuf>;
}
