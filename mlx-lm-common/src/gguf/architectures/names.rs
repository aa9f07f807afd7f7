//! Published names of tensors.

/// GGUF's name and the published one: of modules, to which `weight` or `bias` belongs, or, with `=` in front, of single tensors.
pub(in crate::gguf) type Names = &'static [(&'static str, &'static str)];

/// Divisors of the rotary frequencies; part of the configuration.
pub(in crate::gguf) const ROPE_FREQS: &str = "rope_freqs.weight";
/// The same for texts longer than those of the first training, and for others.
pub(super) const ROPE_FACTORS: [&str; 2] = ["rope_factors_long.weight", "rope_factors_short.weight"];

/// Whether a tensor is part of the configuration.
pub(super) fn is_config(name: &str) -> bool {
    name == ROPE_FREQS || ROPE_FACTORS.contains(&name)
}

/// Names outside layers, of most architectures.
const TOP: Names =
    &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// Names in a layer, of most architectures.
const LAYER: Names = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_qkv", "self_attn.fused"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("ssm_in", "mamba.in_proj"),
    ("ssm_conv1d", "mamba.conv1d"),
    ("=ssm_dt.bias", "mamba.dt_bias"),
    ("=ssm_a", "mamba.A_log"),
    ("=ssm_d", "mamba.D"),
    ("ssm_norm", "mamba.norm"),
    ("ssm_out", "mamba.out_proj"),
];

/// `blk.3.attn_q.weight` as ("3", "attn_q.weight").
pub(super) fn in_layer(name: &str) -> Option<(&str, &str)> {
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    // One spelling of each number, so that two names stay two.
    let canonical = layer.parse::<u32>().is_ok_and(|n| n.to_string() == layer);
    canonical.then_some((layer, rest))
}

/// The module of a layer's tensor: `attn_q` of `blk.3.attn_q.weight`; nothing for others.
pub(super) fn part(name: &str) -> &str {
    let (_, rest) = in_layer(name).unwrap_or_default();
    rest.split('.').next().unwrap_or_default()
}

/// The name under which architectures know a tensor, by the tables of its own architecture first; one that no table has stays as
/// it is.
pub(super) fn published(name: &str, top: Names, layer: Names) -> String {
    let renamed = match in_layer(name) {
        Some((number, rest)) => find(rest, &[layer, LAYER]).map(|to| format!("model.layers.{number}.{to}")),
        None => find(name, &[top, TOP]),
    };
    renamed.unwrap_or_else(|| name.into())
}

/// The name in a file of a tensor that architectures know by `name`, which [`published`] turns back; nothing for others.
pub(in crate::gguf) fn in_file(name: &str, layer: Names) -> Option<String> {
    let (path, suffix) = name.rsplit_once('.').filter(|(_, suffix)| matches!(*suffix, "weight" | "bias"))?;
    let from = |module: &str, tables: &[Names]| {
        tables.iter().copied().flatten().find(|(_, to)| *to == module).map(|(from, _)| *from)
    };
    match path.strip_prefix("model.layers.") {
        Some(rest) => {
            let (number, module) = rest.split_once('.')?;
            Some(format!("blk.{number}.{}.{suffix}", from(module, &[layer, LAYER])?))
        }
        None => Some(format!("{}.{suffix}", from(path, &[TOP])?)),
    }
}

fn find(name: &str, tables: &[Names]) -> Option<String> {
    let entry =
        |wanted: &str| tables.iter().copied().flatten().find(|(from, _)| *from == wanted).map(|(_, to)| *to);
    if let Some(to) = entry(&format!("={name}")) {
        return Some(to.into());
    }
    let (module, suffix) = name.rsplit_once('.')?;
    let to = entry(module).filter(|_| matches!(suffix, "weight" | "bias"))?;
    Some(format!("{to}.{suffix}"))
}
