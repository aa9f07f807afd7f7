//! Where things are in the cache: as `huggingface_hub` has them.

use super::*;
use crate::server::Answer;
use std::os::unix::fs::symlink;

#[tokio::test]
async fn the_layout_is_that_of_python() {
    // Both hashes as `sha256sum` and `git hash-object` give them.
    const SHA256: &str = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
    const GIT: &str = "ce013625030ba8dba906f756967f9e9ca394464a";
    let files = vec![
        File::new("model.safetensors", "hello\n", true),
        File::new("sub/deep/config.json", "hello\n", false),
    ];
    let (server, cache) = (Server::honest(files.clone()), Cache::new());
    let folder = cache.download(&server).await.unwrap();

    let root = cache.hub().join("models--owner--name");
    assert_eq!(folder, root.join("snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    let link = |name: &str| fs::read_link(folder.join(name)).unwrap();
    assert_eq!(link("model.safetensors"), Path::new("../../blobs").join(SHA256));
    assert_eq!(link("sub/deep/config.json"), Path::new("../../../../blobs").join(GIT));
    assert_complete(&folder, &files);
    let mut blobs: Vec<_> =
        fs::read_dir(root.join("blobs")).unwrap().map(|e| e.unwrap().file_name()).collect();
    blobs.sort();
    assert_eq!(blobs, [SHA256, GIT]);
    assert!(cache.hub().join(".locks/models--owner--name").join(format!("{SHA256}.lock")).is_file());
}

/// A cache as Python leaves it.
fn by_python(files: &[File]) -> Cache {
    let cache = Cache::new();
    fs::create_dir_all(cache.repo().join("blobs")).unwrap();
    fs::create_dir_all(cache.repo().join("refs")).unwrap();
    fs::write(cache.repo().join("refs/main"), COMMIT).unwrap();
    for file in files {
        let link = cache.snapshot(&file.name);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        fs::write(cache.blob(file), &file.content).unwrap();
        let up = "../".repeat(2 + file.name.matches('/').count());
        symlink(format!("{up}blobs/{}", file.hash), link).unwrap();
    }
    cache
}

#[tokio::test]
async fn what_python_downloaded_is_found() {
    let server = Server::honest(model());
    let cache = by_python(&model());
    assert_complete(&cache.download(&server).await.unwrap(), &model());
    assert!(server.seen().iter().all(|r| r.path.starts_with("/api/")), "{:?}", server.seen());
    assert!(!cache.hub().join(".locks").exists(), "a complete cache is not written to");
    assert_complete(&download(cache.builder(&server).offline(true), REPO, ALL).await.unwrap(), &model());
}

#[tokio::test]
async fn what_python_lacks_is_added() {
    let (server, files) = (Server::honest(model()), model());
    let cache = by_python(&files[..1]);
    fs::write(cache.part(&files[1]), &files[1].content[..100_000]).unwrap();
    fs::write(cache.blob(&files[2]), &files[2].content).unwrap(); // there, but without a name
    assert_complete(&cache.download(&server).await.unwrap(), &files);
    let mut seen = server.contents();
    seen.sort_by_key(|r| r.sent);
    assert_eq!(seen.iter().map(|r| r.sent).collect::<Vec<_>>(), [6, 200_000]);
    assert_eq!(seen[1].range.as_deref(), Some("bytes=100000-"));
}

#[tokio::test]
async fn a_second_download_transfers_nothing() {
    let (server, cache) = (Server::honest(model()), Cache::new());
    cache.download(&server).await.unwrap();
    let before = server.contents().len();
    assert_eq!(before, model().len());
    assert_complete(&cache.download(&server).await.unwrap(), &model());
    assert_eq!(server.contents().len(), before);
}

#[tokio::test]
async fn only_matching_files_are_fetched() {
    let (server, cache) = (Server::honest(model()), Cache::new());
    let folder = download(cache.builder(&server), REPO, &["*.json"]).await.unwrap();
    assert!(folder.join("config.json").exists() && folder.join("sub/deep/tokenizer.json").exists());
    assert!(!folder.join("model.safetensors").exists() && !folder.join("README.md").exists());
    assert_eq!(server.contents().len(), 2);
}

#[tokio::test]
async fn revisions_have_their_own_refs() {
    let (server, cache) = (Server::honest(model()), Cache::new());
    download(cache.builder(&server), "owner/name@refs/pr/1", ALL).await.unwrap();
    assert_eq!(fs::read_to_string(cache.repo().join("refs/refs/pr/1")).unwrap(), COMMIT);
    assert!(!cache.repo().join("refs/main").exists());
    assert!(server.seen().iter().any(|r| r.path.contains("/revision/refs%2Fpr%2F1?")), "{:?}", server.seen());

    download(cache.builder(&server), &format!("owner/name@{COMMIT}"), ALL).await.unwrap();
    assert!(!cache.repo().join("refs").join(COMMIT).exists());
    for revision in ["refs/pr/1", COMMIT] {
        let folder =
            download(cache.builder(&server).offline(true), &format!("owner/name@{revision}"), ALL).await;
        assert_complete(&folder.unwrap(), &model());
    }
}

#[tokio::test]
async fn a_branch_that_moved_moves_its_ref_and_keeps_the_old_snapshot() {
    const NEXT: &str = "89abcdef0123456789abcdef0123456789abcdef";
    let cache = Cache::new();
    cache.download(&Server::honest(model())).await.unwrap();
    let changed: Vec<File> = model().into_iter().map(|f| File::new(&f.name, "changed", f.large)).collect();
    let server = Server::with_commit(changed.clone(), NEXT, |_| Answer::Honest);
    let folder = cache.download(&server).await.unwrap();
    assert!(folder.ends_with(NEXT));
    assert_complete(&folder, &changed);
    assert_complete(&cache.snapshot(""), &model());
    assert_eq!(fs::read_to_string(cache.repo().join("refs/main")).unwrap(), NEXT);
}

#[tokio::test]
async fn equal_contents_are_fetched_once() {
    let files: Vec<File> = ["a.bin", "b.bin", "c/d.bin"].map(|n| File::new(n, bytes(5000), true)).into();
    let (server, cache) = (Server::honest(files.clone()), Cache::new());
    let events = progress(cache.builder(&server)).await;
    assert_complete(&cache.snapshot(""), &files);
    assert_eq!(server.contents().len(), 1);
    let total = events.iter().rfind(|p| p.what == REPO).unwrap();
    assert_eq!((total.done, total.total), (15_000, 15_000));
}

#[tokio::test]
async fn a_damaged_cache_is_mended() {
    let (server, cache) = (Server::honest(model()), by_python(&model()));
    fs::write(cache.blob(&model()[1]), "truncated").unwrap();
    fs::remove_file(cache.blob(&model()[2])).unwrap(); // leaves a dangling link
    assert_complete(&cache.download(&server).await.unwrap(), &model());
}

#[tokio::test]
async fn names_that_need_escaping_arrive() {
    let files = vec![File::new("a b.json", "spaced", false)];
    let (server, cache) = (Server::honest(files.clone()), Cache::new());
    assert_complete(&cache.download(&server).await.unwrap(), &files);
}

#[tokio::test]
async fn offline_connects_to_nothing() {
    let (server, cache) = (Server::honest(model()), Cache::new());
    let offline = || cache.builder(&server).offline(true);
    let error = download(offline(), REPO, ALL).await.unwrap_err().to_string();
    assert!(error.contains("unset HF_HUB_OFFLINE") && error.contains("owner/name"), "{error}");
    assert!(server.seen().is_empty());

    cache.download(&server).await.unwrap();
    let before = server.seen().len();
    assert_complete(&download(offline(), REPO, ALL).await.unwrap(), &model());
    let total: u64 = model().iter().map(|f| f.content.len() as u64).sum();
    let last = progress(offline()).await.pop().unwrap();
    assert_eq!(last, Progress { what: REPO.into(), done: total, total });
    let error = download(offline(), REPO, &["*.gguf"]).await.unwrap_err().to_string();
    assert!(error.contains("*.gguf"), "{error}");
    assert!(download(offline(), "owner/name@other", ALL).await.is_err());
    assert_eq!(server.seen().len(), before);
}

#[tokio::test]
async fn offline_says_which_shards_are_missing() {
    let index =
        r#"{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors","c":"../../x.safetensors"}}"#;
    let files = [
        File::new("model.safetensors.index.json", index, false),
        File::new("model-1.safetensors", bytes(10), true),
        File::new("model-2.safetensors", bytes(20), true),
    ];
    let (server, cache) = (Server::honest(files.to_vec()), by_python(&files[..2]));
    let offline = || cache.builder(&server).offline(true);
    let error = download(offline(), REPO, ALL).await.unwrap_err().to_string();
    assert!(error.contains("`model-2.safetensors` missing") && !error.contains("model-1"), "{error}");
    download(offline(), REPO, &["*.json"]).await.unwrap(); // shards were not asked for
    cache.download(&server).await.unwrap();
    download(offline(), REPO, ALL).await.unwrap();
}
