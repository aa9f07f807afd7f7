//! Contents on their way: broken, lying, stalled, at the same time.

use super::*;
use crate::server::Answer;
use std::{collections::HashMap, fs::TryLockError, thread};

const SIZE: usize = 300_000;

fn one() -> Vec<File> {
    vec![File::new("model.safetensors", bytes(SIZE), true)]
}

#[tokio::test]
async fn a_broken_transfer_goes_on_where_it_stopped() {
    let cache = Cache::new();
    let server = Server::new(one(), |r| match r.is_content() && r.count < 2 {
        true => Answer::Break(100_000),
        false => Answer::Honest,
    });
    assert_complete(&cache.download(&server).await.unwrap(), &one());
    let seen = server.contents();
    let ranges: Vec<_> = seen.iter().map(|r| r.range.as_deref()).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-"), Some("bytes=200000-")]);
    assert_eq!(seen.iter().map(|r| r.sent).sum::<u64>(), SIZE as u64);
}

#[tokio::test]
async fn dropping_the_future_leaves_a_part_that_the_next_run_continues() {
    let cache = Cache::new();
    let stalling = Server::new(model(), |r| match r.is("GET", "model.safetensors") {
        true => Answer::Stall(120_000),
        false => Answer::Honest,
    });
    let part = cache.part(&one()[0]);
    let arrived = || part.metadata().map_or(0, |m| m.len());
    tokio::select! {
        _ = cache.download(&stalling) => panic!("the server never sends the rest"),
        () = async { while arrived() < 120_000 { tokio::time::sleep(Duration::from_millis(5)).await } } => {}
    }
    assert_eq!(arrived(), 120_000);
    assert!(cache.is_unpublished());
    assert!(download(cache.builder(&stalling).offline(true), REPO, ALL).await.is_err());

    let server = Server::honest(model());
    assert_complete(&cache.download(&server).await.unwrap(), &model());
    let weights = server.contents().into_iter().find(|r| r.path.contains("model.safetensors")).unwrap();
    assert_eq!((weights.range.as_deref(), weights.sent), (Some("bytes=120000-"), 180_000));
    assert!(!part.exists());
}

#[tokio::test]
async fn a_part_that_is_whole_is_checked_and_kept() {
    let (server, cache) = (Server::honest(one()), Cache::new());
    fs::create_dir_all(cache.repo().join("blobs")).unwrap();
    fs::write(cache.part(&one()[0]), bytes(SIZE)).unwrap();
    assert_complete(&cache.download(&server).await.unwrap(), &one());
    assert!(server.contents().is_empty());
}

#[tokio::test]
async fn a_server_without_ranges_sends_it_all_again() {
    let cache = Cache::new();
    let server = Server::new(one(), |r| match r.count {
        0 if r.is_content() => Answer::Break(100_000),
        _ => Answer::IgnoreRange,
    });
    assert_complete(&cache.download(&server).await.unwrap(), &one());
    assert_eq!(server.contents().iter().map(|r| r.sent).collect::<Vec<_>>(), [100_000, SIZE as u64]);
}

#[tokio::test]
async fn a_range_that_starts_elsewhere_is_not_appended() {
    let cache = Cache::new();
    let server = Server::new(one(), |r| match r.count {
        0 if r.is_content() => Answer::Break(100_000),
        1 if r.is_content() => Answer::WrongRange,
        _ => Answer::Honest,
    });
    assert_complete(&cache.download(&server).await.unwrap(), &one());
    assert_eq!(server.contents().last().unwrap().range, None);
}

#[tokio::test]
async fn a_wrong_leftover_is_thrown_away() {
    for leftover in [vec![0; 1000], vec![0; SIZE], vec![0; SIZE + 1]] {
        let (server, cache) = (Server::honest(one()), Cache::new());
        fs::create_dir_all(cache.repo().join("blobs")).unwrap();
        fs::write(cache.part(&one()[0]), &leftover).unwrap();
        assert_complete(&cache.download(&server).await.unwrap(), &one());
        assert_eq!(server.contents().last().unwrap().range, None, "{} bytes", leftover.len());
    }
}

#[tokio::test]
async fn a_refused_range_starts_anew() {
    let cache = Cache::new();
    let server = Server::new(one(), |r| match (r.is_content(), r.range.is_some()) {
        (true, true) => Answer::Status(416, ""),
        (true, false) if r.count == 0 => Answer::Break(1000),
        _ => Answer::Honest,
    });
    assert_complete(&cache.download(&server).await.unwrap(), &one());
    assert_eq!(server.contents().len(), 3);
}

#[tokio::test]
async fn what_differs_from_its_hash_is_not_published() {
    for large in [true, false] {
        let file = File::new("model.safetensors", bytes(5000), large);
        let mut wrong = bytes(5000);
        wrong[4999] ^= 1;
        let server = Server::new(vec![file.clone()], move |r| match r.is_content() {
            true => Answer::Body(wrong.clone()),
            false => Answer::Honest,
        });
        let cache = Cache::new();
        let error = cache.error(&server).await;
        assert!(error.contains("model.safetensors") && error.contains(&file.hash), "{error}");
        assert!(cache.is_unpublished() && !cache.blob(&file).exists() && !cache.part(&file).exists());
        assert_eq!(server.contents().len(), 1);
    }
}

#[tokio::test]
async fn what_is_longer_than_listed_is_cut_off() {
    let server = Server::new(one(), |r| match r.is_content() {
        true => Answer::Body(bytes(SIZE * 50)),
        false => Answer::Honest,
    });
    let cache = Cache::new();
    let error = cache.error(&server).await;
    assert!(error.contains("more bytes") && error.contains("300000"), "{error}");
    assert!(cache.is_unpublished());
    assert!(cache.part(&one()[0]).metadata().unwrap().len() <= SIZE as u64);
}

#[tokio::test]
async fn what_is_shorter_than_listed_gives_up_and_names_the_file() {
    let server = Server::new(one(), |r| match r.is_content() {
        true => Answer::Body(bytes(1000)),
        false => Answer::Honest,
    });
    let cache = Cache::new();
    let error = cache.error(&server).await;
    assert!(error.contains("model.safetensors") && error.contains("gave up after 4 tries"), "{error}");
    assert!(cache.is_unpublished());
}

#[tokio::test]
async fn sizes_that_contradict_each_other_are_reported() {
    let file = File { linked_size: 7, ..one().remove(0) };
    let (server, cache) = (Server::honest(vec![file]), Cache::new());
    let error = cache.error(&server).await;
    assert!(error.contains("lists 300000 bytes, but has 7"), "{error}");
    assert!(server.contents().is_empty());
}

#[tokio::test]
async fn a_disk_that_cannot_hold_it_is_noticed_before() {
    let huge = || File { size: 1 << 62, ..File::new("model.safetensors", bytes(10), false) };
    let more = |name: &str| File { name: String::from(name), hash: name.repeat(40), ..huge() };
    let (server, cache) =
        (Server::honest(vec![huge(), more("a"), more("b"), more("c"), more("d")]), Cache::new());
    let error = cache.error(&server).await;
    assert!(error.contains("GB free") && error.contains("HF_HUB_CACHE"), "{error}");
    assert!(server.contents().is_empty());
}

#[tokio::test]
async fn empty_files_are_files() {
    let files = vec![File::new("empty.txt", "", false), File::new("empty.safetensors", "", true)];
    let (server, cache) = (Server::honest(files.clone()), Cache::new());
    assert_complete(&cache.download(&server).await.unwrap(), &files);
}

#[tokio::test]
async fn progress_only_grows_and_ends_at_the_total() {
    let cache = Cache::new();
    // Broken off, then refused its range, so that it starts anew.
    let server = Server::new(model(), |r| match (r.is("GET", "model.safetensors"), r.count) {
        (true, 0) => Answer::Break(150_000),
        (true, 1) => Answer::Status(416, ""),
        _ => Answer::Honest,
    });
    let total: u64 = model().iter().map(|f| f.content.len() as u64).sum();
    for run in 0..2 {
        let mut last: HashMap<String, u64> = HashMap::new();
        let events = progress(cache.builder(&server)).await;
        for Progress { what, done, total: of } in events {
            let size = match model().iter().find(|f| f.name == what) {
                Some(file) => file.content.len() as u64,
                None => total,
            };
            assert_eq!(of, size, "{what}");
            let before = last.insert(what.clone(), done);
            assert!(
                before.is_none_or(|b| b <= done) && done <= of,
                "{what}: {before:?}, then {done} of {of}"
            );
        }
        assert_eq!(last.remove(REPO), Some(total), "run {run}");
        for file in model() {
            assert_eq!(last.remove(&file.name), Some(file.content.len() as u64), "run {run}, {}", file.name);
        }
        assert!(last.is_empty());
    }
}

#[test]
fn downloads_at_the_same_time_share_the_work() {
    let (server, cache) = (Server::honest(model()), Cache::new());
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                assert_complete(&runtime.block_on(cache.download(&server)).unwrap(), &model());
            });
        }
    });
    assert_eq!(server.contents().len(), model().len());
}

#[tokio::test]
async fn a_lock_is_held_while_a_file_arrives_and_freed_when_the_future_goes() {
    let cache = Cache::new();
    let server = Server::new(one(), |r| if r.is_content() { Answer::Stall(1000) } else { Answer::Honest });
    let path = cache.hub().join(".locks/models--owner--name").join(format!("{}.lock", one()[0].hash));
    let part = cache.part(&one()[0]);
    tokio::select! {
        _ = cache.download(&server) => panic!("the server never sends the rest"),
        () = async {
            while part.metadata().map_or(0, |m| m.len()) < 1000 { tokio::time::sleep(Duration::from_millis(5)).await }
            let taken = fs::File::open(&path).unwrap().try_lock();
            assert!(matches!(taken, Err(TryLockError::WouldBlock)), "{taken:?}");
        } => {}
    }
    fs::File::open(&path).unwrap().try_lock().unwrap();
}

#[tokio::test]
async fn a_lock_that_nobody_works_under_is_reported() {
    let (server, cache) = (Server::honest(one()), Cache::new());
    let folder = cache.hub().join(".locks/models--owner--name");
    fs::create_dir_all(&folder).unwrap();
    let held = fs::File::create(folder.join(format!("{}.lock", one()[0].hash))).unwrap();
    held.lock().unwrap();
    let impatient = || cache.builder(&server).timeout(Duration::from_millis(500));
    let error = download(impatient(), REPO, ALL).await.unwrap_err().to_string();
    assert!(error.contains("another process holds this lock") && error.contains(".lock"), "{error}");
    assert!(server.contents().is_empty());
    drop(held);
    download(impatient().timeout(Duration::from_secs(10)), REPO, ALL).await.unwrap();
}

#[tokio::test]
async fn a_silent_server_is_left_and_asked_again() {
    let cache = Cache::new();
    let server = Server::new(one(), |r| match r.count {
        0 if r.is_content() => Answer::Stall(100_000),
        _ => Answer::Honest,
    });
    let builder = cache.builder(&server).timeout(Duration::from_secs(1));
    assert_complete(&download(builder, REPO, ALL).await.unwrap(), &one());
    assert_eq!(server.contents()[1].range.as_deref(), Some("bytes=100000-"));
}
