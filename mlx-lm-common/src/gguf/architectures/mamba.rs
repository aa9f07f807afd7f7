//! Nemotron-H, Falcon-H1 and Granite 4: Mamba-2 beside attention.

use super::{
    Family,
    common::{self, Heads},
    keys::Keys,
    llama,
    names::Names,
};
use crate::{Error, Result, weights::Checkpoint};
use mlx_rs::ops;
use serde_json::{Value, json};

/// How many heads of keys layers have.
const KEYS: &str = "attention.head_count_kv";

const NEMOTRON: Names = &[
    ("attn_norm", "norm"),
    ("attn_q", "mixer.q_proj"),
    ("attn_k", "mixer.k_proj"),
    ("attn_v", "mixer.v_proj"),
    ("attn_output", "mixer.o_proj"),
    ("ssm_in", "mixer.in_proj"),
    ("ssm_conv1d", "mixer.conv1d"),
    ("=ssm_dt.bias", "mixer.dt_bias"),
    ("=ssm_a", "mixer.A_log"),
    ("=ssm_d", "mixer.D"),
    ("ssm_norm", "mixer.norm"),
    ("ssm_out", "mixer.out_proj"),
    ("ffn_up", "mixer.up_proj"),
    ("ffn_down", "mixer.down_proj"),
    ("ffn_gate_inp", "mixer.gate"),
    ("=exp_probs_b.bias", "mixer.gate.e_score_correction_bias"),
    ("ffn_up_exps", "mixer.switch_mlp.fc1"),
    ("ffn_down_exps", "mixer.switch_mlp.fc2"),
    ("ffn_up_shexp", "mixer.shared_experts.up_proj"),
    ("ffn_down_shexp", "mixer.shared_experts.down_proj"),
    ("ffn_latent_down", "mixer.fc1_latent_proj"),
    ("ffn_latent_up", "mixer.fc2_latent_proj"),
];

/// Queries and keys have rows in another order in some files, which changes no score, as nothing is rotated.
pub(super) const NEMOTRON_H: Family = Family {
    top: &[("token_embd", "backbone.embeddings"), ("output_norm", "backbone.norm_f")],
    layer: NEMOTRON,
    weights: mixers,
    ..Family::plain(nemotron)
};
pub(super) const FALCON_H1: Family = Family {
    top: &[("output_norm", "model.final_layernorm")],
    layer: &[
        ("=ffn_norm", "pre_ff_layernorm.weight"),
        ("ffn_norm", "pre_ff_layernorm"),
        ("ffn_gate", "feed_forward.gate_proj"),
        ("ffn_up", "feed_forward.up_proj"),
        ("ffn_down", "feed_forward.down_proj"),
    ],
    weights: mixers,
    ..Family::plain(falcon)
};
pub(super) const GRANITE_HYBRID: Family = Family {
    order: |keys, info| llama::interleaved_heads(info, || granite_heads(keys)),
    layer: &[
        ("ffn_gate_inp", "block_sparse_moe.router.layer"),
        ("ffn_gate_exps", "block_sparse_moe.switch_mlp.gate_proj"),
        ("ffn_up_exps", "block_sparse_moe.switch_mlp.up_proj"),
        ("ffn_down_exps", "block_sparse_moe.switch_mlp.down_proj"),
        ("ffn_gate_shexp", "shared_mlp.gate_proj"),
        ("ffn_up_shexp", "shared_mlp.up_proj"),
        ("ffn_down_shexp", "shared_mlp.down_proj"),
    ],
    weights: mixers,
    ..Family::plain(granite)
};

/// Decays are stored as they are used, and vectors as columns or in groups.
fn mixers(_: &Keys<'_>, checkpoint: &mut Checkpoint) -> Result<()> {
    common::kernels(checkpoint, ".conv1d.weight")?;
    let flat = [".A_log", ".D", "mamba.norm.weight", "mixer.norm.weight"];
    checkpoint.reshape(
        |name| flat.iter().any(|end| name.ends_with(end)),
        |shape| shape.iter().try_fold(1i32, |n, d| n.checked_mul(*d)).map(|n| vec![n]),
    )?;
    decays(checkpoint)
}

/// -exp(A_log) becomes A_log.
pub(super) fn decays(checkpoint: &mut Checkpoint) -> Result<()> {
    checkpoint.map(|name| name.ends_with(".A_log"), |a| Ok(ops::log(a.negative()?)?))
}

/// The sizes of the mixers: (heads, channels of each).
fn mixer(keys: &Keys<'_>) -> Result<(i32, i32)> {
    let (inner, heads) = (keys.size("ssm.inner_size")?, keys.size("ssm.time_step_rank")?);
    if inner % heads != 0 {
        return Err(keys.wanted("ssm.time_step_rank", format!("a divisor of {inner} channels")));
    }
    Ok((heads, inner / heads))
}

fn nemotron(keys: &Keys<'_>) -> Result<Value> {
    let key_heads = key_heads(keys)?;
    let widths = keys.each("feed_forward_length", key_heads.len())?;
    let experts = keys.count("expert_count")? > 0;
    let mut config = common::base(keys, "nemotron_h")?;
    let kind = |(heads, width): (&i32, &i32)| match (heads, width) {
        (0, 0) => 'M',
        (0, _) if experts => 'E',
        (0, _) => '-',
        _ => '*',
    };
    config["hybrid_override_pattern"] = key_heads.iter().zip(&widths).map(kind).collect::<String>().into();
    config["layer_norm_epsilon"] = config["rms_norm_eps"].clone();
    let (heads, dim) = mixer(keys)?;
    config["mamba_num_heads"] = heads.into();
    config["mamba_head_dim"] = dim.into();
    config["ssm_state_size"] = keys.size("ssm.state_size")?.into();
    config["n_groups"] = keys.size("ssm.group_count")?.into();
    config["conv_kernel"] = keys.size("ssm.conv_kernel")?.into();
    config["use_conv_bias"] = keys.in_layers("ssm_conv1d.bias").into();
    config["use_bias"] = common::has_bias(keys, &["ssm_in", "ssm_out"]).into();
    if let Some(heads) = attending(keys, &key_heads)? {
        common::attention(keys, &mut config, &heads);
    }
    config["mlp_bias"] = common::has_bias(keys, &["ffn_up", "ffn_down"]).into();
    config["intermediate_size"] = common::same(keys, "feed_forward_length", &widths)?.unwrap_or(1).into();
    if experts {
        common::experts(keys, &mut config, "n_routed_experts")?;
        common::expert_groups(keys, &mut config)?;
        config["n_shared_experts"] = keys.count("expert_shared_count")?.into();
        if keys.in_layers("ffn_up_shexp.weight") {
            config["moe_shared_expert_intermediate_size"] =
                keys.size("expert_shared_feed_forward_length")?.into();
        }
        if keys.in_layers("ffn_latent_down.weight") {
            config["moe_latent_size"] = keys.size("moe_latent_size")?.into();
        }
    }
    Ok(config)
}

/// The heads of those layers that attend; none if there are no such layers. Both numbers may be told for all layers or for each.
fn attending(keys: &Keys<'_>, key_heads: &[i32]) -> Result<Option<Heads>> {
    const KEY: &str = "attention.head_count";
    let Some(key) = common::same(keys, KEYS, key_heads)? else { return Ok(None) };
    let query = common::same(keys, KEY, &keys.each(KEY, key_heads.len())?)?;
    Heads::of(keys, query.ok_or_else(|| keys.wanted(KEY, "a positive number of heads"))?, key).map(Some)
}

/// Heads of keys in each layer: none where there is a mixer.
fn key_heads(keys: &Keys<'_>) -> Result<Vec<i32>> {
    keys.each(KEYS, common::layers(keys)? as usize)
}

/// The heads of Granite's layers with attention, of which it has some.
fn granite_heads(keys: &Keys<'_>) -> Result<Heads> {
    attending(keys, &key_heads(keys)?)?.ok_or_else(|| keys.wanted(KEYS, "a layer with attention"))
}

/// Adds what Falcon-H1 and Granite have of a mixer.
fn mamba(keys: &Keys<'_>, config: &mut Value) -> Result<()> {
    let (count, dim) = mixer(keys)?;
    config["mamba_n_heads"] = count.into();
    config["mamba_d_head"] = dim.into();
    config["mamba_d_state"] = keys.size("ssm.state_size")?.into();
    config["mamba_n_groups"] = keys.size("ssm.group_count")?.into();
    config["mamba_d_conv"] = keys.size("ssm.conv_kernel")?.into();
    config["mamba_conv_bias"] = keys.in_layers("ssm_conv1d.bias").into();
    config["mamba_proj_bias"] = keys.in_layers("ssm_in.bias").into();
    Ok(())
}

/// All multipliers are in the weights.
fn falcon(keys: &Keys<'_>) -> Result<Value> {
    common::no_experts(keys)?;
    let heads = Heads::whole(keys)?;
    let mut config = common::base(keys, "falcon_h1")?;
    common::attention(keys, &mut config, &heads);
    common::rope(keys, &mut config, heads.rotated)?;
    common::feed_forward(keys, &mut config)?;
    mamba(keys, &mut config)?;
    config["mamba_d_ssm"] = keys.size("ssm.inner_size")?.into();
    config["projectors_bias"] = keys.in_layers("ssm_out.bias").into();
    config["mamba_rms_norm"] = keys.in_layers("ssm_norm.weight").into();
    config["mamba_norm_before_gate"] = false.into();
    if config["mlp_bias"] == json!(true) || config["mamba_proj_bias"] == json!(true) {
        let what = "biases, whose multipliers cannot be told from those of weights";
        return Err(Error::Unsupported(format!("a GGUF file of Falcon-H1 with {what}")));
    }
    Ok(config)
}

/// Layers without keys have a mixer. Positions are only in files that say so.
fn granite(keys: &Keys<'_>) -> Result<Value> {
    let heads = granite_heads(keys)?;
    let mut config = common::base(keys, "granitemoehybrid")?;
    let kind = |heads: &i32| if *heads == 0 { "mamba" } else { "attention" };
    config["layer_types"] = key_heads(keys)?.iter().map(kind).collect();
    common::attention(keys, &mut config, &heads);
    common::rope(keys, &mut config, heads.rotated)?;
    let rotates = keys.flag("rope.scaling.finetuned")?.unwrap_or(false);
    config["position_embedding_type"] = if rotates { "rope" } else { "nope" }.into();
    llama::multipliers(keys, &mut config)?;
    common::feed_forward(keys, &mut config)?;
    if keys.count("expert_count")? > 0 {
        config["num_local_experts"] = keys.size("expert_count")?.into();
        config["num_experts_per_tok"] = keys.size("expert_used_count")?.into();
        config["shared_intermediate_size"] = keys.size("expert_shared_feed_forward_length")?.into();
    }
    // llama.cpp norms each group, the model all channels.
    keys.only("ssm.group_count", 1)?;
    mamba(keys, &mut config)?;
    config["time_step_limit"] = json!([0.0, { "__float__": "Infinity" }]);
    Ok(config)
}
