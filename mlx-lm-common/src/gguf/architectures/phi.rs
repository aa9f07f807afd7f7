//! Phi 3 and 4, and GLM-4: matrices of one input are one.

use super::{
    Family,
    common::{self, Heads},
    keys::{Keys, decimal},
};
use crate::Result;
use serde_json::Value;

pub(super) const PHI3: Family = Family {
    layer: &[("attn_qkv", "self_attn.qkv_proj"), ("ffn_up", "mlp.gate_up_proj")],
    ..Family::plain(|keys| partly_rotated(keys, "phi3"))
};
pub(super) const GLM4: Family = Family {
    layer: &[
        ("post_attention_norm", "post_self_attn_layernorm"),
        ("ffn_up", "mlp.gate_up_proj"),
        ("post_ffw_norm", "post_mlp_layernorm"),
    ],
    ..Family::plain(|keys| partly_rotated(keys, "glm4"))
};

/// A decoder that may rotate a part of each head.
fn partly_rotated(keys: &Keys<'_>, model_type: &str) -> Result<Value> {
    common::no_experts(keys)?;
    let heads = Heads::partial(keys)?;
    let mut config = common::base(keys, model_type)?;
    common::attention(keys, &mut config, &heads);
    common::rope(keys, &mut config, heads.rotated)?;
    common::feed_forward(keys, &mut config)?;
    config["partial_rotary_factor"] = decimal(heads.rotated as f32 / heads.dim as f32);
    Ok(config)
}
