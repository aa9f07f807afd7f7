//! Llamas that say it in other words: keys and names that [`llama`] does not know become those that it knows.

use super::llama::{self, LlamaLayer};
use mlx_lm_common::{
    Config, Error, Result,
    config::epsilon,
    model::Decoder,
    weights::{Checkpoint, Weights},
};
use serde::Deserialize;
use serde_json::json;

/// ERNIE 4.5: one key for all biases; neighbouring channels are rotated together.
pub(super) fn ernie(config: &Config, w: &Weights) -> Result<Decoder<LlamaLayer>> {
    let bias: bool = config.get("use_bias")?.unwrap_or(false);
    let keys =
        json!({ "attention_bias": bias, "mlp_bias": bias, "rope_traditional": true, "rms_norm_eps": 1e-5 });
    llama::load(&config.with_defaults(keys)?, w)
}

/// Seed-OSS: the bias of the output projection has a key of its own, and is not there without it.
pub(super) fn seed_oss(config: &Config, w: &Weights) -> Result<Decoder<LlamaLayer>> {
    llama::load(&config.with_defaults(json!({ "attention_out_bias": false }))?, w)
}

/// Helium: neighbouring channels are rotated together; the output projection has no bias.
pub(super) fn helium(config: &Config, w: &Weights) -> Result<Decoder<LlamaLayer>> {
    llama::load(&config.with_defaults(json!({ "rope_traditional": true, "attention_out_bias": false }))?, w)
}

/// InternLM3: one key for the biases of queries, keys and values, one for the others.
pub(super) fn internlm3(config: &Config, w: &Weights) -> Result<Decoder<LlamaLayer>> {
    let bias = |key: &str| Ok::<bool, Error>(config.get(key)?.unwrap_or(false));
    let (input, others) = (bias("qkv_bias")?, bias("bias")?);
    let keys = json!({ "attention_bias": input, "attention_out_bias": others, "mlp_bias": others });
    llama::load(&config.with_defaults(keys)?, w)
}

/// MiMo (arXiv 2505.07608): as Qwen2, with layers that predict further tokens, which are left out.
pub(super) fn remap_mimo(checkpoint: &mut Checkpoint, config: &Config) -> Result<()> {
    checkpoint.ignore(|name| name.starts_with("model.mtp_layers."));
    super::remap(checkpoint, config)
}

/// EXAONE 3 (arXiv 2408.03541).
#[derive(Deserialize)]
struct ExaoneConfig {
    #[serde(deserialize_with = "epsilon")]
    layer_norm_epsilon: f32,
    activation_function: Option<String>,
}

/// The published layout, which mlx-lm keeps.
pub(super) fn remap_exaone(checkpoint: &mut Checkpoint, config: &Config) -> Result<()> {
    checkpoint.ignore(|name| name.ends_with("attention.rotary.inv_freq"));
    super::remap(checkpoint, config)
}

/// Llama's names.
pub(super) fn fold_exaone(checkpoint: &mut Checkpoint, _: &Config) -> Result<()> {
    for (from, to) in [
        ("attn.attention.q_proj", "self_attn.q_proj"),
        ("attn.attention.k_proj", "self_attn.k_proj"),
        ("attn.attention.v_proj", "self_attn.v_proj"),
        ("attn.attention.out_proj", "self_attn.o_proj"),
        ("mlp.c_fc_0", "mlp.gate_proj"),
        ("mlp.c_fc_1", "mlp.up_proj"),
        ("mlp.c_proj", "mlp.down_proj"),
        ("ln_1", "input_layernorm"),
        ("ln_2", "post_attention_layernorm"),
        ("transformer.wte", "model.embed_tokens"),
        ("transformer.ln_f", "model.norm"),
    ] {
        checkpoint.rename_module(from, to)?;
    }
    checkpoint.rename_prefix("transformer.h.", "model.layers.")
}

/// EXAONE 3: a Llama otherwise.
pub(super) fn exaone(config: &Config, w: &Weights) -> Result<Decoder<LlamaLayer>> {
    let config = &config.with_defaults(json!({ "layer_norm_epsilon": 1e-5 }))?;
    let c: ExaoneConfig = config.parse()?;
    if let Some(other) = c.activation_function.filter(|act| act != "silu") {
        return Err(Error::config("activation_function", other, "silu"));
    }
    let layers = config.dim("num_layers")?;
    let keys = json!({ "num_hidden_layers": layers, "rms_norm_eps": c.layer_norm_epsilon });
    llama::load(&config.with_defaults(keys)?, w)
}
