//! `llm-tool info`: what a model is and what it needs, from the headers of its files alone.

mod layers;
mod tensors;

use crate::{
    model::{self, PolicyArgs},
    terminal,
};
use clap::Args;
use layers::LayerCache;
use mlx_llm::{
    Config, Result,
    common::{Backend, MODEL_FILES, raw::Device, weights},
    registry,
};
use mlx_rs::Dtype;
use serde_json::{Value, json};
use tensors::{Class, Tally};

/// Show a model's architecture, parameters, precision and memory; no weights are loaded
#[derive(Args)]
#[command(after_help = "\
Examples:
  llm-tool info --model demo
  llm-tool info --model ./my-model --dtype bfloat16 --json")]
pub(crate) struct Arguments {
    /// A folder, a .gguf file, owner/name[@revision], or `demo`
    #[arg(long, value_name = "MODEL")]
    model: String,
    #[command(flatten)]
    policy: PolicyArgs,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Lengths of context for which memory is told, besides the longest.
const LENGTHS: [u64; 3] = [2048, 8192, 32768];

/// What is shown.
struct Info {
    config: Config,
    backend: Backend,
    stored: Dtype,
    tally: Tally,
    file_bytes: u64,
    weight_bytes: u64,
    /// Layers of one kind, and how many there are.
    caches: Vec<(LayerCache, u64)>,
    context: Option<u64>,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let info = Info::read(arguments)?;
    let text = if arguments.json { format!("{}\n", info.json()) } else { info.text() };
    terminal::print(&text)
}

impl Info {
    fn read(arguments: &Arguments) -> Result<Info> {
        let (config, mut checkpoint) = weights::open(&model::find(&arguments.model, MODEL_FILES)?)?;
        let registry = registry();
        let architecture = registry.get(&config.model_type)?;
        (architecture.remap)(&mut checkpoint, &config)?;
        let stored = checkpoint.float_type().unwrap_or(Dtype::Float32);
        let backend = Backend::new(arguments.policy.device()?, arguments.policy.dtype(), stored, true);
        Ok(Info {
            tally: Tally::of(&checkpoint, &config)?,
            file_bytes: checkpoint.bytes(),
            weight_bytes: checkpoint.memory_bytes(backend.compute) as u64,
            caches: layers::caches(&checkpoint, &config, backend.compute)?,
            context: config.get("max_position_embeddings")?,
            config,
            backend,
            stored,
        })
    }

    /// Bytes that the caches of all layers take at a length of context.
    fn cache_bytes(&self, length: u64) -> u64 {
        self.caches.iter().map(|(cache, layers)| layers * cache.bytes(length)).sum()
    }

    fn lengths(&self) -> Vec<u64> {
        let longest = self.context.unwrap_or(u64::MAX);
        let mut lengths: Vec<u64> = LENGTHS.into_iter().filter(|n| *n < longest).collect();
        lengths.extend(self.context);
        lengths
    }

    fn json(&self) -> Value {
        let class = |(class, sum): (Class, tensors::Sum)| {
            let figures = json!({ "parameters": sum.parameters, "bytes": sum.bytes, "bits_per_weight": sum.bits_per_weight() });
            (class.name().to_string(), figures)
        };
        let cache = |(cache, layers): &(LayerCache, u64)| json!({ "kind": cache.kind(), "layers": layers, "window": cache.window, "bytes_per_token": layers * cache.per_token });
        let memory =
            |length: u64| json!({ "context": length, "bytes": self.weight_bytes + self.cache_bytes(length) });
        let total = self.tally.total();
        json!({
            "model_type": self.config.model_type,
            "layers": self.caches.iter().map(|(_, layers)| layers).sum::<u64>(),
            "parameters": total.parameters,
            "bits_per_weight": total.bits_per_weight(),
            "classes": self.tally.classes().map(class).collect::<serde_json::Map<_, _>>(),
            "float_type": name(self.stored),
            "compute_type": name(self.backend.compute),
            "device": device(self.backend),
            "context": self.context,
            "file_bytes": self.file_bytes,
            "weight_bytes": self.weight_bytes,
            "cache_bytes_per_token": self.caches.iter().map(|(c, layers)| layers * c.per_token).sum::<u64>(),
            "caches": self.caches.iter().map(cache).collect::<Vec<_>>(),
            "memory": self.lengths().into_iter().map(memory).collect::<Vec<_>>(),
        })
    }

    fn text(&self) -> String {
        let total = self.tally.total();
        let mut lines = vec![
            row("architecture", &self.config.model_type),
            row("parameters", &count(total.parameters)),
            row(
                "in the files",
                &format!("{}, {:.2} bits per weight", size(self.file_bytes), total.bits_per_weight()),
            ),
        ];
        for (class, sum) in self.tally.classes() {
            let figures =
                format!("{:>9}  {:>6.2} bits per weight", count(sum.parameters), sum.bits_per_weight());
            lines.push(row(&format!("  {}", class.name()), &figures));
        }
        let compute =
            format!("{} on the {}", name(self.backend.compute), device(self.backend).to_uppercase());
        lines.push(row("float type", &format!("{}; computes in {compute}", name(self.stored))));
        lines.push(row("context", &self.context.map_or("not told".into(), |n| format!("{n} tokens"))));
        for (cache, layers) in &self.caches {
            let window = cache.window.map_or(String::new(), |n| format!(" of the latest {n} tokens"));
            let figures = format!("{} a token{window}, {layers} layers", size(layers * cache.per_token));
            lines.push(row(&format!("cache, {}", cache.kind()), &figures));
        }
        lines.push(row("memory", &format!("{} for weights, at most", size(self.weight_bytes))));
        for length in self.lengths() {
            let all = size(self.weight_bytes + self.cache_bytes(length));
            lines.push(row("", &format!("{all} with a cache of {length} tokens")));
        }
        lines.join("\n") + "\n"
    }
}

fn row(name: &str, value: &str) -> String {
    format!("{name:<16} {value}")
}

fn name(dtype: Dtype) -> String {
    format!("{dtype:?}").to_lowercase()
}

fn device(backend: Backend) -> &'static str {
    match backend.device {
        Device::Cpu => "cpu",
        Device::Gpu => "gpu",
    }
}

/// A number with its thousands told: 134.5 M.
fn count(n: u64) -> String {
    scaled(n, ["", " K", " M", " B"])
}

/// Bytes: 91.7 MB.
fn size(bytes: u64) -> String {
    scaled(bytes, [" B", " KB", " MB", " GB"])
}

fn scaled(n: u64, units: [&str; 4]) -> String {
    let power = [1_000, 1_000_000, 1_000_000_000].iter().filter(|unit| n >= **unit).count();
    if power == 0 {
        format!("{n}{}", units[0])
    } else {
        format!("{:.1}{}", n as f64 / 1e3_f64.powi(power as i32), units[power])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        for (n, wanted) in
            [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (91_700_000, "91.7 MB"), (5_000_000_000, "5.0 GB")]
        {
            assert_eq!(size(n), wanted);
        }
        assert_eq!(count(134_515_008), "134.5 M");
    }
}
