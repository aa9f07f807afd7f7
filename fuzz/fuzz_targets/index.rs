//! Any bytes as `model.safetensors.index.json`: no panic, and no file outside the folder.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mlx_lm_common::weights::index::{INDEX, Shards};
use std::{fs, sync::LazyLock};
use tempfile::TempDir;

/// A folder with a shard of one tensor `x`, one of `y` in a folder below, and a link that leads away.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let shard = |name: &str| {
        let header = format!(r#"{{"{name}":{{"dtype":"U8","shape":[],"data_offsets":[0,1]}}}}"#);
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0]].concat()
    };
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.safetensors"), shard("x")).unwrap();
    fs::create_dir(folder.path().join("b")).unwrap();
    fs::write(folder.path().join("b/c.safetensors"), shard("y")).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink("..", folder.path().join("up")).unwrap();
    folder
});

fuzz_target!(|bytes: &[u8]| {
    let folder = FOLDER.path();
    fs::write(folder.join(INDEX), bytes).unwrap();
    let Ok(shards) = Shards::find(folder) else { return };
    let inside = folder.canonicalize().unwrap();
    assert!(shards.files.iter().all(|file| file.canonicalize().unwrap().starts_with(&inside)));
    let _ = shards.headers();
});
