//! What the hub may say instead of giving the files, and what a person is told.

use super::*;
use crate::server::{Answer, Request};
use std::{net::TcpListener, time::Instant};

const TOKEN: &str = "hf_s3cr3tS3cr3t";

/// A hub that answers some requests with a status.
fn refusing(status: u16, headers: &'static str, which: fn(&Request) -> bool) -> Server {
    Server::new(model(), move |r| if which(r) { Answer::Status(status, headers) } else { Answer::Honest })
}

const EVERYTHING: fn(&Request) -> bool = |_| true;
const CONTENTS: fn(&Request) -> bool = |r| r.path.contains("/resolve/");
const LISTING: fn(&Request) -> bool = |r| r.path.contains("/tree/");

#[tokio::test]
async fn refusals_say_what_to_do_and_never_the_token() {
    let cases = [
        (401, "", false, EVERYTHING, &["set HF_TOKEN", "licence", "/owner/name"][..]),
        (401, "X-Error-Code: GatedRepo\r\n", false, CONTENTS, &["set HF_TOKEN", "licence"]),
        (401, "", true, EVERYTHING, &["refused the token", "licence"]),
        (401, "X-Error-Code: GatedRepo\r\n", true, CONTENTS, &["accept the licence at http://"]),
        (403, "X-Error-Code: GatedRepo\r\n", true, CONTENTS, &["accept the licence at http://"]),
        (403, "", true, LISTING, &["accept the licence at http://"]),
        (403, "", false, CONTENTS, &["set HF_TOKEN", "licence"]),
        (
            404,
            "X-Error-Code: RepoNotFound\r\n",
            true,
            EVERYTHING,
            &["there is no model owner/name", "check the name"],
        ),
        (404, "X-Error-Code: EntryNotFound\r\n", true, CONTENTS, &["owner/name has no file `"]),
        (418, "", true, EVERYTHING, &["418", "owner/name"]),
        (400, "", true, LISTING, &["400", "owner/name"]),
    ];
    for (status, headers, token, which, expected) in cases {
        let (server, cache) = (refusing(status, headers, which), Cache::new());
        let builder = cache.builder(&server);
        let builder = if token { builder.token(TOKEN) } else { builder };
        let error = download(builder, REPO, ALL).await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(expected.iter().all(|e| text.contains(e)), "{status} {headers}: {text}");
        assert!(!text.contains("s3cr3t"), "{text}");
        assert!(server.seen().iter().all(|r| r.auth.is_some() == token));
        assert!(server.seen().iter().all(|r| r.count == 0), "a refusal was asked for again");
        assert!(cache.is_unpublished());
    }
}

#[tokio::test]
async fn a_missing_revision_is_named() {
    for (headers, expected) in
        [("X-Error-Code: RevisionNotFound\r\n", "has no revision `v9`"), ("", "revision `v9`")]
    {
        let (server, cache) = (refusing(404, headers, EVERYTHING), Cache::new());
        let error = download(cache.builder(&server), "owner/name@v9", ALL).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_pattern_that_matches_nothing_says_what_there_is() {
    let (server, cache) = (Server::honest(model()), Cache::new());
    let error = download(cache.builder(&server), REPO, &["*.gguf"]).await.unwrap_err().to_string();
    assert!(
        error.contains("no file that matches `*.gguf`") && error.contains("`model.safetensors`"),
        "{error}"
    );
}

#[tokio::test]
async fn a_rate_limit_is_waited_for() {
    for which in [EVERYTHING, CONTENTS] {
        let cache = Cache::new();
        let server = Server::new(model(), move |r| match which(r) && r.count == 0 && r.method == "GET" {
            true if r.path.contains("/tree/") => Answer::Status(429, ""),
            true => Answer::Status(429, "Retry-After: 1\r\n"),
            false => Answer::Honest,
        });
        let start = Instant::now();
        assert_complete(&cache.download(&server).await.unwrap(), &model());
        assert!(start.elapsed() >= Duration::from_secs(1));
    }
}

#[tokio::test]
async fn a_rate_limit_that_is_too_long_is_reported_at_once() {
    for which in [EVERYTHING, CONTENTS] {
        let (server, cache) = (refusing(429, "Retry-After: 9999999999\r\n", which), Cache::new());
        let error = cache.error(&server).await;
        assert!(error.contains("limits the rate") && error.contains("wait 9999999999 s"), "{error}");
        assert!(error.contains("HF_TOKEN"), "{error}");
        assert!(server.seen().iter().all(|r| r.count == 0));
    }
}

#[tokio::test]
async fn troubles_of_the_server_pass_or_end_after_the_tries_allowed() {
    for status in [429, 500, 502, 503, 504] {
        for which in [EVERYTHING, LISTING, CONTENTS] {
            let cache = Cache::new();
            let passing = Server::new(model(), move |r| match which(r) && r.count == 0 {
                true => Answer::Status(status, ""),
                false => Answer::Honest,
            });
            assert_complete(&cache.download(&passing).await.unwrap(), &model());

            let (server, cache) = (refusing(status, "", which), Cache::new());
            let error =
                download(cache.builder(&server).connections(1), REPO, ALL).await.unwrap_err().to_string();
            assert!(error.contains("gave up after 4 tries"), "{error}");
            assert_eq!(server.seen().iter().filter(|r| which(r)).count(), 4, "{status}");
        }
    }
}

#[tokio::test]
async fn without_a_network_the_cache_is_advised() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(); // and closed at once
    let builder = HubBuilder::new(Cache::new().hub()).endpoint(format!("http://{closed}")).token(TOKEN);
    let error = download(builder.retries(1, Duration::from_millis(1)), REPO, ALL).await.unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(text.contains("cannot reach http://127.0.0.1") && text.contains("HF_HUB_OFFLINE=1"), "{text}");
    assert!(!text.contains("s3cr3t"), "{text}");
}

#[tokio::test]
async fn the_token_stays_with_the_endpoint() {
    let storage = Server::honest(model());
    let to = storage.url();
    let server = Server::new(model(), move |r| match r.path.contains("/resolve/") {
        true => Answer::Redirect(to.clone()),
        false => Answer::Honest,
    });
    let cache = Cache::new();
    assert_complete(&download(cache.builder(&server).token(TOKEN), REPO, ALL).await.unwrap(), &model());
    let with_token = Some(format!("Bearer {TOKEN}"));
    assert!(server.seen().iter().all(|r| r.auth == with_token), "{:?}", server.seen());
    assert_eq!(storage.seen().len(), model().len());
    assert!(storage.seen().iter().all(|r| r.auth.is_none()), "{:?}", storage.seen());
}

#[tokio::test]
async fn the_token_does_not_follow_a_redirect_of_the_api_either() {
    let elsewhere = Server::honest(model());
    let to = elsewhere.url();
    let server = Server::new(model(), move |r| match r.path.starts_with("/api/") {
        true => Answer::Redirect(to.clone()),
        false => Answer::Honest,
    });
    let cache = Cache::new();
    download(cache.builder(&server).token(TOKEN), REPO, &["config.json"]).await.unwrap();
    assert!(!elsewhere.seen().is_empty());
    let redirected = elsewhere.seen().into_iter().filter(|r| !r.path.contains("cursor="));
    assert!(redirected.map(|r| r.auth).all(|a| a.is_none()), "{:?}", elsewhere.seen());
}

#[tokio::test]
async fn a_renamed_repository_is_followed_with_the_token() {
    let server = Server::new(model(), |r| match r.path.strip_prefix("/owner/old/") {
        Some(rest) => Answer::Moved(format!("/{REPO}/{rest}")),
        None => match r.path.strip_prefix("/api/models/owner/old/") {
            Some(rest) => Answer::Moved(format!("/api/models/{REPO}/{rest}")),
            None => Answer::Honest,
        },
    });
    let cache = Cache::new();
    let folder = download(cache.builder(&server).token(TOKEN), "owner/old", ALL).await.unwrap();
    assert_complete(&folder, &model());
    assert!(folder.to_str().unwrap().contains("models--owner--old"));
    assert!(server.seen().iter().all(|r| r.auth.is_some()));
}

#[tokio::test]
async fn redirects_without_end_end() {
    for method in ["HEAD", "GET"] {
        let server = Server::new(model(), move |r| match r.is(method, "model.safetensors") {
            true => Answer::Moved(r.path.clone()),
            false => Answer::Honest,
        });
        let error = Cache::new().error(&server).await;
        assert!(error.contains("redirects"), "{error}");
    }
}
