//! Any bytes as a `.gguf` file with a vocabulary: no panic, and texts that come back without one.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mlx_lm_common::{
    Tokenizer,
    input::{ChatInput, Message},
};
use mlx_lm_tokenizers::AutoTokenizer;
use std::{fs, sync::LazyLock};
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

fuzz_target!(|bytes: &[u8]| {
    let path = FOLDER.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    let Ok(tokenizer) = AutoTokenizer::load(&path) else { return };
    for text in ["", " Hello,\tworld 12345\n\n", "<s>▁é\u{0}👩‍👩‍👧‍👦</s>", "aaaaaaaaaaaaaaaa"] {
        let Ok(ids) = tokenizer.encode(text, true) else { continue };
        let _ = tokenizer.decode(&ids, true);
    }
    let _ = tokenizer.decode(&[0, 3, u32::MAX], false);
    let _ = tokenizer.encode_chat(&ChatInput::new(&[Message::user("Hello!")]));
});
