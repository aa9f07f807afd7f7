//! Models that are on this machine already.

use crate::names;
use async_trait::async_trait;
use mlx_lm_common::{Downloader, Error, OnProgress, Progress, RepoId, Result};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

/// Finds models in folders, and never asks a network.
///
/// ```
/// # use mlx_lm_hub::FolderDownloader;
/// # use mlx_lm_common::{Downloader, RepoId};
/// let models = FolderDownloader::new("/models")
///     .with("mlx-community/Qwen3-0.6B-4bit".parse()?, "/home/me/qwen3"); // this one, wherever it is
/// // Any other `owner/name` is `/models/owner/name`.
/// # Ok::<(), mlx_lm_common::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct FolderDownloader {
    root: PathBuf,
    given: HashMap<RepoId, PathBuf>,
}

impl FolderDownloader {
    /// `owner/name` is the folder `root/owner/name`.
    pub fn new(root: impl Into<PathBuf>) -> FolderDownloader {
        FolderDownloader { root: root.into(), given: HashMap::new() }
    }

    /// `repo`, with its revision if it has one, is `folder`.
    #[must_use]
    pub fn with(mut self, repo: RepoId, folder: impl Into<PathBuf>) -> FolderDownloader {
        self.given.insert(repo, folder.into());
        self
    }

    fn folder(&self, repo: &RepoId) -> Result<PathBuf> {
        if let Some(folder) = self.given.get(repo) {
            return Ok(folder.clone());
        }
        // The fields of `RepoId` are public, so nothing has checked them yet.
        let RepoId { name, revision } = repo.to_string().parse()?;
        match revision {
            None => Ok(self.root.join(name)),
            Some(_) => Err(Error::Download(format!(
                "a folder has no revisions: ask for `{name}`, or name the folder of `{repo}`"
            ))),
        }
    }
}

/// The matching files of a folder and their bytes in all.
fn measure(folder: &Path, patterns: &[&str]) -> Result<(usize, u64)> {
    let names = names::list(folder, patterns).map_err(|e| Error::io(folder, e))?;
    let bytes = names.iter().filter_map(|n| folder.join(n).metadata().ok()).map(|m| m.len()).sum();
    Ok((names.len(), bytes))
}

#[async_trait]
impl Downloader for FolderDownloader {
    /// Finds the folder of `repo`, and reports once that it is all there.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder is missing, [`Error::Download`] if no file of it matches or if a revision is asked for
    /// that no folder was given for.
    async fn download(
        &self,
        repo: &RepoId,
        patterns: &[&str],
        on_progress: OnProgress<'_>,
    ) -> Result<PathBuf> {
        let folder = self.folder(repo)?;
        let (count, bytes) = measure(&folder, patterns)?;
        if count == 0 {
            let wanted = names::shown(patterns.iter().copied());
            return Err(Error::Download(format!("{}: no file matches {wanted}", folder.display())));
        }
        on_progress(Progress { what: repo.to_string(), done: bytes, total: bytes });
        Ok(folder)
    }
}
