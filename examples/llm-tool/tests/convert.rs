//! `llm-tool convert`: what it writes and says.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Tiny, failure, fixture, stdout};
use std::{fs, path::Path};
use tempfile::tempdir;

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_model_with_its_tokenizer() {
    let (dir, tiny) = (tempdir().unwrap(), Tiny::new(64));
    let (model, out) = (tiny.folder.path().to_str().unwrap(), dir.path().join("out"));
    let arguments = ["convert", "--hf-path", model, "--mlx-path", out.to_str().unwrap(), "--q-bits", "4"];
    let said = stdout(&[&arguments[..], &["--q-group-size", "32"]].concat());
    assert!(said.ends_with("bits per weight\n") && said.lines().count() == 1, "{said}");
    let wanted = [
        "config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names(&out), wanted);
    let answer = |folder: &str| {
        stdout(&[
            "generate",
            "--model",
            folder,
            "--prompt",
            "a",
            "--max-tokens",
            "3",
            "--temp",
            "0",
            "--ignore-chat-template",
        ])
    };
    answer(out.to_str().unwrap());

    // What is there already stays, and what is quantized already is not quantized again.
    let (status, words) = failure(&["convert", "--model", model, "--out", out.to_str().unwrap()]);
    assert!(status == 1 && words.contains("name another folder"), "{words}");
    let again = dir.path().join("again");
    let (status, words) =
        failure(&["convert", "--model", out.to_str().unwrap(), "--out", again.to_str().unwrap(), "-q"]);
    assert!(status == 1 && words.contains("is quantized already"), "{words}");
    assert!(!again.exists());
}

#[test]
fn what_makes_no_sense_is_refused() {
    let dir = tempdir().unwrap();
    let (model, out) = (fixture("llama"), dir.path().join("out"));
    let convert = |more: &[&str]| {
        let fixed = ["convert", "--model", model.to_str().unwrap(), "--out", out.to_str().unwrap()];
        failure(&[&fixed[..], more].concat())
    };
    let (status, words) = convert(&["-q", "-d"]);
    assert!(status == 2 && words.contains("cannot be used with"), "{words}");
    let (status, words) = convert(&["--q-bits", "7"]);
    assert!(status == 1 && words.contains("found 7, wanted 2, 3, 4, 5, 6, 8"), "{words}");
    let (status, words) = convert(&["--q-mode", "mxfp4", "--q-group-size", "64"]);
    assert!(status == 1 && words.contains("found 64, wanted 32"), "{words}");
    let (status, words) = convert(&["--q-mode", "nvfp4", "--quant-predicate", "mixed_3_6"]);
    assert!(status == 1 && words.contains("wanted affine"), "{words}");
    assert_eq!(names(dir.path()), [""; 0]);
}
