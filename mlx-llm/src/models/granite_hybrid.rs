//! Granite 4: layers of Granite 3, of which most have a Mamba-2 mixer (arXiv 2405.21060) instead of attention; attention has no
//! positions in models with such layers. Mixtures have one more block, for every token.

use super::{
    granite::{self, Multipliers, Residual},
    llama::LlamaConfig,
};
use mlx_lm_common::{
    Config, Error, Result,
    cache::{CacheSpec, LayerCache},
    config::{dim, optional_dim},
    model::{Decoder, Layer, Written, load_layers},
    nn::{
        Attention, Embedding, FeedForward, GatedNorm, Head, Mamba2, Mamba2Config, MlpConfig, MoeConfig, Norm,
        SharedConfig,
    },
    weights::{Checkpoint, Weights},
};
use mlx_rs::Array;
use serde::Deserialize;

/// The keys of layers with a state.
#[derive(Deserialize)]
struct MambaConfig {
    #[serde(deserialize_with = "dim")]
    mamba_n_heads: i32,
    #[serde(deserialize_with = "dim")]
    mamba_d_head: i32,
    #[serde(deserialize_with = "dim")]
    mamba_d_state: i32,
    #[serde(deserialize_with = "dim")]
    mamba_n_groups: i32,
    #[serde(deserialize_with = "dim")]
    mamba_d_conv: i32,
    mamba_conv_bias: Option<bool>,
    #[serde(default)]
    mamba_proj_bias: bool,
    time_step_limit: Option<(f32, f32)>,
}

impl MambaConfig {
    fn mixer(&self, c: &LlamaConfig) -> Mamba2Config {
        Mamba2Config {
            dim: c.hidden_size,
            heads: self.mamba_n_heads,
            head_dim: self.mamba_d_head,
            state: self.mamba_d_state,
            groups: self.mamba_n_groups,
            kernel: self.mamba_d_conv,
            conv_bias: self.mamba_conv_bias.unwrap_or(true),
            input_bias: self.mamba_proj_bias,
            output_bias: self.mamba_proj_bias,
            // By default, what mlx-lm has.
            time_step_limit: self.time_step_limit.unwrap_or((0.001, 100.0)),
            norm: Some(GatedNorm { eps: c.rms_norm_eps, groups: 1, before_gate: false }),
        }
    }
}

/// What follows the mixers.
#[derive(Deserialize)]
struct BlocksConfig {
    layer_types: Vec<String>,
    position_embedding_type: Option<String>,
    #[serde(default)]
    num_local_experts: Option<i32>,
    #[serde(default, deserialize_with = "optional_dim")]
    shared_intermediate_size: Option<i32>,
}

impl BlocksConfig {
    fn is_mixture(&self) -> bool {
        self.num_local_experts.is_some_and(|n| n != 0)
    }

    /// Width of the block for every token.
    fn shared(&self, c: &LlamaConfig) -> i32 {
        self.shared_intermediate_size.unwrap_or(c.intermediate_size)
    }
}

enum Mixer {
    Mamba(Box<Mamba2>),
    Attention(Box<Attention>),
}

pub(super) struct HybridLayer {
    input_layernorm: Norm,
    mixer: Mixer,
    post_attention_layernorm: Norm,
    feed_forward: FeedForward,
    residual: Residual,
}

impl Layer for HybridLayer {
    fn forward(&self, x: &Array, cache: &mut LayerCache) -> Result<Array> {
        let y = match &self.mixer {
            Mixer::Mamba(mamba) => mamba.forward(&self.input_layernorm.forward(x)?, cache.state_cache()?)?,
            Mixer::Attention(attention) => attention.forward(&self.input_layernorm, x, cache)?,
        };
        let x = self.residual.add(x, &y)?;
        self.residual.add(&x, &self.feed_forward.forward(&self.post_attention_layernorm, &x)?)
    }

    fn cache(&self) -> CacheSpec {
        match &self.mixer {
            Mixer::Mamba(_) => Mamba2::CACHE,
            Mixer::Attention(_) => CacheSpec::Full,
        }
    }
}

pub(super) const WRITTEN: Written = Written { eight_bits: &["router.layer"], ..Written::PLAIN };

/// Experts and what else is gated are published with gate and up in one; convolutions as torch has them.
pub(super) fn remap(checkpoint: &mut Checkpoint, config: &Config) -> Result<()> {
    granite::remap(checkpoint, config)?;
    checkpoint.conv_to_mlx(|name| name.ends_with(".mamba.conv1d.weight"))?;
    let (c, blocks): (LlamaConfig, BlocksConfig) = (config.parse()?, config.parse()?);
    match blocks.is_mixture() {
        true => Ok(()),
        false => split_shared(checkpoint, blocks.shared(&c), "mlp"),
    }
}

/// Gate and up of the block for every token, which mlx-lm keeps in one in mixtures.
pub(super) fn fold(checkpoint: &mut Checkpoint, config: &Config) -> Result<()> {
    let (c, blocks): (LlamaConfig, BlocksConfig) = (config.parse()?, config.parse()?);
    split_shared(checkpoint, blocks.shared(&c), "shared_mlp")
}

fn split_shared(checkpoint: &mut Checkpoint, hidden: i32, to: &str) -> Result<()> {
    let (gate, up) = (format!("{to}.gate_proj"), format!("{to}.up_proj"));
    checkpoint.split("shared_mlp.input_linear", -2, &[(gate.as_str(), hidden), (up.as_str(), hidden)])?;
    checkpoint.rename_module("shared_mlp.output_linear", &format!("{to}.down_proj"))
}

pub(super) fn load(config: &Config, w: &Weights) -> Result<Decoder<HybridLayer>> {
    let (c, blocks): (LlamaConfig, BlocksConfig) = (config.parse()?, config.parse()?);
    let multipliers = Multipliers::read(config)?;
    let (m, dim, eps) = (w.pp("model"), c.hidden_size, c.rms_norm_eps);
    if blocks.layer_types.len() != c.num_hidden_layers as usize {
        let wanted = format!("one for each of the {} layers", c.num_hidden_layers);
        return Err(Error::config("layer_types", format!("{} layers", blocks.layer_types.len()), wanted));
    }
    let rotates = blocks.position_embedding_type.as_deref() != Some("nope");
    let mixer = |kind: &str, w: &Weights| match kind {
        "mamba" => {
            let mamba: MambaConfig = config.parse()?;
            Mamba2::load(&w.pp("mamba"), &mamba.mixer(&c)).map(|m| Mixer::Mamba(Box::new(m)))
        }
        "attention" => {
            let scale = multipliers.attention_multiplier;
            granite::attention(config, &c, scale, rotates, &w.pp("self_attn"))
                .map(|a| Mixer::Attention(Box::new(a)))
        }
        other => Err(Error::config("layer_types", other, "mamba or attention")),
    };
    let shared = MlpConfig { bias: c.mlp_bias, ..MlpConfig::new(dim, blocks.shared(&c)) };
    let mixture = |w: &Weights| {
        let moe = granite::mixture(config, &c)?;
        let mut router = moe.router;
        router.name = "block_sparse_moe.router.layer";
        let shared =
            SharedConfig { name: "shared_mlp", mlp: MlpConfig::new(dim, blocks.shared(&c)), gate: None };
        let moe =
            MoeConfig { experts_name: "block_sparse_moe.switch_mlp", shared: Some(shared), router, ..moe };
        FeedForward::experts(w, &moe)
    };
    Ok(Decoder {
        embed: Embedding::load(&m.pp("embed_tokens"), c.vocab_size, dim)?,
        layers: load_layers(&m, c.num_hidden_layers, |i, w| {
            Ok(HybridLayer {
                input_layernorm: Norm::rms(&w.pp("input_layernorm"), dim, eps)?,
                mixer: mixer(&blocks.layer_types[i], w)?,
                post_attention_layernorm: Norm::rms(&w.pp("post_attention_layernorm"), dim, eps)?,
                feed_forward: match blocks.is_mixture() {
                    true => mixture(w)?,
                    false => FeedForward::dense(&w.pp("mlp"), &shared)?,
                },
                residual: multipliers.residual(w),
            })
        })?,
        norm: Norm::rms(&m.pp("norm"), dim, eps)?,
        head: Head::load(w, super::tied(config, w)?, dim, c.vocab_size)?,
        scales: multipliers.scales(),
        vocab_size: c.vocab_size,
        backend: w.backend(),
    })
}
