//! Programs that are measured. Each prints one line of JSON with the same keys.

use std::{fmt, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

use super::{Peer, models::Model};
use crate::{
    llama_cpp::{self, Program},
    process::{LlmTool, Profile, output, shown},
    python::{Environment, MEASURED},
};

/// What one run told: `prefill_tok_s`, `decode_tok_s`, `peak_bytes`, `ttft_s`, `load_s` and what else an engine knows.
pub(super) type Figures = Map<String, Value>;

/// The programs, built and installed.
pub(super) struct Programs {
    ours: LlmTool,
    mlx_lm: Option<Environment>,
    llama_cpp: Option<PathBuf>,
}

impl Programs {
    /// Builds and installs what `peers` need.
    pub(super) fn ready(peers: &[Peer]) -> Result<Programs> {
        Ok(Programs {
            mlx_lm: peers.contains(&Peer::MlxLm).then(|| Environment::ready(&MEASURED)).transpose()?,
            llama_cpp: peers
                .contains(&Peer::LlamaCpp)
                .then(|| llama_cpp::program(Program::Bench))
                .transpose()?,
            ours: LlmTool::built(Profile::Release)?,
        })
    }
}

/// One way to run a model.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Engine {
    /// Whose program.
    pub(super) peer: Peer,
    /// Threads that it may use.
    pub(super) threads: usize,
    /// Whether this project's kernels replace MLX's operations.
    pub(super) has_kernels: bool,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let name = match self.peer {
            Peer::Ours if self.has_kernels => "this project",
            Peer::Ours => "this project, MLX's kernels",
            Peer::MlxLm => "mlx-lm",
            Peer::LlamaCpp => "llama.cpp",
        };
        let threads = if self.threads == 1 { "1 thread".into() } else { format!("{} threads", self.threads) };
        write!(f, "{name}, {threads}")
    }
}

impl Engine {
    /// All that can run `model`, on one thread and on `cores`.
    pub(super) fn all(peers: &[Peer], model: &Model, cores: usize) -> Vec<Engine> {
        let engine = |peer, threads, has_kernels| Engine { peer, threads, has_kernels };
        let mut engines = Vec::new();
        for threads in if cores > 1 { vec![1, cores] } else { vec![1] } {
            engines.push(engine(Peer::Ours, threads, true));
            if peers.contains(&Peer::LlamaCpp) && model.gguf.is_some() {
                engines.push(engine(Peer::LlamaCpp, threads, false));
            }
        }
        // MLX's CPU operations use one thread.
        engines.push(engine(Peer::Ours, 1, false));
        if peers.contains(&Peer::MlxLm) {
            engines.push(engine(Peer::MlxLm, 1, false));
        }
        engines
    }

    /// Runs once, in a process of its own.
    pub(super) fn run(&self, programs: &Programs, model: &Model) -> Result<Figures> {
        let counts = [model.prompt_tokens.to_string(), model.generated_tokens.to_string()];
        let mut command = match self.peer {
            Peer::Ours => {
                let mut command = programs.ours.command("bench");
                command.arg("--model").arg(&model.ours).args([
                    "--json",
                    "--threads",
                    &self.threads.to_string(),
                ]);
                command
                    .args(["--prompt-tokens", &counts[0], "--gen-tokens", &counts[1]])
                    .env_remove("MLX_LM_KERNELS");
                if !self.has_kernels {
                    command.env("MLX_LM_KERNELS", "0");
                }
                command
            }
            Peer::MlxLm => {
                let mlx_lm = programs.mlx_lm.as_ref().context("mlx-lm is not among the peers")?;
                let mut command = mlx_lm.script("bench_mlx_lm.py");
                command.arg(&model.mlx).args(&counts);
                command
            }
            Peer::LlamaCpp => {
                let program = programs.llama_cpp.as_ref().context("llama.cpp is not among the peers")?;
                let mut command = Command::new(program);
                command.args(&model.gguf).args(&counts).arg(self.threads.to_string());
                command
            }
        };
        let text = output(&mut command)?;
        match text.lines().next_back().map(serde_json::from_str) {
            Some(Ok(Value::Object(figures))) => Ok(figures),
            _ => bail!("the last line that {} printed is no JSON object", shown(&command)),
        }
    }
}
