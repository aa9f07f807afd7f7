//! `cargo xtask jang`: bundles of `llm-tool convert --jang` beside those of the format's own package: the same tensors, byte by byte, the
//! same configurations, and the same logits in the package's loader and in this project's.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::{
    cache, fixtures,
    process::{LlmTool, Profile, output},
    python::{Environment, JANG},
    written,
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
    let names: Vec<&str> = jobs.iter().map(|job| job.name.as_str()).collect();
    written::report(&said, &names, |name| written::distance(tool, &ours.join(name), PROMPT))
}
