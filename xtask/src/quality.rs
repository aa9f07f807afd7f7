//! `cargo xtask quality`: what each way of storing the demo model's weights costs, as a table of `docs/quantization.md`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context, Result};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    cache,
    fetch::{self, Files, LLAMA_CPP},
    marked::Marked,
    process::{LlmTool, Profile, output},
};

const TABLE: Marked =
    Marked { file: "docs/quantization.md", name: "quality", task: "cargo xtask quality --write" };

/// English prose and code that is the same for everybody: llama.cpp's manuals.
const TEXT: Files = Files {
    package: &LLAMA_CPP,
    root: "llama_cpp_python-0.3.36/vendor/llama.cpp/",
    wanted: &["docs/*.md"],
    folder: "text",
};

/// Options of `cargo xtask quality`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Put the table into docs/quantization.md
    #[arg(long)]
    write: bool,
    /// How many pieces of the text are scored
    #[arg(long, value_name = "N", default_value_t = 24)]
    num_samples: u32,
    /// Tokens of a piece
    #[arg(long, value_name = "N", default_value_t = 256)]
    sequence_length: u32,
    /// Where to run: cpu or gpu
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Only rows whose name has this in it
    #[arg(long, value_name = "TEXT", conflicts_with = "write")]
    only: Option<String>,
}

/// A row of the table.
struct Row {
    name: String,
    /// How `llm-tool convert` makes it from the floats; the file as it is without.
    options: Option<Vec<String>>,
    /// Whether the floats that codes stand for are run instead of the codes: the same logits, an hour sooner where MLX multiplies
    /// codes one by one on a CPU.
    as_floats: bool,
}

impl Row {
    fn new(name: impl Into<String>, options: &[&str]) -> Row {
        let options = options.iter().map(|option| option.to_string()).collect();
        Row { name: name.into(), options: Some(options), as_floats: false }
    }
}

fn rows() -> Vec<Row> {
    let mut rows = vec![
        Row { name: "GGUF Q4_1, as published".into(), options: None, as_floats: false },
        Row::new("float16", &["--dtype=float16"]),
        Row::new("bfloat16", &["--dtype=bfloat16"]),
    ];
    for bits in [8, 6, 5, 4, 3, 2] {
        rows.push(Row::new(format!("{bits} bit"), &[&format!("--q-bits={bits}"), "--dtype=float16"]));
    }
    rows.push(Row::new("4 bit, groups of 32", &["--q-bits=4", "--q-group-size=32", "--dtype=float16"]));
    for recipe in ["mixed_4_6", "mixed_3_6", "mixed_2_6"] {
        rows.push(Row::new(recipe, &[&format!("--quant-predicate={recipe}"), "--dtype=float16"]));
    }
    for mode in ["mxfp8", "mxfp4", "nvfp4"] {
        let row = Row::new(mode, &[&format!("--q-mode={mode}"), "--dtype=float16"]);
        rows.push(Row { as_floats: true, ..row });
    }
    let profiles = ["6M", "4K", "4M", "3L", "2L"];
    rows.extend(profiles.map(|profile| Row::new(format!("JANG_{profile}"), &["--jang", profile])));
    rows
}

/// What `llm-tool info --json` tells.
#[derive(Deserialize)]
struct Stored {
    bits_per_weight: f64,
    file_bytes: u64,
}

/// What `llm-tool eval --json` tells.
#[derive(Deserialize)]
struct Figures {
    perplexity: f64,
    perplexity_standard_error: f64,
    kl_divergence: f64,
    kl_divergence_standard_error: f64,
    top1_agreement: f64,
    top1_agreement_standard_error: f64,
    against: Reference,
}

#[derive(Deserialize)]
struct Reference {
    bits_per_weight: f64,
    bytes: u64,
    perplexity: f64,
    perplexity_standard_error: f64,
}

/// Converts, measures and prints, row by row.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let (demo, text) = (fetch::demo_model()?, text()?);
    let tool = LlmTool::built(Profile::Release)?;
    let folder = env::temp_dir().join(format!("mlx-lm-quality-{}", process::id()));
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let table = measure(arguments, &tool, &demo, &text, &folder);
    cache::remove(&folder)?;
    let table = table?;
    if arguments.write { TABLE.write(&table) } else { Ok(()) }
}

/// The manuals, one after the other in order of their names.
fn text() -> Result<String> {
    let mut folders = vec![fetch::fetch(&TEXT)?.join("docs")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    files.iter().map(|path| fs::read_to_string(path).with_context(|| path.display().to_string())).collect()
}

fn measure(arguments: &Arguments, tool: &LlmTool, demo: &Path, text: &str, folder: &Path) -> Result<String> {
    let (floats, text_file) = (folder.join("floats"), folder.join("text.md"));
    fs::write(&text_file, text).with_context(|| text_file.display().to_string())?;
    let convert = |source: &Path, out: &Path, options: &[String]| {
        output(tool.command("convert").arg("--model").arg(source).arg("--out").arg(out).args(options))
    };
    convert(demo, &floats, &["--dequantize".into(), "--dtype=float32".into()])?;
    let mut table = String::new();
    for row in rows() {
        if arguments.only.as_ref().is_some_and(|only| !row.name.contains(only.as_str())) {
            continue;
        }
        let model = match &row.options {
            None => demo.to_path_buf(),
            Some(options) => {
                let out: PathBuf = folder.join("model");
                convert(&floats, &out, options).with_context(|| row.name.clone())?;
                out
            }
        };
        let stored: Stored = parsed(&output(tool.command("info").arg("--json").arg("--model").arg(&model))?)?;
        let run = folder.join("run");
        if row.as_floats {
            convert(&model, &run, &["--dequantize".into(), "--dtype=float32".into()])?;
        }
        let mut eval = tool.command("eval");
        eval.args(["--json", "--seed=0", "--batch-size=4", "--device", &arguments.device, "--dtype=float32"]);
        eval.args(["--num-samples", &arguments.num_samples.to_string()]);
        eval.args(["--sequence-length", &arguments.sequence_length.to_string()]);
        eval.arg("--text").arg(&text_file).arg("--model").arg(if row.as_floats { &run } else { &model });
        let figures: Figures =
            parsed(&output(eval.arg("--against").arg(&floats)).with_context(|| row.name.clone())?)?;
        if row.options.is_some() {
            cache::remove(&model)?;
        }
        if row.as_floats {
            cache::remove(&run)?;
        }
        let mut lines = String::new();
        if table.is_empty() {
            lines += &figures.head();
        }
        lines += &figures.line(&row.name, &stored);
        print!("{lines}");
        table += &lines;
    }
    Ok(table)
}

fn parsed<T: DeserializeOwned>(json: &str) -> Result<T> {
    serde_json::from_str(json).with_context(|| json.to_string())
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

impl Figures {
    /// The head of the table, and the row of the floats.
    fn head(&self) -> String {
        let Reference { bits_per_weight, bytes, perplexity, perplexity_standard_error } = self.against;
        format!(
            "| weights | bits a weight | MB | perplexity | KL divergence, nats | same likeliest token, % |\n\
             |---|--:|--:|--:|--:|--:|\n\
             | float32 | {bits_per_weight:.2} | {:.0} | {perplexity:.2} ± {perplexity_standard_error:.2} | 0 | 100 |\n",
            megabytes(bytes)
        )
    }

    fn line(&self, name: &str, stored: &Stored) -> String {
        format!(
            "| {name} | {:.2} | {:.0} | {:.2} ± {:.2} | {:.4} ± {:.4} | {:.1} ± {:.1} |\n",
            stored.bits_per_weight,
            megabytes(stored.file_bytes),
            self.perplexity,
            self.perplexity_standard_error,
            self.kl_divergence,
            self.kl_divergence_standard_error,
            self.top1_agreement * 100.0,
            self.top1_agreement_standard_error * 100.0
        )
    }
}
