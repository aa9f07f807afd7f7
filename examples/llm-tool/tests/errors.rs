//! What goes wrong has an exit status, a line that says what, and no backtrace.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Tiny, failure, fixture, pipe, tool};
use serde_json::json;
use std::{fs, process::Stdio};

/// Runs, and wants this status and these words on standard error.
fn expect(arguments: &[&str], status: i32, words: &[&str]) {
    let (found, text) = failure(arguments);
    assert_eq!(found, status, "{arguments:?}: {text}");
    for word in words {
        assert!(text.contains(word), "{arguments:?}: `{word}` is not in: {text}");
    }
    assert!(!text.contains("panicked") && !text.contains("backtrace"), "{text}");
}

fn with<'a>(arguments: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [arguments, more].concat()
}

#[test]
fn models_that_are_not_there() {
    for command in [
        &["generate", "-p", "hi"][..],
        &["info"],
        &["chat"],
        &["bench", "--prompt-tokens", "1", "--gen-tokens", "1"],
    ] {
        expect(&with(command, &["--model", "/nowhere/model"]), 1, &["error: ", "/nowhere/model"]);
    }
    expect(&["info", "--model", "demo"], 1, &["run `cargo xtask demo`"]);
    expect(&["info", "--model", "nothing"], 1, &["`nothing`", "owner/name[@revision]"]);
    expect(
        &["info", "--model", "nobody/nothing"],
        1,
        &["nobody/nothing", "HF_HUB_OFFLINE", "no file or folder"],
    );
}

#[test]
fn a_model_type_that_is_unknown() {
    let tiny = Tiny::new(64);
    tiny.write("config.json", &json!({ "model_type": "lama" }));
    for command in
        [&["generate", "-p", "hi"][..], &["info"], &["bench", "--prompt-tokens", "1", "--gen-tokens", "1"]]
    {
        expect(&with(command, &["--model", tiny.model()]), 1, &["`lama`", "llama", "llm-tool models"]);
    }
}

#[test]
fn kinds_of_cache_that_are_unknown() {
    let model = fixture("llama3");
    let model = ["--model", model.to_str().unwrap()];
    for command in [
        &["logits", "--prompt-tokens", "1", "--out", "/nonexistent/l.safetensors"][..],
        &["bench", "--prompt-tokens", "1", "--gen-tokens", "1"],
        &["generate", "-p", "hi"],
    ] {
        expect(&with(&with(command, &model), &["--kv", "turbo9"]), 2, &["turbo9", "float", "max:N"]);
    }
}

#[test]
fn prompts_that_cannot_be_used() {
    let tiny = Tiny::new(64);
    let out = tiny.path("l.safetensors");
    let logits = ["logits", "--model", tiny.model(), "--out", out.to_str().unwrap(), "--prompt-tokens"];
    expect(&with(&logits, &[""]), 1, &["the prompt is empty"]);
    expect(&with(&logits, &["1,128"]), 1, &["128", "ids below 128"]);
    expect(&with(&logits, &["1", "--decode-tokens", "4294967295"]), 1, &["4294967295", "decode-tokens"]);
    expect(&with(&logits, &["1;2"]), 2, &["1;2"]);
    assert!(!out.exists());
    let generate = ["generate", "--model", tiny.model(), "-p"];
    expect(&with(&generate, &["", "--ignore-chat-template"]), 1, &["the prompt is empty", "--prompt"]);
    let long = "x".repeat(100);
    expect(&with(&generate, &[&long]), 1, &["context ends at 64"]);
}

#[test]
fn options_that_are_out_of_range() {
    let generate = ["generate", "--model", "unused", "-p", "hi"];
    for (option, value, word) in [
        ("--temp", "nan", "temperature"),
        ("--top-p", "1.5", "top_p"),
        ("--max-tokens", "0", "max_tokens"),
        ("--logit-bias", "a=1", "42=-1.5"),
        ("--chat-template-config", "[]", "JSON object"),
        ("--stop", "", "stop"),
        ("--dtype", "float64", "bfloat16"),
    ] {
        expect(&with(&generate, &[option, value]), 2, &[word]);
    }
    expect(&["generate", "--model", "unused"], 2, &["--prompt"]);
    expect(&["nonsense"], 2, &["nonsense"]);
}

#[test]
fn files_that_are_no_such_files() {
    let tiny = Tiny::new(64);
    let object = tiny.write("object.json", &json!({ "role": "user" }));
    expect(&["template", "--model", tiny.model(), "--messages", &object], 1, &["object.json", "JSON array"]);
    let messages = tiny.write("messages.json", &json!([{ "role": "user", "content": "hi" }]));
    let template = tiny.path("bad.jinja");
    fs::write(&template, "{{ raise_exception('no such\nrole') }}").unwrap();
    let template = template.to_str().unwrap();
    expect(
        &["template", "--template", template, "--messages", &messages],
        1,
        &["chat template: no such role"],
    );
    expect(&["template", "--messages", &messages], 2, &["--model"]);

    let bytes = tiny.path("bytes.txt");
    fs::write(&bytes, [0xff, 0xfe]).unwrap();
    expect(
        &["tokenize", "--model", tiny.model(), "--file", bytes.to_str().unwrap()],
        1,
        &["bytes.txt", "UTF-8"],
    );
    fs::write(tiny.path("tokenizer.json"), "{").unwrap();
    expect(&["generate", "--model", tiny.model(), "-p", "hi"], 1, &["tokenizer.json"]);
}

#[test]
fn with_json_errors_are_events_too() {
    let tiny = Tiny::new(64);
    let output =
        tool(&["generate", "--model", tiny.model(), "-p", &"x".repeat(100), "--json"]).output().unwrap();
    let event = common::events(&String::from_utf8(output.stdout).unwrap()).pop().unwrap();
    assert_eq!((output.status.code(), &event["event"]), (Some(1), &json!("error")));
    assert!(event["message"].as_str().unwrap().contains("context ends at 64"), "{event}");
}

#[test]
fn a_failed_turn_ends_a_piped_chat() {
    let tiny = Tiny::new(64);
    let output =
        pipe(&["chat", "--model", tiny.model(), "-m", "2"], &format!("hi\n{}\nhi\n", "x".repeat(100)));
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("context ends at 64") && err.contains("/reset"), "{err}");
    assert_eq!(out.lines().count(), 1, "{out}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let tiny = Tiny::new(1 << 20);
    let mut command =
        tool(&["generate", "--model", tiny.model(), "-p", "hi", "-m", "5000", "--logit-bias", "1=-inf"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}
