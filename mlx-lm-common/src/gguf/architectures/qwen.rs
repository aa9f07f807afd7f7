//! Qwen 2 and 3.

use super::{
    Family, common,
    keys::Keys,
    llama::{decoder, with_heads},
};
use crate::Result;
use serde_json::{Value, json};

pub(super) const QWEN2: Family = Family::plain(|keys| decoder(keys, "qwen2"));
pub(super) const QWEN3: Family = Family::plain(|keys| decoder(keys, "qwen3"));
pub(super) const QWEN2_MOE: Family = Family {
    layer: &[
        ("ffn_gate_inp", "mlp.gate"),
        ("ffn_gate_exps", "mlp.switch_mlp.gate_proj"),
        ("ffn_up_exps", "mlp.switch_mlp.up_proj"),
        ("ffn_down_exps", "mlp.switch_mlp.down_proj"),
        ("ffn_gate_inp_shexp", "mlp.shared_expert_gate"),
        ("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
        ("ffn_up_shexp", "mlp.shared_expert.up_proj"),
        ("ffn_down_shexp", "mlp.shared_expert.down_proj"),
    ],
    weights: |_, checkpoint| common::shared_gates(checkpoint),
    ..Family::plain(qwen2_moe)
};
pub(super) const QWEN3_MOE: Family =
    Family { layer: common::EXPERTS, ..Family::plain(|keys| mixture(keys, "qwen3_moe", true)) };

fn qwen2_moe(keys: &Keys<'_>) -> Result<Value> {
    let mut config = mixture(keys, "qwen2_moe", false)?;
    config["shared_expert_intermediate_size"] = keys.size("expert_shared_feed_forward_length")?.into();
    Ok(config)
}

fn mixture(keys: &Keys<'_>, model_type: &str, normalized: bool) -> Result<Value> {
    let mut config = with_heads(keys, model_type)?;
    common::experts(keys, &mut config, "num_experts")?;
    common::unscaled_experts(keys)?;
    config["norm_topk_prob"] = normalized.into();
    config["decoder_sparse_step"] = 1.into();
    config["mlp_only_layers"] = json!([]);
    Ok(config)
}
