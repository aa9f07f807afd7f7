//! `llm-tool nodes`: what a decoding step is made of.

use crate::{graph, kv::KvSpec, model, promotions::promotions, terminal};
use clap::Args;
use mlx_llm::{
    Error, LoadOptions, Result,
    common::{MODEL_FILES, cache::CachePolicy, dtype, weights},
    load_local,
};
use mlx_rs::Dtype;
use serde_json::json;
use std::path::Path;

/// Count the operations in the graph of a decoding step
///
/// A step takes a token and gives its likeliest successor and what the cache keeps. Nothing is evaluated.
#[derive(Args)]
#[command(after_help = "\
Examples:
  llm-tool nodes --model demo
  llm-tool nodes --model ./my-model --as-on-gpu --json
  llm-tool nodes --model ./my-model --promotions")]
pub(crate) struct Arguments {
    /// A folder, a .gguf file, owner/name[@revision], or `demo`
    #[arg(long, value_name = "MODEL")]
    model: String,
    /// Count as on a GPU: without CPU kernels, in the checkpoint's own type, elementwise chains compiled. (MLX's own functions look
    /// at what there is: without a GPU they spell out norms, rotations and attention.)
    #[arg(long)]
    as_on_gpu: bool,
    /// List the operations that half precision is widened to float32 for though no block asks for it, and how often; fail if there
    /// are any. The model runs as on a GPU, uncompiled, a checkpoint in float32 in bfloat16
    #[arg(long, conflicts_with = "json")]
    promotions: bool,
    /// How to store keys and values: `float` or `max:N`
    #[arg(long, value_name = "SPEC", default_value = "float")]
    kv: KvSpec,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let path = model::find(&arguments.model, MODEL_FILES)?;
    let policy = CachePolicy { max_size: arguments.kv.max_size(), ..Default::default() };
    if arguments.promotions {
        return list_promotions(&path, &policy);
    }
    let options = if arguments.as_on_gpu { as_on_gpu(&path)? } else { LoadOptions::default() };
    let model = load_local(&path, &options)?.model;
    let operations = graph::operations(model.as_ref(), &policy)?;
    let (layers, nodes) = (model.cache_specs().len(), operations.values().sum::<usize>());
    if arguments.json {
        let figures = json!({ "layers": layers, "nodes_per_token": nodes, "operations": operations });
        return terminal::print(&format!("{figures}\n"));
    }
    let mut rows: Vec<_> = operations.into_iter().collect();
    rows.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let rows: String = rows.into_iter().map(|(name, count)| format!("{count:>6}  {name}\n")).collect();
    terminal::print(&format!("{rows}{nodes:>6}  in {layers} layers and around them\n"))
}

/// Lists what is widened, which must be nothing.
fn list_promotions(path: &Path, policy: &CachePolicy) -> Result<()> {
    let options = as_on_gpu(path)?;
    let half = options.dtype.filter(|dtype| *dtype != Dtype::Float32).unwrap_or(Dtype::Bfloat16);
    // A compiled chain would hide its parts.
    let options = LoadOptions { dtype: Some(half), compile: Some(false), ..options };
    let found = promotions(load_local(path, &options)?.model.as_ref(), policy)?;
    let rows: String = found.iter().map(|(what, count)| format!("{count:>6}  {what}\n")).collect();
    terminal::print(&rows)?;
    match found.values().sum::<usize>() {
        0 => Ok(()),
        n => {
            Err(Error::Unsupported(format!("a step widens to float32 in {n} places that do not ask for it")))
        }
    }
}

/// How a GPU would run the model.
fn as_on_gpu(path: &Path) -> Result<LoadOptions> {
    let (config, checkpoint) = weights::open(path)?;
    Ok(LoadOptions {
        dtype: Some(dtype::of_model(&checkpoint, &config)),
        without_kernels: true,
        compile: Some(true),
        ..Default::default()
    })
}
