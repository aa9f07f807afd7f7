//! The user's cache folder, and folders in it that appear whole or not at all.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};

/// Written last into a finished folder: what it was made from.
const STAMP: &str = ".made-from";

/// `$MLX_LM_CACHE`, else `$XDG_CACHE_HOME/mlx-lm`, else `~/.cache/mlx-lm` (on macOS `~/Library/Caches/mlx-lm`).
pub(crate) fn dir() -> Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(dir) = set("MLX_LM_CACHE") {
        return std::path::absolute(&dir).with_context(|| format!("MLX_LM_CACHE={}", dir.display()));
    }
    // The XDG rules say to ignore relative paths.
    if let Some(dir) = set("XDG_CACHE_HOME").filter(|d| d.is_absolute()) {
        return Ok(dir.join("mlx-lm"));
    }
    let Some(home) = set("HOME") else {
        bail!("there is no cache folder: set HOME, or let MLX_LM_CACHE name a folder");
    };
    Ok(home.join(if cfg!(target_os = "macos") { "Library/Caches/mlx-lm" } else { ".cache/mlx-lm" }))
}

/// The folder `name` of the cache, as `make` filled it. `made_from` tells its contents: when it is the text that the folder was
/// made from, nothing is done; otherwise `make` fills an empty folder beside it, which then takes its place.
pub(crate) fn provide(
    name: &str,
    made_from: &str,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let dir = dir()?.join(name);
    let is_done = || fs::read_to_string(dir.join(STAMP)).is_ok_and(|text| text == made_from);
    if is_done() {
        return Ok(dir);
    }
    let parent = dir.parent().unwrap_or(&dir);
    let temporary = parent.join(format!("{}{}", temporary_prefix(&dir), process::id()));
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    remove_abandoned(parent, &temporary_prefix(&dir));
    remove(&temporary)?;
    fs::create_dir(&temporary).with_context(|| format!("cannot create {}", temporary.display()))?;
    let made = make(&temporary).and_then(|()| {
        fs::write(temporary.join(STAMP), made_from)
            .with_context(|| format!("cannot write to {}", temporary.display()))?;
        remove(&dir)?;
        match fs::rename(&temporary, &dir) {
            // Another process was faster.
            Err(_) if is_done() => Ok(()),
            renamed => renamed.with_context(|| format!("cannot create {}", dir.display())),
        }
    });
    remove(&temporary)?;
    made.map(|()| dir)
}

/// Removes a folder and everything in it, if it is there.
pub(crate) fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn temporary_prefix(dir: &Path) -> String {
    format!(".{}.tmp-", dir.file_name().unwrap_or_default().to_string_lossy())
}

/// What interrupted runs left behind. Best effort: a folder that cannot be removed does no harm.
fn remove_abandoned(parent: &Path, prefix: &str) {
    const AGE: Duration = Duration::from_secs(24 * 60 * 60);
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_old = || {
            let changed = entry.metadata().and_then(|m| m.modified()).ok();
            changed.and_then(|t| SystemTime::now().duration_since(t).ok()).is_some_and(|age| age > AGE)
        };
        if entry.file_name().to_string_lossy().starts_with(prefix) && is_old() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
