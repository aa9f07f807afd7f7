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
    compare::{Distance, floats, integers, verdict},
    fixtures,
    process::{LlmTool, Profile, output},
    python::{Environment, ORACLE},
};

/// One for each way to remember; together they have every class of cache that mlx-lm saves.
const FIXTURES: [&str; 9] = [
    "llama3",       // every position
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
/// Tokens at the end of a long text that follow what is in a file.
const FOLLOWING: usize = 3;

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
    classes: Vec<String>,
}

/// A text of a fixture: what is said first, what follows, and the logits of the latter.
struct Text {
    first: Vec<i32>,
    following: Vec<i32>,
    logits: Vec<f32>,
}

impl Text {
    fn read(fixture: &Path, text: &str) -> Result<Text> {
        let path = fixture.join("reference.safetensors");
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        let file = SafeTensors::deserialize(&bytes)?;
        if text == "short" {
            let (first, following) = (integers(&file, "prompt")?, integers(&file, "decode_tokens")?);
            return Ok(Text { first, following, logits: floats(&file, "decode")? });
        }
        let (mut first, mut logits) = (integers(&file, "long")?, floats(&file, "long_logits")?);
        let vocabulary = logits.len() / first.len();
        let following = first.split_off(first.len().saturating_sub(FOLLOWING));
        Ok(Text { logits: logits.split_off(first.len() * vocabulary), first, following })
    }
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
    for Saved { fixture, text, classes } in &saved {
        let said = Text::read(&root.join(fixture), text)?;
        let file = format!("{fixture}.{text}.safetensors");
        let logits = |more: &[(&str, &Path)], tokens: &[i32], then: &[i32], out: &Path| {
            let mut command = tool.command("logits");
            command.arg("--model").arg(root.join(fixture)).arg("--out").arg(out);
            command.args(["--prompt-tokens", &list(tokens), "--decode-tokens", &list(then)]);
            for (option, path) in more {
                command.arg(option).arg(path);
            }
            output(&mut command)
        };
        // Two tokens at once, then one by one.
        let (two, rest) = said.following.split_at(2);
        let out = folder.join("logits.safetensors");
        let distance = logits(&[("--cache-in", &theirs.join(&file))], two, rest, &out)
            .and_then(|_| distance(&out, &["prefill", "decode"], &said.logits));
        rows.push((fixture, text, classes, "mlx-lm to here", distance));
        logits(&[("--cache-out", &ours.join(&file))], &said.first, &[], &out)?;
    }
    script("load", &ours)?;
    for Saved { fixture, text, classes } in &saved {
        let said = Text::read(&root.join(fixture), text)?;
        let out = ours.join(format!("{fixture}.{text}.logits.safetensors"));
        rows.push((fixture, text, classes, "here to mlx-lm", distance(&out, &["logits"], &said.logits)));
    }
    let mut differing = 0;
    println!("{:<14} {:<6} {:<15} {:>10} {:>8}", "fixture", "text", "way", "difference", "allowed");
    for (fixture, text, classes, way, distance) in rows {
        let is_equal = distance.as_ref().is_ok_and(Distance::is_small);
        differing += usize::from(!is_equal);
        let cells = match distance {
            Ok(Distance { found, allowed }) => format!("{found:>10.1e} {allowed:>8.0e}"),
            Err(error) => format!("{error:#}"),
        };
        println!(
            "{fixture:<14} {text:<6} {way:<15} {cells}  {:<7} {}",
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

/// Of the logits in a file, one tensor after the other.
fn distance(file: &Path, names: &[&str], wanted: &[f32]) -> Result<Distance> {
    let bytes = fs::read(file).with_context(|| file.display().to_string())?;
    let file = SafeTensors::deserialize(&bytes)?;
    let parts = names.iter().map(|name| floats(&file, name));
    Distance::between(&parts.collect::<Result<Vec<_>>>()?.concat(), wanted)
}

fn list(tokens: &[i32]) -> String {
    tokens.iter().map(i32::to_string).collect::<Vec<_>>().join(",")
}
