//! `cargo xtask real`: a real model against mlx-lm, with the kernels of this workspace and without.

use std::{env, fs, path::Path, process};

use anyhow::{Context, Result, bail};
use safetensors::SafeTensors;

use crate::{
    cache,
    compare::{Distance, floats, integers, verdict},
    fetch,
    process::{LlmTool, Profile, output},
    python::{Environment, ORACLE},
};

/// "<|im_start|>user\nExplain in three sentences why the sky is blue during the day and red in the evening.<|im_end|>\n
/// <|im_start|>assistant\n"
const PROMPT: &str = "1,4093,198,36971,281,1296,8545,1701,260,6376,314,4461,981,260,1194,284,2382,281,260,9053,30,2,198,1,520,9531,198";
/// "The sky appears blue because"
const DECODE: &str = "504,6376,4541,4461,975";
const GREEDY: &str = "32";

/// A greedy choice between logits closer than this proves nothing.
const MARGIN: f32 = 1e-2;

/// Compares `llm-tool logits` with the reference; an error if they differ.
pub(crate) fn run() -> Result<()> {
    let model = fetch::demo_model()?;
    let reference = fs::read(reference(&model)?)?;
    let reference = SafeTensors::deserialize(&reference)?;
    let tool = LlmTool::built(Profile::Dev)?;
    let mut differing = 0;
    println!("{:<12} {:<8} {:>16} {:>9}", "kernels", "values", "difference", "allowed");
    for kernels in ["on", "off"] {
        let file = env::temp_dir().join(format!("mlx-lm-logits-{}.safetensors", process::id()));
        let mut command = tool.command("logits");
        command.arg("--model").arg(&model).args(["--prompt-tokens", PROMPT, "--decode-tokens", DECODE]);
        command.args(["--greedy", GREEDY, "--out"]).arg(&file).env_remove("MLX_LM_KERNELS");
        if kernels == "off" {
            command.env("MLX_LM_KERNELS", "0");
        }
        let bytes =
            output(&mut command).and_then(|_| fs::read(&file).context("llm-tool logits wrote no file"));
        // Nothing depends on its removal.
        let _ = fs::remove_file(&file);
        let bytes = bytes?;
        differing += compare(&SafeTensors::deserialize(&bytes)?, &reference, kernels)?;
    }
    if differing > 0 {
        bail!("{differing} comparisons with mlx-lm failed");
    }
    Ok(())
}

/// The reference values, made once.
fn reference(model: &Path) -> Result<std::path::PathBuf> {
    let scripts = concat!(include_str!("../oracle/gguf_llama.py"), include_str!("../oracle/real_gguf.py"));
    let made_from = format!("{PROMPT}\n{DECODE}\n{GREEDY}\n{ORACLE:?}\n{scripts}");
    let file = "reference.safetensors";
    let folder = cache::provide("real", &made_from, |out| {
        let mut script = Environment::ready(&ORACLE)?.script("real_gguf.py");
        script
            .arg(model)
            .args(["--prompt", PROMPT, "--decode", DECODE, "--greedy", GREEDY, "--out"])
            .arg(out.join(file));
        eprintln!("  computing reference values with mlx-lm (once)");
        output(&mut script).map(|_| ())
    })?;
    Ok(folder.join(file))
}

/// Prints a line for each kind of value. Returns how many differ.
fn compare(found: &SafeTensors, wanted: &SafeTensors, kernels: &str) -> Result<usize> {
    let mut differing = 0;
    for name in ["prefill", "decode"] {
        let distance = Distance::between(&floats(found, name)?, &floats(wanted, name)?).context(name)?;
        let is_equal = distance.is_small();
        differing += usize::from(!is_equal);
        let Distance { found, allowed } = distance;
        println!("{kernels:<12} {name:<8} {found:>16.2e} {allowed:>9.1e}  {}", verdict(is_equal));
    }
    let (tokens, wanted_tokens) = (integers(found, "greedy")?, integers(wanted, "greedy")?);
    let margins = floats(wanted, "margin")?;
    let agreeing = tokens.iter().zip(&wanted_tokens).take_while(|(f, w)| f == w).count();
    let is_equal = tokens.len() == wanted_tokens.len() && margins.get(agreeing).is_none_or(|m| *m <= MARGIN);
    differing += usize::from(!is_equal);
    let count = format!("{agreeing} of {} equal", wanted_tokens.len());
    println!("{kernels:<12} {:<8} {count:>16} {:>9}  {}", "greedy", "", verdict(is_equal));
    Ok(differing)
}
