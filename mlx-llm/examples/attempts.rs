//! Loads checkpoints that may be broken, and runs a few tokens through what loads. Paths come on the standard input, one a line; each is
//! answered by a line: `ok`, `error` or `panic`, the bytes of memory that it took at most, and what went wrong. `cargo xtask mutate`
//! starts this and counts what does not come back.

#![allow(clippy::print_stdout)]

use mlx_llm::{
    LoadOptions, Result,
    common::{
        Tokenizer,
        cache::{Cache, CachePolicy},
        input::{ChatInput, Message},
        raw::Device,
    },
    load_local,
};
use mlx_lm_tokenizers::AutoTokenizer;
use mlx_rs::Array;
use std::{
    fs, io,
    panic::{self, AssertUnwindSafe},
    path::Path,
    sync::Mutex,
};

/// Where the last panic was.
static PLACE: Mutex<String> = Mutex::new(String::new());

fn main() {
    panic::set_hook(Box::new(|info| {
        if let Ok(mut place) = PLACE.lock() {
            *place = info.to_string();
        }
    }));
    for path in io::stdin().lines().map_while(io::Result::ok) {
        let before = start_measuring();
        let done = panic::catch_unwind(AssertUnwindSafe(|| attempt(Path::new(&path))));
        let (word, message) = match done {
            Ok(Ok(())) => ("ok", String::new()),
            Ok(Err(error)) => ("error", error),
            Err(_) => ("panic", PLACE.lock().map(|place| place.clone()).unwrap_or_default()),
        };
        let took = memory("VmHWM:").saturating_sub(before);
        println!("{word} {took} {}", message.escape_debug());
    }
}

/// The model and the tokenizer at `path`; what is wrong with either.
fn attempt(path: &Path) -> std::result::Result<(), String> {
    let (model, tokenizer) = (run(path), tokenize(path));
    let said: Vec<String> =
        [model, tokenizer].into_iter().filter_map(|r| Some(r.err()?.to_string())).collect();
    if said.is_empty() { Ok(()) } else { Err(said.join("; ")) }
}

/// A few tokens, one more, and back.
fn run(path: &Path) -> Result<()> {
    let options = LoadOptions { device: Some(Device::Cpu), ..Default::default() };
    let model = load_local(path, &options)?.model;
    let policy = CachePolicy { rewind: 2, ..Default::default() };
    let mut cache = Cache::new(&model.cache_specs(), &policy)?;
    let ids = |tokens: &[u32]| Array::from_slice(tokens, &[1, tokens.len() as i32]);
    for tokens in [&[1u32, 2, 3][..], &[4]] {
        model.forward(&ids(tokens), &mut cache)?.eval()?;
    }
    cache.trim(1);
    model.forward(&ids(&[5]), &mut cache)?.eval()?;
    Ok(())
}

/// Texts to ids and back, and a chat. Where there is no tokenizer, nothing.
fn tokenize(path: &Path) -> Result<()> {
    if path.is_dir() && !path.join("tokenizer.json").exists() {
        return Ok(());
    }
    let tokenizer = AutoTokenizer::load(path)?;
    for text in ["", "Hello, world!\n 123  ", "Grüße 你好 👩‍👩‍👧‍👦\u{0}<s></s>"] {
        let ids = tokenizer.encode(text, true)?;
        tokenizer.decode(&ids, true)?;
    }
    tokenizer.decode(&[0, 7, u32::MAX], false)?;
    if tokenizer.has_chat_template() {
        tokenizer.encode_chat(&ChatInput::new(&[Message::user("Hello!")]))?;
    }
    Ok(())
}

/// Forgets what memory was used at most, where the system can (Linux); the bytes that are in use.
fn start_measuring() -> u64 {
    let _ = fs::write("/proc/self/clear_refs", "5");
    memory("VmRSS:")
}

/// A line of this process's status in bytes; 0 where there is no such file.
fn memory(line: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib =
        status.lines().find_map(|l| l.strip_prefix(line)?.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
