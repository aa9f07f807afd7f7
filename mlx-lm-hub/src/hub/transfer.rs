//! Fetching one content: over as many connections as it takes, checked before it counts.

use super::{
    Blob, Hash, HubDownloader, Net,
    cache::{RepoCache, io_error},
    failure::{About, Failure, Retry},
    progress::Meter,
};
use mlx_lm_common::{Error, RepoId, Result};
use reqwest::{Response, StatusCode, header};
use sha2::Digest;
use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write as _},
    path::Path,
};

impl HubDownloader {
    /// Brings `blob` into the cache.
    pub(super) async fn fetch_blob(
        &self,
        net: &Net,
        repo: &RepoId,
        commit: &str,
        blob: &Blob,
        cache: &RepoCache,
        meter: &Meter<'_>,
    ) -> Result<()> {
        let mut best = 0;
        let _lock = match cache.has_blob(blob) {
            true => None,
            false => cache.lock(&blob.hash, self.settings.timeout.saturating_mul(4)).await?,
        };
        if cache.has_blob(blob) {
            meter.advance(blob, &mut best, blob.size);
            return Ok(());
        }

        let file = blob.names.first().map_or("", String::as_str);
        let about = About { hub: self, net, repo, file };
        let url = net.url(repo, commit, file)?;
        let part = Part { path: &cache.part(&blob.hash), blob, meter };
        let mut retry = Retry::new(self);
        let mut from_earlier = part.open()?.1 > 0;
        loop {
            match self.fetch_part(&about, &url, &part, &mut best).await {
                Ok(()) => {}
                Err(failure) => {
                    retry.reached(best);
                    retry.pause(failure).await?;
                    continue;
                }
            }
            let found = hash(part.path, blob).await?;
            if found == blob.hash.name() {
                break;
            }
            fs::remove_file(part.path).map_err(|e| io_error(part.path, e))?;
            // What an earlier run, or another program, left may be what is wrong.
            if !std::mem::take(&mut from_earlier) {
                return Err(Error::Download(format!(
                    "{} of {repo} arrived damaged: found the hash {found}, wanted {}; try again",
                    file.escape_debug(),
                    blob.hash.name()
                )));
            }
        }
        let target = cache.blob(&blob.hash);
        fs::rename(part.path, &target).map_err(|e| io_error(&target, e))
    }

    /// One connection: asks for what `part` lacks and appends what comes.
    async fn fetch_part(
        &self,
        about: &About<'_>,
        url: &reqwest::Url,
        part: &Part<'_>,
        best: &mut u64,
    ) -> Result<(), Failure> {
        let size = part.blob.size;
        let (mut file, mut arrived) = part.open()?;
        part.meter.advance(part.blob, best, arrived);
        if arrived == size {
            return Ok(());
        }
        // Encoded contents would have another length, and no ranges.
        let mut request = self
            .settings
            .authorize(about.net.http.get(url.clone()))
            .header(header::ACCEPT_ENCODING, "identity");
        if arrived > 0 {
            request = request.header(header::RANGE, format!("bytes={arrived}-"));
        }
        let mut answer = request.send().await.map_err(|e| about.transport(e))?;
        match answer.status() {
            StatusCode::PARTIAL_CONTENT if begins_at(&answer, arrived) => {}
            // The whole file, whatever was asked for.
            StatusCode::OK => {
                arrived = 0;
                part.cut(&mut file)?;
            }
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                part.cut(&mut file)?;
                return Err(Failure::passing(format!(
                    "{}: another range than asked for",
                    about.file.escape_debug()
                )));
            }
            status => return Err(about.response(status, answer.headers())),
        }
        while let Some(chunk) = answer.chunk().await.map_err(|e| about.transport(e))? {
            arrived = arrived.saturating_add(chunk.len() as u64);
            if arrived > size {
                part.cut(&mut file)?;
                return Err(Failure::last(format!(
                    "{} of {}: more bytes arrived than the {size} that the hub lists",
                    about.file.escape_debug(),
                    about.repo
                )));
            }
            file.write_all(&chunk).map_err(|e| io_error(part.path, e))?;
            part.meter.advance(part.blob, best, arrived);
        }
        match arrived == size {
            true => Ok(()),
            false => Err(Failure::passing(format!(
                "the connection for {} of {} ended after {arrived} of {size} bytes",
                about.file.escape_debug(),
                about.repo
            ))),
        }
    }
}

/// Whether the answer is the range that starts at `from`.
fn begins_at(answer: &Response, from: u64) -> bool {
    let range = answer.headers().get(header::CONTENT_RANGE).and_then(|v| v.to_str().ok());
    range.and_then(|r| r.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()) == Some(from)
}

/// A blob that is not all there.
struct Part<'a> {
    path: &'a Path,
    blob: &'a Blob,
    meter: &'a Meter<'a>,
}

impl Part<'_> {
    /// The file, to be written at its end, and how much it has.
    fn open(&self) -> Result<(File, u64)> {
        let failed = |e| io_error(self.path, e);
        // Never write through a link: it could lead anywhere.
        match self.path.symlink_metadata() {
            Ok(meta) if !meta.is_file() => fs::remove_file(self.path).map_err(failed)?,
            _ => {}
        }
        let mut file =
            File::options().create(true).truncate(false).write(true).open(self.path).map_err(failed)?;
        let arrived = file.seek(SeekFrom::End(0)).map_err(failed)?;
        if arrived <= self.blob.size {
            return Ok((file, arrived));
        }
        self.cut(&mut file)?;
        Ok((file, 0))
    }

    /// Forgets what has arrived.
    fn cut(&self, file: &mut File) -> Result<()> {
        file.set_len(0).and_then(|()| file.rewind()).map_err(|e| io_error(self.path, e))
    }
}

/// The hash of a file, of the kind that `blob` has, after what was written has reached the disk.
async fn hash(path: &Path, blob: &Blob) -> Result<String> {
    let (owned, kind, size) = (path.to_path_buf(), blob.hash.clone(), blob.size);
    let work = move || -> io::Result<String> {
        let mut file = File::options().read(true).write(true).open(owned)?;
        file.sync_all()?;
        match kind {
            Hash::Git(_) => digest(sha1::Sha1::new_with_prefix(format!("blob {size}\0")), &mut file),
            Hash::Sha256(_) | Hash::Unlisted => digest(sha2::Sha256::new(), &mut file),
        }
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(found) => found.map_err(|e| io_error(path, e)),
        Err(_) => Err(Error::Cancelled), // the runtime is shutting down
    }
}

fn digest(mut state: impl Digest, file: &mut File) -> io::Result<String> {
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => state.update(&buffer[..n]),
        }
    }
    let mut hex = String::new();
    for byte in state.finalize() {
        let _ = write!(hex, "{byte:02x}"); // a String takes everything
    }
    Ok(hex)
}
