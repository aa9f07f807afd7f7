//! Folders that this project wrote, as a reference finds them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use safetensors::SafeTensors;
use serde::Deserialize;

use crate::{
    compare::{Distance, floats, verdict},
    process::{LlmTool, output},
};

/// What the reference says of one: a line of JSON.
#[derive(Deserialize)]
struct Compared {
    name: String,
    error: Option<String>,
    tensors: usize,
}

/// Prints what the reference `said` of the folders `names`, each with what else there is to check of it; an error if anything differs.
pub(crate) fn report(
    said: &str,
    names: &[&str],
    check: impl Fn(&str) -> Result<String, String>,
) -> Result<()> {
    let mut differing = 0;
    for line in said.lines() {
        let Compared { name, error, tensors } = serde_json::from_str(line)?;
        let outcome = error.map_or_else(|| check(&name), Err);
        differing += usize::from(outcome.is_err());
        let words = outcome.as_ref().unwrap_or_else(|words| words);
        println!("{:<7} {name:<52} {tensors:>4} tensors  {words}", verdict(outcome.is_ok()));
    }
    let told = said.lines().count();
    if told != names.len() {
        bail!("{told} of {} were compared", names.len());
    }
    if differing > 0 {
        bail!("{differing} of {told} differ");
    }
    Ok(())
}

/// How far this project's logits for a prompt are from those that the reference left beside the folder.
pub(crate) fn distance(tool: &LlmTool, folder: &Path, prompt: &str) -> Result<String, String> {
    let measure = || -> Result<Distance> {
        let file = |what: &str| PathBuf::from(format!("{}.{what}.safetensors", folder.display()));
        let out = file("own");
        let mut command = tool.command("logits");
        command
            .args(["--device", "cpu", "--prompt-tokens", prompt, "--model"])
            .arg(folder)
            .arg("--out")
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
