//! `cargo xtask caches`: prompt-cache files, exchanged with mlx-lm.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context, Result, bail};
use safetensors::SafeTensors;
use serde::Deserialize;

use crate::{
    cache,
    compare::{Distance, floats, verdict},
    fixtures,
    process::{LlmTool, Profile, output},
    python::{Environment, ORACLE},
};

/// One for each way to remember; together they have every class of cache that mlx-lm saves.
const FIXTURES: [&str; 9] = [
    "qwen3",        // every position; with a bound, the latest
    "llama_window", // windows, too
    "gemma4_e2b",   // shared by several layers
    "llama4",       // chunks
    "lfm2",         // tails of convolutions
    "nemotron_h",   // states
    "qwen3_next",   // states of another recurrence
    "falcon_h1",    // several in one layer
    "deepseek_v3",  // latents
];
const CLASSES: [&str; 5] = ["KVCache", "RotatingKVCache", "ChunkedKVCache", "ArraysCache", "CacheList"];

/// Options of `cargo xtask caches`.
#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// The folder of the fixtures [default: all that `cargo xtask fixtures --all` writes]
    #[arg(long, value_name = "DIR")]
    fixtures: Option<PathBuf>,
}

/// What mlx-lm's side says of a file that it saved.
#[derive(Deserialize)]
struct Saved {
    fixture: String,
    text: String,
    /// What the file knows.
    first: Vec<u32>,
    following: Vec<u32>,
    /// How many tokens of `first` go in at a time.
    chunk: u32,
    /// How many tokens of `following` go in together; the others go in one by one.
    at_once: usize,
    /// Most positions that the cache keeps.
    max_size: Option<u32>,
    classes: Vec<String>,
}

/// Saves and continues, both ways; an error if logits differ from the reference.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let root = match &arguments.fixtures {
        Some(root) => root.clone(),
        None => fixtures::generated()?,
    };
    let (tool, python) = (LlmTool::built(Profile::Dev)?, Environment::ready(&ORACLE)?);
    let folder = env::temp_dir().join(format!("mlx-lm-caches-{}", process::id()));
    let exchanged = exchange(&tool, &python, &root, &folder);
    cache::remove(&folder)?;
    exchanged
}

fn exchange(tool: &LlmTool, python: &Environment, root: &Path, folder: &Path) -> Result<()> {
    let [theirs, ours] = ["mlx-lm", "ours"].map(|who| folder.join(who));
    for dir in [&theirs, &ours] {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    let folders = FIXTURES.map(|name| root.join(name));
    let script = |command: &str, dir: &Path| {
        output(python.script("prompt_caches.py").arg(command).arg(dir).args(&folders))
    };
    let saved = script("save", &theirs)?;
    let saved: Vec<Saved> = saved.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let mut rows = Vec::new();
    for s in &saved {
        let file = format!("{}.{}", s.fixture, s.text);
        let (cache, wanted) =
            (format!("{file}.safetensors"), theirs.join(format!("{file}.wanted.safetensors")));
        let out = folder.join("logits.safetensors");
        let logits = |tokens: &[u32], then: &[u32], option: &str, cache: &Path| {
            let mut command = tool.command("logits");
            command.arg("--model").arg(root.join(&s.fixture)).arg(option).arg(cache).arg("--out").arg(&out);
            command.args(["--prompt-tokens", &list(tokens), "--decode-tokens", &list(then)]);
            command.args(["--chunk", &s.chunk.to_string()]);
            if let Some(size) = s.max_size {
                command.args(["--kv", &format!("max:{size}")]);
            }
            output(&mut command)
        };
        let (together, rest) = s.following.split_at(s.at_once);
        let found = logits(together, rest, "--cache-in", &theirs.join(&cache))
            .and_then(|_| distance(&out, &["prefill", "decode"], &wanted));
        rows.push((s, "mlx-lm to here", found));
        logits(&s.first, &[], "--cache-out", &ours.join(&cache))?;
    }
    script("load", &ours)?;
    for s in &saved {
        let file = format!("{}.{}", s.fixture, s.text);
        let found = ours.join(format!("{file}.logits.safetensors"));
        let wanted = theirs.join(format!("{file}.wanted.safetensors"));
        rows.push((s, "here to mlx-lm", distance(&found, &["logits"], &wanted)));
    }
    let mut differing = 0;
    println!("{:<14} {:<8} {:<15} {:>10} {:>8}", "fixture", "text", "way", "difference", "allowed");
    for (Saved { fixture, text, classes, .. }, way, distance) in rows {
        let is_equal = distance.as_ref().is_ok_and(Distance::is_small);
        differing += usize::from(!is_equal);
        let cells = match distance {
            Ok(Distance { found, allowed }) => format!("{found:>10.1e} {allowed:>8.0e}"),
            Err(error) => format!("{error:#}"),
        };
        println!(
            "{fixture:<14} {text:<8} {way:<15} {cells}  {:<7} {}",
            verdict(is_equal),
            classes.join(", ")
        );
    }
    let classes: BTreeSet<_> =
        saved.iter().flat_map(|s| &s.classes).flat_map(|c| c.split(['(', ',', ' ', ')'])).collect();
    if let Some(class) = CLASSES.into_iter().find(|c| !classes.contains(c)) {
        bail!("no fixture has a {class}");
    }
    if differing > 0 {
        bail!("{differing} caches did not survive");
    }
    Ok(())
}

/// Of the logits in a file, one tensor after the other, from those in another.
fn distance(file: &Path, names: &[&str], wanted: &Path) -> Result<Distance> {
    let read = |path: &Path, names: &[&str]| -> Result<Vec<f32>> {
        let bytes = fs::read(path).with_context(|| path.display().to_string())?;
        let file = SafeTensors::deserialize(&bytes)?;
        Ok(names.iter().map(|name| floats(&file, name)).collect::<Result<Vec<_>>>()?.concat())
    };
    Distance::between(&read(file, names)?, &read(wanted, &["logits"])?)
}

fn list(tokens: &[u32]) -> String {
    tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}
