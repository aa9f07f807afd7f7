//! Command R, OLMo, EXAONE, ERNIE, Seed-OSS, StarCoder, StableLM, Nemotron, Phi 2, GLM, dots, MiniMax: a norm, a name or a key
//! apart from the usual.

use super::{
    Family,
    common::{self, Heads},
    gemma,
    keys::{Keys, decimal, finite},
    names::Names,
};
use crate::Result;
use serde_json::Value;

const AFTER_BLOCKS: Names =
    &[("post_attention_norm", "post_attention_layernorm"), ("post_ffw_norm", "post_feedforward_layernorm")];

pub(super) const COMMAND_R: Family = Family::plain(|keys| cohere(keys, "cohere"));
pub(super) const COHERE2: Family = Family::plain(cohere2);
pub(super) const OLMO2: Family = Family { layer: AFTER_BLOCKS, ..Family::plain(olmo) };
pub(super) const EXAONE4: Family = Family { layer: AFTER_BLOCKS, ..Family::plain(exaone) };
pub(super) const EXAONE3: Family = Family::plain(first_exaone);
pub(super) const ERNIE: Family = Family::plain(|keys| decoder(keys, "ernie4_5"));
pub(super) const SEED_OSS: Family = Family {
    layer: &[("post_attention_norm", "post_attention_layernorm")],
    ..Family::plain(|keys| decoder(keys, "seed_oss"))
};
pub(super) const STARCODER2: Family = Family {
    layer: &[("ffn_up", "mlp.c_fc"), ("ffn_down", "mlp.c_proj")],
    ..Family::plain(|keys| with_layer_norms(keys, "starcoder2", "norm_epsilon"))
};
pub(super) const PHI2: Family = Family {
    top: &[("output_norm", "model.final_layernorm")],
    layer: &[("attn_output", "self_attn.dense"), ("ffn_up", "mlp.fc1"), ("ffn_down", "mlp.fc2")],
    ..Family::plain(|keys| with_layer_norms(keys, "phi", "layer_norm_eps"))
};
pub(super) const CHATGLM: Family =
    Family { layer: &[("ffn_up", "mlp.gate_up_proj")], ..Family::plain(|keys| decoder(keys, "glm")) };
pub(super) const GLM4_MOE: Family = Family {
    layer: &[
        ("post_attention_norm", "post_attention_layernorm"),
        ("ffn_gate_inp", "mlp.gate"),
        ("=exp_probs_b.bias", "mlp.gate.e_score_correction_bias"),
        ("ffn_gate_exps", "mlp.switch_mlp.gate_proj"),
        ("ffn_up_exps", "mlp.switch_mlp.up_proj"),
        ("ffn_down_exps", "mlp.switch_mlp.down_proj"),
        ("ffn_gate_up_exps", "mlp.switch_mlp.fused"),
        ("ffn_gate_shexp", "mlp.shared_experts.gate_proj"),
        ("ffn_up_shexp", "mlp.shared_experts.up_proj"),
        ("ffn_down_shexp", "mlp.shared_experts.down_proj"),
    ],
    ..Family::plain(glm4_moe)
};
pub(super) const DOTS1: Family = Family {
    layer: &[
        ("ffn_gate_inp", "mlp.gate"),
        ("=exp_probs_b.bias", "mlp.gate.e_score_correction_bias"),
        ("ffn_gate_exps", "mlp.experts.gate_proj"),
        ("ffn_up_exps", "mlp.experts.up_proj"),
        ("ffn_down_exps", "mlp.experts.down_proj"),
        ("ffn_gate_shexp", "mlp.shared_experts.gate_proj"),
        ("ffn_up_shexp", "mlp.shared_experts.up_proj"),
        ("ffn_down_shexp", "mlp.shared_experts.down_proj"),
    ],
    ..Family::plain(|keys| scored_by_sigmoid(keys, "dots1"))
};
pub(super) const STABLELM: Family = Family {
    layer: &[("attn_q_norm", "self_attn.q_layernorm"), ("attn_k_norm", "self_attn.k_layernorm")],
    ..Family::plain(stablelm)
};
/// Norms come with the one that models add to them.
pub(super) const NEMOTRON: Family = Family {
    weights: |_, checkpoint| checkpoint.add(|name| name.ends_with("norm.weight"), -1.0),
    ..Family::plain(|keys| with_layer_norms(keys, "nemotron", "norm_eps"))
};
pub(super) const OLMOE: Family = Family { layer: common::EXPERTS, ..Family::plain(olmoe) };
pub(super) const MINIMAX_M2: Family = Family {
    layer: &[
        ("ffn_gate_inp", "block_sparse_moe.gate"),
        ("=exp_probs_b.bias", "block_sparse_moe.e_score_correction_bias"),
        ("ffn_gate_exps", "block_sparse_moe.switch_mlp.gate_proj"),
        ("ffn_up_exps", "block_sparse_moe.switch_mlp.up_proj"),
        ("ffn_down_exps", "block_sparse_moe.switch_mlp.down_proj"),
        ("ffn_gate_up_exps", "block_sparse_moe.switch_mlp.fused"),
    ],
    ..Family::plain(minimax)
};

/// A decoder that may rotate a part of each head.
fn decoder(keys: &Keys<'_>, model_type: &str) -> Result<Value> {
    common::no_experts(keys)?;
    with_rms_norms(keys, model_type)
}

fn with_rms_norms(keys: &Keys<'_>, model_type: &str) -> Result<Value> {
    let mut config = common::base(keys, model_type)?;
    blocks(keys, &mut config)?;
    Ok(config)
}

fn with_layer_norms(keys: &Keys<'_>, model_type: &str, epsilon: &str) -> Result<Value> {
    common::no_experts(keys)?;
    let mut config = common::base_of(keys, model_type)?;
    config[epsilon] = decimal(keys.positive("attention.layer_norm_epsilon")?);
    blocks(keys, &mut config)?;
    Ok(config)
}

fn blocks(keys: &Keys<'_>, config: &mut Value) -> Result<()> {
    let heads = Heads::partial(keys)?;
    common::attention(keys, config, &heads);
    common::rope(keys, config, heads.rotated)?;
    common::feed_forward(keys, config)?;
    config["partial_rotary_factor"] = decimal(heads.rotated as f32 / heads.dim as f32);
    Ok(())
}

fn cohere(keys: &Keys<'_>, model_type: &str) -> Result<Value> {
    let mut config = with_layer_norms(keys, model_type, "layer_norm_eps")?;
    config["logit_scale"] = decimal(keys.required("logit_scale", finite)?);
    config["use_qk_norm"] = keys.in_layers("attn_q_norm.weight").into();
    Ok(config)
}

fn cohere2(keys: &Keys<'_>) -> Result<Value> {
    let mut config = cohere(keys, "cohere2")?;
    config["sliding_window"] = keys.size("attention.sliding_window")?.into();
    gemma::windows(keys, &mut config, 4)?;
    Ok(config)
}

/// OLMo 3 is OLMo 2 with windows.
fn olmo(keys: &Keys<'_>) -> Result<Value> {
    let mut config = decoder(keys, "olmo2")?;
    let window = keys.count("attention.sliding_window")?;
    if window > 0 {
        config["model_type"] = "olmo3".into();
        config["sliding_window"] = window.into();
        gemma::windows(keys, &mut config, 4)?;
    }
    Ok(config)
}

fn exaone(keys: &Keys<'_>) -> Result<Value> {
    let mut config = decoder(keys, "exaone4")?;
    let window = keys.count("attention.sliding_window")?;
    if window > 0 {
        config["sliding_window"] = window.into();
        gemma::windows(keys, &mut config, 4)?;
    }
    Ok(config)
}

/// EXAONE 3, which says some things in other words.
fn first_exaone(keys: &Keys<'_>) -> Result<Value> {
    let mut config = decoder(keys, "exaone")?;
    config["num_layers"] = config["num_hidden_layers"].clone();
    config["layer_norm_epsilon"] = config["rms_norm_eps"].clone();
    Ok(config)
}

fn olmoe(keys: &Keys<'_>) -> Result<Value> {
    let mut config = with_rms_norms(keys, "olmoe")?;
    common::experts(keys, &mut config, "num_experts")?;
    common::unscaled_experts(keys)?;
    // The width of an expert has the name of the other.
    config["moe_intermediate_size"] = config["intermediate_size"].clone();
    config["norm_topk_prob"] = false.into();
    Ok(config)
}

fn stablelm(keys: &Keys<'_>) -> Result<Value> {
    let mut config = with_layer_norms(keys, "stablelm", "layer_norm_eps")?;
    config["use_qkv_bias"] = config["attention_bias"].clone();
    config["use_parallel_residual"] = (!keys.in_layers("ffn_norm.weight")).into();
    config["qk_layernorm"] = keys.in_layers("attn_q_norm.weight").into();
    Ok(config)
}

fn glm4_moe(keys: &Keys<'_>) -> Result<Value> {
    let mut config = scored_by_sigmoid(keys, "glm4_moe")?;
    config["use_qk_norm"] = keys.in_layers("attn_q_norm.weight").into();
    Ok(config)
}

/// DeepSeek's mixtures behind the usual attention.
fn scored_by_sigmoid(keys: &Keys<'_>, model_type: &str) -> Result<Value> {
    let mut config = with_rms_norms(keys, model_type)?;
    // The first files do not say.
    keys.only("expert_gating_func", 2)?;
    common::experts(keys, &mut config, "n_routed_experts")?;
    common::expert_groups(keys, &mut config)?;
    config["first_k_dense_replace"] = keys.count("leading_dense_block_count")?.into();
    config["n_shared_experts"] = keys.count("expert_shared_count")?.into();
    Ok(config)
}

fn minimax(keys: &Keys<'_>) -> Result<Value> {
    let mut config = with_rms_norms(keys, "minimax_m2")?;
    keys.only("expert_gating_func", 2)?;
    common::experts(keys, &mut config, "num_local_experts")?;
    common::unscaled_experts(keys)?;
    config["intermediate_size"] = config["moe_intermediate_size"].take();
    config["use_qk_norm"] = keys.in_layers("attn_q_norm.weight").into();
    Ok(config)
}
