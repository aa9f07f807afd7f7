//! `cargo xtask jang`: bundles of `llm-tool convert --jang` beside those of the format's own package: the same tensors, byte by byte, the
//! same configurations, and the same logits in the package's loader and in this project's.

use std::{
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
    python::{Environment, JANG},
};

/// The prompt of the logits, as in `oracle/engine.py`.
const PROMPT: &str = "3,17,92,41,8,77,110";

/// A bundle to write.
#[derive(Deserialize)]
struct Job {
    name: String,
    /// The folder of the model, in that of the package's bundles.
    source: PathBuf,
    profile: String,
}

/// What the package's side says of one.
#[derive(Deserialize)]
struct Compared {
    name: String,
    error: Option<String>,
    tensors: usize,
}

/// Writes all bundles and compares them; an error if anything differs.
pub(crate) fn run() -> Result<()> {
    let theirs = fixtures::jang_written()?;
    let (tool, python) = (LlmTool::built(Profile::Dev)?, Environment::ready(&JANG)?);
    let ours = env::temp_dir().join(format!("mlx-lm-jang-{}", process::id()));
    let compared = compare(&tool, &python, &theirs, &ours);
    cache::remove(&ours)?;
    compared
}

fn compare(tool: &LlmTool, python: &Environment, theirs: &Path, ours: &Path) -> Result<()> {
    let list = theirs.join("jobs.json");
    let jobs: Vec<Job> =
        serde_json::from_slice(&fs::read(&list).with_context(|| list.display().to_string())?)?;
    for Job { name, source, profile } in &jobs {
        let mut command = tool.command("convert");
        command
            .arg("--model")
            .arg(theirs.join(source))
            .arg("--out")
            .arg(ours.join(name))
            .args(["--jang", profile]);
        output(&mut command).with_context(|| name.clone())?;
    }
    let said = output(python.script("jang_written.py").arg("compare").arg(theirs).arg(ours))?;
    let mut differing = 0;
    for line in said.lines() {
        let Compared { name, error, tensors } = serde_json::from_str(line)?;
        let outcome = error.map_or_else(|| distance(tool, &ours.join(&name)), Err);
        differing += usize::from(outcome.is_err());
        let words = outcome.as_ref().unwrap_or_else(|words| words);
        println!("{:<7} {name:<24} {tensors:>4} tensors  {words}", verdict(outcome.is_ok()));
    }
    if said.lines().count() != jobs.len() {
        bail!("the package compared {} of {} bundles", said.lines().count(), jobs.len());
    }
    if differing > 0 {
        bail!("{differing} of {} bundles differ", jobs.len());
    }
    Ok(())
}

/// How far this project's logits are from the package's with the same bundle.
fn distance(tool: &LlmTool, folder: &Path) -> Result<String, String> {
    let measure = || -> Result<Distance> {
        let file = |what: &str| PathBuf::from(format!("{}.{what}.safetensors", folder.display()));
        let out = file("own");
        let mut command = tool.command("logits");
        command
            .arg("--model")
            .arg(folder)
            .args(["--device", "cpu", "--prompt-tokens", PROMPT, "--out"])
            .arg(&out);
        output(&mut command)?;
        let read = |path: &Path, name: &str| -> Result<Vec<f32>> {
            let bytes = fs::read(path).with_context(|| path.display().to_string())?;
            floats(&SafeTensors::deserialize(&bytes)?, name)
        };
        Distance::between(&read(&out, "prefill")?, &read(&file("logits"), "logits")?)
    };
    let measured = measure().map_err(|error| format!("{error:#}"))?;
    let words = format!("logits {:.1e} apart, {:.0e} allowed", measured.found, measured.allowed);
    if measured.is_small() { Ok(words) } else { Err(words) }
}
