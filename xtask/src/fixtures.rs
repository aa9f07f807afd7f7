//! `cargo xtask fixtures`: tiny models and their reference values, written by mlx-lm.

use std::{env, fs, path::PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::{
    cache,
    process::{run as attached, workspace},
    python::{Environment, JANG, ORACLE, Requirements},
};

/// Options of `cargo xtask fixtures`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Every fixture instead of the small set that is committed
    #[arg(long)]
    all: bool,
    /// Folder to write to [default: fixtures/ of the workspace, for the committed set]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Draw other weights and other prompts
    #[arg(long, value_name = "N")]
    seed: Option<u32>,
    /// Only these architectures, for instance `llama3,qwen3`
    #[arg(long, value_name = "NAMES")]
    only: Option<String>,
}

/// Runs the generator.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let committed = workspace().join("fixtures");
    let is_committed_set = !arguments.all && arguments.seed.is_none();
    let out = match &arguments.out {
        Some(out) => std::path::absolute(out)?,
        None if is_committed_set => committed,
        None => {
            bail!("--all and --seed write other files than those of the repository: name a folder with --out")
        }
    };
    let mut script = Environment::ready(&ORACLE)?.script("tiny_archs.py");
    script.arg("--out").arg(out);
    if arguments.all {
        script.arg("--all");
    }
    if let Some(only) = &arguments.only {
        script.args(["--only", only]);
    }
    if let Some(seed) = arguments.seed {
        script.env("FIXTURE_SEED", seed.to_string());
    }
    attached(&mut script)
}

/// A folder with every fixture. It is written once for each state of the scripts that make it.
pub(crate) fn generated() -> Result<PathBuf> {
    let state = state(&ORACLE, &SCRIPTS)?;
    cache::provide(&format!("fixtures/{}", &state[..16]), &state, |dir| {
        eprintln!(
            "  writing all parity fixtures into the cache folder (once for each change of their scripts)"
        );
        attached(Environment::ready(&ORACLE)?.script("tiny_archs.py").arg("--all").arg("--out").arg(dir))
    })
}

/// A folder with JANG bundles, as [`generated`].
pub(crate) fn jang() -> Result<PathBuf> {
    let state = state(&JANG, &JANG_SCRIPTS)?;
    cache::provide(&format!("jang/{}", &state[..16]), &state, |dir| {
        eprintln!("  writing JANG bundles into the cache folder (once for each change of their scripts)");
        let package = Environment::ready(&JANG)?;
        attached(package.script("jang.py").arg("--out").arg(dir))?;
        attached(package.script("jang_rotated.py").arg("--out").arg(dir))
    })
}

/// A folder with models and the bundles that the package makes of them, as [`generated`].
pub(crate) fn jang_written() -> Result<PathBuf> {
    let state = state(&JANG, &JANG_SCRIPTS)?;
    cache::provide(&format!("jang-written/{}", &state[..16]), &state, |dir| {
        eprintln!("  having the JANG package convert models (once for each change of their scripts)");
        attached(Environment::ready(&JANG)?.script("jang_written.py").arg("make").arg(dir))
    })
}

/// What writes JANG bundles, beside the files of `archs/`.
const JANG_SCRIPTS: [&str; 8] = [
    "checkpoint.py",
    "engine.py",
    "formats.py",
    "jang.py",
    "jang_bundles.py",
    "jang_rotated.py",
    "jang_written.py",
    "layouts.py",
];

/// What writes fixtures, beside the files of `archs/`.
const SCRIPTS: [&str; 10] = [
    "checkpoint.py",
    "engine.py",
    "formats.py",
    "gguf_families.py",
    "gguf_more.py",
    "gguf_others.py",
    "gguf_tiny.py",
    "gguf_twins.py",
    "layouts.py",
    "tiny_archs.py",
];

/// A hash of all that decides what the fixtures hold.
fn state(packages: &Requirements, scripts: &[&str]) -> Result<String> {
    let folder = workspace().join("xtask/oracle");
    let archs = fs::read_dir(folder.join("archs")).context("xtask/oracle/archs")?;
    let archs = archs.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let is_script = |path: &PathBuf| path.extension().is_some_and(|e| e == "py");
    let mut scripts: Vec<_> = scripts.iter().map(|name| folder.join(name)).collect();
    scripts.extend(archs.into_iter().filter(is_script));
    scripts.sort();
    let mut hash = Sha256::new();
    hash.update(format!("{packages:?} {:?}", env::var_os("FIXTURE_SEED")));
    for script in scripts {
        hash.update(script.strip_prefix(&folder).unwrap_or(&script).as_os_str().as_encoded_bytes());
        hash.update(fs::read(&script).with_context(|| script.display().to_string())?);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
