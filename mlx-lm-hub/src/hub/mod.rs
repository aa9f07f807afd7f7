//! The hub: what is there, what of it is here already, and fetching the rest.

mod cache;
mod failure;
mod listing;
mod progress;
mod settings;
mod transfer;

pub use settings::HubBuilder;

use crate::names;
use async_trait::async_trait;
use cache::RepoCache;
use futures_util::{StreamExt, TryStreamExt, stream};
use hf_hub::HFClient;
use mlx_lm_common::{Downloader, Error, OnProgress, RepoId, Result};
use progress::Meter;
use std::{collections::BTreeMap, fmt, path::PathBuf};

/// Fetches models from the Hugging Face hub, on the crate `hf-hub`.
///
/// Files land in the cache of Python's `huggingface_hub`: contents in `blobs` under their hash, names in
/// `snapshots/COMMIT` as links to them, branches in `refs`. `hf-hub` does the talking to the hub's API: which commit a
/// revision is, which files it has, whether the token opens it. The bytes come through this crate, because `hf-hub` starts a
/// broken file anew, publishes it unverified, drops the SHA-256 of large files from listings, and heeds neither
/// `HF_HUB_OFFLINE` nor `Retry-After`. Here
///
/// * a broken transfer goes on where it stopped, in this run or the next;
/// * a file gets its name only when its size and its hash are those that the hub lists, the names of a model appear when
///   all its files are there, and `config.json` comes last, so what was cut short never loads as complete;
/// * two processes that want the same file take turns, by the locks that Python takes;
/// * the token goes to the endpoint alone, not along with redirects to other hosts, and into no message;
/// * names that would leave the cache folder are refused.
///
/// Transfers use plain HTTP ranges, which the hub offers for every file, those in its Xet storage included.
///
/// [`Downloader::download`] reports progress per file under the file's name and in all under the repository's, both in
/// bytes and never backwards. It must run in a Tokio runtime with I/O and time enabled. Dropping its future stops the
/// transfer and keeps what has arrived.
pub struct HubDownloader {
    settings: HubBuilder,
    /// Absent when offline, so that nothing can connect.
    net: Option<Net>,
}

/// What speaks to the hub.
struct Net {
    api: HFClient,
    /// Follows redirects, for contents.
    http: reqwest::Client,
    /// Does not, for the hub's own headers about a file, which a redirect's target lacks.
    direct: reqwest::Client,
    endpoint: reqwest::Url,
}

/// A file of a repository at a commit.
#[derive(Clone, Debug)]
struct RemoteFile {
    name: String,
    size: u64,
    hash: Hash,
}

/// How the hub says which content a file has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Hash {
    /// Hex SHA-1 of `blob SIZE\0` and the content, as git has it.
    Git(String),
    /// Hex SHA-256 of the content.
    Sha256(String),
    /// A SHA-256 that the listing leaves out.
    Unlisted,
}

impl Hash {
    /// The name of the content in the cache.
    fn name(&self) -> &str {
        match self {
            Hash::Git(hex) | Hash::Sha256(hex) => hex,
            Hash::Unlisted => "",
        }
    }
}

/// A content to fetch, and the files that have it.
struct Blob {
    hash: Hash,
    size: u64,
    names: Vec<String>,
}

impl HubDownloader {
    /// A downloader set up by the environment: see [`HubBuilder::from_env`].
    ///
    /// # Errors
    /// [`Error::Parameter`] for an endpoint that is no URL or a token that no header can carry.
    pub fn from_env() -> Result<HubDownloader> {
        HubBuilder::from_env().build()
    }

    /// Fetches what of `repo` at `commit` is not in the cache, then publishes it there under its names.
    async fn fetch(
        &self,
        net: &Net,
        repo: &RepoId,
        patterns: &[&str],
        on_progress: OnProgress<'_>,
    ) -> Result<PathBuf> {
        let commit = self.commit(net, repo).await?;
        let files = self.files(net, repo, &commit, patterns).await?;
        let cache = RepoCache::new(&self.settings.cache, &repo.name);
        let (here, missing): (Vec<_>, Vec<_>) = files.into_iter().partition(|f| cache.has(&commit, f));

        let total = here.iter().chain(&missing).fold(0u64, |sum, f| sum.saturating_add(f.size));
        let meter = Meter::new(on_progress, repo.to_string(), total);
        here.iter().for_each(|f| meter.complete(&f.name, f.size));

        let named: Vec<RemoteFile> = stream::iter(missing)
            .map(|f| self.with_hash(net, repo, &commit, f))
            .buffered(self.settings.connections)
            .try_collect()
            .await?;
        let mut blobs: BTreeMap<Hash, Blob> = BTreeMap::new();
        for RemoteFile { name, size, hash } in named.iter().cloned() {
            let new = || Blob { hash: hash.clone(), size, names: Vec::new() };
            blobs.entry(hash.clone()).or_insert_with(new).names.push(name);
        }
        // Nothing to fetch: nothing to make either, so that a cache that is complete may be read-only.
        if !blobs.is_empty() {
            cache.prepare(blobs.values())?;
        }
        stream::iter(blobs.into_values().map(Ok))
            .try_for_each_concurrent(self.settings.connections, |blob| {
                let (cache, meter, commit) = (&cache, &meter, &commit);
                async move { self.fetch_blob(net, repo, commit, &blob, cache, meter).await }
            })
            .await?;
        cache.publish(&commit, repo.revision.as_deref(), &named)
    }

    /// Finds `repo` in the cache.
    fn find(&self, repo: &RepoId, patterns: &[&str], on_progress: OnProgress<'_>) -> Result<PathBuf> {
        let cache = RepoCache::new(&self.settings.cache, &repo.name);
        let found = cache.find(repo.revision.as_deref(), patterns)?;
        let Some((folder, bytes)) = found else {
            return Err(Error::Download(format!(
                "no file of {repo} that matches {} is in the cache {}, and the hub is switched off: unset HF_HUB_OFFLINE \
                 to download",
                names::shown(patterns.iter().copied()),
                self.settings.cache.display()
            )));
        };
        Meter::new(on_progress, repo.to_string(), bytes).add(bytes);
        Ok(folder)
    }
}

#[async_trait]
impl Downloader for HubDownloader {
    async fn download(
        &self,
        repo: &RepoId,
        patterns: &[&str],
        on_progress: OnProgress<'_>,
    ) -> Result<PathBuf> {
        // The fields of `RepoId` are public, so nothing has checked yet that they stay inside the cache folder.
        let repo: RepoId = repo.to_string().parse()?;
        match &self.net {
            Some(net) => self.fetch(net, &repo, patterns, on_progress).await,
            None => self.find(&repo, patterns, on_progress),
        }
    }
}

impl fmt::Debug for HubDownloader {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_tuple("HubDownloader").field(&self.settings).finish()
    }
}
