//! One short file for each family of architectures; [`MODELS`] is the whole registry.

mod bitnet;
mod cohere;
mod deepseek;
mod dialects;
mod falcon_h1;
mod gemma;
mod gemma2;
mod gemma3;
mod gemma4;
mod glm4;
mod glm4_moe;
mod gpt_oss;
mod granite;
mod granite_hybrid;
mod lfm2;
mod llama;
mod llama4;
mod minimax;
mod mistral3;
mod mistral4;
mod mixtral;
mod nemotron_h;
mod olmo2;
mod phi;
mod phi3;
mod qwen3;
mod qwen3_next;
mod stablelm;
mod starcoder2;

use mlx_lm_common::model::{Architecture, LanguageModel};
use mlx_lm_common::{Config, Result, weights::Checkpoint, weights::Weights};

/// A line each: the model type, what brings its published layouts into mlx-lm's, and what builds it from that; then whatever else
/// [`Architecture`] may have.
macro_rules! architectures {
    ($($model_type:literal: $remap:path, $load:path $(=> $($change:ident($($argument:path)?)),+)?;)*) => {
        [$(Architecture::new($model_type, $remap, |c, w| boxed($load(c, w)))$($(.$change($($argument)?))+)?),*]
    };
}

/// Every architecture of this crate.
pub const MODELS: &[Architecture] = &architectures![
    "bitnet": remap, bitnet::load;
    "cohere": remap, cohere::load;
    "cohere2": remap, cohere::load;
    "deepseek_v2": deepseek::remap, deepseek::load => fold(deepseek::fold), written(deepseek::WRITTEN);
    "deepseek_v3": deepseek::remap, deepseek::load => fold(deepseek::fold), written(deepseek::WRITTEN);
    "dots1": glm4_moe::remap, glm4_moe::load_dots;
    "ernie4_5": remap, dialects::ernie;
    "exaone": dialects::remap_exaone, dialects::exaone => fold(dialects::fold_exaone);
    "exaone4": remap, olmo2::load_exaone;
    "falcon_h1": falcon_h1::remap, falcon_h1::load => fold(falcon_h1::fold);
    "gemma": remap, gemma::load;
    "gemma2": remap, gemma2::load;
    "gemma3": gemma3::remap, gemma3::load => wrapper();
    "gemma3_text": gemma3::remap, gemma3::load;
    "gemma4": gemma4::remap, gemma4::load => written(gemma4::WRITTEN), wrapper();
    "gemma4_text": gemma4::remap, gemma4::load => written(gemma4::WRITTEN);
    "gemma4_unified": gemma4::remap, gemma4::load => written(gemma4::WRITTEN), wrapper();
    "gemma4_unified_text": gemma4::remap, gemma4::load => written(gemma4::WRITTEN);
    "glm": remap, glm4::load_first => fold(glm4::fold);
    "glm4": remap, glm4::load => fold(glm4::fold);
    "glm4_moe": glm4_moe::remap, glm4_moe::load => written(deepseek::WRITTEN);
    "glm4_moe_lite": deepseek::remap, deepseek::load => fold(deepseek::fold), written(deepseek::WRITTEN);
    "gpt_oss": gpt_oss::remap, gpt_oss::load => written(gpt_oss::WRITTEN);
    "granite": granite::remap, granite::load => written(granite::WRITTEN);
    "granitemoe": granite::remap, granite::load => written(granite::WRITTEN_MOE);
    "granitemoehybrid": granite_hybrid::remap, granite_hybrid::load => fold(granite_hybrid::fold), written(granite_hybrid::WRITTEN);
    "helium": remap, dialects::helium;
    "internlm3": remap, dialects::internlm3;
    "kimi_k2": deepseek::remap, deepseek::load => fold(deepseek::fold), written(deepseek::WRITTEN);
    "lfm2": lfm2::remap, lfm2::load;
    "lfm2_moe": lfm2::remap, lfm2::load => written(lfm2::WRITTEN);
    "llama": remap, llama::load;
    "llama4": llama4::remap, llama4::load => wrapper();
    "llama4_text": llama4::remap, llama4::load;
    "mimo": dialects::remap_mimo, llama::load;
    "minicpm": remap, granite::load_minicpm;
    "minimax_m2": minimax::remap, minimax::load => written(minimax::WRITTEN);
    "ministral3": mistral3::remap, llama::load;
    "mistral": mistral3::remap, llama::load;
    "mistral3": mistral3::remap, llama::load => wrapper();
    "mistral4": deepseek::remap, mistral4::load => fold(deepseek::fold);
    "mixtral": mixtral::remap, mixtral::load;
    "nemotron": remap, starcoder2::load_nemotron => fold(starcoder2::fold_nemotron);
    "nemotron_h": nemotron_h::remap, nemotron_h::load => written(nemotron_h::WRITTEN);
    "olmo2": remap, olmo2::load;
    "olmo3": remap, olmo2::load;
    "olmoe": qwen3::remap, qwen3::load_olmoe;
    "phi": remap, phi::load;
    "phi3": remap, llama::load => fold(phi3::fold);
    "qwen2": remap, llama::load;
    "qwen2_moe": qwen3::remap, qwen3::load_second;
    "qwen3": remap, qwen3::load;
    "qwen3_5": qwen3_next::remap, qwen3_next::load => fold(qwen3_next::fold_whole), written(qwen3_next::WRITTEN_5), wrapper();
    "qwen3_5_moe": qwen3_next::remap, qwen3_next::load => fold(qwen3_next::fold_whole), written(qwen3_next::WRITTEN_5), wrapper();
    "qwen3_5_moe_text": qwen3_next::remap, qwen3_next::load => fold(qwen3_next::fold_whole), written(qwen3_next::WRITTEN_5);
    "qwen3_5_text": qwen3_next::remap, qwen3_next::load => fold(qwen3_next::fold_whole), written(qwen3_next::WRITTEN_5);
    "qwen3_moe": qwen3::remap, qwen3::load => written(qwen3::WRITTEN);
    "qwen3_next": qwen3_next::remap, qwen3_next::load => fold(qwen3_next::fold), written(qwen3_next::WRITTEN);
    "seed_oss": remap, dialects::seed_oss;
    "smollm3": remap, llama::load;
    "stablelm": remap, stablelm::load => fold(stablelm::fold);
    "starcoder2": remap, starcoder2::load;
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

/// Leaves out layers after the last one, which predict tokens after the next.
fn keep_layers(checkpoint: &mut Checkpoint, config: &Config) -> Result<()> {
    let layers = i64::from(config.dim("num_hidden_layers")?);
    let number = |name: &str| name.strip_prefix("model.layers.")?.split('.').next()?.parse::<i64>().ok();
    checkpoint.ignore(|name| number(name).is_some_and(|layer| layer >= layers));
    Ok(())
}
