//! Any bytes as a model in two `.gguf` files: no panic, and no tensor from elsewhere. The first four bytes say where the second begins.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mlx_lm_common::gguf::Gguf;
use std::{fs, sync::LazyLock};
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

fuzz_target!(|bytes: &[u8]| {
    let Some((start, files)) = bytes.split_first_chunk::<4>() else { return };
    let start = (u32::from_le_bytes(*start) as usize).min(files.len());
    let (first, second) = files.split_at(start);
    let paths = [1, 2].map(|i| FOLDER.path().join(format!("model-{i:05}-of-00002.gguf")));
    fs::write(&paths[0], first).unwrap();
    fs::write(&paths[1], second).unwrap();
    for path in &paths {
        let Ok(gguf) = Gguf::open(path) else { continue };
        let tensors = gguf.tensors().unwrap_or_default();
        let total: u64 = tensors.iter().map(|t| t.file_bytes()).sum();
        assert!(total <= files.len() as u64);
    }
});
