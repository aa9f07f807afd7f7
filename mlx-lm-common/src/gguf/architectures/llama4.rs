//! Llama 4. What llama.cpp takes for granted is not in the files.

use super::{Family, common, keys::Keys, llama::with_heads};
use crate::{Result, weights::Checkpoint};
use serde_json::Value;

pub(super) const LLAMA4: Family = Family {
    layer: &[
        ("ffn_gate", "feed_forward.gate_proj"),
        ("ffn_up", "feed_forward.up_proj"),
        ("ffn_down", "feed_forward.down_proj"),
        ("ffn_gate_inp", "feed_forward.router"),
        ("ffn_gate_exps", "feed_forward.experts.gate_proj"),
        ("ffn_up_exps", "feed_forward.experts.up_proj"),
        ("ffn_down_exps", "feed_forward.experts.down_proj"),
        ("ffn_gate_shexp", "feed_forward.shared_expert.gate_proj"),
        ("ffn_up_shexp", "feed_forward.shared_expert.up_proj"),
        ("ffn_down_shexp", "feed_forward.shared_expert.down_proj"),
    ],
    weights: |_, _: &mut Checkpoint| Ok(()),
    ..Family::plain(config)
};

fn config(keys: &Keys<'_>) -> Result<Value> {
    let mut config = with_heads(keys, "llama4_text")?;
    let experts = keys.count("expert_count")?;
    config["intermediate_size_mlp"] = config["intermediate_size"].clone();
    config["use_qk_norm"] = (experts != 128).into();
    if experts > 0 {
        common::experts(keys, &mut config, "num_local_experts")?;
        config["intermediate_size"] = config["moe_intermediate_size"].take();
    }
    config["num_local_experts"] = experts.into();
    config["interleave_moe_layer_step"] = keys.count("interleave_moe_layer_step")?.into();
    // Without windows, all layers rotate, as those of MobileLLM do.
    let chunked = !keys.has("attention.sliding_window") || keys.count("attention.sliding_window")? > 0;
    config["attention_chunk_size"] = if chunked { 8192.into() } else { Value::Null };
    config["attn_temperature_tuning"] = chunked.into();
    config["no_rope_layer_interval"] = if chunked { 4 } else { i32::MAX }.into();
    Ok(config)
}
