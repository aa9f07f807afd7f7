//! `llm-tool logits`: what a model computes, for comparison with other implementations.

use crate::{kv::KvSpec, model::ModelArgs, tokens::TokenIds};
use clap::Args;
use mlx_llm::{
    Error, GenerateParameters, Result,
    common::{
        cache::{Cache, CachePolicy},
        generate::{Prompt, Sampler, TokenIterator},
        model::LanguageModel,
    },
};
use mlx_rs::{Array, Dtype, ops, transforms};
use std::{collections::HashMap, fs, num::NonZeroUsize, path::Path, path::PathBuf, process};

/// Write a model's logits for given tokens to a file
///
/// The safetensors file holds `prefill` [1, L, V]: logits of the prompt; `decode` [1, n, V]: logits of --decode-tokens, fed one by
/// one after it; both float32; and `greedy` [N], int32: the likeliest continuation of the prompt. What was not asked for is left
/// out.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    /// Token ids of the prompt
    #[arg(long, value_name = "IDS")]
    prompt_tokens: TokenIds,
    /// Token ids to feed one by one after the prompt
    #[arg(long, value_name = "IDS", default_value = "")]
    decode_tokens: TokenIds,
    /// How many tokens to generate after the prompt
    #[arg(long, value_name = "N", default_value_t = 0)]
    greedy: usize,
    /// Run the prompt through the model so many tokens at a time
    #[arg(long, value_name = "N")]
    chunk: Option<NonZeroUsize>,
    /// How to store keys and values: `float` or `max:N`
    #[arg(long, value_name = "SPEC", default_value = "float")]
    kv: KvSpec,
    /// Continue from a saved prompt cache, which the prompt then follows
    #[arg(long, value_name = "FILE", conflicts_with = "greedy")]
    cache_in: Option<PathBuf>,
    /// Save the prompt cache after the prompt
    #[arg(long, value_name = "FILE")]
    cache_out: Option<PathBuf>,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

const EXAMPLES: &str = "\
Examples:
  llm-tool logits --model ./my-model --prompt-tokens 1,2,3 --out logits.safetensors
  llm-tool logits --model demo --prompt-tokens 1,4093,198 --decode-tokens 504,6376 --greedy 32 --chunk 2 --out l.safetensors
  llm-tool logits --model demo --cache-in prompt.safetensors --prompt-tokens 504,6376 --out l.safetensors";

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { prompt_tokens: prompt, decode_tokens: decode, .. } = arguments;
    if prompt.0.is_empty() {
        return Err(Error::EmptyPrompt);
    }
    let loaded = arguments.model.load_local(&arguments.model.find()?)?;
    let model = loaded.model.as_ref();
    prompt.check("prompt-tokens", model.vocab_size())?;
    decode.check("decode-tokens", model.vocab_size())?;

    let chunk = arguments.chunk.map_or(prompt.0.len(), NonZeroUsize::get);
    let mut cache = match &arguments.cache_in {
        Some(file) => Cache::load(file, &model.cache_specs(), &policy(arguments.kv))?.0,
        None => new_cache(model, arguments.kv)?,
    };
    let mut arrays = HashMap::from([("prefill", forward(model, prompt.0.chunks(chunk), &mut cache)?)]);
    if let Some(file) = &arguments.cache_out {
        cache.save(file, &[])?;
    }
    if !decode.0.is_empty() {
        arrays.insert("decode", forward(model, decode.0.chunks(1), &mut cache)?);
    }
    if arguments.greedy > 0 {
        let tokens = greedy(model, arguments, chunk)?;
        arrays.insert("greedy", Array::from_slice(&tokens, &[tokens.len() as i32]));
    }
    save(&arrays, &arguments.out)
}

fn new_cache(model: &dyn LanguageModel, kv: KvSpec) -> Result<Cache> {
    Cache::new(&model.cache_specs(), &policy(kv))
}

fn policy(kv: KvSpec) -> CachePolicy {
    CachePolicy { max_size: kv.max_size(), ..Default::default() }
}

/// Logits [1, n, V] of all chunks, in float32.
fn forward<'a>(
    model: &dyn LanguageModel,
    chunks: impl Iterator<Item = &'a [u32]>,
    cache: &mut Cache,
) -> Result<Array> {
    let logits = chunks.map(|chunk| {
        let ids = Array::from_slice(chunk, &[1, chunk.len() as i32]);
        let logits = model.forward(&ids, cache)?.as_dtype(Dtype::Float32)?;
        transforms::eval([&logits])?;
        Ok(logits)
    });
    Ok(ops::concatenate(&logits.collect::<Result<Vec<_>>>()?, 1)?)
}

/// The likeliest tokens after the prompt, by the loop that generates text.
fn greedy(model: &dyn LanguageModel, arguments: &Arguments, chunk: usize) -> Result<Vec<i32>> {
    let parameters = GenerateParameters {
        max_tokens: Some(arguments.greedy),
        prefill_step_size: chunk,
        ..Default::default()
    };
    let mut cache = new_cache(model, arguments.kv)?;
    let prompt = Prompt { tokens: &arguments.prompt_tokens.0, cached: 0, context: None };
    let sampler = Sampler::new(&parameters, &[])?;
    let tokens = TokenIterator::new(model, &mut cache, &prompt, &parameters, sampler, &mut |_| true)?;
    tokens.map(|token| Ok(token?.id as i32)).collect()
}

/// Writes the file, whole or not at all.
fn save(arrays: &HashMap<&str, Array>, path: &Path) -> Result<()> {
    // MLX wants the extension.
    let partial = path.with_extension(format!("{}.partial.safetensors", process::id()));
    let metadata = HashMap::from([("format".to_string(), "mlx".to_string())]);
    let written = Array::save_safetensors(arrays, &metadata, &partial)
        .map_err(|e| Error::file(path, format!("cannot be written: {e}")))
        .and_then(|()| fs::rename(&partial, path).map_err(|e| Error::io(path, e)));
    if written.is_err() {
        // Nothing depends on its removal.
        let _ = fs::remove_file(&partial);
    }
    written
}
