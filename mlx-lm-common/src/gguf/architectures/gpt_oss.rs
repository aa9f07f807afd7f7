//! GPT-OSS.

use super::{Family, common, gemma, keys::Keys, llama::with_heads};
use crate::Result;
use serde_json::Value;

pub(super) const GPT_OSS: Family = Family {
    layer: &[
        ("=attn_sinks.weight", "self_attn.sinks"),
        ("post_attention_norm", "post_attention_layernorm"),
        ("ffn_gate_inp", "mlp.router"),
        ("ffn_gate_exps", "mlp.experts.gate_proj"),
        ("ffn_up_exps", "mlp.experts.up_proj"),
        ("ffn_down_exps", "mlp.experts.down_proj"),
    ],
    ..Family::plain(config)
};

fn config(keys: &Keys<'_>) -> Result<Value> {
    let mut config = with_heads(keys, "gpt_oss")?;
    common::experts(keys, &mut config, "num_local_experts")?;
    config["intermediate_size"] = config["moe_intermediate_size"].take();
    config["sliding_window"] = keys.size("attention.sliding_window")?.into();
    gemma::windows(keys, &mut config, 2)?;
    // As the model was published, whatever other readers do.
    if config["rope_scaling"]["rope_type"] == "yarn" {
        config["rope_scaling"]["truncate"] = false.into();
    }
    Ok(config)
}
