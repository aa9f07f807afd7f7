//! The program's folder in the user's cache.

use mlx_llm::{Error, Result};
use std::{env, ffi::OsString, path::PathBuf};

/// `$MLX_LM_CACHE`, else `$XDG_CACHE_HOME/mlx-lm`, else `~/.cache/mlx-lm` (on macOS `~/Library/Caches/mlx-lm`).
///
/// # Errors
/// [`Error::Unsupported`] if none of the variables is set.
pub(crate) fn cache() -> Result<PathBuf> {
    let found = cache_from(|name| env::var_os(name).filter(|v| !v.is_empty()));
    found.ok_or_else(|| {
        Error::Unsupported("there is no cache folder: set HOME, or let MLX_LM_CACHE name a folder".into())
    })
}

fn cache_from(get: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if let Some(dir) = get("MLX_LM_CACHE") {
        return Some(dir.into());
    }
    // The XDG rules say to ignore relative paths.
    if let Some(dir) = get("XDG_CACHE_HOME").map(PathBuf::from).filter(|d| d.is_absolute()) {
        return Some(dir.join("mlx-lm"));
    }
    let folder = if cfg!(target_os = "macos") { "Library/Caches/mlx-lm" } else { ".cache/mlx-lm" };
    Some(PathBuf::from(get("HOME")?).join(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_variable_wins() {
        let from = |pairs: &[(&str, &str)]| {
            cache_from(|name| pairs.iter().find(|p| p.0 == name).map(|p| p.1.into()))
        };
        assert_eq!(
            from(&[("MLX_LM_CACHE", "/c"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")]),
            Some("/c".into())
        );
        assert_eq!(from(&[("XDG_CACHE_HOME", "/x"), ("HOME", "/h")]), Some("/x/mlx-lm".into()));
        let home = if cfg!(target_os = "macos") { "/h/Library/Caches/mlx-lm" } else { "/h/.cache/mlx-lm" };
        assert_eq!(from(&[("XDG_CACHE_HOME", "relative"), ("HOME", "/h")]), Some(home.into()));
        assert_eq!(from(&[]), None);
    }
}
