//! Falcon-H1 (arXiv 2507.22448): attention and Mamba-2 side by side in each layer, and multipliers for what goes into matrices and
//! comes out of them (arXiv 2203.03466).
//!
//! Multipliers are folded into weights, of either layout. What mlx-lm writes has most of them folded in, which the convolutions tell:
//! their kernels are MLX's, [C, K, 1]. Published checkpoints have none folded in, and kernels as torch has them, [C, 1, K]. Three
//! kinds mlx-lm never folds, so that its models compute something else: the `key_multiplier` (here a factor of the scores), what
//! goes into `v_proj`, and those of biases. It also normalizes all channels of the mixer's output together, where the published
//! model normalizes those of a group.

use mlx_lm_common::{
    Config, Error, Result,
    cache::{AttentionSpec, CacheSpec, LayerCache, Qkv},
    config::{RopeConfig, dim, epsilon, optional_dim},
    model::{Decoder, Layer, Scales, load_layers},
    nn::{Embedding, GatedNorm, Head, Linear, Mamba2, Mamba2Config, Mlp, MlpConfig, Norm, Projections, Rope},
    weights::{Checkpoint, Layout, Weights},
};
use mlx_rs::Array;
use serde::Deserialize;

#[derive(Deserialize)]
struct FalconConfig {
    #[serde(deserialize_with = "dim")]
    hidden_size: i32,
    #[serde(deserialize_with = "dim")]
    intermediate_size: i32,
    #[serde(deserialize_with = "dim")]
    num_hidden_layers: i32,
    #[serde(deserialize_with = "dim")]
    vocab_size: i32,
    #[serde(deserialize_with = "epsilon")]
    rms_norm_eps: f32,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(deserialize_with = "dim")]
    num_attention_heads: i32,
    #[serde(default, deserialize_with = "optional_dim")]
    num_key_value_heads: Option<i32>,
    #[serde(default, deserialize_with = "optional_dim")]
    head_dim: Option<i32>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    rope_traditional: bool,
}

/// The keys of the Mamba-2 mixer.
#[derive(Deserialize)]
struct MixerConfig {
    #[serde(deserialize_with = "dim")]
    mamba_n_heads: i32,
    #[serde(default, deserialize_with = "optional_dim")]
    mamba_d_ssm: Option<i32>,
    #[serde(default, deserialize_with = "optional_dim")]
    mamba_expand: Option<i32>,
    #[serde(deserialize_with = "dim")]
    mamba_d_state: i32,
    #[serde(deserialize_with = "dim")]
    mamba_n_groups: i32,
    #[serde(deserialize_with = "dim")]
    mamba_d_conv: i32,
    #[serde(default = "yes")]
    mamba_conv_bias: bool,
    #[serde(default)]
    mamba_proj_bias: bool,
    #[serde(default)]
    projectors_bias: bool,
    #[serde(default)]
    mamba_rms_norm: bool,
    #[serde(default = "yes")]
    mamba_norm_before_gate: bool,
    time_step_limit: Option<(f32, f32)>,
}

/// What inputs and outputs of matrices are multiplied by.
#[derive(Deserialize)]
struct Multipliers {
    #[serde(default = "one")]
    embedding_multiplier: f32,
    #[serde(default = "one")]
    lm_head_multiplier: f32,
    #[serde(default = "one")]
    attention_in_multiplier: f32,
    #[serde(default = "one")]
    key_multiplier: f32,
    #[serde(default = "one")]
    attention_out_multiplier: f32,
    #[serde(default = "one")]
    ssm_in_multiplier: f32,
    /// Of the parts of what goes into the mixer: gate, x, B, C, and time steps.
    #[serde(default = "ones")]
    ssm_multipliers: [f32; 5],
    #[serde(default = "one")]
    ssm_out_multiplier: f32,
    /// Of `gate_proj` and `down_proj`.
    #[serde(default = "ones")]
    mlp_multipliers: [f32; 2],
}

fn yes() -> bool {
    true
}

fn one() -> f32 {
    1.0
}

fn ones<const N: usize>() -> [f32; N] {
    [1.0; N]
}

impl FalconConfig {
    fn attention(&self, config: &Config, key_multiplier: f32, w: &Weights) -> Result<AttentionSpec> {
        let heads = self.num_attention_heads;
        let kv_heads = self.num_key_value_heads.unwrap_or(heads);
        if heads % kv_heads != 0 {
            let wanted = format!("a divisor of {heads} heads");
            return Err(Error::config("num_key_value_heads", kv_heads, wanted));
        }
        let each = (self.hidden_size % heads == 0).then_some(self.hidden_size / heads);
        let head_dim =
            self.head_dim.or(each).ok_or_else(|| Error::config("head_dim", "nothing", "a width"))?;
        let rope = RopeConfig::from_config(config, None, head_dim)?;
        let plain = AttentionSpec::new(heads, kv_heads, head_dim, w.backend().kernels);
        Ok(AttentionSpec {
            rope: Some(Rope::new(rope, self.rope_traditional)?),
            scale: plain.scale * key_multiplier,
            ..plain
        })
    }
}

impl MixerConfig {
    fn mixer(&self, dim: i32, eps: f32) -> Result<Mamba2Config> {
        let (heads, groups) = (self.mamba_n_heads, self.mamba_n_groups);
        let inner = self.mamba_d_ssm.or_else(|| self.mamba_expand.unwrap_or(2).checked_mul(dim));
        let inner = inner.filter(|inner| inner % heads == 0).ok_or_else(|| {
            let wanted = "a divisor of the channels: mamba_d_ssm, or mamba_expand · hidden_size";
            Error::config("mamba_n_heads", heads, wanted)
        })?;
        if heads % groups != 0 {
            return Err(Error::config("mamba_n_groups", groups, format!("a divisor of {heads} heads")));
        }
        let norm = GatedNorm { eps, groups, before_gate: self.mamba_norm_before_gate };
        Ok(Mamba2Config {
            dim,
            heads,
            head_dim: inner / heads,
            state: self.mamba_d_state,
            groups,
            kernel: self.mamba_d_conv,
            conv_bias: self.mamba_conv_bias,
            input_bias: self.mamba_proj_bias,
            output_bias: self.projectors_bias,
            time_step_limit: self.time_step_limit.unwrap_or((0.0, f32::INFINITY)),
            norm: self.mamba_rms_norm.then_some(norm),
        })
    }
}

impl Multipliers {
    fn read(config: &Config) -> Result<Multipliers> {
        let m: Multipliers = config.parse()?;
        let named: [(&str, &[f32]); 9] = [
            ("embedding_multiplier", &[m.embedding_multiplier]),
            ("lm_head_multiplier", &[m.lm_head_multiplier]),
            ("attention_in_multiplier", &[m.attention_in_multiplier]),
            ("key_multiplier", &[m.key_multiplier]),
            ("attention_out_multiplier", &[m.attention_out_multiplier]),
            ("ssm_in_multiplier", &[m.ssm_in_multiplier]),
            ("ssm_multipliers", &m.ssm_multipliers),
            ("ssm_out_multiplier", &[m.ssm_out_multiplier]),
            ("mlp_multipliers", &m.mlp_multipliers),
        ];
        match named.iter().find(|(_, values)| !values.iter().all(|x| x.is_finite())) {
            Some((key, values)) => Err(Error::config(*key, format!("{values:?}"), "finite numbers")),
            None => Ok(m),
        }
    }

    /// Those of the rows of `in_proj`.
    fn row_factors(&self, checkpoint: &Checkpoint, config: &Config) -> Result<Vec<f32>> {
        let c: FalconConfig = config.parse()?;
        let Mamba2Config { heads, head_dim, state, groups, .. } =
            config.parse::<MixerConfig>()?.mixer(c.hidden_size, c.rms_norm_eps)?;
        let [inner, shared] =
            [(heads, head_dim), (groups, state)].map(|(n, of)| i64::from(n) * i64::from(of));
        let widths = [inner, inner, shared, shared, heads.into()];
        // Of other shapes, loading will complain.
        let rows = checkpoint.get("model.layers.0.mamba.in_proj.weight").and_then(|t| t.shape().first());
        let fits = rows.is_some_and(|rows| i64::from(*rows) == widths.iter().sum::<i64>());
        let parts = self.ssm_multipliers.iter().zip(widths).filter(|_| fits);
        Ok(parts.flat_map(|(m, n)| std::iter::repeat_n(*m, n as usize)).collect())
    }

    /// What a tensor is to be multiplied by: all values, or each row. `by_mlx` asks for what mlx-lm folds, or else for what it does
    /// not. The rows of `in_proj` have the multipliers `parts`.
    fn of(&self, tensor: &str, by_mlx: bool, parts: &[f32]) -> Option<Vec<f32>> {
        let (path, part) = tensor.rsplit_once('.')?;
        let module = path.rsplit('.').next()?;
        let [gate, down] = self.mlp_multipliers;
        let (input, output) = match module {
            "embed_tokens" => (1.0, vec![self.embedding_multiplier]),
            "lm_head" => (1.0, vec![self.lm_head_multiplier]),
            "q_proj" | "k_proj" | "v_proj" => (self.attention_in_multiplier, vec![1.0]),
            "o_proj" => (1.0, vec![self.attention_out_multiplier]),
            "in_proj" => (self.ssm_in_multiplier, parts.to_vec()),
            "out_proj" => (1.0, vec![self.ssm_out_multiplier]),
            "gate_proj" => (1.0, vec![gate]),
            "down_proj" => (1.0, vec![down]),
            _ => return None,
        };
        let factors = match part {
            "weight" if by_mlx != (module == "v_proj") => output.iter().map(|o| o * input).collect(),
            "bias" if !by_mlx => output,
            _ => return None,
        };
        factors.iter().any(|&f| f != 1.0).then_some(factors)
    }
}

pub(super) struct FalconLayer {
    input_layernorm: Norm,
    mamba: Mamba2,
    qkv: Projections,
    o_proj: Linear,
    attention: AttentionSpec,
    pre_ff_layernorm: Norm,
    feed_forward: Mlp,
}

impl Layer for FalconLayer {
    fn forward(&self, x: &Array, cache: &mut LayerCache) -> Result<Array> {
        let h = self.input_layernorm.forward(x)?;
        let y = self.mamba.forward_add(&h, x, cache.part(0)?.state_cache()?)?;
        let qkv = Qkv::from(self.qkv.forward(None, &h)?)?;
        let attended = cache.part(1)?.attention()?.attend(qkv, &self.attention)?;
        let y = self.o_proj.forward_add(&attended, &y)?;
        self.feed_forward.forward_add(&self.pre_ff_layernorm, &y)
    }

    fn cache(&self) -> CacheSpec {
        CacheSpec::Several(vec![Mamba2::CACHE, CacheSpec::Full])
    }
}

pub(super) fn remap(checkpoint: &mut Checkpoint, config: &Config) -> Result<()> {
    super::remap(checkpoint, config)?;
    let multipliers = Multipliers::read(config)?;
    let parts = multipliers.row_factors(checkpoint, config)?;
    // Of JANG bundles whose weights have all multipliers, the configuration has none; others have none in their weights.
    let folded = matches!(checkpoint.layout(), Layout::Mlx);
    checkpoint.conv_to_mlx(|name| name.ends_with(".mamba.conv1d.weight"))?;
    if folded {
        return Ok(());
    }
    checkpoint.multiply(|name| multipliers.of(name, true, &parts).filter(|f| !f.is_empty()))
}

/// What mlx-lm leaves out.
pub(super) fn fold(checkpoint: &mut Checkpoint, config: &Config) -> Result<()> {
    let multipliers = Multipliers::read(config)?;
    let parts = multipliers.row_factors(checkpoint, config)?;
    checkpoint.multiply(|name| multipliers.of(name, false, &parts).filter(|f| !f.is_empty()))
}

pub(super) fn load(config: &Config, w: &Weights) -> Result<Decoder<FalconLayer>> {
    let c: FalconConfig = config.parse()?;
    let multipliers = Multipliers::read(config)?;
    let (m, dim, eps) = (w.pp("model"), c.hidden_size, c.rms_norm_eps);
    let mixer = config.parse::<MixerConfig>()?.mixer(dim, eps)?;
    let attention = c.attention(config, multipliers.key_multiplier, w)?;
    let width = |heads: i32| {
        let wanted = || format!("fewer heads of {}", attention.head_dim);
        heads
            .checked_mul(attention.head_dim)
            .ok_or_else(|| Error::config("num_attention_heads", heads, wanted()))
    };
    let (q, kv) = (width(attention.heads)?, width(attention.kv_heads)?);
    let mlp = MlpConfig { bias: c.mlp_bias, ..MlpConfig::new(dim, c.intermediate_size) };
    let tied = super::tied(config, w)?;
    // A tied head has the embeddings' multiplier in it.
    let logits = multipliers.lm_head_multiplier / multipliers.embedding_multiplier;
    if tied && !logits.is_finite() {
        return Err(Error::config(
            "embedding_multiplier",
            multipliers.embedding_multiplier,
            "another number",
        ));
    }
    Ok(Decoder {
        embed: Embedding::load(&m.pp("embed_tokens"), c.vocab_size, dim)?,
        layers: load_layers(&m, c.num_hidden_layers, |_, w| {
            let at = w.pp("self_attn");
            Ok(FalconLayer {
                input_layernorm: Norm::rms(&w.pp("input_layernorm"), dim, eps)?,
                mamba: Mamba2::load(&w.pp("mamba"), &mixer)?,
                qkv: Projections::load(
                    &at,
                    dim,
                    &[("q_proj", q), ("k_proj", kv), ("v_proj", kv)],
                    c.attention_bias,
                )?,
                o_proj: Linear::load(&at.pp("o_proj"), q, dim, c.attention_bias)?,
                attention: attention.clone(),
                pre_ff_layernorm: Norm::rms(&w.pp("pre_ff_layernorm"), dim, eps)?,
                feed_forward: Mlp::load(&w.pp("feed_forward"), &mlp)?,
            })
        })?,
        norm: Norm::rms(&m.pp("final_layernorm"), dim, eps)?,
        head: Head::load(w, tied, dim, c.vocab_size)?,
        scales: Scales { logits: tied.then_some(logits), ..Scales::default() },
        vocab_size: c.vocab_size,
        backend: w.backend(),
    })
}
