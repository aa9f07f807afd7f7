//! What most architectures have in common: sizes, heads, tokens.

use super::{
    keys::{Keys, decimal, positive},
    names::Names,
};
use crate::{Error, Result, gguf::metadata::Field, weights::Checkpoint};
use serde_json::{Value, json};

/// Names of experts, of most architectures.
pub(super) const EXPERTS: Names = &[
    ("ffn_gate_inp", "mlp.gate"),
    ("ffn_gate_exps", "mlp.switch_mlp.gate_proj"),
    ("ffn_up_exps", "mlp.switch_mlp.up_proj"),
    ("ffn_down_exps", "mlp.switch_mlp.down_proj"),
    ("ffn_gate_up_exps", "mlp.switch_mlp.fused"),
];

/// Sizes, the ε of RMS norms, tokens that begin and end texts.
pub(super) fn base(keys: &Keys<'_>, model_type: &str) -> Result<Value> {
    let mut config = base_of(keys, model_type)?;
    config["rms_norm_eps"] = decimal(keys.positive("attention.layer_norm_rms_epsilon")?);
    Ok(config)
}

/// Sizes, tokens that begin and end texts.
pub(super) fn base_of(keys: &Keys<'_>, model_type: &str) -> Result<Value> {
    let hidden = keys.size("embedding_length")?;
    let layers = layers(keys)?;
    let vocab = vocab_size(keys, hidden)?;
    let mut config = json!({
        "model_type": model_type,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "vocab_size": vocab,
        "max_position_embeddings": keys.size("context_length")?,
        "tie_word_embeddings": keys.tensor("output.weight").is_none(),
    });
    if let Some(id) = token(keys, "bos", vocab)? {
        config["bos_token_id"] = id.into();
    }
    let mut ends = Vec::new();
    for name in ["eos", "eot", "eom"] {
        ends.extend(token(keys, name, vocab)?.filter(|id| !ends.contains(id)));
    }
    match ends[..] {
        [] => {}
        [id] => config["eos_token_id"] = id.into(),
        _ => config["eos_token_id"] = ends.into(),
    }
    Ok(config)
}

/// Layers without those that predict further tokens.
pub(super) fn layers(keys: &Keys<'_>) -> Result<i32> {
    let all = keys.size("block_count")?;
    let tensors = keys.gguf.infos.len();
    if all as usize > tensors {
        return Err(keys.wanted("block_count", format!("no more than the {tensors} tensors of the file")));
    }
    let further = keys.count("nextn_predict_layers")?;
    if further >= all {
        return Err(keys.wanted("nextn_predict_layers", format!("fewer than the {all} layers")));
    }
    Ok(all - further)
}

/// Adds heads, and biases of their projections.
pub(super) fn attention(keys: &Keys<'_>, config: &mut Value, heads: &Heads) {
    config["num_attention_heads"] = heads.query.into();
    config["num_key_value_heads"] = heads.key.into();
    config["head_dim"] = heads.dim.into();
    config["attention_bias"] = has_bias(keys, &["attn_q", "attn_k", "attn_v", "attn_qkv"]).into();
}

/// Adds how `dims` channels of each head are rotated.
pub(super) fn rope(keys: &Keys<'_>, config: &mut Value, dims: i32) -> Result<()> {
    config["rope_theta"] = decimal(keys.positive_opt("rope.freq_base")?.unwrap_or(10000.0));
    if let Some(scaling) = super::rope::scaling(keys, dims)? {
        config["rope_scaling"] = scaling;
    }
    Ok(())
}

/// Adds the width of dense feed-forward blocks, and their biases.
pub(super) fn feed_forward(keys: &Keys<'_>, config: &mut Value) -> Result<()> {
    config["intermediate_size"] = keys.size("feed_forward_length")?.into();
    config["mlp_bias"] = has_bias(keys, &["ffn_gate", "ffn_up", "ffn_down"]).into();
    Ok(())
}

/// Adds the number of experts, under the architecture's own name for it, how many a token uses, and their width.
pub(super) fn experts(keys: &Keys<'_>, config: &mut Value, count: &str) -> Result<()> {
    let (experts, used) = (keys.size("expert_count")?, keys.size("expert_used_count")?);
    if used > experts {
        return Err(keys.wanted("expert_used_count", format!("no more than the {experts} experts")));
    }
    let width = match keys.size_opt("expert_feed_forward_length")? {
        Some(width) => width,
        None => keys.size("feed_forward_length")? / used,
    };
    config[count] = experts.into();
    config["num_experts_per_tok"] = used.into();
    config["moe_intermediate_size"] = width.into();
    Ok(())
}

/// Adds groups of experts, and how the weights of the chosen are scaled.
pub(super) fn expert_groups(keys: &Keys<'_>, config: &mut Value) -> Result<()> {
    let (groups, used) =
        (keys.count("expert_group_count")?.max(1), keys.count("expert_group_used_count")?.max(1));
    if used > groups {
        return Err(keys.wanted("expert_group_used_count", format!("no more than the {groups} groups")));
    }
    config["n_group"] = groups.into();
    config["topk_group"] = used.into();
    config["norm_topk_prob"] = keys.flag("expert_weights_norm")?.unwrap_or(false).into();
    // Zero stands for no scaling.
    let scale =
        keys.optional(
            "expert_weights_scale",
            |field| if field.f32()? == 0.0 { Ok(1.0) } else { positive(field) },
        )?;
    config["routed_scaling_factor"] = decimal(scale.unwrap_or(1.0));
    Ok(())
}

/// Refuses factors of experts' weights where an architecture has none.
pub(super) fn unscaled_experts(keys: &Keys<'_>) -> Result<()> {
    match keys.optional("expert_weights_scale", Field::f32)? {
        None | Some(0.0 | 1.0) => Ok(()),
        _ => Err(keys.wanted("expert_weights_scale", "1")),
    }
}

/// The number that those layers have which have any; none if there are no such layers.
pub(super) fn same(keys: &Keys<'_>, name: &str, numbers: &[i32]) -> Result<Option<i32>> {
    let mut some = numbers.iter().copied().filter(|n| *n > 0);
    let first = some.next();
    match some.find(|n| Some(*n) != first) {
        None => Ok(first),
        Some(n) => Err(keys.wanted(name, format!("the same in all layers that have any (found {n}, too)"))),
    }
}

/// Kernels of depthwise convolutions, [C, K] in files, become [C, K, 1].
pub(super) fn kernels(checkpoint: &mut Checkpoint, end: &str) -> Result<()> {
    checkpoint.reshape(
        |name| name.ends_with(end),
        |shape| match *shape {
            [c, k] => Some(vec![c, k, 1]),
            _ => None,
        },
    )
}

/// Gates of shared experts, [D] in files, become [1, D].
pub(super) fn shared_gates(checkpoint: &mut Checkpoint) -> Result<()> {
    checkpoint.reshape(
        |name| name.ends_with("shared_expert_gate.weight"),
        |shape| match *shape {
            [n] | [1, n] => Some(vec![1, n]),
            _ => None,
        },
    )
}

/// Takes apart what converters may put together: queries, keys and values; the experts' gate and up.
pub(super) fn unfuse(keys: &Keys<'_>, checkpoint: &mut Checkpoint) -> Result<()> {
    let has = |checkpoint: &Checkpoint, module: &str| {
        checkpoint
            .iter()
            .any(|(name, _)| name.strip_suffix(".weight").is_some_and(|name| name.ends_with(module)))
    };
    if has(checkpoint, "self_attn.fused") {
        let heads = Heads::partial(keys)?;
        let [q, kv] = [heads.query, heads.key].map(|n| n.saturating_mul(heads.dim));
        let parts = [("self_attn.q_proj", q), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv)];
        checkpoint.split("self_attn.fused", -2, &parts)?;
    }
    if has(checkpoint, "switch_mlp.fused") {
        let width = keys.size("expert_feed_forward_length")?;
        let parts = [("switch_mlp.gate_proj", width), ("switch_mlp.up_proj", width)];
        checkpoint.split("switch_mlp.fused", -2, &parts)?;
    }
    Ok(())
}

/// Refuses experts where an architecture has none.
pub(super) fn no_experts(keys: &Keys<'_>) -> Result<()> {
    match keys.count("expert_count")? {
        0 => Ok(()),
        _ => Err(keys.wanted("expert_count", "0: models with experts cannot be read")),
    }
}

/// Attention heads, which also say how rows are ordered.
pub(super) struct Heads {
    pub(super) query: i32,
    pub(super) key: i32,
    /// Rows of a head.
    pub(super) dim: i32,
    /// Channels that are rotated.
    pub(super) rotated: i32,
}

impl Heads {
    /// Of architectures that rotate heads as a whole.
    pub(super) fn whole(keys: &Keys<'_>) -> Result<Heads> {
        let heads = Heads::partial(keys)?;
        if heads.rotated != heads.dim {
            return Err(keys.wanted("rope.dimension_count", format!("{}, as many as keys have", heads.dim)));
        }
        Ok(heads)
    }

    /// Of architectures that may rotate a part of each head.
    pub(super) fn partial(keys: &Keys<'_>) -> Result<Heads> {
        let query = keys.size("attention.head_count")?;
        let key = keys.size_opt("attention.head_count_kv")?.unwrap_or(query);
        Heads::of(keys, query, key)
    }

    /// So many heads of queries and of keys.
    pub(super) fn of(keys: &Keys<'_>, query: i32, key: i32) -> Result<Heads> {
        let hidden = keys.size("embedding_length")?;
        if query % key != 0 {
            return Err(
                keys.wanted("attention.head_count_kv", format!("a divisor of the {query} query heads"))
            );
        }
        let dim = match keys.size_opt("attention.key_length")? {
            Some(dim) => dim,
            None if hidden % query == 0 => hidden / query,
            None => {
                return Err(keys.wanted("attention.head_count", format!("a divisor of the width {hidden}")));
            }
        };
        let source =
            if keys.has("attention.key_length") { "attention.key_length" } else { "attention.head_count" };
        if dim % 2 != 0 || query.checked_mul(dim).is_none() {
            return Err(keys.wanted(
                source,
                format!("heads of an even number of values, {query} of them (found {dim} values)"),
            ));
        }
        if keys.size_opt("attention.value_length")?.is_some_and(|n| n != dim) {
            return Err(keys.wanted("attention.value_length", format!("{dim}, as many as keys have")));
        }
        let rotated = keys.size_opt("rope.dimension_count")?.unwrap_or(dim);
        if rotated > dim || rotated % 2 != 0 {
            return Err(
                keys.wanted("rope.dimension_count", format!("{dim}, as many as keys have, or an even part"))
            );
        }
        Ok(Heads { query, key, dim, rotated })
    }
}

pub(super) fn has_bias(keys: &Keys<'_>, parts: &[&str]) -> bool {
    parts.iter().any(|part| keys.in_layers(&format!("{part}.bias")))
}

/// The rows of the embedding, if width and vocabulary agree with them.
fn vocab_size(keys: &Keys<'_>, hidden: i32) -> Result<i32> {
    const EMBEDDING: &str = "token_embd.weight";
    let info = keys.tensor(EMBEDDING).ok_or_else(|| Error::MissingTensor(EMBEDDING.into()))?;
    let rows = info.shape[0];
    if info.shape != [rows, hidden] {
        return Err(Error::Shape {
            name: EMBEDDING.into(),
            found: info.shape.clone(),
            wanted: vec![rows, hidden],
        });
    }
    let wanted = format!("at most {rows}, the rows of {EMBEDDING}");
    if keys.size_opt("vocab_size")?.is_some_and(|n| n > rows) {
        return Err(keys.wanted("vocab_size", wanted));
    }
    match keys.gguf.metadata().optional("tokenizer.ggml.tokens", Field::strings)? {
        Some(tokens) if tokens.len() > rows as usize => {
            Err(Error::config("tokenizer.ggml.tokens", format!("{} tokens", tokens.len()), wanted))
        }
        _ => Ok(rows),
    }
}

fn token(keys: &Keys<'_>, name: &str, vocab: i32) -> Result<Option<u32>> {
    keys.gguf.metadata().optional(&format!("tokenizer.ggml.{name}_token_id"), |field| {
        field
            .u32()
            .ok()
            .filter(|&id| id < vocab as u32)
            .ok_or_else(|| field.wanted(format!("a token id below {vocab}")))
    })
}
