//! One repository's folder in the cache, laid out as `huggingface_hub` has it:
//!
//! ```text
//! models--owner--name/blobs/HASH               contents; HASH.incomplete while they arrive
//! models--owner--name/snapshots/COMMIT/FILE -> ../../blobs/HASH
//! models--owner--name/refs/REVISION            the commit it was last seen at
//! .locks/models--owner--name/HASH.lock         held while HASH.incomplete is written
//! ```

use super::{Blob, Hash, RemoteFile};
use crate::names;
use mlx_lm_common::{Error, Result};
use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

pub(super) struct RepoCache {
    root: PathBuf,
    locks: PathBuf,
}

/// Whether `text` is so many hexadecimal digits: a hash, and a harmless file name.
pub(super) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// An I/O error at `path`, with advice if the disk is full.
pub(super) fn io_error(path: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Download(format!(
            "{}: no space left: free some, or set HF_HUB_CACHE to a folder on another disk; what has arrived is kept",
            path.display()
        )),
        _ => Error::io(path, error),
    }
}

impl RepoCache {
    /// The folder of `repo`, a checked `owner/name`, in the cache folder.
    pub(super) fn new(cache: &Path, repo: &str) -> RepoCache {
        let folder = format!("models--{}", repo.replace('/', "--"));
        RepoCache { root: cache.join(&folder), locks: cache.join(".locks").join(folder) }
    }

    fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    pub(super) fn blob(&self, hash: &Hash) -> PathBuf {
        self.root.join("blobs").join(hash.name())
    }

    /// What has arrived of a blob.
    pub(super) fn part(&self, hash: &Hash) -> PathBuf {
        self.root.join("blobs").join(format!("{}.incomplete", hash.name()))
    }

    /// Whether the snapshot has this file, in full.
    pub(super) fn has(&self, commit: &str, file: &RemoteFile) -> bool {
        self.snapshot(commit).join(&file.name).metadata().is_ok_and(|m| m.is_file() && m.len() == file.size)
    }

    /// Whether the blob is there, in full: what is here under a hash was checked when it came.
    pub(super) fn has_blob(&self, blob: &Blob) -> bool {
        self.blob(&blob.hash).metadata().is_ok_and(|m| m.is_file() && m.len() == blob.size)
    }

    /// Makes the folders, and sees that the disk can hold `blobs`.
    pub(super) fn prepare<'a>(&self, blobs: impl Iterator<Item = &'a Blob>) -> Result<()> {
        let arrived = |b: &Blob| self.part(&b.hash).symlink_metadata().map_or(0, |m| m.len());
        let missing = |b: &Blob| b.size.saturating_sub(arrived(b));
        let needed = blobs.filter(|b| !self.has_blob(b)).map(missing).fold(0, u64::saturating_add);
        for folder in [&self.root.join("blobs"), &self.locks] {
            fs::create_dir_all(folder).map_err(|e| io_error(folder, e))?;
        }
        // A file system that does not say how much is free finds out in time.
        let Ok(disk) = rustix::fs::statvfs(&self.root) else { return Ok(()) };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if needed <= free {
            return Ok(());
        }
        let gb = |bytes: u64| bytes as f64 / 1e9;
        Err(Error::Download(format!(
            "{}: {:.1} GB are missing and {:.1} GB free: free some, or set HF_HUB_CACHE to a folder on another disk",
            self.root.display(),
            gb(needed),
            gb(free)
        )))
    }

    /// Waits for the right to write a blob, which lasts as long as the file is kept. `None` on a file system without locks,
    /// where the check of the finished blob catches two writers.
    ///
    /// Gives up when whoever holds the lock has not written anything for `patience`.
    pub(super) async fn lock(&self, hash: &Hash, patience: Duration) -> Result<Option<File>> {
        const POLL: Duration = Duration::from_millis(50);
        let path = self.locks.join(format!("{}.lock", hash.name()));
        let options = File::options().create(true).truncate(false).write(true).clone();
        let file = options.open(&path).map_err(|e| io_error(&path, e))?;
        let arrived = || self.part(hash).metadata().map_or(0, |m| m.len());
        let (mut seen, mut since) = (arrived(), Instant::now());
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => {
                    tracing::warn!(path = %path.display(), "this file system has no locks: start one download at a time");
                    return Ok(None);
                }
                Err(TryLockError::Error(e)) => return Err(io_error(&path, e)),
            }
            if arrived() != seen {
                (seen, since) = (arrived(), Instant::now());
            } else if since.elapsed() > patience {
                return Err(Error::Download(format!(
                    "{}: another process holds this lock and has written nothing for {} s; end it and try again",
                    path.display(),
                    since.elapsed().as_secs()
                )));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Gives the files their names in the snapshot, `config.json` last: without it nothing loads. Then notes which commit
    /// the revision is.
    pub(super) fn publish(
        &self,
        commit: &str,
        revision: Option<&str>,
        files: &[RemoteFile],
    ) -> Result<PathBuf> {
        let snapshots = self.root.join("snapshots");
        fs::create_dir_all(&snapshots).map_err(|e| io_error(&snapshots, e))?;
        let is_config = |f: &&RemoteFile| f.name == "config.json";
        for file in files.iter().filter(|f| !is_config(f)).chain(files.iter().filter(is_config)) {
            let up = "../".repeat(2 + file.name.matches('/').count());
            let target = format!("{up}blobs/{}", file.hash.name());
            replace(&snapshots, &format!("{commit}/{}", file.name), |path| symlink(&target, path))?;
        }
        let revision = revision.unwrap_or("main");
        if revision != commit && self.commit(revision).as_deref() != Some(commit) {
            replace(&self.root, &format!("refs/{revision}"), |path| fs::write(path, commit))?;
        }
        Ok(self.snapshot(commit))
    }

    /// The commit that `revision` was when last seen.
    fn commit(&self, revision: &str) -> Option<String> {
        const LONGEST: u64 = 100;
        let path = self.root.join("refs").join(revision);
        path.metadata().ok().filter(|m| m.is_file() && m.len() < LONGEST)?;
        let commit = fs::read_to_string(path).ok()?.trim().to_string();
        is_hex(&commit, 40).then_some(commit)
    }

    /// The snapshot of `revision` and the bytes of its matching files; `None` if it has none.
    pub(super) fn find(&self, revision: Option<&str>, patterns: &[&str]) -> Result<Option<(PathBuf, u64)>> {
        let revision = revision.unwrap_or("main");
        let Some(commit) = self.commit(revision).or_else(|| is_hex(revision, 40).then(|| revision.into()))
        else {
            return Ok(None);
        };
        let folder = self.snapshot(&commit);
        let files = match names::list(&folder, patterns) {
            Ok(files) if !files.is_empty() => files,
            Ok(_) => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_error(&folder, e)),
        };
        let missing = missing_shards(&folder, &files, patterns);
        if !missing.is_empty() {
            let missing = names::shown(missing.iter().map(String::as_str));
            return Err(Error::Download(format!(
                "{}: only part of the model is in the cache, {missing} missing: unset HF_HUB_OFFLINE to download the rest",
                folder.display()
            )));
        }
        let bytes = files.iter().filter_map(|f| folder.join(f).metadata().ok()).map(|m| m.len()).sum();
        Ok(Some((folder, bytes)))
    }
}

/// The files that an index among `files` names and the folder lacks. Python publishes files one by one, so a snapshot may
/// hold an index and only some of its shards.
fn missing_shards(folder: &Path, files: &[String], patterns: &[&str]) -> Vec<String> {
    const LARGEST: u64 = 256 << 20;
    let mut missing = Vec::new();
    for index in files.iter().filter(|f| f.ends_with(".index.json")) {
        let path = folder.join(index);
        let small = path.metadata().is_ok_and(|m| m.len() <= LARGEST);
        let Some(text) = small.then(|| fs::read(&path).ok()).flatten() else { continue };
        // An index that is no JSON is the loader's to report.
        let Ok(json) = serde_json::from_slice::<serde_json::Value>(&text) else { continue };
        let shards = json.get("weight_map").and_then(|m| m.as_object()).into_iter().flatten();
        let base = index.rsplit_once('/').map_or(String::new(), |(base, _)| format!("{base}/"));
        missing.extend(shards.filter_map(|(_, shard)| Some(format!("{base}{}", shard.as_str()?))));
    }
    missing.sort();
    missing.dedup();
    missing.retain(|name| {
        names::is_safe(name) && names::matches(patterns, name) && !folder.join(name).is_file()
    });
    missing
}

/// Makes `root/name` by `make`, under another name first, so that it is never seen half made. Folders on the way are made;
/// what is no real folder there stops it, as a link could lead anywhere.
fn replace(root: &Path, name: &str, make: impl FnOnce(&Path) -> io::Result<()>) -> Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut folder = root.to_path_buf();
    let (folders, name) = name.rsplit_once('/').unwrap_or(("", name));
    for part in folders.split('/').filter(|p| !p.is_empty()) {
        folder.push(part);
        if let Err(e) = fs::create_dir(&folder)
            && e.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(io_error(&folder, e));
        }
        if !folder.symlink_metadata().is_ok_and(|m| m.is_dir()) {
            return Err(Error::file(&folder, "is not a folder, so nothing is written through it"));
        }
    }
    let new = folder.join(format!(".new-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    make(&new).and_then(|()| fs::rename(&new, folder.join(name))).map_err(|e| {
        // The first error tells more than a second one would.
        let _ = fs::remove_file(&new);
        io_error(&folder.join(name), e)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_explained() {
        let text = io_error(Path::new("/c/blobs/x"), io::ErrorKind::StorageFull.into()).to_string();
        assert!(text.contains("/c/blobs/x: no space left") && text.contains("HF_HUB_CACHE"), "{text}");
        assert!(matches!(
            io_error(Path::new("/c"), io::ErrorKind::PermissionDenied.into()),
            Error::Io { .. }
        ));
    }
}
