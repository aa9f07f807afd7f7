//! Gemma 4.

use super::{
    Family, common, gemma,
    keys::{Keys, decimal},
    names::ROPE_FREQS,
    rope,
};
use crate::{Error, Result};
use serde_json::{Map, Value, json};

pub(super) const GEMMA4: Family = Family {
    top: &[
        ("per_layer_token_embd", "model.embed_tokens_per_layer"),
        ("per_layer_model_proj", "model.per_layer_model_projection"),
        ("per_layer_proj_norm", "model.per_layer_projection_norm"),
    ],
    layer: &[
        ("post_attention_norm", "post_attention_layernorm"),
        ("ffn_norm", "pre_feedforward_layernorm"),
        ("post_ffw_norm", "post_feedforward_layernorm"),
        ("post_ffw_norm_1", "post_feedforward_layernorm_1"),
        ("pre_ffw_norm_2", "pre_feedforward_layernorm_2"),
        ("post_ffw_norm_2", "post_feedforward_layernorm_2"),
        ("ffn_gate_inp", "router.proj"),
        ("=ffn_gate_inp.scale", "router.scale"),
        ("=ffn_down_exps.scale", "router.per_expert_scale"),
        ("ffn_gate_up_exps", "experts.gate_up_proj"),
        ("ffn_gate_exps", "experts.switch_glu.gate_proj"),
        ("ffn_up_exps", "experts.switch_glu.up_proj"),
        ("ffn_down_exps", "experts.switch_glu.down_proj"),
        ("inp_gate", "per_layer_input_gate"),
        ("proj", "per_layer_projection"),
        ("post_norm", "post_per_layer_input_norm"),
        ("=layer_output_scale.weight", "layer_scalar"),
    ],
    ..Family::plain(config)
};

fn config(keys: &Keys<'_>) -> Result<Value> {
    let mut config = common::base(keys, "gemma4_text")?;
    let layers = common::layers(keys)? as usize;
    config["num_attention_heads"] = keys.size("attention.head_count")?.into();
    config["sliding_window"] = keys.size("attention.sliding_window")?.into();
    let windowed = keys.each_flag(gemma::WINDOWS, layers)?.ok_or_else(|| {
        keys.wanted(gemma::WINDOWS, format!("true or false for each of the {layers} layers"))
    })?;
    gemma::windows(keys, &mut config, 6)?;
    heads(keys, &mut config, &windowed)?;
    rotation(keys, &mut config)?;
    widths(keys, &mut config, layers)?;
    let inner = keys.count("embedding_length_per_layer_input")?;
    config["hidden_size_per_layer_input"] = inner.into();
    if let Some(table) = keys.tensor("per_layer_token_embd.weight") {
        config["vocab_size_per_layer_input"] = table.shape[0].into();
    }
    if let Some(cap) = keys.positive_opt("final_logit_softcapping")? {
        config["final_logit_softcapping"] = decimal(cap);
    }
    let experts = keys.count("expert_count")? > 0;
    config["enable_moe_block"] = experts.into();
    if experts {
        common::experts(keys, &mut config, "num_experts")?;
        config["top_k_experts"] = config["num_experts_per_tok"].take();
    }
    Ok(config)
}

/// Layers without a window have heads of their own.
fn heads(keys: &Keys<'_>, config: &mut Value, windowed: &[bool]) -> Result<()> {
    let kv_heads = keys.each("attention.head_count_kv", windowed.len())?;
    if kv_heads.contains(&0) {
        return Err(keys.wanted("attention.head_count_kv", "a positive number for each layer"));
    }
    let (wide, narrow) = (keys.size("attention.key_length")?, keys.size("attention.key_length_swa")?);
    for (value, dim) in [("attention.value_length", wide), ("attention.value_length_swa", narrow)] {
        keys.only(value, dim)?;
    }
    config["head_dim"] = narrow.into();
    config["global_head_dim"] = wide.into();
    config["num_key_value_heads"] = kv_heads[0].into();
    let own = kv_heads.iter().zip(windowed).enumerate().map(|(i, (heads, windowed))| {
        let dim = if *windowed { narrow } else { wide };
        (i.to_string(), json!({"head_dim": dim, "num_key_value_heads": heads}))
    });
    config["per_layer_config"] = own.collect::<Map<_, _>>().into();
    // Where keys are values, too, there is no matrix for those.
    let lacks = |i: usize, part: &str| keys.tensor(&format!("blk.{i}.{part}.weight")).is_none();
    let one = (0..windowed.len()).any(|i| !windowed[i] && !lacks(i, "attn_k") && lacks(i, "attn_v"));
    config["attention_k_eq_v"] = one.into();
    Ok(())
}

/// Layers without a window rotate the first channels, which the divisors of the others' frequencies tell.
fn rotation(keys: &Keys<'_>, config: &mut Value) -> Result<()> {
    let dim = keys.size("attention.key_length")?;
    keys.only("rope.dimension_count", dim)?;
    keys.only("rope.dimension_count_swa", keys.size("attention.key_length_swa")?)?;
    let info = keys.tensor(ROPE_FREQS).ok_or_else(|| Error::MissingTensor(ROPE_FREQS.into()))?;
    let divisors = rope::divisors(info, dim)?;
    let rotated = divisors.iter().take_while(|d| **d == 1.0).count();
    if rotated == 0 || divisors[rotated..].iter().any(|d| *d < 1e20) {
        return Err(Error::tensor(ROPE_FREQS, "wanted ones, and then numbers so large that nothing turns"));
    }
    let base = |key: &str, usual: f32| Ok::<_, Error>(decimal(keys.positive_opt(key)?.unwrap_or(usual)));
    config["rope_parameters"] = json!({
        "full_attention": {
            "rope_type": "proportional", "rope_theta": base("rope.freq_base", 10000.0)?,
            "partial_rotary_factor": (2 * rotated) as f64 / f64::from(dim),
        },
        "sliding_attention": {"rope_type": "default", "rope_theta": base("rope.freq_base_swa", 10000.0)?},
    });
    Ok(())
}

/// The last layers may share keys and values of earlier ones, and be twice as wide inside.
fn widths(keys: &Keys<'_>, config: &mut Value, layers: usize) -> Result<()> {
    let shared = keys.count("attention.shared_kv_layers")? as usize;
    let own = layers.checked_sub(shared).filter(|n| *n > 0).ok_or_else(|| {
        keys.wanted("attention.shared_kv_layers", format!("fewer than the {layers} layers"))
    })?;
    let widths = keys.each("feed_forward_length", layers)?;
    let width = widths[0];
    let last = widths.get(own).copied().unwrap_or(width);
    let double = last == width.saturating_mul(2);
    let plain = widths[..own].iter().all(|w| *w == width) && widths[own..].iter().all(|w| *w == last);
    if width == 0 || !plain || !(double || last == width) {
        return Err(keys.wanted("feed_forward_length", "one width, or twice that in layers that share"));
    }
    config["num_kv_shared_layers"] = shared.into();
    config["intermediate_size"] = width.into();
    config["use_double_wide_mlp"] = double.into();
    Ok(())
}
