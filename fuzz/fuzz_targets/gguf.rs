//! Any bytes as a `.gguf` file: no panic, and memory for no more than the file can fill.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mlx_lm_common::gguf::{Gguf, GgufTensor, Kind, Output, Read};
use std::{fs, sync::LazyLock};
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

fuzz_target!(|bytes: &[u8]| {
    let path = FOLDER.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    let Ok(gguf) = Gguf::open(&path) else { return };
    let _ = gguf.config();
    for tensor in gguf.tensors().unwrap_or_default() {
        // IQ1_S grows most: from 50 bytes to 256 floats.
        assert!(tensor.memory_bytes() <= 21 * bytes.len() + 3 * 64);
        if read(&tensor) == Some(Read::Float16Overflow) {
            assert_ne!(read(&tensor.widened()), Some(Read::Float16Overflow));
        }
    }
});

fn read(tensor: &GgufTensor) -> Option<Read> {
    let mut memory = vec![0; tensor.memory_bytes()];
    let output = match tensor.kind() {
        Kind::Dense { bytes, .. } => Output::Dense(&mut memory[..bytes]),
        Kind::Float4 { weight_bytes, scale_bytes, .. } => {
            let (weight, rest) = memory.split_at_mut(weight_bytes);
            Output::Float4 { weight, scales: &mut rest[..scale_bytes] }
        }
        Kind::Affine { weight_bytes, scale_bytes, .. } => {
            let (weight, rest) = memory.split_at_mut(weight_bytes);
            let (scales, rest) = rest.split_at_mut(scale_bytes);
            Output::Affine { weight, scales, biases: &mut rest[..scale_bytes] }
        }
    };
    tensor.read_into(output).ok()
}
