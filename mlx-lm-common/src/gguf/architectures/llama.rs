//! Llama, Mistral, and what is like them: Granite, SmolLM3, BitNet.

use super::{
    Family,
    common::{self, Heads},
    keys::{Keys, decimal, finite},
    names,
};
use crate::{Error, Result, gguf::header::TensorInfo};
use serde_json::{Value, json};

pub(super) const LLAMA: Family = Family {
    order: interleaved,
    layer: &[
        ("ffn_gate_inp", "block_sparse_moe.gate"),
        ("ffn_gate_exps", "block_sparse_moe.switch_mlp.gate_proj"),
        ("ffn_up_exps", "block_sparse_moe.switch_mlp.up_proj"),
        ("ffn_down_exps", "block_sparse_moe.switch_mlp.down_proj"),
        ("ffn_gate_up_exps", "block_sparse_moe.switch_mlp.fused"),
    ],
    ..Family::plain(llama)
};
pub(super) const SMOLLM3: Family =
    Family { order: interleaved, ..Family::plain(|keys| decoder(keys, "smollm3")) };
pub(super) const MISTRAL3: Family = Family { order: interleaved, ..Family::plain(mistral3) };
pub(super) const GRANITE: Family =
    Family { order: interleaved, ..Family::plain(|keys| granite(keys, "granite")) };
pub(super) const GRANITE_MOE: Family = Family {
    order: interleaved,
    layer: &[
        ("ffn_gate_inp", "block_sparse_moe.router.layer"),
        ("ffn_gate_exps", "block_sparse_moe.switch_mlp.gate_proj"),
        ("ffn_up_exps", "block_sparse_moe.switch_mlp.up_proj"),
        ("ffn_down_exps", "block_sparse_moe.switch_mlp.down_proj"),
    ],
    ..Family::plain(granite_moe)
};
pub(super) const BITNET: Family = Family {
    layer: &[("attn_sub_norm", "self_attn.attn_sub_norm"), ("ffn_sub_norm", "mlp.ffn_sub_norm")],
    ..Family::plain(bitnet)
};

/// Llama, or Mixtral.
fn llama(keys: &Keys<'_>) -> Result<Value> {
    if keys.count("expert_count")? == 0 {
        return decoder(keys, "llama");
    }
    let mut config = with_heads(keys, "mixtral")?;
    common::experts(keys, &mut config, "num_local_experts")?;
    common::unscaled_experts(keys)?;
    // The width of an expert, which has the name of the other.
    config["intermediate_size"] = match keys.size_opt("expert_feed_forward_length")? {
        Some(width) => width,
        None => keys.size("feed_forward_length")?,
    }
    .into();
    match keys.count("expert_shared_feed_forward_length")? {
        0 => Ok(config),
        _ => Err(keys.wanted("expert_shared_feed_forward_length", "0: shared experts cannot be read")),
    }
}

/// A decoder without anything of its own.
pub(super) fn decoder(keys: &Keys<'_>, model_type: &str) -> Result<Value> {
    common::no_experts(keys)?;
    with_heads(keys, model_type)
}

/// A decoder whose feed-forward blocks may be experts.
pub(super) fn with_heads(keys: &Keys<'_>, model_type: &str) -> Result<Value> {
    let heads = Heads::whole(keys)?;
    let mut config = common::base(keys, model_type)?;
    common::attention(keys, &mut config, &heads);
    common::rope(keys, &mut config, heads.rotated)?;
    common::feed_forward(keys, &mut config)?;
    Ok(config)
}

/// Mistral Small 3, or Ministral 3, whose queries grow with their position.
fn mistral3(keys: &Keys<'_>) -> Result<Value> {
    let mut config = decoder(keys, "mistral")?;
    let Some(growth) = keys.positive_opt("attention.temperature_scale")? else { return Ok(config) };
    config["model_type"] = "ministral3".into();
    let mut rope = match config["rope_scaling"].take() {
        Value::Object(rope) if rope["rope_type"] == "yarn" => rope,
        _ => return Err(keys.wanted("rope.scaling.type", "yarn, as queries grow with their position")),
    };
    rope.insert("llama_4_scaling_beta".into(), decimal(growth));
    rope.insert("rope_theta".into(), config["rope_theta"].clone());
    if let Some(all) = keys.optional("rope.scaling.yarn_log_multiplier", finite)? {
        rope.insert("mscale".into(), json!(1.0));
        rope.insert("mscale_all_dim".into(), decimal(all));
    }
    if let Value::Object(config) = &mut config {
        config.remove("rope_scaling");
    }
    config["rope_parameters"] = rope.into();
    Ok(config)
}

fn granite(keys: &Keys<'_>, model_type: &str) -> Result<Value> {
    if model_type == "granite" {
        common::no_experts(keys)?;
    }
    let mut config = with_heads(keys, model_type)?;
    multipliers(keys, &mut config)?;
    Ok(config)
}

/// Adds Granite's factors.
pub(super) fn multipliers(keys: &Keys<'_>, config: &mut Value) -> Result<()> {
    let usual = config["head_dim"].as_f64().unwrap_or(1.0).powf(-0.5);
    // Zero stands for none.
    let scale = |name: &str| Ok::<_, Error>(keys.optional(name, finite)?.filter(|x| *x != 0.0));
    config["attention_multiplier"] = scale("attention.scale")?.map_or(json!(usual), decimal);
    for (key, name) in
        [("embedding_scale", "embedding_multiplier"), ("residual_scale", "residual_multiplier")]
    {
        config[name] = decimal(scale(key)?.unwrap_or(1.0));
    }
    config["logits_scaling"] = decimal(keys.positive("logit_scale")?);
    Ok(())
}

fn granite_moe(keys: &Keys<'_>) -> Result<Value> {
    let mut config = granite(keys, "granitemoe")?;
    config["num_local_experts"] = keys.size("expert_count")?.into();
    config["num_experts_per_tok"] = keys.size("expert_used_count")?.into();
    match keys.count("expert_shared_feed_forward_length")? {
        0 => Ok(config),
        _ => Err(keys.wanted("expert_shared_feed_forward_length", "0: shared experts cannot be read")),
    }
}

/// The first models, with a gate by SiLU. (Of the later ones, llama.cpp's format has none.)
fn bitnet(keys: &Keys<'_>) -> Result<Value> {
    let mut config = decoder(keys, "bitnet")?;
    config["hidden_act"] = "silu".into();
    Ok(config)
}

/// Rows of queries and keys: converters interleave the halves of each head, because rotary pairs lie side by side in the file and
/// half a head apart outside.
pub(super) fn interleaved(keys: &Keys<'_>, info: &TensorInfo) -> Result<Option<Vec<u32>>> {
    interleaved_heads(info, || Heads::whole(keys))
}

/// The same, of an architecture that tells its heads in another way.
pub(super) fn interleaved_heads(
    info: &TensorInfo,
    heads: impl FnOnce() -> Result<Heads>,
) -> Result<Option<Vec<u32>>> {
    let heads = match names::part(&info.name) {
        "attn_q" | "attn_k" | "attn_qkv" => heads()?,
        _ => return Ok(None),
    };
    // Of each head of queries and keys, and the rows of values behind them.
    let (rotated, values) = match names::part(&info.name) {
        "attn_q" => (heads.query, 0),
        "attn_k" => (heads.key, 0),
        _ => (heads.query.saturating_add(heads.key), heads.key),
    };
    let rows = rotated.saturating_add(values).saturating_mul(heads.dim);
    if info.shape[0] != rows {
        let wanted = [&[rows], &info.shape[1..]].concat();
        return Err(Error::Shape { name: info.name.clone(), found: info.shape.clone(), wanted });
    }
    let (dim, rotated) = (heads.dim as usize, rotated as usize);
    let place = |row: usize| (if row / dim < rotated { interleaved_row(row, dim) } else { row }) as u32;
    Ok(Some((0..rows as usize).map(place).collect()))
}

/// Which row of a published tensor a row of the file is, in heads of `dim` rows.
pub(in crate::gguf) fn interleaved_row(row: usize, dim: usize) -> usize {
    let (head, within) = (row / dim, row % dim);
    head * dim + within % 2 * (dim / 2) + within / 2
}
