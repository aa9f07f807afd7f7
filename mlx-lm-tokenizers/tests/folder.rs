//! Folders in the Hugging Face layout.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use mlx_lm_common::{
    Error, Tokenizer, TokenizerLoader,
    input::{ChatInput, Message},
};
use mlx_lm_tokenizers::{AutoTokenizer, AutoTokenizerLoader, ChatTemplate, chrono::DateTime};
use serde_json::{Map, Value, json};
use std::{fs, path::Path, sync::Arc};
use tempfile::TempDir;

/// A byte-level BPE with a few merges; `<s>` is 259, `</s>` 260, `<tool>` 261. Texts get `<s>` in front if `bos`.
fn tokenizer_json(bos: bool) -> Value {
    let merges = [["l", "l"], ["h", "e"], ["he", "ll"]];
    let mut vocab: Map<String, Value> =
        common::byte_characters().zip(0..).map(|(c, id)| (c.to_string(), json!(id))).collect();
    for (id, [a, b]) in (256..).zip(merges) {
        vocab.insert(format!("{a}{b}"), json!(id));
    }
    let added = |id: u32, text: &str, special: bool| json!({"id": id, "content": text, "special": special, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false});
    let template = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [259], "tokens": ["<s>"]}},
    });
    json!({
        "version": "1.0",
        "truncation": {"max_length": 2, "stride": 0, "strategy": "LongestFirst", "direction": "Right"},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "<s>"},
        "added_tokens": [added(259, "<s>", true), added(260, "</s>", true), added(261, "<tool>", false)],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": if bos { template } else { Value::Null },
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
                  "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": merges},
    })
}

/// A folder with a tokenizer and these files.
fn folder(bos: bool, files: &[(&str, Value)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tokenizer.json"), tokenizer_json(bos).to_string()).unwrap();
    for (name, content) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content.as_str().map_or_else(|| content.to_string(), str::to_string)).unwrap();
    }
    dir
}

fn config(values: Value) -> (&'static str, Value) {
    ("tokenizer_config.json", values)
}

fn load(bos: bool, files: &[(&str, Value)]) -> AutoTokenizer {
    AutoTokenizer::load(folder(bos, files).path()).unwrap()
}

fn hello() -> ChatInput {
    ChatInput::new(&[Message::user("hell")])
}

#[test]
fn texts_and_special_tokens() {
    let tokenizer = load(
        true,
        &[config(
            json!({"bos_token": "<s>", "eos_token": {"__type": "AddedToken", "content": "</s>"}, "pad_token": null}),
        )],
    );
    for text in ["", " ", "    ", "hello", "Grüße 你好 👩‍👩‍👧", "\t\n\r\n", "a<s>b</s><tool>c"]
    {
        let ids = tokenizer.encode(text, false).unwrap();
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    }
    // No truncation, no padding.
    assert_eq!(tokenizer.encode("hell hell", true).unwrap(), [259, 258, 32, 258]);
    assert_eq!(tokenizer.encode("", true).unwrap(), [259]);
    assert_eq!(tokenizer.encode("<s>hell<tool></s>", false).unwrap(), [259, 258, 261, 260]);
    assert_eq!(tokenizer.decode(&[259, 258, 261, 260], true).unwrap(), "hell<tool>");
    assert_eq!(tokenizer.decode(&[258, 1 << 30, u32::MAX], true).unwrap(), "hell");
    assert_eq!(
        (tokenizer.bos(), tokenizer.eos(), tokenizer.vocab_size()),
        (Some(259), &[260][..], Some(262))
    );
    assert_eq!((tokenizer.token_id("hell"), tokenizer.token(258).as_deref()), (Some(258), Some("hell")));
    assert_eq!((tokenizer.token_id("nothing"), tokenizer.token(1 << 30)), (None, None));
    assert!(!tokenizer.has_chat_template());
}

#[test]
fn a_tokenizer_alone_is_enough() {
    let tokenizer = load(false, &[]);
    assert_eq!(tokenizer.encode("hell", true).unwrap(), [258]);
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (None, &[][..]));
}

#[test]
fn flags_for_bos_and_eos() {
    let base = json!({"bos_token": "<s>", "eos_token": "</s>"});
    for (in_file, extra, wanted) in [
        (true, json!({}), &[259, 258][..]),
        (true, json!({"add_bos_token": true}), &[259, 258]),
        (true, json!({"add_bos_token": false}), &[258]),
        (false, json!({}), &[258]),
        (false, json!({"add_bos_token": true}), &[259, 258]),
        (false, json!({"add_eos_token": true}), &[258, 260]),
        (false, json!({"tokenizer_class": "LlamaTokenizerFast"}), &[259, 258]),
        (false, json!({"tokenizer_class": "LlamaTokenizer", "add_bos_token": false}), &[258]),
        (false, json!({"tokenizer_class": "Qwen2Tokenizer"}), &[258]),
        (false, json!({"add_bos_token": null}), &[258]),
    ] {
        let mut values = base.clone();
        values.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let tokenizer = load(in_file, &[config(values)]);
        assert_eq!(tokenizer.encode("hell", true).unwrap(), wanted, "{in_file} {extra}");
        assert_eq!(tokenizer.encode("hell", false).unwrap(), [258]);
    }
}

#[test]
fn tokens_from_other_files() {
    let map = (
        "special_tokens_map.json",
        json!({"eos_token": "hell", "unk_token": {"content": "<tool>"}, "bos_token": "<s>"}),
    );
    let decoder = json!({
        "260": {"content": "</s>", "special": true},
        "261": {"content": "<tool>", "special": true},
        "262": {"content": "<new>", "special": true},
    });
    let values = json!({"eos_token": "</s>", "added_tokens_decoder": decoder, "extra_special_tokens": {"image_token": "<image>"}, "additional_special_tokens": ["<new>"]});
    let tokenizer = load(false, &[config(values), map]);
    assert_eq!(tokenizer.eos(), [260]);
    let special = tokenizer.special_tokens();
    assert_eq!(
        (special.get("unk_token"), special.get("bos_token"), special.get("image_token")),
        (Some("<tool>"), Some("<s>"), Some("<image>"))
    );
    assert_eq!(tokenizer.encode("<new>hell", false).unwrap(), [262, 258]);
    assert_eq!(tokenizer.vocab_size(), Some(263));
    // The configuration made it special.
    assert_eq!(tokenizer.decode(&[261, 258, 262], true).unwrap(), "hell");
}

#[test]
fn templates_by_precedence() {
    let plain = config(json!({"bos_token": "<s>", "chat_template": "config {{ bos_token }}"}));
    let named = config(
        json!({"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}, {"name": "rag", "template": "r"}]}),
    );
    let json_file = ("chat_template.json", json!({"chat_template": "json"}));
    let jinja = ("chat_template.jinja", json!("jinja"));
    let more = ("additional_chat_templates/tool_use.jinja", json!("more"));
    let other = ("additional_chat_templates/README.md", json!("{% not a template"));

    let rendered = |files: &[(&str, Value)], chat: &ChatInput| load(false, files).render(chat).unwrap();
    let tools = ChatInput { tools: Some(vec![json!({})]), ..hello() };
    assert_eq!(rendered(std::slice::from_ref(&plain), &hello()), "config <s>");
    assert_eq!(rendered(&[plain.clone(), json_file.clone()], &hello()), "json");
    assert_eq!(rendered(&[plain.clone(), json_file, jinja.clone()], &hello()), "jinja");
    assert_eq!(rendered(std::slice::from_ref(&named), &hello()), "d");
    assert_eq!(rendered(std::slice::from_ref(&named), &tools), "t");
    assert_eq!(rendered(&[named.clone(), jinja.clone()], &tools), "jinja");
    assert_eq!(rendered(&[named, jinja.clone(), more.clone(), other], &tools), "more");
    assert_eq!(rendered(&[plain], &tools), "config <s>");

    let only_tools = load(false, &[more]);
    let error = only_tools.render(&hello()).unwrap_err().to_string();
    assert!(error.contains("only tool_use"), "{error}");
    let own = load(false, &[jinja]).with_template(ChatTemplate::new("own").unwrap());
    assert_eq!(own.render(&hello()).unwrap(), "own");
    let now = DateTime::parse_from_rfc3339("2026-01-02T03:04:05+01:00").unwrap();
    let timed = load(false, &[("chat_template.jinja", json!("{{ strftime_now('%d %b %Y %H') }}"))])
        .with_clock(Arc::new(move || now));
    assert_eq!(timed.render(&hello()).unwrap(), "02 Jan 2026 03");
}

#[test]
fn what_is_wrong_is_named() {
    for (files, wanted) in [
        (vec![config(json!("{"))], "tokenizer_config.json"),
        (vec![config(json!([1]))], "tokenizer_config.json"),
        (vec![config(json!({"eos_token": 7}))], "key `eos_token`: found 7, wanted a string"),
        (vec![config(json!({"eos_token": "<nowhere>"}))], "`<nowhere>` is not in the vocabulary"),
        (
            vec![config(json!({"add_bos_token": "yes"}))],
            "key `add_bos_token`: found \"yes\", wanted true or false",
        ),
        (vec![config(json!({"chat_template": 1}))], "key `chat_template`"),
        (vec![config(json!({"added_tokens_decoder": {"x": {}}}))], "key `added_tokens_decoder`"),
        (
            vec![config(json!({"added_tokens_decoder": {"900": {"content": "<far>"}}}))],
            "key `added_tokens_decoder.900`: `<far>` would be token 262",
        ),
        (
            vec![("special_tokens_map.json", json!({"eos_token": []}))],
            "special_tokens_map.json: key `eos_token`",
        ),
        (vec![("chat_template.json", json!("nonsense"))], "chat_template.json"),
        (vec![("tokenizer.json", json!(""))], "tokenizer.json"),
        (vec![("tokenizer.json", json!({"model": {"type": "BPE"}}))], "tokenizer.json"),
        (
            vec![(
                "tokenizer.json",
                json!({"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 0, "bc": 1, "d": 2}, "merges": ["bc d"]}}),
            )],
            "tokenizer.json",
        ),
        (
            vec![(
                "tokenizer.json",
                json!({"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}),
            )],
            "tokenizer.json",
        ),
        (
            vec![(
                "tokenizer.json",
                json!({"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": false}, "model": {"type": "BPE", "vocab": {}, "merges": []}}),
            )],
            "tokenizer.json",
        ),
    ] {
        let dir = folder(false, &files);
        let error = AutoTokenizer::load(dir.path()).expect_err(wanted).to_string();
        assert!(error.contains(wanted) && error.contains(&dir.path().display().to_string()), "{error}");
    }
}

#[test]
fn what_is_missing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let load = |path: &Path| AutoTokenizer::load(path).unwrap_err();
    assert!(matches!(load(dir.path()), Error::Io { path, .. } if path.ends_with("tokenizer.json")));
    fs::write(dir.path().join("tokenizer.model"), "x").unwrap();
    assert!(load(dir.path()).to_string().contains("`tokenizer.model` cannot be read in its place"));
    assert!(matches!(load(&dir.path().join("nowhere")), Error::Io { .. }));
    fs::write(dir.path().join("no.gguf"), "not a GGUF file").unwrap();
    assert!(matches!(load(&dir.path().join("no.gguf")), Error::File { .. }));
}

#[test]
fn a_template_that_does_not_compile_waits_until_it_is_wanted() {
    let tokenizer = load(false, &[("chat_template.jinja", json!("{% for %}"))]);
    assert_eq!(tokenizer.encode("hell", false).unwrap(), [258]);
    let error = tokenizer.render(&hello()).unwrap_err().to_string();
    assert!(error.contains("chat_template.jinja: line 1"), "{error}");
}

#[test]
fn the_loader_needs_no_runtime() {
    let dir = folder(false, &[]);
    let mut loading = AutoTokenizerLoader.load(dir.path());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(tokenizer) = loading.as_mut().poll(&mut context) else { panic!("it waits") };
    assert_eq!(tokenizer.unwrap().encode("hell", false).unwrap(), [258]);
}

#[test]
fn very_long_texts() {
    let tokenizer = load(false, &[]);
    for text in ["a".repeat(1 << 20), " ".repeat(1 << 20), " ".repeat(1 << 20) + "x", "é".repeat(1 << 19)] {
        let ids = tokenizer.encode(&text, false).unwrap();
        assert!(tokenizer.decode(&ids, false).unwrap() == text);
    }
}
