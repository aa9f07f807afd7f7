//! Qwen 3 Next and 3.5: most layers have a state instead of keys and values. Norms come with the one that the models add to them,
//! as in MLX.
//!
//! In files of Qwen 3.5, heads of values come in another order: the first of each group, the second of each …

use super::{
    Family,
    common::{self, Heads},
    keys::{Keys, decimal},
    mamba, names,
};
use crate::{
    Error, Result,
    gguf::header::TensorInfo,
    weights::{Checkpoint, Tensor},
};
use serde_json::Value;

const LAYER: names::Names = &[
    ("post_attention_norm", "post_attention_layernorm"),
    ("attn_qkv", "linear_attn.in_proj_qkv"),
    ("attn_gate", "linear_attn.in_proj_z"),
    ("ssm_in", "linear_attn.in_proj_qkvz"),
    ("ssm_ba", "linear_attn.in_proj_ba"),
    ("ssm_alpha", "linear_attn.in_proj_a"),
    ("ssm_beta", "linear_attn.in_proj_b"),
    ("ssm_conv1d", "linear_attn.conv1d"),
    ("=ssm_dt.bias", "linear_attn.dt_bias"),
    ("=ssm_a", "linear_attn.A_log"),
    ("ssm_norm", "linear_attn.norm"),
    ("ssm_out", "linear_attn.out_proj"),
    ("ffn_gate_inp", "mlp.gate"),
    ("ffn_gate_exps", "mlp.switch_mlp.gate_proj"),
    ("ffn_up_exps", "mlp.switch_mlp.up_proj"),
    ("ffn_down_exps", "mlp.switch_mlp.down_proj"),
    ("ffn_gate_inp_shexp", "mlp.shared_expert_gate"),
    ("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
    ("ffn_up_shexp", "mlp.shared_expert.up_proj"),
    ("ffn_down_shexp", "mlp.shared_expert.down_proj"),
];

pub(super) const QWEN3_NEXT: Family =
    Family { layer: LAYER, weights: states, ..Family::plain(|keys| config(keys, "qwen3_next")) };
pub(super) const QWEN35: Family = Family {
    layer: LAYER,
    order: by_group,
    weights: states_by_group,
    ..Family::plain(|keys| config(keys, "qwen3_5_text"))
};
pub(super) const QWEN35_MOE: Family = Family {
    layer: LAYER,
    order: by_group,
    weights: states_by_group,
    ..Family::plain(|keys| config(keys, "qwen3_5_moe_text"))
};

/// The sizes of the heads that make states.
struct Linear {
    key_heads: i32,
    value_heads: i32,
    key_dim: i32,
    value_dim: i32,
}

impl Linear {
    fn read(keys: &Keys<'_>) -> Result<Linear> {
        let (key_heads, value_heads) = (keys.size("ssm.group_count")?, keys.size("ssm.time_step_rank")?);
        let inner = keys.size("ssm.inner_size")?;
        if value_heads % key_heads != 0 {
            return Err(keys.wanted("ssm.time_step_rank", format!("a multiple of the {key_heads} groups")));
        }
        if inner % value_heads != 0 {
            return Err(keys.wanted("ssm.inner_size", format!("a multiple of the {value_heads} heads")));
        }
        Ok(Linear {
            key_heads,
            value_heads,
            key_dim: keys.size("ssm.state_size")?,
            value_dim: inner / value_heads,
        })
    }

    /// Where heads of values belong: head i of the file is head `[i]`.
    fn heads(&self) -> Vec<u32> {
        let (groups, all) = (self.key_heads as u32, self.value_heads as u32);
        (0..all).map(|i| i % groups * (all / groups) + i / groups).collect()
    }
}

fn config(keys: &Keys<'_>, model_type: &str) -> Result<Value> {
    let heads = Heads::partial(keys)?;
    let linear = Linear::read(keys)?;
    let mut config = common::base(keys, model_type)?;
    common::attention(keys, &mut config, &heads);
    common::rope(keys, &mut config, heads.rotated)?;
    config["partial_rotary_factor"] = decimal(heads.rotated as f32 / heads.dim as f32);
    let layers = common::layers(keys)? as usize;
    config["full_attention_interval"] = keys.size_opt("full_attention_interval")?.unwrap_or(4).into();
    if let Some(recurrent) = keys.each_flag("attention.recurrent_layers", layers)? {
        let kind = |recurrent| if recurrent { "linear_attention" } else { "full_attention" };
        config["layer_types"] = recurrent.into_iter().map(kind).collect::<Vec<_>>().into();
    }
    for (name, size) in [
        ("linear_num_key_heads", linear.key_heads),
        ("linear_num_value_heads", linear.value_heads),
        ("linear_key_head_dim", linear.key_dim),
        ("linear_value_head_dim", linear.value_dim),
        ("linear_conv_kernel_dim", keys.size("ssm.conv_kernel")?),
    ] {
        config[name] = size.into();
    }
    if let Some(width) = keys.size_opt("feed_forward_length")? {
        config["intermediate_size"] = width.into();
    }
    if keys.count("expert_count")? > 0 {
        common::experts(keys, &mut config, "num_experts")?;
        common::unscaled_experts(keys)?;
        let shared = match keys.size_opt("expert_shared_feed_forward_length")? {
            Some(width) => width,
            None => keys.size("feed_forward_length")?,
        };
        config["shared_expert_intermediate_size"] = shared.into();
        config["norm_topk_prob"] = true.into();
    }
    Ok(config)
}

fn states(_: &Keys<'_>, checkpoint: &mut Checkpoint) -> Result<()> {
    common::kernels(checkpoint, "linear_attn.conv1d.weight")?;
    mamba::decays(checkpoint)?;
    common::shared_gates(checkpoint)
}

/// The rows of heads of values, group by group.
fn by_group(keys: &Keys<'_>, info: &TensorInfo) -> Result<Option<Vec<u32>>> {
    let linear = Linear::read(keys)?;
    // Rows before those of the heads, and of each head.
    let (before, dim) = match names::part(&info.name) {
        "attn_qkv" | "ssm_conv1d" => {
            (linear.key_heads.saturating_mul(2).saturating_mul(linear.key_dim), linear.value_dim)
        }
        "attn_gate" => (0, linear.value_dim),
        "ssm_alpha" | "ssm_beta" | "ssm_dt" | "ssm_a" => (0, 1),
        _ => return Ok(None),
    };
    let rows = linear.value_heads.saturating_mul(dim).saturating_add(before);
    if info.shape[0] != rows {
        let wanted = [&[rows], &info.shape[1..]].concat();
        return Err(Error::Shape { name: info.name.clone(), found: info.shape.clone(), wanted });
    }
    let (before, dim, heads) = (before as u32, dim as u32, linear.heads());
    let moved = heads.into_iter().flat_map(|head| (0..dim).map(move |i| before + head * dim + i));
    Ok(Some((0..before).chain(moved).collect()))
}

fn states_by_group(keys: &Keys<'_>, checkpoint: &mut Checkpoint) -> Result<()> {
    states(keys, checkpoint)?;
    let linear = Linear::read(keys)?;
    let columns = linear.value_heads.saturating_mul(linear.value_dim);
    for name in checkpoint.names(|name| name.ends_with("linear_attn.out_proj.weight")) {
        let Some(Tensor::Gguf(tensor)) = checkpoint.take(&name) else { continue };
        if tensor.shape().last() != Some(&columns) {
            let wanted = vec![keys.size("embedding_length")?, columns];
            return Err(Error::Shape { name, found: tensor.shape().to_vec(), wanted });
        }
        // Which head of the file each head is.
        let heads = linear.heads();
        let mut from = vec![0; heads.len()];
        heads.iter().enumerate().for_each(|(i, to)| from[*to as usize] = i as u32);
        checkpoint.put(name, Tensor::Gguf(tensor.with_columns(&from)?))?;
    }
    Ok(())
}
