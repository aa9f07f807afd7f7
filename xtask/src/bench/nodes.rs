//! `cargo xtask bench --nodes`: operations in the graph of a decoding step, this project's beside mlx-lm's.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::json;

use super::Arguments;
use crate::{
    cache, fixtures,
    process::{LlmTool, Profile, output, workspace},
    python::{Environment, ORACLE},
};

pub(super) const HELP: &str = "\
--nodes counts, for a step that takes a token to its likeliest successor, the operations that lead to the successor and to all that
the cache keeps, and that were not there before the step: on both sides the nodes of MLX's own export to Graphviz. Both are in the
form that they have on a GPU: elementwise chains through MLX's compiler are one operation, in the checkpoint's own type; so are
norms, rotations, attention and unpacking, which MLX without a GPU spells out, and for which xtask/oracle/gpu_graph.cpp stands in on
Linux (built with c++, or $CXX). The kernels that mlx-lm has for recurrences on Metal are counted on a Mac, or with --metal. The
column `CPU kernels` is this project's as it runs on a CPU.";

/// What was counted for one model.
#[derive(Deserialize)]
#[serde(untagged)]
enum Counted {
    Step { layers: usize, nodes_per_token: usize, operations: BTreeMap<String, usize> },
    Failed { error: String },
}

impl Counted {
    fn nodes(&self) -> Option<usize> {
        match self {
            Counted::Step { nodes_per_token, .. } => Some(*nodes_per_token),
            Counted::Failed { .. } => None,
        }
    }

    fn cells(&self) -> [String; 2] {
        match self {
            Counted::Step { layers, nodes_per_token: n, .. } => {
                [n.to_string(), format!("{:.1}", *n as f64 / (*layers).max(1) as f64)]
            }
            Counted::Failed { .. } => ["-".into(), "-".into()],
        }
    }

    fn json(&self) -> serde_json::Value {
        match self {
            Counted::Step { layers, nodes_per_token, operations } => {
                json!({ "layers": layers, "nodes_per_token": nodes_per_token, "operations": operations })
            }
            Counted::Failed { error } => json!({ "error": error }),
        }
    }
}

/// A fixture and its counts.
struct Row {
    name: String,
    ours: Counted,
    kernels: Counted,
    mlx_lm: Counted,
}

impl Row {
    fn is_more(&self) -> bool {
        self.ours.nodes() > self.mlx_lm.nodes() && self.mlx_lm.nodes().is_some()
    }

    fn print(&self) {
        let ([ours, ours_a_layer], [mlx_lm, mlx_lm_a_layer]) = (self.ours.cells(), self.mlx_lm.cells());
        let ratio = self.ours.nodes().zip(self.mlx_lm.nodes()).map(|(a, b)| a as f64 / b as f64);
        let ratio = ratio.map_or("-".into(), |r| format!("{r:.2}"));
        print_line([
            &self.name,
            &ours,
            &mlx_lm,
            &ratio,
            &ours_a_layer,
            &mlx_lm_a_layer,
            &self.kernels.cells()[0],
        ]);
        for (who, counted) in
            [("mlx-lm", &self.mlx_lm), ("ours", &self.ours), ("ours with kernels", &self.kernels)]
        {
            if let Counted::Failed { error } = counted {
                println!("    {who}: {error}");
            }
        }
        if self.is_more() {
            println!("    {}", self.differences());
        }
    }

    /// By how much the counts of each operation differ, compiled chains taken together.
    fn differences(&self) -> String {
        let mut by_name = BTreeMap::<&str, isize>::new();
        for (counted, sign) in [(&self.ours, 1), (&self.mlx_lm, -1)] {
            let Counted::Step { operations, .. } = counted else { continue };
            for (name, count) in operations {
                let name = if name.starts_with("Compiled") { "Compiled" } else { name };
                *by_name.entry(name).or_default() += sign * count.cast_signed();
            }
        }
        let mut changed: Vec<_> = by_name.into_iter().filter(|(_, n)| *n != 0).collect();
        changed.sort_by_key(|(_, n)| -n);
        changed.into_iter().map(|(name, n)| format!("{n:+} {name}")).collect::<Vec<_>>().join(", ")
    }
}

fn print_line([name, ours, mlx_lm, ratio, ours_a_layer, mlx_lm_a_layer, kernels]: [&str; 7]) {
    println!(
        "{name:<24} {ours:>6} {mlx_lm:>7} {ratio:>6} {ours_a_layer:>8} {mlx_lm_a_layer:>8} {kernels:>12}"
    );
}

/// Counts and reports; an error if a step of ours has more operations than mlx-lm's.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let folders = folders(arguments)?;
    let (tool, python) = (LlmTool::built(Profile::Dev)?, Environment::ready(&ORACLE)?);
    let ours = stand_ins("ours", &tool.mlx())?;
    let theirs = mlx_lm(&python, &folders, arguments.metal)?;
    let mut rows = Vec::new();
    for (folder, mlx_lm) in folders.iter().zip(theirs) {
        let count = |more: &[&str], stand_ins: &Option<PathBuf>| {
            let mut command = tool.command("nodes");
            command.arg("--model").arg(folder).arg("--json").args(more).env_remove("MLX_LM_KERNELS");
            counted(with(stand_ins, &mut command))
        };
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        rows.push(Row { name, ours: count(&["--as-on-gpu"], &ours), kernels: count(&[], &None), mlx_lm });
    }
    if arguments.json {
        let row = |r: &Row| json!({ "fixture": r.name, "ours": r.ours.json(), "kernels": r.kernels.json(), "mlx_lm": r.mlx_lm.json() });
        println!("{}", json!(rows.iter().map(row).collect::<Vec<_>>()));
    } else {
        print_line(["operations a step", "ours", "mlx-lm", "ratio", "a layer", "mlx-lm's", "CPU kernels"]);
        rows.iter().for_each(Row::print);
    }
    let more = rows.iter().filter(|r| r.is_more()).count();
    let failed = rows.iter().filter(|r| r.ours.nodes().is_none() || r.kernels.nodes().is_none()).count();
    let alone = rows.iter().filter(|r| r.mlx_lm.nodes().is_none()).count();
    let summary = format!(
        "{} fixtures: more operations than mlx-lm in {more}, not counted here in {failed}, not counted by mlx-lm in {alone}",
        rows.len()
    );
    if more + failed > 0 {
        bail!(summary);
    }
    eprintln!("\n{summary}");
    Ok(())
}

/// The fixtures in mlx-lm's layout: one for each architecture, or its 4-bit twin.
fn folders(arguments: &Arguments) -> Result<Vec<PathBuf>> {
    let root = match &arguments.fixtures {
        Some(root) => root.clone(),
        None => fixtures::generated()?,
    };
    let entries = fs::read_dir(&root).with_context(|| root.display().to_string())?;
    let paths = entries.map(|e| Ok(e?.path())).collect::<Result<Vec<_>>>()?;
    let is_wanted = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let (plain, twin) = name.split_once('-').unwrap_or((&name, ""));
        twin == if arguments.quantized { "4bit" } else { "" }
            && (arguments.only.is_empty() || arguments.only.iter().any(|n| n == plain))
            && path.join("config.json").is_file()
    };
    let mut folders: Vec<_> = paths.into_iter().filter(is_wanted).collect();
    folders.sort();
    Ok(folders)
}

/// mlx-lm's counts, in order.
fn mlx_lm(python: &Environment, folders: &[PathBuf], on_metal: bool) -> Result<Vec<Counted>> {
    let stand_ins = stand_ins("mlx-lm", &python.program("mlx"))?;
    let mut script = python.script("nodes_mlx_lm.py");
    script.args(on_metal.then_some("--metal")).args(folders);
    let text = output(with(&stand_ins, &mut script))?;
    let counts: Vec<Counted> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    if counts.len() != folders.len() {
        bail!("nodes_mlx_lm.py counted {} of {} models", counts.len(), folders.len());
    }
    Ok(counts)
}

/// What a program that counts printed.
fn counted(command: &mut Command) -> Counted {
    let text = output(command).and_then(|text| Ok(serde_json::from_str(&text)?));
    // The first line is the command, the second what it said first.
    text.unwrap_or_else(|e| Counted::Failed {
        error: e.to_string().lines().nth(1).unwrap_or_default().into(),
    })
}

/// A library that gives MLX's graphs the form they have on a GPU, for the MLX in this folder; nothing where MLX has a GPU anyway.
fn stand_ins(name: &str, mlx: &Path) -> Result<Option<PathBuf>> {
    if !cfg!(target_os = "linux") {
        return Ok(None);
    }
    const LIBRARY: &str = "gpu_graph.so";
    let source = workspace().join("xtask/oracle/gpu_graph.cpp");
    let version = fs::read_to_string(mlx.join("include/mlx/version.h")).context("MLX's headers")?;
    let made_from = format!("{}\n{version}{}", mlx.display(), fs::read_to_string(&source)?);
    let folder = cache::provide(&format!("nodes/{name}"), &made_from, |out| {
        let mut compiler = Command::new(env::var_os("CXX").unwrap_or_else(|| "c++".into()));
        compiler
            .args(["-std=c++20", "-O1", "-w", "-shared", "-fPIC", "-o"])
            .arg(out.join(LIBRARY))
            .arg(&source);
        compiler.arg("-I").arg(mlx.join("include")).arg("-L").arg(mlx.join("lib")).arg("-lmlx");
        compiler.arg(format!("-Wl,-rpath,{}", mlx.join("lib").display()));
        output(&mut compiler).map(|_| ())
    })?;
    Ok(Some(folder.join(LIBRARY)))
}

fn with<'a>(stand_ins: &Option<PathBuf>, command: &'a mut Command) -> &'a mut Command {
    match stand_ins {
        Some(library) => command.env("LD_PRELOAD", library),
        None => command,
    }
}
