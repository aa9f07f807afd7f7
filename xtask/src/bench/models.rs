//! The models that are measured.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::{
    cache, fetch,
    process::output,
    python::{Environment, ORACLE},
};

/// A model in the forms that the engines read.
pub(super) struct Model {
    /// What the report calls it.
    pub(super) title: &'static str,
    /// For `llm-tool`.
    pub(super) ours: PathBuf,
    /// The same weights for mlx-lm.
    pub(super) mlx: PathBuf,
    /// The same weights for llama.cpp, if it can hold them.
    pub(super) gguf: Option<PathBuf>,
    /// Length of the prompt.
    pub(super) prompt_tokens: u32,
    /// Tokens generated after it.
    pub(super) generated_tokens: u32,
    /// How often each engine runs.
    pub(super) rounds: usize,
}

/// SmolLM2-135M-Instruct as published: 4-bit in groups of 32, 8-bit embeddings.
pub(super) fn demo() -> Result<Model> {
    let gguf = fetch::demo_model()?;
    let scripts = [include_str!("../../oracle/gguf_llama.py"), include_str!("../../oracle/gguf_to_mlx.py")];
    let mlx = written("bench/demo-mlx", &scripts.concat(), "gguf_to_mlx.py", Some(&gguf))?;
    let title = "SmolLM2-135M-Instruct Q4_1";
    Ok(Model {
        title,
        ours: gguf.clone(),
        mlx,
        gguf: Some(gguf),
        prompt_tokens: 128,
        generated_tokens: 64,
        rounds: 5,
    })
}

/// The shape of Qwen3-0.6B with random weights: deep enough to show what each operation costs. llama.cpp has no format that
/// holds the same codes in groups of 64.
pub(super) fn random() -> Result<Model> {
    let script = include_str!("../../oracle/random_qwen3.py");
    let mlx = written("bench/random-qwen3", script, "random_qwen3.py", None)?;
    let title = "random weights, shape of Qwen3-0.6B, 32000 tokens, 4-bit";
    Ok(Model {
        title,
        ours: mlx.clone(),
        mlx,
        gguf: None,
        prompt_tokens: 128,
        generated_tokens: 32,
        rounds: 3,
    })
}

fn written(folder: &str, made_from: &str, script: &str, source: Option<&Path>) -> Result<PathBuf> {
    cache::provide(folder, made_from, |out| {
        let mut command = Environment::ready(&ORACLE)?.script(script);
        output(command.args(source).arg(out)).map(|_| ())
    })
}
