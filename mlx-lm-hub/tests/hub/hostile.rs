//! Repositories, hubs and caches that mean harm: nothing is written outside the cache.

use super::*;
use crate::server::Answer;
use std::os::unix::fs::symlink;

#[tokio::test]
async fn names_that_leave_the_folder_are_refused() {
    let long = "x".repeat(300);
    for name in [
        "../../../../escaped.json",
        "/tmp/escaped.json",
        "a/../../escaped.json",
        "..",
        "a\\..\\escaped.json",
        "a\0b",
        "a\nb",
        "a//b",
        "./a",
        "",
        &long,
    ] {
        let files = vec![File::new("config.json", "{}", false), File::new(name, "evil", false)];
        let (server, cache) = (Server::honest(files), Cache::new());
        let error = cache.error(&server).await;
        assert!(error.contains("could leave the cache folder"), "{name:?}: {error}");
        assert!(error.len() < 300 && !error.contains(['\0', '\n']), "{error:?}");
        assert!(server.contents().is_empty() && !cache.hub().exists(), "{name:?}");
        // A file that nobody asks for does no harm.
        download(cache.builder(&server), REPO, &["config.json"]).await.unwrap();
    }
}

#[tokio::test]
async fn hashes_and_commits_that_are_paths_are_refused() {
    for hash in ["../../../escaped", "", "..", "ce01"] {
        let file = File { hash: hash.into(), ..File::new("a.json", "{}", false) };
        let (server, cache) = (Server::honest(vec![file.clone()]), Cache::new());
        let error = cache.error(&server).await;
        assert!(error.contains("`a.json` without a usable hash"), "{error}");
        let server = Server::honest(vec![File { large: true, ..file }]);
        let error = cache.error(&server).await;
        assert!(error.contains("a.json: the hub names no SHA-256"), "{error}");
        assert!(!cache.hub().exists());
    }
    let server = Server::with_commit(model(), "../../../escaped", |_| Answer::Honest);
    let cache = Cache::new();
    let error = cache.error(&server).await;
    assert!(error.contains("names no commit"), "{error}");
    assert!(!cache.hub().exists());
}

#[tokio::test]
async fn a_repository_that_is_a_path_is_refused() {
    let (server, cache) = (Server::honest(model()), Cache::new());
    for offline in [true, false] {
        let hub = cache.builder(&server).offline(offline).build().unwrap();
        for (name, revision) in [("../..", None), ("a/../b", None), ("/etc", None), (REPO, Some("../../x"))] {
            let repo = RepoId { name: name.into(), revision: revision.map(String::from) };
            assert!(hub.download(&repo, ALL, &|_| ()).await.is_err(), "{repo}");
        }
    }
    assert!(server.seen().is_empty() && !cache.hub().exists());
}

#[tokio::test]
async fn links_in_the_cache_are_not_written_through() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("target");
    fs::write(&target, "untouched").unwrap();
    let file = model().remove(2); // in sub/deep
    let server = Server::honest(vec![file.clone()]);

    let cache = Cache::new();
    fs::create_dir_all(cache.snapshot("")).unwrap();
    symlink(outside.path(), cache.snapshot("sub")).unwrap();
    let error = cache.error(&server).await;
    assert!(error.contains("is not a folder"), "{error}");

    let cache = Cache::new();
    fs::create_dir_all(cache.repo().join("blobs")).unwrap();
    symlink(&target, cache.part(&file)).unwrap();
    assert_complete(&cache.download(&server).await.unwrap(), &[file]);

    let left: Vec<_> = fs::read_dir(outside.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["target"]);
    assert_eq!(fs::read_to_string(&target).unwrap(), "untouched");
}

#[tokio::test]
async fn a_name_that_is_both_file_and_folder_is_an_error() {
    let files = vec![File::new("a", "file", false), File::new("a/b", "inside", false)];
    for files in [files.clone(), files.into_iter().rev().collect()] {
        let (server, cache) = (Server::honest(files), Cache::new());
        let error = cache.error(&server).await;
        assert!(error.contains("snapshots"), "{error}");
    }
}

#[tokio::test]
async fn answers_that_make_no_sense_are_errors() {
    for body in [
        "",
        "null",
        "[]",
        "{\"id\":1}",
        "<html>",
        "[{\"type\":\"file\",\"path\":\"a\",\"size\":-1,\"oid\":\"\"}]",
    ] {
        for api in ["/revision/", "/tree/"] {
            if (body, api) == ("[]", "/tree/") {
                continue; // makes sense: no files
            }
            let server = Server::new(model(), move |r| match r.path.contains(api) {
                true => Answer::Body(body.into()),
                false => Answer::Honest,
            });
            let cache = Cache::new();
            assert!(cache.download(&server).await.is_err(), "{api}: {body}");
            assert!(!cache.hub().exists());
        }
    }
}
