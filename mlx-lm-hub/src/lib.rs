//! Where models come from: two implementations of [`Downloader`].
//!
//! * `HubDownloader` (feature `hub`, on by default) fetches from the Hugging Face hub into the cache that Python's
//!   `huggingface_hub` uses, so either finds what the other has downloaded.
//! * [`FolderDownloader`] knows folders alone. With `default-features = false` nothing else is compiled.
//!
//! ```no_run
//! # #[cfg(feature = "hub")]
//! # async fn example() -> mlx_lm_common::Result<()> {
//! use mlx_lm_common::MODEL_FILES;
//! use mlx_lm_hub::{HubDownloader, resolve};
//!
//! // HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE and HF_ENDPOINT are honoured.
//! let hub = HubDownloader::from_env()?;
//! let folder = resolve("mlx-community/Qwen3-0.6B-4bit", MODEL_FILES, &hub, &|p| {
//!     println!("{}: {} of {} bytes", p.what, p.done, p.total);
//! })
//! .await?;
//! println!("{}", folder.display());
//! # Ok(())
//! # }
//! ```

mod folder;
#[cfg(feature = "hub")]
mod hub;
mod names;

pub use folder::FolderDownloader;
#[cfg(feature = "hub")]
pub use hub::{HubBuilder, HubDownloader};

use mlx_lm_common::{Downloader, Error, OnProgress, RepoId, Result};
use std::path::{Path, PathBuf};

/// Turns what a person typed into a path: something that exists on disk stays what it is, `owner/name` or
/// `owner/name@revision` is downloaded.
///
/// # Errors
/// [`Error::Io`] for a path that does not exist, [`Error::Parameter`] for what is neither a path nor a repository, and
/// whatever the downloader reports.
pub async fn resolve(
    model: &str,
    patterns: &[&str],
    downloader: &dyn Downloader,
    on_progress: OnProgress<'_>,
) -> Result<PathBuf> {
    let path = Path::new(model);
    if path.exists() {
        return Ok(path.into());
    }
    if path.is_absolute() || model.starts_with(['.', '~']) {
        return Err(Error::io(path, std::io::ErrorKind::NotFound.into()));
    }
    downloader.download(&model.parse::<RepoId>()?, patterns, on_progress).await
}
