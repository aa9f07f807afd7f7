//! `cargo xtask eval`: how good models are, as `llm-tool eval` has it and as mlx-lm and numpy have it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{self, Command},
};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

use crate::{
    cache,
    compare::verdict,
    fetch, fixtures,
    process::{LlmTool, Profile, output, workspace},
    python::{Environment, ORACLE},
};

/// Figures of two programs may differ by so much of them.
const TOLERANCE: f64 = 1e-4;

/// A divergence is a sum of differences, each of which is off by rounding of numbers far greater: so much of a nat.
const ROUNDING: f64 = 1e-6;

/// Texts that are there anyway.
const TEXTS: [&str; 2] = ["README.md", "ARCHITECTURE.md"];

/// What is measured.
struct Case {
    name: &'static str,
    model: PathBuf,
    against: Option<PathBuf>,
    tokens: PathBuf,
    /// Sequence length, number of samples and batch size: the last batch is not full.
    sizes: [usize; 3],
}

/// Compares with mlx-lm's and numpy's figures; an error if they differ.
pub(crate) fn run() -> Result<()> {
    let (demo, fixtures) = (fetch::demo_model()?, fixtures::generated()?);
    let (tool, python) = (LlmTool::built(Profile::Dev)?, Environment::ready(&ORACLE)?);
    let folder = env::temp_dir().join(format!("mlx-lm-eval-{}", process::id()));
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let compared = cases(&tool, &demo, &fixtures, &folder).and_then(|cases| compare(&tool, &python, &cases));
    cache::remove(&folder)?;
    compared
}

fn cases(tool: &LlmTool, demo: &Path, fixtures: &Path, folder: &Path) -> Result<[Case; 4]> {
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        Ok::<_, anyhow::Error>(path)
    };
    let texts = TEXTS.map(|name| fs::read_to_string(workspace().join(name)).context(name));
    let text = write("text.md", &texts.into_iter().collect::<Result<String>>()?)?;
    let ids = output(tool.command("tokenize").arg("--model").arg(demo).arg("--file").arg(text))?;
    let tokens = write("demo.json", &ids)?;
    let small: Vec<u64> = serde_json::from_str::<Vec<u64>>(&ids)?.iter().map(|id| id % 128).collect();
    let small = write("small.json", &serde_json::to_string(&small)?)?;
    let tiny = |name: &'static str, twin: &str, sizes| Case {
        name,
        model: fixtures.join(twin),
        against: Some(fixtures.join(name)),
        tokens: small.clone(),
        sizes,
    };
    Ok([
        Case { name: "demo", model: demo.into(), against: None, tokens, sizes: [48, 3, 2] },
        tiny("llama3", "llama3-4bit", [48, 30, 8]),
        tiny("qwen3_moe", "qwen3_moe-3bit", [33, 20, 3]),
        tiny("qwen3_next", "qwen3_next-mxfp4", [40, 9, 4]),
    ])
}

fn compare(tool: &LlmTool, python: &Environment, cases: &[Case]) -> Result<()> {
    let mut differing = 0;
    println!("{:<12} {:<30} {:>12} {:>12}", "model", "figure", "found", "wanted");
    for case in cases {
        let arguments = |command: &mut Command| {
            command.arg("--model").arg(&case.model);
            for (option, size) in
                ["--sequence-length", "--num-samples", "--batch-size"].iter().zip(case.sizes)
            {
                command.arg(option).arg(size.to_string());
            }
            if let Some(other) = &case.against {
                command.arg("--against").arg(other);
            }
            let text = output(command)?;
            serde_json::from_str::<Map<String, Value>>(&text).with_context(|| text.clone())
        };
        let found = arguments(tool.command("eval").arg("--json").arg("--tokens").arg(&case.tokens))?;
        let wanted = arguments(python.script("perplexity_mlx_lm.py").arg(&case.tokens))?;
        if wanted.len() != if case.against.is_some() { 7 } else { 3 } {
            bail!("{}: the reference tells {wanted:?}", case.name);
        }
        for (figure, wanted) in &wanted {
            let number = |value: Option<&Value>| value.and_then(Value::as_f64).unwrap_or(f64::NAN);
            let (found, wanted) = (number(found.get(figure)), number(Some(wanted)));
            let is_equal = (found - wanted).abs() <= TOLERANCE * wanted.abs() + ROUNDING;
            differing += usize::from(!is_equal);
            println!("{:<12} {figure:<30} {found:>12.6} {wanted:>12.6}  {}", case.name, verdict(is_equal));
        }
    }
    if differing > 0 {
        bail!("{differing} figures differ");
    }
    Ok(())
}
