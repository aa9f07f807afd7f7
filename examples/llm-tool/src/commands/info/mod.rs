//! `llm-tool info`: what a model is and what it needs, from the headers of its files alone.

mod encodings;
mod tensors;

use crate::{
    caches::{self, Group},
    kv::KvSpec,
    model::{self, PolicyArgs},
    terminal,
    units::{count, size},
};
use clap::Args;
use mlx_llm::{
    Config, LoadOptions, Result,
    common::{
        Backend, MODEL_FILES,
        cache::{Cache, CachePolicy},
        dtype,
        model::LoadedModel,
        raw::{Device, whole_graphs},
        weights::{self, Packing},
    },
    load_local, registry,
};
use mlx_rs::{Array, Dtype};
use serde_json::{Value, json};
use std::{collections::BTreeMap, path::Path};
use tensors::{Class, Tally};

/// Show a model's architecture, parameters, precision and memory; no weights are loaded
#[derive(Args)]
#[command(after_help = "\
Examples:
  llm-tool info --model demo
  llm-tool info --model ./my-model --dtype bfloat16 --json
  llm-tool info --model ./my-model --kv max:1024          which layers that bounds")]
pub(crate) struct Arguments {
    /// A folder, a .gguf file, owner/name[@revision], or `demo`
    #[arg(long, value_name = "MODEL")]
    model: String,
    #[command(flatten)]
    policy: PolicyArgs,
    /// How keys and values would be stored: `float` or `max:N`
    #[arg(long, value_name = "SPEC", default_value = "float")]
    kv: KvSpec,
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
    /// How many matrices are packed in each way.
    packings: BTreeMap<Packing, u64>,
    encodings: Vec<encodings::Row>,
    /// What was found that a person may want to know.
    remarks: Vec<String>,
    file_bytes: u64,
    weight_bytes: u64,
    /// What all layers remember, in words.
    remembered: String,
    caches: Vec<Group>,
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
        let path = model::find(&arguments.model, MODEL_FILES)?;
        let (config, mut checkpoint) = weights::open(&path)?;
        let registry = registry();
        let architecture = registry.get(&config.model_type)?;
        let published = checkpoint.clone();
        architecture.rewrite(&mut checkpoint, &config)?;
        let stored = checkpoint.float_type().unwrap_or(Dtype::Float32);
        let (device, wanted) = (arguments.policy.device()?, arguments.policy.dtype());
        let backend = Backend::new(device, wanted, dtype::of_model(&checkpoint, &config), true);
        let options = LoadOptions { device, dtype: wanted, without_weights: true, ..Default::default() };
        let loaded = load_local(&path, &options)?;
        let cache = cache(&loaded, arguments.kv)?;
        let mut packings = BTreeMap::new();
        loaded.packings.values().for_each(|packing| *packings.entry(*packing).or_default() += 1);
        Ok(Info {
            tally: Tally::of(&checkpoint, &loaded.packings),
            packings,
            encodings: encodings::rows(&published, &checkpoint, &loaded.packings, backend.compute),
            remarks: loaded.remarks,
            file_bytes: checkpoint.bytes(),
            weight_bytes: checkpoint.memory_bytes(backend.compute) as u64,
            remembered: caches::in_words(&cache),
            caches: caches::groups(&cache),
            context: config.get("max_position_embeddings")?,
            config,
            backend,
            stored,
        })
    }

    /// Bytes that the caches of all layers take at a length of context.
    fn cache_bytes(&self, length: u64) -> u64 {
        self.caches.iter().map(|group| group.bytes_at(length)).sum()
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
        let cache = |g: &Group| json!({ "layers": g.layers, "kind": g.report.kind, "bounded": g.report.bounded, "bytes": g.bytes_at(0), "bytes_per_token": g.bytes_each() });
        let memory =
            |length: u64| json!({ "context": length, "bytes": self.weight_bytes + self.cache_bytes(length) });
        let packing = |(p, matrices): (&Packing, &u64)| json!({ "bits": p.bits, "group_size": p.group, "mode": p.mode.name(), "matrices": matrices });
        let total = self.tally.total();
        json!({
            "model_type": self.config.model_type,
            "layers": self.caches.iter().map(|g| g.layers).sum::<u64>(),
            "parameters": total.parameters,
            "bits_per_weight": total.bits_per_weight(),
            "classes": self.tally.classes().map(class).collect::<serde_json::Map<_, _>>(),
            "packings": self.packings.iter().map(packing).collect::<Vec<_>>(),
            "encodings": self.encodings.iter().map(|row| row.json(self.backend.compute)).collect::<Vec<_>>(),
            "remarks": self.remarks,
            "float_type": name(self.stored),
            "compute_type": name(self.backend.compute),
            "device": device(self.backend),
            "context": self.context,
            "file_bytes": self.file_bytes,
            "weight_bytes": self.weight_bytes,
            "cache_bytes_per_token": self.caches.iter().map(Group::bytes_each).sum::<u64>(),
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
        let mut title = "packed";
        for (Packing { bits, group, mode }, matrices) in &self.packings {
            let noun = if *matrices == 1 { "matrix" } else { "matrices" };
            let text = format!("{matrices} {noun} of {bits} bits in groups of {group} ({})", mode.name());
            lines.push(row(std::mem::take(&mut title), &text));
        }
        let width = self.encodings.iter().map(encodings::Row::width).max().unwrap_or(0);
        for (i, encoding) in self.encodings.iter().enumerate() {
            let title = if i == 0 { "encodings" } else { "" };
            lines.push(row(title, &encoding.text(self.backend.compute, width)));
        }
        let compute =
            format!("{} on the {}", name(self.backend.compute), device(self.backend).to_uppercase());
        lines.push(row("float type", &format!("{}; computes in {compute}", name(self.stored))));
        lines.push(row("context", &self.context.map_or("not told".into(), |n| format!("{n} tokens"))));
        lines.push(row("layers remember", &self.remembered));
        let each = self.caches.iter().map(Group::bytes_each).sum();
        let always = match self.cache_bytes(0) {
            0 => String::new(),
            bytes => format!(", and {} whatever the length", size(bytes)),
        };
        lines.push(row("cache", &format!("{} a token while it is kept{always}", size(each))));
        lines.push(row("memory", &format!("{} for weights, at most", size(self.weight_bytes))));
        for length in self.lengths() {
            let all = size(self.weight_bytes + self.cache_bytes(length));
            lines.push(row("", &format!("{all} with a cache of {length} tokens")));
        }
        lines.extend(self.remarks.iter().map(|remark| row("remark", remark)));
        lines.join("\n") + "\n"
    }
}

/// Bits that each value of a loaded model takes in its files.
pub(crate) fn bits_per_weight(path: &Path, loaded: &LoadedModel) -> Result<f64> {
    let (config, mut checkpoint) = weights::open(path)?;
    registry().get(&config.model_type)?.rewrite(&mut checkpoint, &config)?;
    Ok(Tally::of(&checkpoint, &loaded.packings).total().bits_per_weight())
}

/// What the model remembers of one token. Nothing is computed for that.
fn cache(loaded: &LoadedModel, kv: KvSpec) -> Result<Cache> {
    let (model, policy) = (&loaded.model, CachePolicy { max_size: kv.max_size(), ..Default::default() });
    let mut cache = Cache::new(&model.cache_specs(), &policy)?;
    whole_graphs(|| model.hidden(model.embed(&Array::from_slice(&[0u32], &[1, 1]))?, &mut cache))?;
    Ok(cache)
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
