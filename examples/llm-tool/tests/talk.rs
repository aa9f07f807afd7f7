//! `generate` and `chat`, with a tiny model that talks nonsense, but always the same.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Tiny, events, fixture, pipe, piped, stdout, tool};
use rexpect::session::{PtySession, spawn_command};
use serde_json::{Value, json};
use std::{
    fs,
    io::Read,
    process::{Command, Stdio},
};

/// The text that `generate` and `chat` must print for a conversation.
fn answer(tiny: &Tiny, messages: &[(&str, &str)], tokens: usize) -> String {
    tiny.decode(&tiny.greedy(&tiny.render(messages), tokens))
}

#[test]
fn generate_prints_the_answer() {
    let tiny = Tiny::new(200);
    let generate = ["generate", "--model", tiny.model(), "-m", "12"];
    let wanted = answer(&tiny, &[("user", "Hello")], 12);
    assert_eq!(stdout(&[&generate[..], &["-p", "Hello"]].concat()), format!("{wanted}\n"));
    assert_eq!(piped(&[&generate[..], &["-p", "-"]].concat(), "Hello\n"), format!("{wanted}\n"));
    let system = stdout(&[&generate[..], &["-p", "Hello", "--system-prompt", "Be"]].concat());
    assert_eq!(system, format!("{}\n", answer(&tiny, &[("system", "Be"), ("user", "Hello")], 12)));
    let plain = stdout(&[&generate[..], &["-p", "Hello", "--ignore-chat-template"]].concat());
    assert_eq!(plain, format!("{}\n", tiny.decode(&tiny.greedy("Hello", 12))));
}

#[test]
fn generate_prints_events() {
    let tiny = Tiny::new(200);
    let arguments =
        ["generate", "--model", tiny.model(), "-m", "12", "-p", "Hello", "--json", "--logprobs", "2"];
    let events = events(&stdout(&arguments));
    let of = |kind: &str| events.iter().filter(|e| e["event"] == kind).collect::<Vec<_>>();
    let prompt = tiny.render(&[("user", "Hello")]);
    let wanted = tiny.greedy(&prompt, 12);
    let tokens: Vec<u32> = of("token").iter().map(|e| e["id"].as_u64().unwrap() as u32).collect();
    assert_eq!(tokens, wanted);
    let text: String = of("text").iter().map(|e| e["text"].as_str().unwrap()).collect();
    assert_eq!(text, tiny.decode(&wanted));
    for token in of("token") {
        // A greedy choice is the likeliest one.
        let top = token["top"].as_array().unwrap();
        assert_eq!((top.len(), &top[0][0], &top[0][1]), (2, &token["id"], &token["logprob"]));
    }
    assert_eq!(of("prefill").last().unwrap()["done"], tiny.encode(&prompt).len());
    let summary = &events.last().unwrap()["summary"];
    assert_eq!(summary["prompt_tokens"], tiny.encode(&prompt).len());
    assert!(summary["decode_tok_s"].as_f64().unwrap() > 0.0, "{summary}");
}

#[test]
fn a_stop_text_ends_the_answer() {
    let tiny = Tiny::new(200);
    let whole = answer(&tiny, &[("user", "Hello")], 12);
    let stop: String = whole.chars().skip(3).take(2).collect();
    let arguments = ["generate", "--model", tiny.model(), "-m", "12", "-p", "Hello", "--stop", &stop];
    let before = &whole[..whole.find(&stop).unwrap()];
    assert_eq!(stdout(&arguments), format!("{before}\n"));
}

#[test]
fn seeds_repeat_and_differ() {
    let tiny = Tiny::new(200);
    let run = |seed: &str| {
        stdout(&[
            "generate",
            "--model",
            tiny.model(),
            "-m",
            "20",
            "-p",
            "Hi",
            "--temp",
            "1.5",
            "--seed",
            seed,
        ])
    };
    assert_eq!(run("7"), run("7"));
    assert_ne!(run("7"), run("8"));
}

#[test]
fn ctrl_c_ends_generate_and_keeps_the_text() {
    let tiny = Tiny::new(1 << 30);
    for json in [false, true] {
        let mut arguments = vec!["generate", "--model", tiny.model(), "-p", "hi", "-m", "100000000"];
        arguments.extend(["--logit-bias", "1=-inf", "--kv", "max:64"]);
        arguments.extend(json.then_some("--json"));
        let mut child = tool(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        let mut text = vec![0; 1000];
        out.read_exact(&mut text).unwrap();
        let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        out.read_to_end(&mut text).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(text).unwrap();
        assert!(text.ends_with('\n'));
        if json {
            assert_eq!(events(&text).last().unwrap()["summary"]["finish"], "cancelled");
        }
    }
}

#[test]
fn a_piped_chat_answers_line_by_line() {
    let tiny = Tiny::new(400);
    let first = answer(&tiny, &[("user", "Hello")], 8);
    let second = answer(&tiny, &[("user", "Hello"), ("assistant", &first), ("user", "And you?")], 8);
    let chat = ["chat", "--model", tiny.model(), "-m", "8"];
    assert_eq!(piped(&chat, "Hello\n\nAnd you?\n"), format!("{first}\n{second}\n"));
    // The last line may lack its end.
    assert_eq!(piped(&chat, "Hello"), format!("{first}\n"));
    assert_eq!(piped(&chat, ""), "");

    let events = events(&piped(&[&chat[..], &["--json"]].concat(), "Hello\nAnd you?\n"));
    let summaries: Vec<&Value> =
        events.iter().filter(|e| e["event"] == "done").map(|e| &e["summary"]).collect();
    assert_eq!(summaries[0]["cached_tokens"], 0);
    // All but the end of the first answer, which its text may tell otherwise than its tokens did.
    let prompt = tiny.encode(&tiny.render(&[("user", "Hello")])).len() as u64;
    assert!(summaries[1]["cached_tokens"].as_u64().unwrap() >= prompt, "{}", summaries[1]);
}

#[test]
fn commands_change_the_conversation() {
    let tiny = Tiny::new(400);
    let chat = ["chat", "--model", tiny.model(), "-m", "8"];
    let hello = answer(&tiny, &[("user", "Hello")], 8);
    let briefly = answer(&tiny, &[("system", "Be brief."), ("user", "Hello")], 8);
    assert_ne!(hello, briefly);
    let input =
        "Hello\n/reset\nHello\n/system Be brief.\nHello\n/reset\nHello\n/system\nHello\n/quit\nHello\n";
    assert_eq!(piped(&chat, input), format!("{hello}\n{hello}\n{briefly}\n{briefly}\n{hello}\n"));
    let output = pipe(&chat, "/help\nHello\n/stats\n");
    let told = String::from_utf8(output.stderr).unwrap();
    let count = tiny.encode(&tiny.render(&[("user", "Hello")])).len();
    assert!(told.contains("/save FILE") && told.contains(&format!("{count} tokens")), "{told}");
}

#[test]
fn a_saved_conversation_goes_on() {
    let tiny = Tiny::new(400);
    let file = tiny.path("talk.safetensors");
    let file = file.to_str().unwrap();
    let chat = ["chat", "--model", tiny.model(), "-m", "8"];
    let whole = piped(&chat, "Hello\nAnd you?\n");
    let first = piped(&chat, &format!("Hello\n/save {file}\n"));
    let chat_json = [&chat[..], &["--json"]].concat();
    let second = piped(&chat, &format!("/load {file}\nAnd you?\n"));
    assert_eq!(first + &second, whole);
    let events = events(&piped(&chat_json, &format!("/load {file}\nAnd you?\n")));
    assert!(
        events.last().unwrap()["summary"]["cached_tokens"].as_u64().unwrap() > 0,
        "the cache was not restored"
    );

    // A cache without a conversation, and no cache at all.
    for (name, word) in [("reference.safetensors", "prompt cache"), ("config.json", "safetensors")] {
        let other = fixture("qwen3").join(name);
        let output = pipe(&chat, &format!("/load {}\n", other.display()));
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && told.contains(name) && told.contains(word), "{told}");
    }
    let bounded = pipe(&[&chat[..], &["--kv", "max:32"]].concat(), &format!("/load {file}\n"));
    assert!(String::from_utf8(bounded.stderr).unwrap().contains("KVCache"));
}

#[test]
fn a_full_context_is_told() {
    let tiny = Tiny::new(64);
    let output = pipe(&["chat", "--model", tiny.model(), "--logit-bias", "1=-inf"], "Hello\n");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && told.contains("the context of 64 tokens is full"), "{told}");
}

#[test]
fn without_a_template_texts_are_continued() {
    let tiny = Tiny::new(200);
    tiny.write("tokenizer_config.json", &json!({ "eos_token": "<|im_end|>" }));
    let output = pipe(&["chat", "--model", tiny.model(), "-m", "6"], "Hello\n");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), tiny.decode(&tiny.greedy("Hello", 6)) + "\n");
    assert!(String::from_utf8(output.stderr).unwrap().contains("no chat template"));
}

/// Waits for a text on the terminal. An answer may be long, so a failure does not show all of it.
fn wait_for(chat: &mut PtySession, text: &str) {
    assert!(chat.exp_string(text).is_ok(), "`{text}` did not appear");
}

#[test]
fn ctrl_c_on_a_terminal_stops_the_answer_and_not_the_program() {
    let tiny = Tiny::new(1 << 30);
    let endless = ["--logit-bias", "1=-inf", "--kv", "max:64"];
    let mut command = tool(&[&["chat", "--model", tiny.model()][..], &endless].concat());
    // `tool` closes standard input, which here is the terminal.
    command.env("MLX_LM_CACHE", tiny.path("cache")).env("TERM", "xterm").stdin(Stdio::inherit());
    let mut chat = spawn_command(command, Some(60_000)).unwrap();
    wait_for(&mut chat, "/help lists commands");
    wait_for(&mut chat, ">>> ");
    for _ in 0..2 {
        chat.send_line("Hello").unwrap();
        wait_for(&mut chat, "<"); // a word of the answer
        chat.send_control('c').unwrap();
        wait_for(&mut chat, ">>> ");
    }
    chat.send_control('c').unwrap();
    wait_for(&mut chat, "Ctrl-D ends");
    wait_for(&mut chat, ">>> ");
    chat.send_line("/load /nonexistent").unwrap();
    wait_for(&mut chat, "error: /nonexistent");
    wait_for(&mut chat, ">>> ");
    chat.send_control('d').unwrap();
    assert!(chat.exp_eof().is_ok(), "Ctrl-D did not end the program");
    let history = fs::read_to_string(tiny.path("cache/chat_history.txt")).unwrap();
    assert!(history.contains("Hello") && history.contains("/load /nonexistent"), "{history}");
}
