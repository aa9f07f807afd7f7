//! `FolderDownloader` and `resolve`, which need no network.
#![allow(clippy::unwrap_used)]

use mlx_lm_common::{Downloader, Error, Progress, RepoId};
use mlx_lm_hub::{FolderDownloader, resolve};
use std::{
    fs,
    future::Future,
    path::Path,
    pin::pin,
    sync::Mutex,
    task::{Context, Poll, Waker},
};

/// Neither waits for anything, so one look is enough.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("waits"),
    }
}

fn models() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (name, content) in
        [("owner/name/config.json", "{}"), ("owner/name/model.safetensors", "12345"), ("other/a.json", "{}")]
    {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    root
}

fn find(models: &FolderDownloader, repo: &RepoId, patterns: &[&str]) -> Result<std::path::PathBuf, Error> {
    now(models.download(repo, patterns, &|_| ()))
}

#[test]
fn repositories_are_folders_below_the_root() {
    let root = models();
    let models = FolderDownloader::new(root.path());
    let events = Mutex::new(Vec::new());
    let repo: RepoId = "owner/name".parse().unwrap();
    let folder = now(models.download(&repo, &["*"], &|p| events.lock().unwrap().push(p))).unwrap();
    assert_eq!(folder, root.path().join("owner/name"));
    assert_eq!(events.into_inner().unwrap(), [Progress { what: "owner/name".into(), done: 7, total: 7 }]);

    let error = find(&models, &repo, &["*.gguf"]).unwrap_err().to_string();
    assert!(error.contains("owner/name: no file matches `*.gguf`"), "{error}");
    assert!(matches!(find(&models, &"owner/none".parse().unwrap(), &["*"]), Err(Error::Io { .. })));
}

#[test]
fn given_folders_come_first_and_with_their_revision() {
    let root = models();
    let (plain, pinned): (RepoId, RepoId) = ("a/b".parse().unwrap(), "owner/name@v1".parse().unwrap());
    let models = FolderDownloader::new(root.path());
    let error = find(&models, &pinned, &["*"]).unwrap_err().to_string();
    assert!(error.contains("a folder has no revisions"), "{error}");
    let other = root.path().join("other");
    let models = models.with(plain.clone(), &other).with(pinned.clone(), &other);
    assert_eq!(find(&models, &plain, &["*"]).unwrap(), other);
    assert_eq!(find(&models, &pinned, &["*"]).unwrap(), other);
    assert_eq!(
        find(&models, &"owner/name".parse().unwrap(), &["*"]).unwrap(),
        root.path().join("owner/name")
    );
}

#[test]
fn names_do_not_lead_out_of_the_root() {
    let root = models();
    let models = FolderDownloader::new(root.path().join("owner"));
    for name in ["../other", "name/..", "..", "/tmp"] {
        let repo = RepoId { name: name.into(), revision: None };
        assert!(matches!(find(&models, &repo, &["*"]), Err(Error::Parameter { .. })), "{name}");
    }
}

#[test]
fn resolve_keeps_paths_and_downloads_names() {
    let root = models();
    let models = FolderDownloader::new(root.path());
    let resolve = |model: &str| now(resolve(model, &["*"], &models, &|_| ()));
    let (folder, file) = (root.path().join("other"), root.path().join("other/a.json"));
    assert_eq!(resolve(folder.to_str().unwrap()).unwrap(), folder);
    assert_eq!(resolve(file.to_str().unwrap()).unwrap(), file);
    assert_eq!(resolve("owner/name").unwrap(), root.path().join("owner/name"));
    for missing in ["/no/such/folder", "./no/such", "../no/such", "~/no/such"] {
        assert!(
            matches!(resolve(missing), Err(Error::Io { path, .. }) if path == Path::new(missing)),
            "{missing}"
        );
    }
    for neither in ["", "name", "a/b/c", "https://hub.example/a/b"] {
        assert!(matches!(resolve(neither), Err(Error::Parameter { .. })), "{neither}");
    }
}
