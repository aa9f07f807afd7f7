//! What went wrong, whether to try again, and what to advise.

use super::{HubDownloader, Net};
use hf_hub::HFError;
use mlx_lm_common::{Error, RepoId, Result};
use reqwest::{StatusCode, header::HeaderMap};
use std::time::Duration;

/// Why a request came to nothing.
pub(super) enum Failure {
    /// Worth another try, after `wait` if the hub said so.
    Passing { why: String, wait: Option<Duration> },
    /// Would fail again.
    Final(Error),
}

impl Failure {
    pub(super) fn passing(why: impl Into<String>) -> Failure {
        Failure::Passing { why: why.into(), wait: None }
    }

    pub(super) fn last(why: impl Into<String>) -> Failure {
        Failure::Final(Error::Download(why.into()))
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Failure {
        Failure::Final(e)
    }
}

/// Counts tries in a row, and pauses between them.
pub(super) struct Retry<'a> {
    hub: &'a HubDownloader,
    tried: u32,
    best: u64,
}

impl<'a> Retry<'a> {
    pub(super) fn new(hub: &'a HubDownloader) -> Retry<'a> {
        Retry { hub, tried: 0, best: 0 }
    }

    /// `bytes` have arrived in all. A try that got a good deal further than any before does not count as failed.
    pub(super) fn reached(&mut self, bytes: u64) {
        const GOOD_DEAL: u64 = 1 << 20;
        if bytes >= self.best.saturating_add(GOOD_DEAL) {
            self.best = bytes;
            self.tried = 0;
        }
    }

    /// Waits for the next try, or says why there is none.
    pub(super) async fn pause(&mut self, failure: Failure) -> Result<()> {
        let (why, wait) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Passing { why, wait } => (why, wait),
        };
        let settings = &self.hub.settings;
        if self.tried >= settings.retries {
            return Err(Error::Download(format!("{why} (gave up after {} tries)", self.tried + 1)));
        }
        if let Some(wait) = wait.filter(|w| *w > settings.longest_wait) {
            return Err(Error::Download(format!(
                "{why}: it asks to wait {} s; try again then",
                wait.as_secs()
            )));
        }
        let backoff = settings.retry_delay.saturating_mul(1 << self.tried.min(10)).min(settings.longest_wait);
        self.tried += 1;
        let wait = wait.unwrap_or(backoff);
        tracing::warn!(wait_ms = wait.as_millis() as u64, "{why}; trying again");
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

/// What a request is about, for messages.
pub(super) struct About<'a> {
    pub(super) hub: &'a HubDownloader,
    pub(super) net: &'a Net,
    pub(super) repo: &'a RepoId,
    /// A file's name, or empty if it is the repository.
    pub(super) file: &'a str,
}

impl About<'_> {
    /// A failure that `hf-hub` reports. Its own messages are not used: they hold whole URLs and bodies.
    pub(super) fn api(&self, error: HFError) -> Failure {
        let status = match error {
            HFError::Request { source, .. } => return self.transport(source),
            HFError::RateLimited { retry_after, context } => {
                return self.status(context.status, context.error_code.as_deref(), retry_after);
            }
            HFError::Http { context }
            | HFError::AuthRequired { context }
            | HFError::Forbidden { context }
            | HFError::Conflict { context } => (context.status, context.error_code),
            HFError::RepoNotFound { context, .. } | HFError::RevisionNotFound { context, .. } => {
                (StatusCode::NOT_FOUND, context.and_then(|c| c.error_code))
            }
            HFError::Json(e) => {
                return Failure::last(format!("{}: an answer that is not understood: {e}", self.host()));
            }
            _ => return Failure::last(format!("{}: no usable answer about {}", self.host(), self.repo)),
        };
        self.status(status.0, status.1.as_deref(), None)
    }

    /// An answer that is not a success.
    pub(super) fn response(&self, status: StatusCode, headers: &HeaderMap) -> Failure {
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim);
        let wait = text("retry-after").and_then(|s| s.parse().ok()).map(Duration::from_secs);
        self.status(status, text("x-error-code"), wait)
    }

    fn status(&self, status: StatusCode, code: Option<&str>, wait: Option<Duration>) -> Failure {
        let (host, repo) = (self.host(), self.repo);
        let name = &repo.name;
        let page = format!("{host}/{name}");
        let gated = code == Some("GatedRepo");
        match status.as_u16() {
            401 if !self.hub.settings.has_token() => Failure::last(format!(
                "{repo} is gated, private or does not exist: check the name; if it is right, accept the licence at {page} \
                 and set HF_TOKEN"
            )),
            401 if !gated => Failure::last(format!(
                "{host} refused the token for {repo}: it may have expired, or the repository is private or does not exist; \
                 if it is gated, accept the licence at {page} with the token's account"
            )),
            403 if !self.hub.settings.has_token() => {
                Failure::last(format!("{repo} is gated: accept the licence at {page} and set HF_TOKEN"))
            }
            401 | 403 => Failure::last(format!(
                "the token's account has no access to {repo}: accept the licence at {page}, and see that the token may read \
                 gated repositories"
            )),
            404 if !self.file.is_empty() => {
                Failure::last(format!("{repo} has no file {}", crate::names::shown([self.file].into_iter())))
            }
            404 => match (&repo.revision, code) {
                (Some(revision), Some("RevisionNotFound")) => {
                    Failure::last(format!("{name} has no revision `{revision}`: see {page}/tree/main"))
                }
                (Some(revision), None) => {
                    Failure::last(format!("there is no {name} at {host}, or it has no revision `{revision}`"))
                }
                _ => Failure::last(format!("there is no model {name} at {host}: check the name")),
            },
            429 => Failure::Passing {
                why: format!(
                    "{host} limits the rate of requests{}",
                    if self.hub.settings.has_token() {
                        ""
                    } else {
                        " (a token in HF_TOKEN raises the limit)"
                    }
                ),
                wait,
            },
            408 | 500..=599 => {
                Failure::Passing { why: format!("{host} answered {status} for {}", self.what()), wait }
            }
            _ => Failure::last(format!("{host} answered {status} for {}", self.what())),
        }
    }

    /// A failure below HTTP. URLs are left out: those of contents are signed.
    pub(super) fn transport(&self, error: reqwest::Error) -> Failure {
        let error = error.without_url();
        let mut cause: &dyn std::error::Error = &error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        let (host, what) = (self.host(), self.what());
        if error.is_builder() || error.is_redirect() {
            return Failure::last(format!("{host}, {what}: {cause}"));
        }
        Failure::passing(match error.is_connect() || error.is_timeout() {
            true => format!(
                "cannot reach {host} for {what}: {cause}; if the model has been downloaded before, HF_HUB_OFFLINE=1 uses \
                 the cache"
            ),
            false => format!("the connection for {what} broke off: {cause}"),
        })
    }

    fn what(&self) -> String {
        if self.file.is_empty() {
            self.repo.to_string()
        } else {
            format!("{} of {}", self.file.escape_debug(), self.repo)
        }
    }

    /// The endpoint without a password.
    fn host(&self) -> String {
        let mut url = self.net.endpoint.clone();
        // Both fail only for URLs without a host, which the builder refuses.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.as_str().trim_end_matches('/').into()
    }
}
