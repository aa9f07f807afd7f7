//! `HubDownloader` against a hub on this machine.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod hostile;
mod layout;
mod refusals;
mod server;
mod transfer;

use mlx_lm_common::{Downloader, Progress, RepoId, Result};
use mlx_lm_hub::HubBuilder;
use server::{COMMIT, File, REPO, Server};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};
use tempfile::TempDir;

const ALL: &[&str] = &["*"];

/// A cache of its own for one test.
struct Cache(TempDir);

impl Cache {
    fn new() -> Cache {
        Cache(tempfile::tempdir().unwrap())
    }

    fn hub(&self) -> PathBuf {
        self.0.path().join("hub")
    }

    fn repo(&self) -> PathBuf {
        self.hub().join("models--owner--name")
    }

    fn snapshot(&self, file: &str) -> PathBuf {
        self.repo().join("snapshots").join(COMMIT).join(file)
    }

    fn blob(&self, file: &File) -> PathBuf {
        self.repo().join("blobs").join(&file.hash)
    }

    fn part(&self, file: &File) -> PathBuf {
        self.repo().join("blobs").join(format!("{}.incomplete", file.hash))
    }

    fn builder(&self, server: &Server) -> HubBuilder {
        let delay = Duration::from_millis(1);
        HubBuilder::new(self.hub()).endpoint(server.url()).retries(3, delay).timeout(Duration::from_secs(10))
    }

    async fn download(&self, server: &Server) -> Result<PathBuf> {
        download(self.builder(server), REPO, ALL).await
    }

    async fn error(&self, server: &Server) -> String {
        self.download(server).await.unwrap_err().to_string()
    }

    /// No name in any snapshot, and no revision.
    fn is_unpublished(&self) -> bool {
        !self.repo().join("snapshots").exists() && !self.repo().join("refs").exists()
    }
}

async fn download(builder: HubBuilder, repo: &str, patterns: &[&str]) -> Result<PathBuf> {
    builder.build()?.download(&repo.parse()?, patterns, &|_| ()).await
}

/// Downloads all of the repository, and returns what was reported on the way.
async fn progress(builder: HubBuilder) -> Vec<Progress> {
    let events = Mutex::new(Vec::new());
    let repo: RepoId = REPO.parse().unwrap();
    builder.build().unwrap().download(&repo, ALL, &|p| events.lock().unwrap().push(p)).await.unwrap();
    events.into_inner().unwrap()
}

/// Bytes that no shift or mix-up leaves the same.
fn bytes(count: usize) -> Vec<u8> {
    (0..count as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

fn model() -> Vec<File> {
    vec![
        File::new("config.json", r#"{"model_type":"test"}"#, false),
        File::new("model.safetensors", bytes(300_000), true),
        File::new("sub/deep/tokenizer.json", "{}", false),
        File::new("README.md", "hello\n", false),
    ]
}

/// Every file of the model is in `folder`, as it should be.
fn assert_complete(folder: &Path, files: &[File]) {
    for file in files {
        assert!(fs::read(folder.join(&file.name)).unwrap() == file.content, "{} differs", file.name);
    }
}
