//! What the hub has: the commit of a revision, its files, their sizes and hashes.

use super::{
    Hash, HubDownloader, Net, RemoteFile,
    cache::is_hex,
    failure::{About, Failure, Retry},
};
use crate::names;
use futures_util::{StreamExt, pin_mut};
use hf_hub::{HFRepository, RepoTypeModel, repository::RepoTreeEntry};
use mlx_lm_common::{Error, RepoId, Result};
use reqwest::{Response, header};

/// A repository with more files than this is no model; the bound keeps a listing from filling the memory.
const MOST_FILES: usize = 100_000;

impl Net {
    fn repository(&self, repo: &RepoId) -> HFRepository<RepoTypeModel> {
        let (owner, name) = hf_hub::split_id(&repo.name);
        self.api.model(owner, name)
    }

    /// Where the content of a file is.
    pub(super) fn url(&self, repo: &RepoId, commit: &str, file: &str) -> Result<reqwest::Url> {
        let mut url = self.endpoint.clone();
        let path = [repo.name.as_str(), "resolve", commit, file];
        url.path_segments_mut()
            .map_err(|()| Error::Download("the endpoint's URL has no path".into()))?
            .pop_if_empty()
            .extend(path.iter().flat_map(|part| part.split('/')));
        Ok(url)
    }
}

impl HubDownloader {
    /// The commit that `repo`'s revision is.
    pub(super) async fn commit(&self, net: &Net, repo: &RepoId) -> Result<String> {
        let about = About { hub: self, net, repo, file: "" };
        let revision = repo.revision.as_deref().unwrap_or("main");
        let mut retry = Retry::new(self);
        loop {
            match net.repository(repo).info().revision(revision).expand(vec!["sha".into()]).send().await {
                Ok(info) => {
                    return info
                        .sha
                        .filter(|sha| is_hex(sha, 40))
                        .ok_or_else(|| Error::Download(format!("the hub names no commit for {repo}")));
                }
                Err(e) => retry.pause(about.api(e)).await?,
            }
        }
    }

    /// The matching files at `commit`, with safe names and usable hashes.
    pub(super) async fn files(
        &self,
        net: &Net,
        repo: &RepoId,
        commit: &str,
        patterns: &[&str],
    ) -> Result<Vec<RemoteFile>> {
        let mut retry = Retry::new(self);
        let all = loop {
            match self.list(net, repo, commit).await {
                Ok(all) => break all,
                Err(failure) => retry.pause(failure).await?,
            }
        };
        let files: Vec<RemoteFile> =
            all.iter().filter(|f| names::matches(patterns, &f.name)).cloned().collect();
        if files.is_empty() {
            return Err(Error::Download(format!(
                "{repo} has no file that matches {}; it has {}",
                names::shown(patterns.iter().copied()),
                if all.is_empty() {
                    "none at all".into()
                } else {
                    names::shown(all.iter().map(|f| f.name.as_str()))
                }
            )));
        }
        for file in &files {
            let shown = || names::shown([file.name.as_str()].into_iter());
            if !names::is_safe(&file.name) {
                return Err(Error::Download(format!(
                    "{repo} lists {}, a name that could leave the cache folder",
                    shown()
                )));
            }
            let usable = match &file.hash {
                Hash::Git(hex) => is_hex(hex, 40),
                Hash::Sha256(hex) => is_hex(hex, 64),
                Hash::Unlisted => true,
            };
            if !usable {
                return Err(Error::Download(format!("{repo} lists {} without a usable hash", shown())));
            }
        }
        Ok(files)
    }

    async fn list(&self, net: &Net, repo: &RepoId, commit: &str) -> Result<Vec<RemoteFile>, Failure> {
        let about = About { hub: self, net, repo, file: "" };
        let repository = net.repository(repo);
        let entries =
            repository.list_tree().revision(commit).recursive(true).send().map_err(|e| about.api(e))?;
        pin_mut!(entries);
        let mut files = Vec::new();
        while let Some(entry) = entries.next().await {
            let RepoTreeEntry::File { path, size, oid, lfs, .. } = entry.map_err(|e| about.api(e))? else {
                continue;
            };
            if files.len() == MOST_FILES {
                return Err(Failure::last(format!("{repo} has more than {MOST_FILES} files")));
            }
            let hash = match lfs {
                None => Hash::Git(oid),
                Some(lfs) => lfs.sha256.map_or(Hash::Unlisted, Hash::Sha256),
            };
            files.push(RemoteFile { name: path, size, hash });
        }
        Ok(files)
    }

    /// The file with its hash: asked for where the listing, as `hf-hub` reads it, leaves it out.
    pub(super) async fn with_hash(
        &self,
        net: &Net,
        repo: &RepoId,
        commit: &str,
        file: RemoteFile,
    ) -> Result<RemoteFile> {
        if file.hash != Hash::Unlisted {
            return Ok(file);
        }
        let mut retry = Retry::new(self);
        loop {
            match self.linked_hash(net, repo, commit, &file).await {
                Ok(hash) => return Ok(RemoteFile { hash, ..file }),
                Err(failure) => retry.pause(failure).await?,
            }
        }
    }

    /// The SHA-256 that the hub's answer for a file carries, before it redirects to where the content is.
    async fn linked_hash(
        &self,
        net: &Net,
        repo: &RepoId,
        commit: &str,
        file: &RemoteFile,
    ) -> Result<Hash, Failure> {
        const HOPS: usize = 5;
        let about = About { hub: self, net, repo, file: &file.name };
        let mut url = net.url(repo, commit, &file.name)?;
        for _ in 0..HOPS {
            let request = self.settings.authorize(net.direct.head(url.clone()));
            let answer = request
                .header(header::ACCEPT_ENCODING, "identity")
                .send()
                .await
                .map_err(|e| about.transport(e))?;
            // A repository that was renamed redirects to a path on the hub itself, which knows no hash yet.
            if let Some(next) = moved_within(&answer, &url) {
                url = next;
                continue;
            }
            if !answer.status().is_success() && !answer.status().is_redirection() {
                return Err(about.response(answer.status(), answer.headers()));
            }
            let text = |name: &str| answer.headers().get(name).and_then(|v| v.to_str().ok());
            let hash = text("x-linked-etag").or_else(|| text("etag"));
            let hash =
                hash.map(|tag| tag.trim_start_matches("W/").trim_matches('"')).filter(|h| is_hex(h, 64));
            let size = text("x-linked-size").and_then(|s| s.parse().ok()).unwrap_or(file.size);
            return match hash {
                Some(hash) if size == file.size => Ok(Hash::Sha256(hash.to_ascii_lowercase())),
                Some(_) => Err(Failure::last(format!(
                    "{}: the hub lists {} bytes, but has {size}",
                    file.name.escape_debug(),
                    file.size
                ))),
                None => Err(Failure::last(format!("{}: the hub names no SHA-256", file.name.escape_debug()))),
            };
        }
        Err(Failure::last(format!("{}: too many redirects", file.name.escape_debug())))
    }
}

/// The target of a redirect that stays on the same host, if `answer` is one without a hash.
fn moved_within(answer: &Response, from: &reqwest::Url) -> Option<reqwest::Url> {
    if !answer.status().is_redirection() || answer.headers().contains_key("x-linked-etag") {
        return None;
    }
    let next = from.join(answer.headers().get(header::LOCATION)?.to_str().ok()?).ok()?;
    (next.origin() == from.origin()).then_some(next)
}
