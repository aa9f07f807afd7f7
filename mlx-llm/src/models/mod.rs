//! One short file for each family of architectures; [`MODELS`] is the whole registry.

mod bitnet;
mod deepseek;
mod falcon_h1;
mod gemma3;
mod gemma4;
mod gpt_oss;
mod lfm2;
mod llama;
mod llama4;
mod mistral3;
mod mistral4;
mod nemotron_h;
mod qwen3;
mod qwen3_next;

use mlx_lm_common::model::{Architecture, LanguageModel};
use mlx_lm_common::{Config, Result, weights::Checkpoint, weights::Weights};

/// A line each: the model type, what brings its published layouts into one, and what builds it from that.
macro_rules! architectures {
    ($($model_type:literal: $remap:path, $load:path;)*) => {
        [$(Architecture { model_type: $model_type, remap: $remap, load: |c, w| boxed($load(c, w)) }),*]
    };
}

/// Every architecture of this crate.
pub const MODELS: &[Architecture] = &architectures![
    "bitnet": remap, bitnet::load;
    "deepseek_v2": deepseek::remap, deepseek::load;
    "deepseek_v3": deepseek::remap, deepseek::load;
    "falcon_h1": falcon_h1::remap, falcon_h1::load;
    "gemma3": gemma3::remap, gemma3::load;
    "gemma3_text": gemma3::remap, gemma3::load;
    "gemma4": gemma4::remap, gemma4::load;
    "gemma4_text": gemma4::remap, gemma4::load;
    "gemma4_unified": gemma4::remap, gemma4::load;
    "gemma4_unified_text": gemma4::remap, gemma4::load;
    "gpt_oss": gpt_oss::remap, gpt_oss::load;
    "kimi_k2": deepseek::remap, deepseek::load;
    "lfm2": lfm2::remap, lfm2::load;
    "lfm2_moe": lfm2::remap, lfm2::load;
    "llama": remap, llama::load;
    "llama4": llama4::remap, llama4::load;
    "llama4_text": llama4::remap, llama4::load;
    "ministral3": mistral3::remap, llama::load;
    "mistral": mistral3::remap, llama::load;
    "mistral3": mistral3::remap, llama::load;
    "mistral4": deepseek::remap, mistral4::load;
    "nemotron_h": nemotron_h::remap, nemotron_h::load;
    "qwen2": remap, llama::load;
    "qwen3": remap, qwen3::load;
    "qwen3_5": qwen3_next::remap_whole, qwen3_next::load;
    "qwen3_5_moe": qwen3_next::remap_whole, qwen3_next::load;
    "qwen3_5_moe_text": qwen3_next::remap_whole, qwen3_next::load;
    "qwen3_5_text": qwen3_next::remap_whole, qwen3_next::load;
    "qwen3_moe": qwen3::remap, qwen3::load;
    "qwen3_next": qwen3_next::remap, qwen3_next::load;
    "smollm3": remap, llama::load;
];

fn boxed<M: LanguageModel + 'static>(model: Result<M>) -> Result<Box<dyn LanguageModel>> {
    Ok(Box::new(model?))
}

/// What every published layout of these families needs: tables of old exporters go, and a head that is tied anyway.
fn remap(checkpoint: &mut Checkpoint, config: &Config) -> Result<()> {
    let tied = config.get("tie_word_embeddings")?.unwrap_or(false);
    checkpoint.ignore(|name| name.ends_with("rotary_emb.inv_freq") || (tied && name.starts_with("lm_head.")));
    Ok(())
}

/// Whether the head shares the embedding's matrix: what the configuration says, or else whether the checkpoint lacks a head.
fn tied(config: &Config, w: &Weights) -> Result<bool> {
    Ok(config.get("tie_word_embeddings")?.unwrap_or_else(|| !w.has("lm_head.weight")))
}
