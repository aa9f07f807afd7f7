//! DeepSeek 2 and 3, Kimi K2, Mistral 4: latent attention. Converters take the matrix of keys and values apart as MLX does.

use super::{
    Family, common,
    keys::{Keys, decimal, finite},
    names::Names,
};
use crate::Result;
use serde_json::{Value, json};

const LAYER: Names = &[
    ("attn_q_a", "self_attn.q_a_proj"),
    ("attn_q_a_norm", "self_attn.q_a_layernorm"),
    ("attn_q_b", "self_attn.q_b_proj"),
    ("attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"),
    ("attn_kv_a_norm", "self_attn.kv_a_layernorm"),
    ("attn_k_b", "self_attn.embed_q"),
    ("attn_v_b", "self_attn.unembed_out"),
    ("attn_kv_b", "self_attn.kv_b_proj"),
    ("ffn_gate_inp", "mlp.gate"),
    ("=exp_probs_b.bias", "mlp.gate.e_score_correction_bias"),
    ("ffn_gate_exps", "mlp.switch_mlp.gate_proj"),
    ("ffn_up_exps", "mlp.switch_mlp.up_proj"),
    ("ffn_down_exps", "mlp.switch_mlp.down_proj"),
    ("ffn_gate_up_exps", "mlp.experts.gate_up_proj"),
    ("ffn_gate_shexp", "mlp.shared_experts.gate_proj"),
    ("ffn_up_shexp", "mlp.shared_experts.up_proj"),
    ("ffn_down_shexp", "mlp.shared_experts.down_proj"),
];

pub(super) const DEEPSEEK2: Family = Family { layer: LAYER, ..Family::plain(deepseek) };
pub(super) const MISTRAL4: Family = Family { layer: LAYER, ..Family::plain(mistral4) };

fn deepseek(keys: &Keys<'_>) -> Result<Value> {
    let sigmoid = match keys.count("expert_gating_func")? {
        // The first files do not say.
        0 | 1 => false,
        2 => true,
        _ => return Err(keys.wanted("expert_gating_func", "1 (softmax) or 2 (sigmoid)")),
    };
    let mut config = latent(keys, if sigmoid { "deepseek_v3" } else { "deepseek_v2" })?;
    if sigmoid {
        return Ok(config);
    }
    config["topk_method"] =
        if config["n_group"].as_i64() > Some(1) { "group_limited_greedy" } else { "greedy" }.into();
    match config["norm_topk_prob"].as_bool() {
        Some(true) => Err(keys.wanted("expert_weights_norm", "false, where experts are chosen by softmax")),
        _ => Ok(config),
    }
}

fn mistral4(keys: &Keys<'_>) -> Result<Value> {
    let mut config = latent(keys, "mistral4")?;
    let mut rope = match config["rope_scaling"].take() {
        Value::Object(rope) => rope,
        _ => Default::default(),
    };
    rope.insert("rope_theta".into(), config["rope_theta"].clone());
    if let Some(growth) = keys.positive_opt("attention.temperature_scale")? {
        rope.insert("llama_4_scaling_beta".into(), decimal(growth));
        if let Some(every) = keys.size_opt("attention.temperature_length")? {
            rope.insert("original_max_position_embeddings".into(), every.into());
        }
    }
    if let Value::Object(config) = &mut config {
        config.remove("rope_scaling");
    }
    config["rope_parameters"] = rope.into();
    Ok(config)
}

fn latent(keys: &Keys<'_>, model_type: &str) -> Result<Value> {
    let mut config = common::base(keys, model_type)?;
    let heads = keys.size("attention.head_count")?;
    config["num_attention_heads"] = heads.into();
    config["num_key_value_heads"] = heads.into();
    config["intermediate_size"] = keys.size("feed_forward_length")?.into();
    // In the file, keys are as wide as what is remembered of them, unless it is an old one.
    let own = if keys.has("attention.key_length_mla") { "_mla" } else { "" };
    let key = format!("attention.key_length{own}");
    let (width, rotated) = (keys.size(&key)?, keys.size("rope.dimension_count")?);
    if rotated >= width || rotated % 2 != 0 {
        return Err(
            keys.wanted("rope.dimension_count", format!("an even number below {width}, the width of keys"))
        );
    }
    config["qk_rope_head_dim"] = rotated.into();
    config["qk_nope_head_dim"] = (width - rotated).into();
    config["v_head_dim"] = keys.size(&format!("attention.value_length{own}"))?.into();
    config["kv_lora_rank"] = keys.size("attention.kv_lora_rank")?.into();
    // Some files have a rank of queries that they do not use.
    if keys.in_layers("attn_q_a.weight") {
        config["q_lora_rank"] = keys.size("attention.q_lora_rank")?.into();
    }
    config["attention_bias"] = common::has_bias(keys, &["attn_q_a", "attn_kv_a_mqa", "attn_output"]).into();
    common::rope(keys, &mut config, rotated)?;
    if config["rope_scaling"]["rope_type"] == "yarn"
        && let Some(tenth) = keys.optional("rope.scaling.yarn_log_multiplier", finite)?
    {
        // Converters write a tenth of it.
        let scale = decimal(tenth / 0.1);
        config["rope_scaling"]["mscale"] = if model_type == "mistral4" { json!(1.0) } else { scale.clone() };
        config["rope_scaling"]["mscale_all_dim"] = scale;
    }
    if keys.count("expert_count")? > 0 {
        common::experts(keys, &mut config, "n_routed_experts")?;
        common::expert_groups(keys, &mut config)?;
        config["first_k_dense_replace"] = keys.count("leading_dense_block_count")?.into();
        config["n_shared_experts"] = keys.count("expert_shared_count")?.into();
        config["moe_layer_freq"] = 1.into();
    }
    Ok(config)
}
