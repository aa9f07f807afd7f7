//! Downloads a model and prints where it is:
//! `cargo run -p mlx-lm-hub --example download -- mlx-community/Qwen3-0.6B-4bit ["*.json" …]`

#![allow(clippy::print_stdout, clippy::print_stderr)]

use mlx_lm_common::{Error, MODEL_FILES, Progress};
use mlx_lm_hub::{HubDownloader, resolve};
use std::{env, process::ExitCode};

async fn download() -> Result<(), Error> {
    let args: Vec<String> = env::args().skip(1).collect();
    let (model, patterns) = args.split_first().ok_or(Error::Parameter {
        name: "model",
        found: "nothing".into(),
        wanted: "a folder or owner/name[@revision]".into(),
    })?;
    let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
    let patterns = if patterns.is_empty() { MODEL_FILES } else { &patterns };
    let show = |p: Progress| {
        eprint!("\r\x1b[K{}: {:.1} of {:.1} MB", p.what, p.done as f64 / 1e6, p.total as f64 / 1e6)
    };
    let folder = resolve(model, patterns, &HubDownloader::from_env()?, &show).await?;
    println!("\n{}", folder.display());
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    match download().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}
