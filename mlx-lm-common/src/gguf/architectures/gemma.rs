//! Gemma 2 and 3. Converters add to norms the one that the models add to them.

use super::{
    Family,
    common::{self, Heads},
    keys::{Keys, decimal},
    llama,
    names::Names,
};
use crate::{Result, gguf::List, weights::Checkpoint};
use serde_json::{Value, json};

/// Names of layers with a norm before and after each block.
pub(in crate::gguf) const SANDWICH: Names = &[
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

pub(super) const GEMMA: Family =
    Family { weights: norms_without_one, ..Family::plain(|keys| llama::decoder(keys, "gemma")) };
pub(super) const GEMMA2: Family =
    Family { layer: SANDWICH, weights: norms_without_one, ..Family::plain(gemma2) };
pub(super) const GEMMA3: Family =
    Family { layer: SANDWICH, weights: norms_without_one, ..Family::plain(gemma3) };

fn norms_without_one(_: &Keys<'_>, checkpoint: &mut Checkpoint) -> Result<()> {
    checkpoint.add(|name| name.ends_with("norm.weight"), -1.0)
}

fn gemma2(keys: &Keys<'_>) -> Result<Value> {
    let mut config = gemma(keys, "gemma2", 46)?;
    let window = keys.size_opt("attention.sliding_window")?;
    config["sliding_window"] = window.unwrap_or(4096).into();
    windows(keys, &mut config, 2)?;
    for (key, name, usual) in [
        ("attn_logit_softcapping", "attn_logit_softcapping", 50.0),
        ("final_logit_softcapping", "final_logit_softcapping", 30.0),
    ] {
        config[name] = decimal(keys.positive_opt(key)?.unwrap_or(usual));
    }
    Ok(config)
}

fn gemma3(keys: &Keys<'_>) -> Result<Value> {
    let mut config = gemma(keys, "gemma3_text", 62)?;
    if let Some(cap) = keys.positive_opt("final_logit_softcapping")? {
        config["final_logit_softcapping"] = decimal(cap);
    }
    match keys.count("attention.sliding_window")? {
        0 => config["layer_types"] = vec!["full_attention"; layers(&config)].into(),
        window => {
            config["sliding_window"] = window.into();
            windows(keys, &mut config, 6)?;
            config["rope_local_base_freq"] =
                decimal(keys.positive_opt("rope.freq_base_swa")?.unwrap_or(10000.0));
        }
    }
    Ok(config)
}

/// What both have. The largest model, of so many layers, has another scale of scores than the others.
fn gemma(keys: &Keys<'_>, model_type: &str, largest: usize) -> Result<Value> {
    common::no_experts(keys)?;
    let heads = Heads::whole(keys)?;
    let mut config = common::base(keys, model_type)?;
    common::attention(keys, &mut config, &heads);
    common::rope(keys, &mut config, heads.rotated)?;
    common::feed_forward(keys, &mut config)?;
    let hidden = keys.size("embedding_length")?;
    let scalar = if layers(&config) == largest { hidden / heads.query } else { heads.dim };
    config["query_pre_attn_scalar"] = scalar.into();
    Ok(config)
}

fn layers(config: &Value) -> usize {
    config["num_hidden_layers"].as_u64().unwrap_or_default() as usize
}

/// A list of which layers have a window, or every how many layers one has none.
pub(super) const WINDOWS: &str = "attention.sliding_window_pattern";

/// Which layers have a window: a list says, or every so many layers one has none.
pub(super) fn windows(keys: &Keys<'_>, config: &mut Value, usual: i32) -> Result<()> {
    if keys.optional(WINDOWS, |field| Ok(matches!(field.list(), Some(List::Bool(_)))))? == Some(true) {
        let windowed = keys.each_flag(WINDOWS, layers(config))?.unwrap_or_default();
        let kind = |windowed| if windowed { "sliding_attention" } else { "full_attention" };
        config["layer_types"] = json!(windowed.into_iter().map(kind).collect::<Vec<_>>());
    } else {
        config["sliding_window_pattern"] = keys.size_opt(WINDOWS)?.unwrap_or(usual).into();
    }
    Ok(())
}
