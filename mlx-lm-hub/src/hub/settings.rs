//! What a downloader can be told, and what the environment says.

use super::{HubDownloader, Net};
use hf_hub::HFClient;
use mlx_lm_common::{Error, Result};
use reqwest::{Url, redirect::Policy};
use std::{
    env,
    ffi::OsString,
    fmt, fs,
    path::{Path, PathBuf},
    time::Duration,
};

const HUB: &str = "https://huggingface.co";
const REDIRECTS: usize = 10;

/// Sets up a [`HubDownloader`].
///
/// ```no_run
/// use mlx_lm_hub::HubBuilder;
///
/// let hub = HubBuilder::new("/data/hub").token("hf_…").connections(8).build()?;
/// let offline = HubBuilder::from_env().offline(true).build()?;
/// # Ok::<(), mlx_lm_common::Error>(())
/// ```
#[derive(Clone)]
pub struct HubBuilder {
    pub(super) cache: PathBuf,
    token: Option<String>,
    endpoint: String,
    offline: bool,
    pub(super) connections: usize,
    pub(super) timeout: Duration,
    pub(super) retries: u32,
    pub(super) retry_delay: Duration,
    pub(super) longest_wait: Duration,
}

impl HubBuilder {
    /// The cache in `cache`, the public hub, no token; the environment is not looked at.
    pub fn new(cache: impl Into<PathBuf>) -> HubBuilder {
        HubBuilder {
            cache: cache.into(),
            token: None,
            endpoint: HUB.into(),
            offline: false,
            connections: 4,
            timeout: Duration::from_secs(30),
            retries: 5,
            retry_delay: Duration::from_millis(500),
            longest_wait: Duration::from_secs(300),
        }
    }

    /// What `huggingface_hub` would use in the same environment:
    ///
    /// * cache: `HF_HUB_CACHE`, else `HUGGINGFACE_HUB_CACHE`, else `hub` in the home folder, which is `HF_HOME`, else
    ///   `huggingface` in `XDG_CACHE_HOME`, else `~/.cache/huggingface`;
    /// * token: `HF_TOKEN`, else `HUGGING_FACE_HUB_TOKEN`, else the file `HF_TOKEN_PATH`, else `token` in the home folder;
    ///   none of them if `HF_HUB_DISABLE_IMPLICIT_TOKEN` is on;
    /// * `HF_ENDPOINT`, and offline if `HF_HUB_OFFLINE`, else `TRANSFORMERS_OFFLINE`, is on.
    pub fn from_env() -> HubBuilder {
        HubBuilder::from_variables(|name| env::var_os(name))
    }

    fn from_variables(get: impl Fn(&str) -> Option<OsString>) -> HubBuilder {
        let get = |name: &str| get(name).filter(|v| !v.is_empty());
        let text = |name: &str| {
            get(name)?.into_string().ok().map(|s| s.trim().to_string()).filter(|s| !s.is_empty())
        };
        let is_on = |v: String| matches!(v.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE");
        let user = get("HOME").map(PathBuf::from).unwrap_or_default();
        let path = |name: &str| {
            let path = PathBuf::from(get(name)?);
            Some(path.strip_prefix("~").map(|rest| user.join(rest)).unwrap_or(path))
        };

        let home = path("HF_HOME").unwrap_or_else(|| {
            path("XDG_CACHE_HOME").unwrap_or_else(|| user.join(".cache")).join("huggingface")
        });
        let cache = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .unwrap_or_else(|| home.join("hub"));
        let mut builder = HubBuilder::new(cache)
            .offline(text("HF_HUB_OFFLINE").or_else(|| text("TRANSFORMERS_OFFLINE")).is_some_and(is_on));
        if let Some(endpoint) = text("HF_ENDPOINT") {
            builder.endpoint = endpoint;
        }
        if !text("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(is_on) {
            let file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
            builder.token =
                text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")).or_else(|| read_token(&file));
        }
        builder
    }

    /// Sent to the endpoint with every request, and to no other host.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> HubBuilder {
        self.token = Some(token.into());
        self
    }

    /// The hub's address, such as that of a mirror.
    #[must_use]
    pub fn endpoint(mut self, url: impl Into<String>) -> HubBuilder {
        self.endpoint = url.into();
        self
    }

    /// Whether to use the cache alone and connect to nothing.
    #[must_use]
    pub fn offline(mut self, offline: bool) -> HubBuilder {
        self.offline = offline;
        self
    }

    /// Files that are fetched at a time; 4 unless told, at least 1.
    #[must_use]
    pub fn connections(mut self, count: usize) -> HubBuilder {
        self.connections = count.max(1);
        self
    }

    /// How long a connection may take to come about or stay silent; 30 s unless told. A file that another process is
    /// fetching is waited for as long as it grows at least once in four times this.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> HubBuilder {
        self.timeout = timeout;
        self
    }

    /// How often in a row to try again without getting further (5 unless told), and the pause before the first time
    /// (0.5 s unless told), which doubles with each.
    #[must_use]
    pub fn retries(mut self, count: u32, delay: Duration) -> HubBuilder {
        self.retries = count;
        self.retry_delay = delay;
        self
    }

    /// The longest pause to make when the hub asks for one; 5 minutes unless told. If it asks for more, the download
    /// fails and says so.
    #[must_use]
    pub fn longest_wait(mut self, wait: Duration) -> HubBuilder {
        self.longest_wait = wait;
        self
    }

    /// Whether there is a token, for advice on what a refusal means.
    pub(super) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Makes the downloader. Nothing is connected to and nothing written before the first download.
    ///
    /// # Errors
    /// [`Error::Parameter`] for an endpoint that is no http(s) URL or a token that no header can carry,
    /// [`Error::Download`] if TLS cannot be set up.
    pub fn build(self) -> Result<HubDownloader> {
        let net = if self.offline { None } else { Some(self.net()?) };
        Ok(HubDownloader { settings: self, net })
    }

    fn net(&self) -> Result<Net> {
        let endpoint = Url::parse(self.endpoint.trim_end_matches('/'))
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| Error::Parameter {
                name: "endpoint",
                found: "no such URL".into(), // it might hold a password
                wanted: format!("a URL such as {HUB}"),
            })?;
        let printable = |t: &str| t.bytes().all(|b| b.is_ascii_graphic());
        if self.token.as_deref().is_some_and(|t| t.is_empty() || !printable(t)) {
            return Err(Error::Parameter {
                name: "token",
                found: "blanks or other characters that no header carries".into(),
                wanted: "a token as the hub shows it, such as hf_…".into(),
            });
        }
        let failed = |what: &dyn fmt::Display| Error::Download(format!("cannot set up HTTP: {what}"));
        let client = |redirects: Policy| {
            reqwest::Client::builder()
                .user_agent(concat!("mlx-lm-hub/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(self.timeout)
                .read_timeout(self.timeout)
                .redirect(redirects)
                .build()
                .map_err(|e| failed(&e))
        };
        let http = client(Policy::custom(|attempt| {
            let from_tls = attempt.previous().iter().any(|url| url.scheme() == "https");
            match attempt.previous().len() {
                n if n > REDIRECTS => attempt.error("too many redirects"),
                _ if from_tls && attempt.url().scheme() != "https" => {
                    attempt.error("a redirect away from https")
                }
                _ => attempt.follow(),
            }
        }))?;
        let api = HFClient::builder()
            .client(http.clone())
            .cache_dir(&self.cache)
            .endpoint(endpoint.as_str())
            // Left without a token, hf-hub looks for one itself, also where this builder was told to use none. One that no
            // header can carry makes it send none.
            .token(self.token.as_deref().unwrap_or("\n"))
            .retry_max_attempts(0) // what to try again, and when, is decided here
            .build()
            .map_err(|e| failed(&e))?;
        Ok(Net { api, http, direct: client(Policy::none())?, endpoint })
    }

    /// The request with the token, if there is one.
    pub(super) fn authorize(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }
}

fn read_token(file: &Path) -> Option<String> {
    const LONGEST: u64 = 4096;
    fs::metadata(file).ok().filter(|m| m.is_file() && m.len() <= LONGEST)?;
    Some(fs::read_to_string(file).ok()?.trim().to_string()).filter(|t| !t.is_empty())
}

impl fmt::Debug for HubBuilder {
    /// Leaves out the token, and the endpoint, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("HubBuilder")
            .field("cache", &self.cache)
            .field("has_token", &self.has_token())
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn from(pairs: &[(&str, &str)]) -> HubBuilder {
        HubBuilder::from_variables(|name| pairs.iter().find(|p| p.0 == name).map(|p| p.1.into()))
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        for (pairs, expected) in [
            (&[("HOME", "/h")][..], "/h/.cache/huggingface/hub"),
            (&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/hf")], "/hf/hub"),
            (&[("HOME", "/h"), ("HF_HOME", "~/hf")], "/h/hf/hub"),
            (&[("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/old")], "/old"),
            (&[("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/c")], "/c"),
            (&[("HOME", "/h"), ("HF_HUB_CACHE", "")], "/h/.cache/huggingface/hub"),
        ] {
            assert_eq!(from(pairs).cache, Path::new(expected), "{pairs:?}");
        }
    }

    #[test]
    fn the_token_comes_from_variables_then_files() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_str().unwrap();
        let other = dir.path().join("other");
        fs::write(dir.path().join("token"), "of-home\n").unwrap();
        fs::write(&other, " of-file ").unwrap();
        let other = other.to_str().unwrap();
        for (pairs, expected) in [
            (&[("HF_HOME", "/nonexistent")][..], None),
            (&[("HF_HOME", home)], Some("of-home")),
            (&[("HF_HOME", home), ("HF_TOKEN_PATH", other)], Some("of-file")),
            (&[("HF_HOME", home), ("HF_TOKEN", " a\n")], Some("a")),
            (&[("HF_HOME", home), ("HUGGING_FACE_HUB_TOKEN", "b")], Some("b")),
            (&[("HF_TOKEN", "a"), ("HUGGING_FACE_HUB_TOKEN", "b")], Some("a")),
            (&[("HF_TOKEN", "a"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")], None),
        ] {
            assert_eq!(from(pairs).token.as_deref(), expected, "{pairs:?}");
        }
    }

    #[test]
    fn switches_and_the_endpoint() {
        for (value, expected) in
            [("1", true), ("true", true), ("YES", true), ("on", true), ("0", false), ("no", false)]
        {
            assert_eq!(from(&[("HF_HUB_OFFLINE", value)]).offline, expected, "{value}");
            assert_eq!(from(&[("TRANSFORMERS_OFFLINE", value)]).offline, expected, "{value}");
        }
        assert!(!from(&[]).offline);
        assert!(!from(&[("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")]).offline);
        assert_eq!(from(&[]).endpoint, HUB);
        assert_eq!(from(&[("HF_ENDPOINT", "https://mirror.example")]).endpoint, "https://mirror.example");
    }

    #[test]
    fn unusable_settings_are_refused_without_being_shown() {
        for token in ["", "hf_secret\nX-Evil: 1", "hf_secret with blank", "hf_sécret"] {
            let error = HubBuilder::new("/c").token(token).build().unwrap_err().to_string();
            assert!(error.contains("token") && !error.contains("cret"), "{error}");
        }
        for endpoint in ["", "huggingface.co", "ftp://hub.example", "file:///etc", "http://me:password@"] {
            let error = HubBuilder::new("/c").endpoint(endpoint).build().unwrap_err().to_string();
            assert!(error.contains("endpoint") && !error.contains("password"), "{error}");
        }
    }

    #[test]
    fn debug_output_has_no_token() {
        let builder = HubBuilder::new("/c").token("hf_secret").endpoint("https://me:password@hub.example");
        let text = format!("{builder:?} {:?}", builder.clone().build().unwrap());
        assert!(text.contains("/c") && !text.contains("secret") && !text.contains("password"), "{text}");
    }
}
