//! The program, and a tiny model that can talk.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc)]

use mlx_rs::Array;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};
use tempfile::TempDir;

pub const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

pub fn fixtures() -> Vec<PathBuf> {
    let entries = fs::read_dir(fixture("")).unwrap().map(|e| e.unwrap().path());
    let mut all: Vec<_> = entries.filter(|p| p.is_dir()).collect();
    all.sort();
    assert!(all.len() > 20, "the fixtures are missing");
    all
}

/// The program with a cache folder that holds nothing, and no network.
pub fn tool(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llm-tool"));
    command.args(arguments).env("MLX_LM_CACHE", "/nonexistent/cache").env("HF_HUB_OFFLINE", "1");
    command.env("HF_HOME", "/nonexistent/hub").stdin(Stdio::null());
    command
}

/// Standard output of a run that must succeed.
pub fn stdout(arguments: &[&str]) -> String {
    text_of(&tool(arguments).output().unwrap(), arguments)
}

/// Standard output when `input` is piped in.
pub fn piped(arguments: &[&str], input: &str) -> String {
    text_of(&pipe(arguments, input), arguments)
}

pub fn pipe(arguments: &[&str], input: &str) -> Output {
    let mut command = tool(arguments);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn text_of(output: &Output, arguments: &[&str]) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {} {errors}", output.status);
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Exit status and standard error of a run that must print nothing else.
pub fn failure(arguments: &[&str]) -> (i32, String) {
    let output = tool(arguments).output().unwrap();
    assert!(output.stdout.is_empty(), "{arguments:?} printed {}", String::from_utf8_lossy(&output.stdout));
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

pub fn events(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub fn ids(tokens: &[u32]) -> String {
    tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// What `logits` wrote.
pub struct Logits(HashMap<String, Array>);

impl Logits {
    pub fn read(path: &Path) -> Logits {
        Logits(Array::load_safetensors(path).unwrap())
    }

    pub fn array(&self, name: &str) -> &Array {
        self.0.get(name).unwrap_or_else(|| panic!("no `{name}`, only {:?}", self.0.keys()))
    }

    pub fn tokens(&self, name: &str) -> Vec<u32> {
        self.array(name).reshape(&[-1]).unwrap().to_vec_cast::<u32>().unwrap()
    }
}

/// A tiny model with weights from a fixture, a vocabulary of characters, and a chat template.
pub struct Tiny {
    pub folder: TempDir,
    vocab: Vec<String>,
}

const START: u32 = 0;
const END: u32 = 1;
const SIZE: usize = 128;

impl Tiny {
    pub fn new(context: u64) -> Tiny {
        let mut vocab = vec!["<|im_start|>".to_string(), "<|im_end|>".into(), "\n".into(), " ".into()];
        vocab.extend(('!'..='~').map(String::from));
        // Nothing is encoded to these, but a model may say them.
        vocab.extend((vocab.len()..SIZE).map(|i| format!("<{i}>")));
        let tiny = Tiny { folder: TempDir::new().unwrap(), vocab };

        let mut config: Value =
            serde_json::from_slice(&fs::read(fixture("qwen3/config.json")).unwrap()).unwrap();
        config["max_position_embeddings"] = context.into();
        config["eos_token_id"] = END.into();
        config.as_object_mut().unwrap().remove("rope_scaling");
        fs::copy(fixture("qwen3/model.safetensors"), tiny.path("model.safetensors")).unwrap();
        tiny.write("config.json", &config);
        tiny.write("tokenizer.json", &tiny.tokenizer());
        let special = json!({ "eos_token": "<|im_end|>", "chat_template": TEMPLATE });
        tiny.write("tokenizer_config.json", &special);
        tiny
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    pub fn model(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }

    pub fn write(&self, file: &str, value: &Value) -> String {
        fs::write(self.path(file), value.to_string()).unwrap();
        self.path(file).to_str().unwrap().into()
    }

    /// A byte-level BPE without merges: one token for each character.
    fn tokenizer(&self) -> Value {
        let byte_level = |token: &str| token.replace(' ', "Ġ").replace('\n', "Ċ");
        let vocab = self.vocab.iter().enumerate().map(|(id, token)| (byte_level(token), json!(id)));
        let special = |id: u32| {
            json!({
                "id": id, "content": self.vocab[id as usize], "special": true,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false
            })
        };
        let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
        json!({
            "version": "1.0",
            "added_tokens": [special(START), special(END)],
            "pre_tokenizer": bytes,
            "decoder": bytes,
            "model": { "type": "BPE", "vocab": vocab.collect::<serde_json::Map<_, _>>(), "merges": [] }
        })
    }

    /// The ids of a text, special tokens in it included.
    pub fn encode(&self, mut text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        while let Some(first) = text.chars().next() {
            let known = |id: &u32| text.starts_with(self.vocab[*id as usize].as_str());
            let character = || self.vocab.iter().position(|t| *t == first.to_string()).unwrap() as u32;
            let id = [START, END].into_iter().find(known).unwrap_or_else(character);
            text = &text[self.vocab[id as usize].len()..];
            ids.push(id);
        }
        ids
    }

    /// The text of ids, special tokens left out.
    pub fn decode(&self, ids: &[u32]) -> String {
        ids.iter().filter(|id| **id > END).map(|id| self.vocab[*id as usize].as_str()).collect()
    }

    /// A conversation in the template's words, as far as the opening of the answer.
    pub fn render(&self, messages: &[(&str, &str)]) -> String {
        let turns = messages.iter().map(|(role, text)| format!("<|im_start|>{role}\n{text}<|im_end|>\n"));
        turns.collect::<String>() + "<|im_start|>assistant\n"
    }

    /// The likeliest tokens after a prompt, by `logits`, which is compared with another implementation elsewhere.
    pub fn greedy(&self, prompt: &str, count: usize) -> Vec<u32> {
        let out = self.path("greedy.safetensors");
        let (prompt, n) = (ids(&self.encode(prompt)), count.to_string());
        let arguments =
            ["logits", "--model", self.model(), "--prompt-tokens", &prompt, "--greedy", &n, "--out"];
        stdout(&[&arguments[..], &[out.to_str().unwrap()]].concat());
        let tokens = Logits::read(&out).tokens("greedy");
        let end = tokens.iter().position(|id| *id == END).unwrap_or(tokens.len());
        tokens[..end].to_vec()
    }
}
