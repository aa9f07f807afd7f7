//! How each `pre` type cuts texts, against what llama.cpp made of them (`fixtures/llama_cpp/pre.txt`: the type, and digests of the ids of
//! texts in ASCII and of all texts). `-` stands where llama.cpp itself approximates the expression of the model's own tokenizer, and for
//! types that do not write bytes as characters.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Gguf, V, byte_characters};
use mlx_lm_common::Tokenizer;
use mlx_lm_tokenizers::AutoTokenizer;
use std::{collections::BTreeSet, fmt::Write};

const TEXTS: &str = include_str!("fixtures/llama_cpp/texts.inp");
const RECORDED: &str = include_str!("fixtures/llama_cpp/pre.txt");

fn texts() -> impl Iterator<Item = &'static str> {
    TEXTS.split("\n__ggml_vocab_test__\n")
}

/// A vocabulary that tells where texts are cut: every two bytes that follow each other merge, and then every four.
fn vocabulary(pre: &str) -> Gguf {
    let characters: Vec<char> = byte_characters().collect();
    let spelt = |bytes: &[u8]| bytes.iter().map(|b| characters[usize::from(*b)]).collect::<String>();
    let windows =
        |size: usize| texts().flat_map(move |t| t.as_bytes().windows(size)).collect::<BTreeSet<&[u8]>>();
    let (two, four) = (windows(2), windows(4));
    let mut tokens: Vec<String> = (0..=255).map(|b| spelt(&[b])).collect();
    tokens.extend(two.iter().chain(&four).map(|bytes| spelt(bytes)));
    let merge = |bytes: &&[u8]| {
        let (left, right) = bytes.split_at(bytes.len() / 2);
        format!("{} {}", spelt(left), spelt(right))
    };
    Gguf::new()
        .with("tokenizer.ggml.model", V::Str("gpt2".into()))
        .with("tokenizer.ggml.pre", V::Str(pre.into()))
        .with("tokenizer.ggml.bos_token_id", V::U32(11))
        .with("tokenizer.ggml.token_type", V::I32s(vec![1; tokens.len()]))
        .with("tokenizer.ggml.tokens", V::Strs(tokens))
        .with("tokenizer.ggml.merges", V::Strs(two.iter().chain(&four).map(merge).collect()))
}

/// FNV-1a, of 64 bits.
fn digest(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

#[test]
fn texts_are_cut_as_llama_cpp_cuts_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let mut kinds = BTreeSet::new();
    let mut wrong = Vec::new();
    for line in RECORDED.lines() {
        let [name, ascii, all] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        std::fs::write(&path, vocabulary(name).bytes()).unwrap();
        let tokenizer = AutoTokenizer::load(&path).unwrap();
        let (mut of_ascii, mut of_all) = (String::new(), String::new());
        for text in texts() {
            let ids = tokenizer.encode(text, false).unwrap();
            let line = ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
            writeln!(of_all, "{line}").unwrap();
            if text.is_ascii() {
                writeln!(of_ascii, "{line}").unwrap();
            }
        }
        if (ascii != "-" && digest(&of_ascii) != ascii) || (all != "-" && digest(&of_all) != all) {
            wrong.push(name);
        }
        kinds.insert((ascii, all));
    }
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(kinds.len() >= 24, "the texts must tell kinds apart: {}", kinds.len());
}
