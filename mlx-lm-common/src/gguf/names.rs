//! Published names of tensors, and which of them have their rows reordered.

use super::config::Heads;

/// Divisors of the rotary frequencies; part of the configuration.
pub(super) const ROPE_FREQS: &str = "rope_freqs.weight";

/// Names outside and inside a layer: GGUF's, the published one.
const TOP: [(&str, &str); 3] =
    [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];
const LAYER: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// `blk.3.attn_q.weight` as (3, "attn_q", "weight").
fn in_layer(name: &str) -> Option<(&str, &str, &str)> {
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let (part, suffix) = rest.split_once('.')?;
    // One spelling of each number, so that two names stay two.
    let canonical = layer.parse::<u32>().is_ok_and(|n| n.to_string() == layer);
    (canonical && is_suffix(suffix)).then_some((layer, part, suffix))
}

fn is_suffix(suffix: &str) -> bool {
    matches!(suffix, "weight" | "bias")
}

/// The name under which architectures know a tensor; one that no table has stays as it is.
pub(super) fn published(name: &str) -> String {
    let find = |table: &[(&str, &'static str)], part: &str| {
        table.iter().find(|(from, _)| *from == part).map(|(_, to)| *to)
    };
    let renamed = match in_layer(name) {
        Some((layer, part, suffix)) => {
            find(&LAYER, part).map(|to| format!("model.layers.{layer}.{to}.{suffix}"))
        }
        None => name
            .split_once('.')
            .filter(|(_, suffix)| is_suffix(suffix))
            .and_then(|(part, suffix)| find(&TOP, part).map(|to| format!("{to}.{suffix}"))),
    };
    renamed.unwrap_or_else(|| name.into())
}

/// How many heads' rows a projection of queries or keys has.
pub(super) fn rotary_heads(name: &str, heads: &Heads) -> Option<i32> {
    match in_layer(name)?.1 {
        "attn_q" => Some(heads.query),
        "attn_k" => Some(heads.key),
        _ => None,
    }
}
