//! `cargo xtask mutate`: broken copies of small checkpoints of every format, each loaded and run by a process with bounds on its memory
//! and time. Whatever was done to a checkpoint, it runs or is refused with an error.

mod bytes;
mod gguf;
mod json;
mod mutant;
mod random;
mod safetensors;
mod worker;

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail};

use crate::{
    cache, fixtures,
    process::{self, workspace},
    vocab,
};
use mutant::{Base, Mutant};
use random::Random;
use worker::{Outcome, Worker};

/// Options of `cargo xtask mutate`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How many
    #[arg(long, value_name = "N", default_value_t = Arguments::default().count)]
    count: u64,
    /// Where to begin drawing
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Only this one, by its number
    #[arg(long, value_name = "N")]
    only: Option<u64>,
    /// Also the checkpoints of this folder, each in a folder of its own
    #[arg(long, value_name = "DIR")]
    more: Vec<PathBuf>,
}

impl Default for Arguments {
    /// Some hundreds, for `cargo xtask test`.
    fn default() -> Arguments {
        Arguments { count: 400, seed: 0, only: None, more: Vec::new() }
    }
}

/// How much memory a checkpoint may take beside what it has on disk, and how often that.
const MEMORY: (u64, u64) = (64 << 20, 8);

/// What was found.
struct Finding {
    index: u64,
    what: String,
}

#[derive(Default)]
struct Tally {
    ran: u64,
    refused: u64,
    memory: u64,
    findings: Vec<Finding>,
}

/// Makes mutants and has them run; an error if one does harm.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let bases = bases(&arguments.more)?;
    let program = process::built(&["--workspace", "--example", "attempts"])?;
    let kept = cache::dir()?.join("mutants").join(arguments.seed.to_string());
    let started = Instant::now();
    let (first, end) = match arguments.only {
        Some(only) => (only, only + 1),
        None => (0, arguments.count),
    };
    let (next, tally) = (AtomicU64::new(first), Mutex::new(Tally::default()));
    let workers = thread::available_parallelism().map_or(1, |n| n.get());
    let scratch = Scratch::new()?;
    let work = |id: usize| -> Result<()> {
        let folder = scratch.0.join(id.to_string());
        let mut worker = Worker::new(&program, scratch.0.join(format!("{id}.stderr")));
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= end {
                return Ok(());
            }
            let finding = one(index, arguments.seed, &bases, &folder, &mut worker, &tally)?;
            if let Some(finding) = finding {
                println!("{index}: {}", finding.what);
                keep(&folder, &kept.join(index.to_string()))?;
                locked(&tally).findings.push(finding);
            }
        }
    };
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|id| scope.spawn(move || work(id))).collect();
        threads.into_iter().try_for_each(|t| t.join().unwrap_or_else(|_| bail!("a thread panicked")))
    })?;
    let mut tally = tally.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    println!(
        "{} mutants of {} checkpoints in {:.0} s: {} ran, {} were refused, {} did harm; at most {} MiB",
        end - first,
        bases.len(),
        started.elapsed().as_secs_f64(),
        tally.ran,
        tally.refused,
        tally.findings.len(),
        tally.memory >> 20,
    );
    tally.findings.sort_by_key(|f| f.index);
    if tally.findings.is_empty() {
        return Ok(());
    }
    let numbers: Vec<_> = tally.findings.iter().map(|f| f.index.to_string()).collect();
    bail!(
        "mutants {} of seed {} did harm; they are kept in {}",
        numbers.join(", "),
        arguments.seed,
        kept.display()
    )
}

/// Makes and runs mutant `index`; what is wrong, if anything is.
fn one(
    index: u64,
    seed: u64,
    bases: &[Base],
    folder: &Path,
    worker: &mut Worker,
    tally: &Mutex<Tally>,
) -> Result<Option<Finding>> {
    let mut random = Random::new(seed, index);
    let base = random.pick(bases);
    let mutant = Mutant::of(base, &mut random);
    cache::remove(folder)?;
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let path = mutant.write(folder)?;
    let outcome = worker.attempt(&path)?;
    let mut tally = locked(tally);
    let memory = match outcome {
        Outcome::Ran { memory } => {
            tally.ran += 1;
            memory
        }
        Outcome::Refused { memory } => {
            tally.refused += 1;
            memory
        }
        Outcome::Bad(what) => {
            let what = format!("{} ({}): {what}", base.name, mutant.changes.join("; "));
            return Ok(Some(Finding { index, what }));
        }
    };
    tally.memory = tally.memory.max(memory);
    let (fixed, times) = MEMORY;
    let most = fixed + times * base.size();
    let what = format!("{} ({}): {} MiB of memory", base.name, mutant.changes.join("; "), memory >> 20);
    Ok((memory > most).then_some(Finding { index, what }))
}

fn locked(tally: &Mutex<Tally>) -> std::sync::MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Small sound checkpoints of every format, in the same order every time.
fn bases(more: &[PathBuf]) -> Result<Vec<Base>> {
    let generated = match env::var_os("MLX_LM_FIXTURES") {
        Some(folder) => folder.into(),
        None => fixtures::generated()?,
    };
    let mut roots = vec![workspace().join("fixtures"), generated];
    roots.extend(env::var_os("MLX_LM_JANG_FIXTURES").map(PathBuf::from));
    roots.extend(more.iter().cloned());
    let mut bases = BTreeMap::new();
    for root in roots {
        for entry in fs::read_dir(&root).with_context(|| root.display().to_string())? {
            let folder = entry?.path();
            if folder.join("config.json").exists() || folder.join("model.gguf").exists() {
                let base = Base::read(&folder)?;
                bases.entry(base.name.clone()).or_insert(base);
            }
        }
    }
    let mut bases: Vec<Base> = bases.into_values().collect();
    // Some of the GGUF files, so that split ones are no more than others.
    let split: Vec<Base> = bases.iter().filter_map(Base::split).step_by(4).collect();
    bases.extend(split);
    for name in VOCABULARIES {
        bases.push(Base::file(&vocab::folder()?.join(name))?);
    }
    Ok(bases)
}

/// Vocabularies of kinds that the fixtures do not have, the smallest.
const VOCABULARIES: [&str; 2] = ["ggml-vocab-llama-spm.gguf", "ggml-vocab-bert-bge.gguf"];

fn keep(folder: &Path, to: &Path) -> Result<()> {
    cache::remove(to)?;
    fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

/// A folder for mutants, gone with this.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch> {
        let folder = env::temp_dir().join(format!("mlx-lm-mutants-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(Scratch(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = cache::remove(&self.0);
    }
}
