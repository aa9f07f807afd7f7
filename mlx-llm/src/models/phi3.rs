//! Phi-3 and Phi-4 (arXiv 2404.14219, 2412.08905): a Llama whose matrices of one input are one. Every layer sees `sliding_window`
//! positions, as in transformers; in mlx-lm every layer sees everything.

use super::llama::LlamaConfig;
use mlx_lm_common::{Config, Result, weights::Checkpoint};

/// Queries, keys and values apart; gate and up apart.
pub(super) fn fold(checkpoint: &mut Checkpoint, config: &Config) -> Result<()> {
    let c: LlamaConfig = config.parse()?;
    let a = c.attention(&config.model_type, None)?;
    let [q, kv] = [a.heads, a.kv_heads].map(|heads| heads.saturating_mul(a.head_dim));
    checkpoint.split("qkv_proj", -2, &[("q_proj", q), ("k_proj", kv), ("v_proj", kv)])?;
    split_gate_up(checkpoint, &c)
}

/// Gate and up, published as one matrix, apart.
pub(super) fn split_gate_up(checkpoint: &mut Checkpoint, c: &LlamaConfig) -> Result<()> {
    let hidden = c.intermediate_size;
    checkpoint.split("mlp.gate_up_proj", -2, &[("mlp.gate_proj", hidden), ("mlp.up_proj", hidden)])
}
