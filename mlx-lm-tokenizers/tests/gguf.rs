//! Tokenizers inside GGUF files, with tiny vocabularies written here.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Gguf, V};
use mlx_lm_common::{
    Error, Tokenizer,
    input::{ChatInput, Message},
};
use mlx_lm_tokenizers::{AutoTokenizer, files_of_gguf};

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER: i32 = 4;
const BYTE: i32 = 6;

/// A SentencePiece vocabulary: 0 `<unk>`, 1 `<s>`, 2 `</s>`, 3..=258 bytes, then those given with their scores.
fn spm(pieces: &[(&str, f32)], user: &[&str]) -> Gguf {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    tokens.extend((0..=255).map(|b| format!("<0x{b:02X}>")));
    tokens.extend(pieces.iter().map(|(t, _)| t.to_string()));
    tokens.extend(user.iter().map(|t| t.to_string()));
    let mut types = vec![UNKNOWN, CONTROL, CONTROL];
    types.extend([BYTE; 256]);
    types.extend(vec![NORMAL; pieces.len()]);
    types.extend(vec![USER; user.len()]);
    let mut scores = vec![0.0; 259];
    scores.extend(pieces.iter().map(|(_, s)| *s));
    scores.extend(vec![-1000.0; user.len()]);
    Gguf::new()
        .with("tokenizer.ggml.model", V::Str("llama".into()))
        .with("tokenizer.ggml.tokens", V::Strs(tokens))
        .with("tokenizer.ggml.token_type", V::I32s(types))
        .with("tokenizer.ggml.scores", V::F32s(scores))
}

/// Byte-level BPE: every byte's character, then merges and special tokens.
fn bpe(pre: &str, merges: &[(&str, &str)], special: &[&str]) -> Gguf {
    let mut tokens: Vec<String> = common::byte_characters().map(String::from).collect();
    tokens.extend(merges.iter().map(|(a, b)| format!("{a}{b}")));
    let mut types = vec![NORMAL; tokens.len()];
    tokens.extend(special.iter().map(|t| t.to_string()));
    types.extend(vec![CONTROL; special.len()]);
    Gguf::new()
        .with("tokenizer.ggml.model", V::Str("gpt2".into()))
        .with("tokenizer.ggml.pre", V::Str(pre.into()))
        .with("tokenizer.ggml.tokens", V::Strs(tokens))
        .with("tokenizer.ggml.token_type", V::I32s(types))
        .with("tokenizer.ggml.merges", V::Strs(merges.iter().map(|(a, b)| format!("{a} {b}")).collect()))
}

const MERGES: [(&str, &str); 6] =
    [("l", "l"), ("h", "e"), ("he", "ll"), ("Ġ", "w"), ("hell", "o"), ("Ġ", "Ġ")];

fn load(file: &Gguf) -> AutoTokenizer {
    try_load(file).unwrap()
}

fn try_load(file: &Gguf) -> Result<AutoTokenizer, Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, file.bytes()).unwrap();
    AutoTokenizer::load(&path)
}

fn pieces(tokenizer: &AutoTokenizer, text: &str) -> Vec<String> {
    tokenizer.encode(text, false).unwrap().into_iter().map(|id| tokenizer.token(id).unwrap()).collect()
}

/// Texts that every tokenizer here must give back as they were.
const TEXTS: [&str; 12] = [
    "",
    " ",
    "     ",
    "hello world",
    " leading and trailing ",
    "tab\tline\nline\r\n\r\n  end",
    "Grüße, 你好, мир, नमस्ते",
    "👩‍👩‍👧‍👦 🏳️‍🌈 é e\u{301}",
    "\u{0}\u{1}\u{7f}\u{feff}\u{200d}\u{fffd}",
    "<s> </s> <unk> <|im_end|> <0x41>",
    "▁ already ▁▁",
    "1234567890 3.14 'll 're I'M",
];

#[test]
fn texts_come_back() {
    let plain = spm(&[("▁", -1.0), ("he", -2.0), ("▁he", -3.0)], &[]);
    let tokenizers = [
        load(&plain),
        load(&plain.with("tokenizer.ggml.add_space_prefix", V::Bool(false))),
        load(&bpe("llama-bpe", &MERGES, &["<s>"]).with("tokenizer.ggml.bos_token_id", V::U32(262))),
        load(&bpe("qwen2", &MERGES, &["<|im_end|>"])),
        load(&bpe("smollm", &MERGES, &[])),
        load(&bpe("deepseek-llm", &MERGES, &[])),
        load(&bpe("falcon", &MERGES, &[])),
    ];
    for (i, tokenizer) in tokenizers.iter().enumerate() {
        for text in TEXTS {
            // SentencePiece's character for a space is a space when it comes back.
            let wanted = if i < 2 { text.replace('▁', " ") } else { text.to_string() };
            // A space goes before what follows a special token, too, and only the first is taken away again.
            if i == 0 && text.starts_with("<s>") {
                continue;
            }
            let ids = tokenizer.encode(text, false).unwrap();
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), wanted, "tokenizer {i}");
            assert!(ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size().unwrap()));
        }
    }
}

#[test]
fn files_of_a_folder_make_the_same_tokenizer() {
    let named = |file: Gguf| {
        let file = file.with("tokenizer.ggml.bos_token_id", V::U32(1));
        file.with("tokenizer.ggml.eos_token_id", V::U32(2))
    };
    // Every token has a score of its own, and each is made of two others.
    let scored: Vec<(String, f32)> = ["▁", "h", "e", "l", "o", "he", "ll", "▁he", "llo", "hell", "▁hello"]
        .iter()
        .zip(1..)
        .map(|(token, i)| (token.to_string(), -(i as f32)))
        .collect();
    let scored: Vec<(&str, f32)> = scored.iter().map(|(token, score)| (token.as_str(), *score)).collect();
    let spm = named(spm(&scored, &["<user>"]));
    let bpe = bpe("llama-bpe", &MERGES, &["<s>", "</s>"]);
    let bpe =
        bpe.with("tokenizer.ggml.bos_token_id", V::U32(262)).with("tokenizer.ggml.eos_token_id", V::U32(263));
    let template = "{% for m in messages %}{{ bos_token }}{{ m.content }}{% endfor %}";
    let files = [
        spm.with("tokenizer.chat_template", V::Str(template.into())),
        spm.with("tokenizer.ggml.add_space_prefix", V::Bool(false))
            .with("tokenizer.ggml.add_bos_token", V::Bool(false)),
        spm.with("tokenizer.ggml.add_eos_token", V::Bool(true)),
        bpe.with("tokenizer.chat_template", V::Str(template.into())),
        bpe.with("tokenizer.ggml.add_bos_token", V::Bool(false)),
    ];
    for (i, file) in files.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        std::fs::write(&path, file.bytes()).unwrap();
        for (name, bytes) in files_of_gguf(&path).unwrap() {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        let (found, wanted) = (AutoTokenizer::load(dir.path()).unwrap(), AutoTokenizer::load(&path).unwrap());
        for text in TEXTS.into_iter().chain(["hello hello", "<user>hello</s>", "ohellhe llo"]) {
            for special in [false, true] {
                let ids = wanted.encode(text, special).unwrap();
                assert_eq!(found.encode(text, special).unwrap(), ids, "file {i}: {text:?}");
                assert_eq!(
                    found.decode(&ids, true).unwrap(),
                    wanted.decode(&ids, true).unwrap(),
                    "file {i}: {text:?}"
                );
            }
        }
        assert_eq!(
            (found.bos(), found.special_tokens()),
            (wanted.bos(), wanted.special_tokens()),
            "file {i}"
        );
        assert_eq!(found.has_chat_template(), wanted.has_chat_template(), "file {i}");
        if found.has_chat_template() {
            let chat = ChatInput::new(&[Message::user("hello")]);
            assert_eq!(found.render(&chat).unwrap(), wanted.render(&chat).unwrap());
        }
        let generation = std::fs::read_to_string(dir.path().join("generation_config.json")).unwrap();
        let generation: serde_json::Value = serde_json::from_str(&generation).unwrap();
        assert_eq!(generation["eos_token_id"], wanted.eos()[0]);
    }
}

#[test]
fn the_highest_score_merges_first_and_the_leftmost_of_equals() {
    // `bc` beats `ab`, although `ab` comes first; then nothing joins `a`.
    let tokenizer =
        load(&spm(&[("▁", -9.0), ("a", -9.0), ("b", -9.0), ("c", -9.0), ("ab", -2.0), ("bc", -1.0)], &[]));
    assert_eq!(pieces(&tokenizer, "abc"), ["▁", "a", "bc"]);
    // `aaa` can be made of `aa`+`a` and of `a`+`aa`: the left one wins either way, which merges by rank cannot say.
    let tokenizer = load(&spm(&[("▁", -9.0), ("a", -9.0), ("aa", -1.0), ("aaa", -2.0)], &[]));
    assert_eq!(pieces(&tokenizer, "aaaaa"), ["▁", "aa", "aaa"]);
    assert_eq!(pieces(&tokenizer, "aaa"), ["▁", "aaa"]);
    // Scores need not be distinct.
    let tokenizer = load(&spm(&[("▁", 0.0), ("a", 0.0), ("b", 0.0), ("ab", 0.0), ("ba", 0.0)], &[]));
    assert_eq!(pieces(&tokenizer, "abab"), ["▁", "ab", "ab"]);
    assert_eq!(pieces(&tokenizer, "bab"), ["▁", "ba", "b"]);
}

#[test]
fn sentencepiece_bytes_spaces_and_ends() {
    let file = spm(&[("▁", -1.0), ("▁h", -2.0), ("h", -3.0)], &["<tool>"]);
    let tokenizer = load(&file);
    assert_eq!(pieces(&tokenizer, "h"), ["▁h"]);
    assert_eq!(pieces(&tokenizer, "ü"), ["▁", "<0xC3>", "<0xBC>"]);
    assert_eq!(pieces(&tokenizer, "h<tool>h"), ["▁h", "<tool>", "▁h"]);
    assert_eq!(pieces(&tokenizer, "<s>h"), ["<s>", "▁h"]);
    assert!(tokenizer.encode("", false).unwrap().is_empty());
    assert_eq!(tokenizer.encode("", true).unwrap(), [1]);
    assert_eq!(tokenizer.encode("h", true).unwrap(), [1, 260]);
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), &[2][..]));
    assert_eq!(tokenizer.special_tokens().get("bos_token"), Some("<s>"));
    assert_eq!(tokenizer.decode(&[1, 260, 262, 260, 2], true).unwrap(), "h<tool> h");
    assert_eq!(tokenizer.decode(&[198], true).unwrap(), "\u{fffd}");
    assert_eq!(tokenizer.decode(&[260, 9_999_999, u32::MAX, 261], true).unwrap(), "hh");

    let flags = file
        .with("tokenizer.ggml.add_bos_token", V::Bool(false))
        .with("tokenizer.ggml.add_eos_token", V::Bool(true));
    assert_eq!(load(&flags).encode("h", true).unwrap(), [260, 2]);
    let bare = load(&flags.with("tokenizer.ggml.add_space_prefix", V::Bool(false)));
    assert_eq!(bare.encode("h", false).unwrap(), [261]);
    assert_eq!(bare.decode(&[260], false).unwrap(), " h");
}

#[test]
fn byte_pairs_merge_by_rank_within_words() {
    let tokenizer = load(&bpe("smollm", &MERGES, &["<|im_start|>", "<|im_end|>"]));
    assert_eq!(pieces(&tokenizer, "hello world"), ["hello", "Ġw", "o", "r", "l", "d"]);
    assert_eq!(pieces(&tokenizer, "   hell"), ["ĠĠ", "Ġ", "hell"]);
    assert_eq!(
        pieces(&tokenizer, "a<|im_end|>hello<|im_start|>"),
        ["a", "<|im_end|>", "hello", "<|im_start|>"]
    );
    assert_eq!(pieces(&tokenizer, "ü"), ["Ã", "¼"]);
    let ids = tokenizer.encode("<|im_start|>hello<|im_end|>", false).unwrap();
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "hello");
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "<|im_start|>hello<|im_end|>");
    // Known by its text, though the file names no end.
    assert_eq!(tokenizer.eos(), [tokenizer.token_id("<|im_end|>").unwrap()]);
    assert_eq!((tokenizer.bos(), tokenizer.encode("a", true).unwrap().len()), (None, 1));
}

#[test]
fn kinds_of_words() {
    // A whole word that is a token, which no merges make.
    let merges = [("a", "b"), ("c", "d"), ("ab", "cd")];
    let mut whole = bpe("llama-bpe", &merges[..2], &["<s>"]).with("tokenizer.ggml.bos_token_id", V::U32(258));
    let mut parts = bpe("qwen2", &merges[..2], &["<s>"]);
    for file in [&mut whole, &mut parts] {
        file.push_token("abcd", NORMAL);
    }
    assert_eq!(pieces(&load(&whole), "abcd"), ["abcd"]);
    assert_eq!(pieces(&load(&parts), "abcd"), ["ab", "cd"]);
    // Llama 3 begins texts with BOS unless told otherwise.
    assert_eq!(load(&whole).encode("a", true).unwrap()[0], 258);
    let without = whole.with("tokenizer.ggml.add_bos_token", V::Bool(false));
    assert_eq!(load(&without).encode("a", true).unwrap().len(), 1);
    // Three digits at a time, one at a time, all.
    let digits = [("1", "2"), ("12", "3"), ("123", "4")];
    for (pre, wanted) in
        [("llama-bpe", &["123", "4"][..]), ("qwen2", &["1", "2", "3", "4"]), ("gpt-2", &["1234"])]
    {
        let file = bpe(pre, &digits, &["<s>"]).with("tokenizer.ggml.bos_token_id", V::U32(259));
        assert_eq!(pieces(&load(&file), "1234"), wanted, "{pre}");
    }
}

#[test]
fn of_unigrams_the_likeliest_text_wins() {
    let vocabulary =
        [("▁", -4.0), ("a", -3.0), ("b", -3.0), ("ab", -4.0), ("▁a", -3.5), ("▁ab", -9.0), ("b▁", -1.0)];
    let mut file = spm(&vocabulary, &["<x>"]);
    file = file
        .with("tokenizer.ggml.model", V::Str("t5".into()))
        .with("tokenizer.ggml.unknown_token_id", V::U32(0));
    file = file.with("tokenizer.ggml.eos_token_id", V::U32(2));
    let file = file.with("tokenizer.ggml.remove_extra_whitespaces", V::Bool(true));
    let tokenizer = load(&file);
    // ▁a·b (-6.5) beats ▁·ab (-8) and ▁ab (-9); runs of what is unknown are one token.
    assert_eq!(pieces(&tokenizer, "ab"), ["▁a", "b"]);
    assert_eq!(pieces(&tokenizer, "  ab   a "), ["▁a", "b▁", "a"]);
    assert_eq!(pieces(&tokenizer, "a語語<x>b"), ["▁a", "<unk>", "<x>", "▁", "b"]);
    assert_eq!(tokenizer.encode("a", true).unwrap().last(), Some(&2));
    assert_eq!(tokenizer.decode(&tokenizer.encode("ab a", false).unwrap(), true).unwrap(), "ab a");
    for (bytes, wanted) in [(vec![], "map of characters"), (vec![255; 9], "map of characters")] {
        let broken = file.with("tokenizer.ggml.precompiled_charsmap", V::Bytes(bytes));
        let found = try_load(&broken).unwrap_err().to_string();
        assert!(found.contains(wanted), "{found}");
    }
}

#[test]
fn ends_of_turns() {
    let special = ["<|endoftext|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "</s>"];
    let file = bpe("gpt-2", &MERGES, &special)
        .with("tokenizer.ggml.eos_token_id", V::U32(262))
        .with("tokenizer.ggml.eot_token_id", V::U32(3));
    let tokenizer = load(&file);
    // `<|end|>` goes on to the next message where there are `<|return|>` and `<|call|>`.
    assert_eq!(tokenizer.eos(), [3, 262, 263, 265, 266, 267]);
    assert_eq!(tokenizer.special_tokens().get("eos_token"), Some("<|endoftext|>"));
}

#[test]
fn chat_templates_of_the_file() {
    let file = bpe("gpt-2", &MERGES, &["<s>"]).with("tokenizer.ggml.bos_token_id", V::U32(262));
    assert!(!load(&file).has_chat_template());
    let chat = ChatInput::new(&[Message::user("hello")]);
    assert!(matches!(load(&file).render(&chat), Err(Error::Template(_))));

    let file = file
        .with("tokenizer.chat_template", V::Str("{{ bos_token }}{{ messages[0].content }}".into()))
        .with("tokenizer.chat_template.tool_use", V::Str("tools".into()))
        .with("tokenizer.chat_template.rag", V::Str("documents".into()));
    let tokenizer = load(&file);
    assert_eq!(tokenizer.template_names().collect::<Vec<_>>(), ["default", "rag", "tool_use"]);
    assert_eq!(tokenizer.render(&chat).unwrap(), "<s>hello");
    assert_eq!(tokenizer.encode_chat(&chat).unwrap(), [262, tokenizer.token_id("hello").unwrap()]);
    assert_eq!(tokenizer.render(&ChatInput { tools: Some(vec![]), ..chat.clone() }).unwrap(), "tools");
    let mut documents = chat.clone();
    documents.context.insert("documents".into(), serde_json::json!([{"text": "t"}]));
    assert_eq!(tokenizer.render(&documents).unwrap(), "documents");

    // A template that does not compile does no harm until it is wanted.
    let broken = load(&file.with("tokenizer.chat_template", V::Str("{% if %}".into())));
    assert_eq!(broken.encode("a", false).unwrap().len(), 1);
    assert!(broken.render(&chat).unwrap_err().to_string().contains("model.gguf: `tokenizer.chat_template`"));
}

#[test]
fn what_is_wrong_is_named() {
    let good = bpe("gpt-2", &MERGES, &["<s>"]);
    let spm = spm(&[("a", 0.0)], &[]);
    for (file, wanted) in [
        (good.clone().without("tokenizer.ggml.model"), "tokenizer.ggml.model"),
        (
            good.with("tokenizer.ggml.model", V::Str("rwkv".into())),
            "gpt2, gemma4, whitespace, llama, bert or t5",
        ),
        (good.with("tokenizer.ggml.model", V::Str("none".into())), "no vocabulary"),
        (good.clone().without("tokenizer.ggml.tokens"), "tokenizer.ggml.tokens"),
        (good.with("tokenizer.ggml.tokens", V::I32s(vec![1])), "tokenizer.ggml.tokens"),
        (good.with("tokenizer.ggml.tokens", V::Strs(vec![])), "at least one"),
        (
            good.with("tokenizer.ggml.tokens", V::Strs(vec!["a".into(), "b".into(), "a".into()])),
            "\"a\" at 0 and at 2",
        ),
        (good.with("tokenizer.ggml.token_type", V::I32s(vec![1])), "tokenizer.ggml.token_type"),
        (good.clone().without("tokenizer.ggml.merges"), "tokenizer.ggml.merges"),
        (good.with("tokenizer.ggml.merges", V::Strs(vec!["x y".into()])), "\"xy\" is no token"),
        (good.with("tokenizer.ggml.merges", V::Strs(vec!["xy".into()])), "tokenizer.ggml.merges[0]"),
        (good.with("tokenizer.ggml.pre", V::Str("hybrid-x".into())), "`hybrid-x`"),
        (good.with("tokenizer.ggml.pre", V::Str("hybrid-x".into())), "llama-bpe"),
        (good.with("tokenizer.ggml.bos_token_id", V::U32(100_000)), "tokenizer.ggml.bos_token_id"),
        (good.with("tokenizer.ggml.eos_token_id", V::Str("x".into())), "tokenizer.ggml.eos_token_id"),
        (good.with("tokenizer.ggml.add_bos_token", V::Bool(true)), "tokenizer.ggml.add_bos_token is set"),
        (spm.clone().without("tokenizer.ggml.scores"), "tokenizer.ggml.scores"),
        (spm.with("tokenizer.ggml.scores", V::F32s(vec![0.0])), "tokenizer.ggml.scores"),
    ] {
        let error = try_load(&file).expect_err(wanted).to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

/// Every model that llama.cpp knows (`fixtures/llama_cpp/models.txt`) is read, or refused by name.
#[test]
fn models_of_llama_cpp() {
    for line in include_str!("fixtures/llama_cpp/models.txt").lines() {
        let (model, wanted) = line.split_once(' ').unwrap();
        let plain = if matches!(model, "llama" | "t5") {
            spm(&[("▁", -1.0)], &[])
        } else {
            bpe("gpt-2", &MERGES, &[])
        };
        let file = plain
            .with("tokenizer.ggml.model", V::Str(model.into()))
            .with("tokenizer.ggml.unknown_token_id", V::U32(0));
        let loaded = try_load(&file).map_err(|e| e.to_string());
        match wanted {
            "read" => assert!(loaded.is_ok(), "{model}: {:?}", loaded.err()),
            _ => {
                let error = loaded.expect_err(model);
                let names_it = error.contains(&format!("`{model}`")) || error.contains("no vocabulary");
                assert!(names_it, "{error}");
            }
        }
    }
}

#[test]
fn scores_that_are_no_numbers_do_no_harm() {
    let file =
        spm(&[("▁", f32::NAN), ("a", f32::INFINITY), ("aa", f32::NAN), ("▁a", f32::NEG_INFINITY)], &[]);
    let tokenizer = load(&file);
    let ids = tokenizer.encode("aaaa aa", false).unwrap();
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "aaaa aa");
}

/// Hundreds of thousands of characters without a place to cut.
#[test]
fn very_long_words() {
    let tokenizers = [
        load(&spm(&[("▁", -1.0), ("a", -1.0), ("aa", -2.0), ("aaaa", -3.0), ("▁▁", -2.0)], &[])),
        load(
            &bpe("llama-bpe", &[("a", "a"), ("aa", "aa"), ("Ġ", "Ġ")], &["<s>"])
                .with("tokenizer.ggml.bos_token_id", V::U32(259)),
        ),
        load(&bpe("qwen2", &[("a", "a"), ("aa", "aa"), ("Ġ", "Ġ")], &[])),
        load(&bpe("deepseek-llm", &[("a", "a"), ("aa", "aa"), ("Ġ", "Ġ")], &[])),
        load(&bpe("deepseek-coder", &[("a", "a"), ("aa", "aa"), ("Ġ", "Ġ")], &[])),
    ];
    for (i, tokenizer) in tokenizers.iter().enumerate() {
        for text in [
            "a".repeat(1 << 18),
            " ".repeat(1 << 18),
            " ".repeat(1 << 18) + "é",
            "\n ".repeat(1 << 17),
            "1".repeat(1 << 18),
        ] {
            let ids = tokenizer.encode(&text, false).unwrap();
            assert!(tokenizer.decode(&ids, false).unwrap() == text, "tokenizer {i}, {:?}", &text[..2]);
        }
    }
}
