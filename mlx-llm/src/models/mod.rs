//! One short file for each family of architectures; [`MODELS`] is the whole registry.

mod deepseek;
mod falcon_h1;
mod gemma3;
mod gemma4;
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

/// Every architecture of this crate.
pub const MODELS: &[Architecture] = &[
    Architecture { model_type: "deepseek_v2", remap: deepseek::remap, load: |c, w| boxed(deepseek::load(c, w)) },
    Architecture { model_type: "deepseek_v3", remap: deepseek::remap, load: |c, w| boxed(deepseek::load(c, w)) },
    Architecture { model_type: "falcon_h1", remap: falcon_h1::remap, load: |c, w| boxed(falcon_h1::load(c, w)) },
    Architecture { model_type: "gemma3", remap: gemma3::remap, load: |c, w| boxed(gemma3::load(c, w)) },
    Architecture { model_type: "gemma3_text", remap: gemma3::remap, load: |c, w| boxed(gemma3::load(c, w)) },
    Architecture { model_type: "gemma4", remap: gemma4::remap, load: |c, w| boxed(gemma4::load(c, w)) },
    Architecture { model_type: "gemma4_text", remap: gemma4::remap, load: |c, w| boxed(gemma4::load(c, w)) },
    Architecture { model_type: "gemma4_unified", remap: gemma4::remap, load: |c, w| boxed(gemma4::load(c, w)) },
    Architecture { model_type: "gemma4_unified_text", remap: gemma4::remap, load: |c, w| boxed(gemma4::load(c, w)) },
    Architecture { model_type: "kimi_k2", remap: deepseek::remap, load: |c, w| boxed(deepseek::load(c, w)) },
    Architecture { model_type: "lfm2", remap: lfm2::remap, load: |c, w| boxed(lfm2::load(c, w)) },
    Architecture { model_type: "lfm2_moe", remap: lfm2::remap, load: |c, w| boxed(lfm2::load(c, w)) },
    Architecture { model_type: "llama", remap, load: |c, w| boxed(llama::load(c, w)) },
    Architecture { model_type: "llama4", remap: llama4::remap, load: |c, w| boxed(llama4::load(c, w)) },
    Architecture { model_type: "llama4_text", remap: llama4::remap, load: |c, w| boxed(llama4::load(c, w)) },
    Architecture { model_type: "ministral3", remap: mistral3::remap, load: |c, w| boxed(llama::load(c, w)) },
    Architecture { model_type: "mistral", remap: mistral3::remap, load: |c, w| boxed(llama::load(c, w)) },
    Architecture { model_type: "mistral3", remap: mistral3::remap, load: |c, w| boxed(llama::load(c, w)) },
    Architecture { model_type: "mistral4", remap: deepseek::remap, load: |c, w| boxed(mistral4::load(c, w)) },
    Architecture { model_type: "nemotron_h", remap: nemotron_h::remap, load: |c, w| boxed(nemotron_h::load(c, w)) },
    Architecture { model_type: "qwen2", remap, load: |c, w| boxed(llama::load(c, w)) },
    Architecture { model_type: "qwen3", remap, load: |c, w| boxed(qwen3::load(c, w)) },
    Architecture {
        model_type: "qwen3_5",
        remap: qwen3_next::remap_whole,
        load: |c, w| boxed(qwen3_next::load(c, w)),
    },
    Architecture {
        model_type: "qwen3_5_moe",
        remap: qwen3_next::remap_whole,
        load: |c, w| boxed(qwen3_next::load(c, w)),
    },
    Architecture {
        model_type: "qwen3_5_moe_text",
        remap: qwen3_next::remap_whole,
        load: |c, w| boxed(qwen3_next::load(c, w)),
    },
    Architecture {
        model_type: "qwen3_5_text",
        remap: qwen3_next::remap_whole,
        load: |c, w| boxed(qwen3_next::load(c, w)),
    },
    Architecture { model_type: "qwen3_moe", remap: qwen3::remap, load: |c, w| boxed(qwen3::load(c, w)) },
    Architecture { model_type: "qwen3_next", remap: qwen3_next::remap, load: |c, w| boxed(qwen3_next::load(c, w)) },
    Architecture { model_type: "smollm3", remap, load: |c, w| boxed(llama::load(c, w)) },
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
