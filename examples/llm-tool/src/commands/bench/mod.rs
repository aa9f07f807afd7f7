//! `llm-tool bench`: how fast a model is here.

mod memory;

use crate::{caches, graph, kv::KvSpec, model::ModelArgs, progress, terminal, tokens::NoTokenizer};
use clap::Args;
use mlx_llm::{
    Error, Event, GenerateParameters, ModelContainer, Result, Summary, Tokenizer,
    common::{
        cache::{Cache, CachePolicy},
        raw::Device,
    },
};
use mlx_lm_tokenizers::AutoTokenizer;
use serde_json::{Value, json};
use std::{num::NonZeroUsize, path::Path, sync::Arc, time::Instant};

/// Measure speed and memory
///
/// Loads the model, runs the prompt once (ttft_s is its time), then measures: the prompt again, and the tokens after the first one,
/// through everything that a chat goes through. The last line is a JSON object.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    /// Length of the prompt
    #[arg(long, value_name = "N")]
    prompt_tokens: NonZeroUsize,
    /// Tokens to generate after the first one
    #[arg(long, value_name = "N")]
    gen_tokens: NonZeroUsize,
    /// Threads that the CPU kernels use, of one for each processor (or MLX_LM_THREADS)
    #[arg(long, value_name = "T")]
    threads: Option<NonZeroUsize>,
    /// How to store keys and values: `float` or `max:N`
    #[arg(long, value_name = "SPEC", default_value = "float")]
    kv: KvSpec,
    /// Measure so often and report medians
    #[arg(long, value_name = "N", default_value = "1")]
    repeat: NonZeroUsize,
    /// Print the JSON line alone
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  llm-tool bench --model demo --prompt-tokens 512 --gen-tokens 128
  llm-tool bench --model demo --prompt-tokens 32 --gen-tokens 64 --threads 1 --repeat 5 --json

prefill_tok_s, decode_tok_s  tokens per second, of the prompt and after the first generated token
ttft_s                       seconds to the first token, the first time
peak_bytes                   most memory of the process
load_s, load_bytes           time to load, and memory that loading took
nodes_per_token              operations in the graph of one decoding step; `llm-tool nodes` names them
host_us_per_token            microseconds to build that graph
layers_remember              how much of the text, with --kv as given";

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if let Some(threads) = arguments.threads {
        mlx_lm_kernels::set_threads(threads.get());
        let have = mlx_lm_kernels::threads();
        if have < threads.get() {
            eprintln!("only {have} threads: set MLX_LM_THREADS={threads} to have more than processors");
        }
    }
    let path = arguments.model.find()?;
    let tokenizer = tokenizer(&path);
    let (before, start) = (memory::resident(), Instant::now());
    let model = arguments.model.load_with(&path, tokenizer)?;
    let (load_s, load_bytes) = (start.elapsed().as_secs_f64(), memory::resident().saturating_sub(before));

    let (backend, vocab) = model.run(|context| Ok((context.model.backend(), context.model.vocab_size())))?;
    let ids: Vec<u32> = prompt(arguments.prompt_tokens.get(), vocab);
    let bar = progress::tokens("measuring");
    bar.set_length(arguments.repeat.get() as u64);
    let first = measure(&model, &ids, 1, arguments.kv)?;
    let mut runs = Vec::new();
    for _ in 0..arguments.repeat.get() {
        runs.push(measure(&model, &ids, arguments.gen_tokens.get() + 1, arguments.kv)?);
        bar.inc(1);
    }
    // Before anything else takes memory.
    let peak_bytes = memory::peak();
    let policy = CachePolicy { max_size: arguments.kv.max_size(), ..Default::default() };
    let (nodes, seconds, remembered) = model.run(move |context| {
        let model = context.model.as_ref();
        let remembered = caches::in_words(&Cache::new(&model.cache_specs(), &policy)?);
        let nodes: usize = graph::operations(model, &policy)?.values().sum();
        Ok((nodes, median(graph::building(model, &policy)?.into_iter()), remembered))
    })?;
    bar.finish_and_clear();

    let generated = runs.iter().map(|r| r.generated_tokens - 1).min().unwrap_or(0);
    if generated < arguments.gen_tokens.get() {
        eprintln!("only {generated} tokens were generated: the model's context is full");
    }
    let figures = json!({
        "prefill_tok_s": median(runs.iter().map(Summary::prefill_tokens_per_second)),
        "decode_tok_s": median(runs.iter().map(Summary::decode_tokens_per_second)),
        "peak_bytes": peak_bytes,
        "ttft_s": first.prefill_seconds,
        "load_s": load_s,
        "load_bytes": load_bytes,
        "prompt_tokens": ids.len(),
        "gen_tokens": generated,
        "threads": if backend.kernels { mlx_lm_kernels::threads() } else { 1 },
        "device": match backend.device { Device::Cpu => "cpu", Device::Gpu => "gpu" },
        "dtype": format!("{:?}", backend.compute).to_lowercase(),
        "kernels": backend.kernels,
        "nodes_per_token": nodes,
        "host_us_per_token": seconds * 1e6,
        "layers_remember": remembered,
    });
    if !arguments.json {
        terminal::print(&table(&figures))?;
    }
    terminal::print(&format!("{figures}\n"))
}

/// The model's own tokenizer, since decoding is part of the work; a model without one is measured without.
fn tokenizer(path: &Path) -> Arc<dyn Tokenizer> {
    match AutoTokenizer::load(path) {
        Ok(tokenizer) => Arc::new(tokenizer),
        Err(e) => {
            if !matches!(e, Error::Io { .. }) {
                eprintln!("measuring without a tokenizer: {e}");
            }
            Arc::new(NoTokenizer)
        }
    }
}

/// Ids that are spread over the vocabulary and always the same.
fn prompt(len: usize, vocab: i32) -> Vec<u32> {
    let vocab = u64::try_from(vocab).unwrap_or(1).max(1);
    (0..len as u64).map(|i| ((100 + i * 7919) % vocab) as u32).collect()
}

/// One generation, as a chat would have it.
fn measure(model: &ModelContainer, ids: &[u32], tokens: usize, kv: KvSpec) -> Result<Summary> {
    let parameters = GenerateParameters {
        max_tokens: Some(tokens),
        ignore_eos: true,
        max_kv_size: kv.max_size(),
        ..Default::default()
    };
    let mut stream = model.generate(ids.to_vec(), parameters, None)?;
    while let Some(event) = stream.blocking_recv() {
        if let Event::Done(summary) = event? {
            return Ok(summary);
        }
    }
    Err(Error::Unsupported("a bug: the generation ended without a word".into()))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

fn table(figures: &Value) -> String {
    let rows = figures.as_object().into_iter().flatten().map(|(name, value)| match value.as_f64() {
        Some(x) if value.is_f64() => format!("{name:<18} {x:>14.3}\n"),
        _ => format!("{name:<18} {:>14}\n", value.to_string().trim_matches('"')),
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        for (values, wanted) in [(&[3.0, 1.0, 2.0][..], 2.0), (&[4.0, 1.0], 2.5), (&[], 0.0)] {
            assert_eq!(median(values.iter().copied()), wanted, "{values:?}");
        }
    }

    #[test]
    fn prompts_stay_inside_the_vocabulary() {
        assert_eq!(prompt(3, 49152), [100, 8019, 15938]);
        assert!(prompt(1000, 256).iter().all(|id| *id < 256));
    }
}
