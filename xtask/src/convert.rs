//! `cargo xtask convert`: `llm-tool convert` beside mlx_lm.convert: the same tensors, byte by byte, the same configuration, and the same
//! logits in both programs.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::{
    cache, fixtures,
    process::{LlmTool, Profile, output},
    python::{Environment, ORACLE},
    written,
};

/// The prompt of the logits, as in `oracle/convert.py`.
const PROMPT: &str = "1,5,9,2,7,3,11,4";

/// Sources of every kind that differs in what is written: names, rules for routers, folds, parts of larger models, and what is packed
/// already.
const SOURCES: [&str; 15] = [
    "gemma3-hf",         // the text part of a larger model, its head tied
    "mistral3_small-hf", // the same, with a head
    "qwen3_moe-hf",      // stacked experts, routers of 8 bits
    "granite",           // other matrices of 8 bits
    "deepseek_v3-hf",    // latents, routers of floats, parameters that keep their type
    "gemma4_26b_a4b-hf", // routers of a larger model
    "qwen3_next-hf",     // folded norms, several convolutions
    "nemotron_h-hf",     // state spaces and experts
    "falcon_h1-hf",      // multipliers
    "lfm2_moe-hf",       // short convolutions
    "granitemoe-hf",     // both of these
    "glm4_moe-hf",       // other routers of floats
    "minimax_m2-hf",     // and of 8 bits
    "phi3",              // fused projections
    "gpt_oss-mxfp4",     // experts packed already
];

/// What every source is converted to.
const FORMS: [&[&str]; 4] =
    [&["-q"], &["--q-bits=3", "--q-group-size=32"], &["--q-mode=mxfp4"], &["--dtype=float16"]];

/// A source of all widths and groups.
const DENSE: &str = "qwen3";
/// One with rows of 128 values.
const WIDE: &str = "granite";
/// What comes quantized.
const QUANTIZED: [&str; 2] = ["qwen3_moe-4bit", "qwen3-mixed"];

/// GGUF files, which mlx-lm does not convert: it loads what they are converted to.
const GGUF: [&str; 6] = [
    "llama3-gguf-q8_0",
    "qwen3-gguf-q4_0",
    "gemma3_text-gguf",
    "qwen3_moe-gguf-q8_0",
    "granite-gguf-q8_0",
    "qwen2-gguf-q8_0",
];

/// Options of `cargo xtask convert`.
#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// The folder of the fixtures [default: all that `cargo xtask fixtures --all` writes]
    #[arg(long, value_name = "DIR")]
    fixtures: Option<PathBuf>,
}

/// A conversion.
struct Job {
    name: String,
    source: PathBuf,
    options: Vec<String>,
    /// Whether this project's logits are compared, too.
    is_run: bool,
}

/// Converts all with both programs; an error if anything differs.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let root = match &arguments.fixtures {
        Some(root) => root.clone(),
        None => fixtures::generated()?,
    };
    let (tool, python) = (LlmTool::built(Profile::Dev)?, Environment::ready(&ORACLE)?);
    let folder = env::temp_dir().join(format!("mlx-lm-convert-{}", process::id()));
    let compared = compare(&tool, &python, &jobs(&root), &folder);
    cache::remove(&folder)?;
    compared
}

fn jobs(root: &Path) -> Vec<Job> {
    let mut jobs = Vec::new();
    let mut add = |source: &str, options: &[&str], is_run: bool| {
        jobs.push(Job {
            name: format!("{source} {}", options.join(" ")).replace('/', " "),
            source: root.join(source),
            options: options.iter().map(|option| option.to_string()).collect(),
            is_run,
        });
    };
    for bits in [2, 3, 4, 5, 6, 8] {
        let bits = format!("--q-bits={bits}");
        add(DENSE, &[&bits, "--q-group-size=32"], true);
        add(DENSE, &[&bits, "--q-group-size=64"], true);
        add(WIDE, &[&bits, "--q-group-size=128"], true);
    }
    for mode in ["mxfp4", "mxfp8", "nvfp4"] {
        add(DENSE, &[&format!("--q-mode={mode}")], true);
        add(WIDE, &[&format!("--q-mode={mode}"), "--dtype=float32"], true);
        add("qwen3_moe-hf", &[&format!("--q-mode={mode}"), "--dtype=float32"], true);
    }
    for recipe in ["mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6"] {
        let recipe = format!("--quant-predicate={recipe}");
        add("qwen3_moe-hf", &["-q", &recipe, "--q-group-size=32"], true);
        add("gemma3-hf", &["-q", &recipe, "--q-group-size=32"], false);
    }
    for source in SOURCES {
        FORMS.iter().for_each(|form| add(source, form, false));
    }
    for source in QUANTIZED {
        add(source, &[], true);
        add(source, &["--dequantize"], true);
        add(source, &["--dequantize", "--dtype=float32"], true);
        add(source, &["--dtype=float16"], false);
    }
    for source in GGUF {
        let source = format!("{source}/model.gguf");
        add(&source, &["--dtype=float32"], true);
        add(&source, &["-q", "--q-group-size=32", "--dtype=float32"], true);
    }
    jobs
}

fn compare(tool: &LlmTool, python: &Environment, jobs: &[Job], folder: &Path) -> Result<()> {
    let [theirs, ours] = ["mlx-lm", "ours"].map(|who| folder.join(who));
    fs::create_dir_all(&ours).with_context(|| ours.display().to_string())?;
    let list = folder.join("jobs.json");
    let described: Vec<Value> = jobs.iter().map(Job::json).collect();
    fs::write(&list, Value::from(described).to_string()).with_context(|| list.display().to_string())?;
    output(python.script("convert.py").arg("convert").arg(&list).arg(&theirs))?;
    for job in jobs {
        let mut command = tool.command("convert");
        command.arg("--model").arg(&job.source).arg("--out").arg(ours.join(&job.name)).args(&job.options);
        output(&mut command).with_context(|| job.name.clone())?;
    }
    let said = output(python.script("convert.py").arg("compare").arg(&list).args([&theirs, &ours]))?;
    let names: Vec<&str> = jobs.iter().map(|job| job.name.as_str()).collect();
    written::report(&said, &names, |name| match jobs.iter().find(|job| job.name == name) {
        Some(job) if job.is_run => written::distance(tool, &ours.join(name), PROMPT),
        _ => Ok(String::new()),
    })
}

impl Job {
    /// As mlx-lm's side reads it: the options of its function.
    fn json(&self) -> Value {
        let mut options = Map::new();
        for option in &self.options {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let number = || value.parse::<u64>().map_or(Value::Null, Value::from);
            let mut set = |key: &str, value: Value| options.insert(key.into(), value);
            match name {
                "--q-bits" => set("q_bits", number()),
                "--q-group-size" => set("q_group_size", number()),
                "--q-mode" => set("q_mode", value.into()),
                "--quant-predicate" => set("quant_predicate", value.into()),
                "--dtype" => set("dtype", value.into()),
                "--dequantize" => set("dequantize", true.into()),
                _ => None,
            };
            if name == "-q" || name.starts_with("--q-") {
                options.insert("quantize".into(), true.into());
            }
        }
        json!({ "name": self.name, "source": self.source, "options": options })
    }
}
