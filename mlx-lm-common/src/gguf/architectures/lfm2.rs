//! LFM2, dense and with experts: layers without heads of keys are convolutions.

use super::{
    Family,
    common::{self, Heads},
    keys::Keys,
};
use crate::{Result, weights::Checkpoint};
use serde_json::Value;

/// The norm of the output has the name of another model's norm of embeddings.
const TOP: super::Names =
    &[("token_embd_norm", "model.embedding_norm"), ("output_norm", "model.embedding_norm")];

macro_rules! layer {
    ($($more:expr),* $(,)?) => {
        &[
            ("attn_norm", "operator_norm"),
            ("attn_output", "self_attn.out_proj"),
            ("attn_q_norm", "self_attn.q_layernorm"),
            ("attn_k_norm", "self_attn.k_layernorm"),
            ("shortconv.conv", "conv.conv"),
            ("shortconv.in_proj", "conv.in_proj"),
            ("shortconv.out_proj", "conv.out_proj"),
            ("ffn_norm", "ffn_norm"),
            $($more),*
        ]
    };
}

pub(super) const LFM2: Family = Family {
    top: TOP,
    layer: layer![
        ("ffn_gate", "feed_forward.w1"),
        ("ffn_up", "feed_forward.w3"),
        ("ffn_down", "feed_forward.w2"),
    ],
    weights: kernels,
    ..Family::plain(|keys| lfm2(keys, "lfm2"))
};
pub(super) const LFM2_MOE: Family = Family {
    top: TOP,
    layer: layer![
        ("ffn_gate", "feed_forward.gate_proj"),
        ("ffn_up", "feed_forward.up_proj"),
        ("ffn_down", "feed_forward.down_proj"),
        ("ffn_gate_inp", "feed_forward.gate"),
        ("=exp_probs_b.bias", "feed_forward.expert_bias"),
        ("ffn_gate_exps", "feed_forward.switch_mlp.gate_proj"),
        ("ffn_up_exps", "feed_forward.switch_mlp.up_proj"),
        ("ffn_down_exps", "feed_forward.switch_mlp.down_proj"),
    ],
    weights: kernels,
    ..Family::plain(lfm2_moe)
};

fn kernels(_: &Keys<'_>, checkpoint: &mut Checkpoint) -> Result<()> {
    common::kernels(checkpoint, "conv.conv.weight")
}

fn lfm2(keys: &Keys<'_>, model_type: &str) -> Result<Value> {
    let mut config = common::base(keys, model_type)?;
    let layers = common::layers(keys)? as usize;
    let key_heads = keys.each("attention.head_count_kv", layers)?;
    let kind = |n: &i32| if *n == 0 { "conv" } else { "full_attention" };
    config["layer_types"] = key_heads.iter().map(kind).collect::<Vec<_>>().into();
    let query = keys.size("attention.head_count")?;
    let key = common::same(keys, "attention.head_count_kv", &key_heads)?.unwrap_or(query);
    let heads = Heads::of(keys, query, key)?;
    if heads.dim != keys.size("embedding_length")? / query || heads.rotated != heads.dim {
        return Err(
            keys.wanted("attention.head_count", "heads that share the width, and are rotated as a whole")
        );
    }
    common::attention(keys, &mut config, &heads);
    common::rope(keys, &mut config, heads.rotated)?;
    config["norm_eps"] = config["rms_norm_eps"].clone();
    config["conv_L_cache"] = keys.size("shortconv.l_cache")?.into();
    config["conv_bias"] = common::has_bias(keys, &["shortconv.conv", "shortconv.in_proj"]).into();
    config["intermediate_size"] = keys.size("feed_forward_length")?.into();
    config["block_auto_adjust_ff_dim"] = false.into();
    Ok(config)
}

fn lfm2_moe(keys: &Keys<'_>) -> Result<Value> {
    let mut config = lfm2(keys, "lfm2_moe")?;
    keys.only("expert_gating_func", 2)?;
    common::experts(keys, &mut config, "num_experts")?;
    common::unscaled_experts(keys)?;
    config["num_dense_layers"] = keys.count("leading_dense_block_count")?.into();
    config["norm_topk_prob"] = true.into();
    config["use_expert_bias"] = keys.in_layers("exp_probs_b.bias").into();
    Ok(config)
}
