//! `cargo xtask gguf`: GGUF files that we write, as the package gguf and llama.cpp read them.

use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
};

use anyhow::{Context, Result, bail};
use safetensors::SafeTensors;

use crate::{
    cache,
    compare::{Distance, floats, verdict},
    llama_cpp::{self, Program},
    process::{LlmTool, Profile, output, spawn},
    python::{Environment, ORACLE},
};

const TYPES: [&str; 5] = ["f32", "f16", "bf16", "q8_0", "q4_0"];

/// How far llama.cpp's logits may be from ours, relative to the largest: it multiplies float16 matrices with vectors rounded to
/// float16, and looks Gemma's GELU up in a table of such numbers. What it multiplies other types with is rounded to 8 bits, and there
/// its own error is the larger part: those files load, and that is all.
fn tolerance(model: &str, kind: &str) -> Option<f32> {
    match kind {
        "f32" if !model.starts_with("gemma") => Some(1e-4),
        "f32" | "f16" => Some(2e-3),
        _ => None,
    }
}

/// What goes in: every token of the smallest vocabulary is in the models' own words, so any will do.
const PROMPT: [u32; 24] =
    [3, 301, 17, 44, 260, 9, 333, 128, 77, 5, 401, 210, 66, 31, 199, 350, 2, 88, 120, 275, 11, 64, 290, 7];

/// Options of `cargo xtask gguf`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Leave llama.cpp out, which takes minutes to build once
    #[arg(long)]
    quick: bool,
}

impl Arguments {
    /// Without llama.cpp.
    pub(crate) fn quick() -> Arguments {
        Arguments { quick: true }
    }
}

/// A model's folder, and what was written of it.
struct Case<'a> {
    tool: &'a LlmTool,
    folder: PathBuf,
    work: &'a Path,
}

/// Writes, reads and compares; an error if anything differs.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let (tool, python) = (LlmTool::built(Profile::Dev)?, Environment::ready(&ORACLE)?);
    let work = env::temp_dir().join(format!("mlx-lm-gguf-{}", process::id()));
    fs::create_dir_all(&work).with_context(|| work.display().to_string())?;
    let compared = compare(&tool, &python, &work, !arguments.quick);
    cache::remove(&work)?;
    compared
}

fn compare(tool: &LlmTool, python: &Environment, work: &Path, with_llama_cpp: bool) -> Result<()> {
    let script = |arguments: &[&str]| output(python.script("gguf_written.py").args(arguments));
    let sources = work.join("sources");
    let sources_name = sources.display().to_string();
    let models = script(&["make", &sources_name])?;
    script(&["texts", &sources_name])?;
    let texts = sources.join("texts.json");
    let texts = fs::read(&texts).with_context(|| texts.display().to_string())?;
    let texts: Vec<String> = serde_json::from_slice(&texts)?;
    let programs = match with_llama_cpp {
        true => Some([llama_cpp::program(Program::Logits)?, llama_cpp::program(Program::Tokens)?]),
        false => None,
    };
    let mut failures = 0;
    let mut row = |model: &str, what: &str, found: Result<String>| {
        failures += usize::from(found.is_err());
        let said = found.as_ref().map_or_else(|error| format!("{error:#}"), String::clone);
        println!("{model:<12} {what:<28} {said:<44} {}", verdict(found.is_ok()));
    };
    for model in models.lines() {
        let case = Case { tool, folder: sources.join(model), work };
        let folder = case.folder.display().to_string();
        for kind in TYPES {
            let file = work.join(format!("{model}.{kind}.gguf"));
            let written = case.write(&file, kind);
            if written.is_err() {
                row(model, &format!("{kind} written"), written);
                continue;
            }
            let name = file.display().to_string();
            let read = script(&["check", &folder, &name, kind]).map(|said| said.trim().to_string());
            row(model, &format!("{kind} read by gguf"), read);
            if kind == "f32" {
                row(model, "f32 read again", case.same_logits(&file));
                row(model, "tokens read again", case.same_tokens(&texts, |text| case.tokens(&file, text)));
            }
            let Some([logits, tokens]) = &programs else { continue };
            row(
                model,
                &format!("{kind} in llama.cpp"),
                case.like_llama_cpp(&file, tolerance(model, kind), logits),
            );
            if kind == "f32" {
                let theirs = llama_cpp_tokens(tokens, &file, &texts);
                row(
                    model,
                    "tokens in llama.cpp",
                    theirs.and_then(|mut theirs| {
                        theirs.reverse();
                        case.same_tokens(&texts, |_| theirs.pop().context("a line too few"))
                    }),
                );
            }
        }
    }
    if failures > 0 {
        bail!("{failures} comparisons failed");
    }
    Ok(())
}

impl Case<'_> {
    fn write(&self, file: &Path, kind: &str) -> Result<String> {
        let mut convert = self.tool.command("convert");
        convert.arg("--model").arg(&self.folder).arg("--out").arg(file).args(["--gguf-type", kind]);
        output(&mut convert)
    }

    /// Our logits after each token of the prompt, and the number of them after one.
    fn logits(&self, model: &Path) -> Result<(Vec<f32>, usize)> {
        let out = self.work.join("logits.safetensors");
        let prompt = PROMPT.map(|token| token.to_string()).join(",");
        let mut command = self.tool.command("logits");
        command.arg("--model").arg(model).args(["--prompt-tokens", &prompt, "--dtype", "float32"]);
        output(command.arg("--out").arg(&out))?;
        let bytes = fs::read(&out).with_context(|| out.display().to_string())?;
        let logits = floats(&SafeTensors::deserialize(&bytes)?, "prefill")?;
        let vocabulary = logits.len() / PROMPT.len();
        Ok((logits, vocabulary))
    }

    /// What was written means what the folder means.
    fn same_logits(&self, file: &Path) -> Result<String> {
        let ((found, _), (wanted, _)) = (self.logits(file)?, self.logits(&self.folder)?);
        let distance = Distance::between(&found, &wanted)?;
        if distance.is_small() {
            Ok(format!("difference {:.1e}", distance.found))
        } else {
            bail!("difference {:.1e}", distance.found)
        }
    }

    fn like_llama_cpp(&self, file: &Path, tolerance: Option<f32>, program: &Path) -> Result<String> {
        let (ours, vocabulary) = self.logits(file)?;
        let out = self.work.join("theirs");
        output(Command::new(program).arg(file).arg(&out).args(PROMPT.map(|token| token.to_string())))?;
        let bytes = fs::read(&out).with_context(|| out.display().to_string())?;
        let theirs: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let found = Distance::between(&ours, &theirs)?.found;
        let largest = theirs.iter().fold(1.0_f32, |most, logit| most.max(logit.abs()));
        let most_likely = |logits: &[f32]| -> Vec<Option<usize>> {
            let rows = logits.chunks(vocabulary);
            rows.map(|row| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]))).collect()
        };
        let pairs = most_likely(&ours).into_iter().zip(most_likely(&theirs));
        let equal = pairs.filter(|(a, b)| a == b).count();
        let said =
            format!("{:.1e} of the largest, {equal} of {} greedy tokens", found / largest, PROMPT.len());
        match tolerance {
            Some(most) if !(found <= most * largest && equal == PROMPT.len()) => bail!("{said}"),
            _ => Ok(said),
        }
    }

    /// The tokens of a text, by the tokenizer of `model`.
    fn tokens(&self, model: &Path, text: &str) -> Result<Vec<u32>> {
        let file = self.work.join("text");
        fs::write(&file, text).with_context(|| file.display().to_string())?;
        let mut command = self.tool.command("tokenize");
        let ids = output(command.arg("--model").arg(model).arg("--file").arg(&file))?;
        serde_json::from_str(&ids).context("tokenize")
    }

    /// The tokens of the folder's own tokenizer are those of another.
    fn same_tokens(
        &self,
        texts: &[String],
        mut other: impl FnMut(&str) -> Result<Vec<u32>>,
    ) -> Result<String> {
        let mut count = 0;
        for text in texts {
            let (wanted, found) = (self.tokens(&self.folder, text)?, other(text)?);
            if found != wanted {
                bail!("{text:?}: found {found:?}, wanted {wanted:?}");
            }
            count += found.len();
        }
        Ok(format!("{count} tokens equal"))
    }
}

/// How llama.cpp splits texts.
fn llama_cpp_tokens(program: &Path, file: &Path, texts: &[String]) -> Result<Vec<Vec<u32>>> {
    let mut command = Command::new(program);
    let mut child = spawn(command.arg(file).stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    let mut input = child.stdin.take().context("its input")?;
    for text in texts {
        input.write_all(text.as_bytes())?;
        input.write_all(&[0])?;
    }
    drop(input);
    let ran = child.wait_with_output()?;
    if !ran.status.success() {
        bail!("{} failed", program.display());
    }
    let line = |line: &str| line.split_whitespace().map(|n| n.parse().context("a number")).collect();
    String::from_utf8(ran.stdout)?.lines().map(line).collect()
}
