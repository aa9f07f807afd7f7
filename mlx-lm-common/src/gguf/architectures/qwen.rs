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
pub(super) const QWEN3_MOE: Family = Family { layer: common::EXPERTS, ..Family::plain(qwen3_moe) };

fn qwen3_moe(keys: &Keys<'_>) -> Result<Value> {
    let mut config = with_heads(keys, "qwen3_moe")?;
    common::experts(keys, &mut config, "num_experts")?;
    common::unscaled_experts(keys)?;
    config["norm_topk_prob"] = true.into();
    config["decoder_sparse_step"] = 1.into();
    config["mlp_only_layers"] = json!([]);
    Ok(config)
}
