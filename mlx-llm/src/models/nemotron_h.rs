//! Nemotron-H (arXiv 2504.03624) and Nemotron 3: one mixer a layer, which is Mamba-2, attention without positions, an MLP, or a
//! mixture of experts.
//!
//! Time steps are bounded by `time_step_limit`, as in NVIDIA's own model. `time_step_min` is for drawing weights before training;
//! transformers 5 takes it for a bound, though of prompts alone.

use mlx_lm_common::{
    Config, Error, Result,
    cache::{CacheSpec, LayerCache},
    config::{dim, epsilon, optional_dim},
    model::{Decoder, Layer, Scales, Written, load_layers},
    nn::{
        Activation, Attention, AttentionConfig, Embedding, Experts, ExpertsConfig, Form, GatedNorm,
        GroupScore, Groups, Head, Linear, Mamba2, Mamba2Config, Mlp, MlpConfig, Norm, Normalize, Router,
        RouterConfig, Score,
    },
    weights::{Checkpoint, Weights},
};
use mlx_rs::Array;
use serde::Deserialize;

/// The keys that every model has, and those that may be missing. What else a kind of layer needs is read where there is one.
#[derive(Deserialize)]
struct NemotronConfig {
    #[serde(deserialize_with = "dim")]
    hidden_size: i32,
    #[serde(deserialize_with = "dim")]
    vocab_size: i32,
    #[serde(deserialize_with = "epsilon")]
    layer_norm_epsilon: f32,
    #[serde(default, deserialize_with = "optional_dim")]
    num_hidden_layers: Option<i32>,
    hybrid_override_pattern: Option<String>,
    layers_block_type: Option<Vec<String>>,
    layer_types: Option<Vec<String>>,

    #[serde(default, deserialize_with = "optional_dim")]
    head_dim: Option<i32>,
    /// The older name.
    #[serde(default, deserialize_with = "optional_dim")]
    attention_head_dim: Option<i32>,
    #[serde(default)]
    attention_bias: bool,

    mlp_hidden_act: Option<String>,
    #[serde(default)]
    mlp_bias: bool,

    use_conv_bias: Option<bool>,
    /// Two names for one thing: transformers', and mlx-lm's.
    #[serde(default)]
    use_bias: bool,
    #[serde(default)]
    mamba_proj_bias: bool,
    time_step_limit: Option<(f32, f32)>,

    #[serde(default)]
    n_shared_experts: u32,
    #[serde(default, deserialize_with = "optional_dim")]
    moe_latent_size: Option<i32>,
    #[serde(default, deserialize_with = "optional_dim")]
    n_group: Option<i32>,
    #[serde(default, deserialize_with = "optional_dim")]
    topk_group: Option<i32>,
    norm_topk_prob: Option<bool>,
    routed_scaling_factor: Option<f32>,
}

/// What a layer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Mamba,
    Attention,
    Mlp,
    Experts,
}

impl Kind {
    fn of(name: &str) -> Option<Kind> {
        Some(match name {
            "M" | "mamba" | "linear_attention" => Kind::Mamba,
            "*" | "attention" | "full_attention" => Kind::Attention,
            "-" | "mlp" => Kind::Mlp,
            "E" | "moe" => Kind::Experts,
            _ => return None,
        })
    }
}

impl NemotronConfig {
    /// What the layers do, as a text of letters or a list of words says.
    fn kinds(&self) -> Result<Vec<Kind>> {
        let words = [("layers_block_type", &self.layers_block_type), ("layer_types", &self.layer_types)];
        let words = words.into_iter().find_map(|(key, words)| Some((key, words.clone()?)));
        let key = "hybrid_override_pattern";
        let letters =
            self.hybrid_override_pattern.as_ref().map(|p| (key, p.chars().map(String::from).collect()));
        let (key, names) =
            letters.or(words).ok_or_else(|| Error::config(key, "nothing", "a letter for each layer"))?;
        let kind = |(i, name): (usize, &String)| {
            Kind::of(name).ok_or_else(|| {
                let found: String = name.chars().take(60).collect();
                let wanted = "M, *, - or E, or in words mamba, attention, mlp or moe";
                Error::config(format!("{key}[{i}]"), format!("`{found}`"), wanted)
            })
        };
        let kinds: Vec<Kind> = names.iter().enumerate().map(kind).collect::<Result<_>>()?;
        match self.num_hidden_layers {
            Some(n) if n as usize != kinds.len() => {
                let wanted = format!("{n}, which num_hidden_layers says");
                Err(Error::config(key, format!("{} layers", kinds.len()), wanted))
            }
            _ => Ok(kinds),
        }
    }

    fn mamba(&self, config: &Config) -> Result<Mamba2Config> {
        let (groups, bias) = (config.dim("n_groups")?, self.use_bias || self.mamba_proj_bias);
        Ok(Mamba2Config {
            dim: self.hidden_size,
            heads: config.dim("mamba_num_heads")?,
            head_dim: config.dim("mamba_head_dim")?,
            state: config.dim("ssm_state_size")?,
            groups,
            kernel: config.dim("conv_kernel")?,
            conv_bias: self.use_conv_bias.unwrap_or(true),
            input_bias: bias,
            output_bias: bias,
            time_step_limit: self.time_step_limit.unwrap_or((0.0, f32::INFINITY)),
            norm: Some(GatedNorm { eps: self.layer_norm_epsilon, groups, before_gate: false }),
        })
    }

    fn attention(&self, config: &Config) -> Result<AttentionConfig> {
        let (heads, kv_heads) = (config.dim("num_attention_heads")?, config.dim("num_key_value_heads")?);
        if heads % kv_heads != 0 {
            let wanted = format!("a divisor of {heads} heads");
            return Err(Error::config("num_key_value_heads", kv_heads, wanted));
        }
        let head_dim = self.head_dim.or(self.attention_head_dim);
        let each = (self.hidden_size % heads == 0).then_some(self.hidden_size / heads);
        Ok(AttentionConfig {
            dim: self.hidden_size,
            heads,
            kv_heads,
            head_dim: head_dim.or(each).ok_or_else(|| Error::config("head_dim", "nothing", "a width"))?,
            qkv_bias: self.attention_bias,
            output_bias: self.attention_bias,
            rope: None,
            qk_norm: None,
        })
    }

    fn mlp(&self, hidden: i32) -> Result<MlpConfig> {
        let act = self.mlp_hidden_act.as_deref().unwrap_or("relu2");
        let form = Form::Plain(Activation::from_config("mlp_hidden_act", act)?);
        Ok(MlpConfig { form, bias: self.mlp_bias, ..MlpConfig::new(self.hidden_size, hidden) })
    }

    fn router(&self, config: &Config) -> Result<RouterConfig> {
        let kept = self.topk_group.unwrap_or(1);
        let groups = |count| Groups { count, kept, score: GroupScore::BestTwo };
        let (experts, k) = (config.dim("n_routed_experts")?, config.dim("num_experts_per_tok")?);
        let normalize =
            if self.norm_topk_prob.unwrap_or(true) { Normalize::Sum(1e-20) } else { Normalize::No };
        Ok(RouterConfig {
            float32: true,
            score: Score::Sigmoid,
            correction: Some("gate.e_score_correction_bias"),
            groups: self.n_group.filter(|n| *n > 1).map(groups),
            normalize,
            scale: self.routed_scaling_factor.unwrap_or(1.0),
            ..RouterConfig::new(self.hidden_size, experts, k)
        })
    }
}

/// Experts by sigmoid scores (arXiv 2412.19437), in fewer dimensions in some models, beside a block for all tokens.
struct Mixture {
    router: Router,
    experts: Experts,
    /// To the dimensions of the experts, and back.
    latent: Option<[Linear; 2]>,
    shared: Option<Mlp>,
}

impl Mixture {
    fn load(w: &Weights, config: &Config, c: &NemotronConfig) -> Result<Mixture> {
        let (dim, wide) = (c.hidden_size, c.moe_latent_size.unwrap_or(c.hidden_size));
        let (router, form, names) = (c.router(config)?, c.mlp(1)?.form, ["", "fc1", "fc2"]);
        let experts = ExpertsConfig::new(wide, config.dim("moe_intermediate_size")?, router.experts);
        let latent = |_| -> Result<_> {
            let down = Linear::load(&w.pp("fc1_latent_proj"), dim, wide, c.mlp_bias)?;
            Ok([down, Linear::load(&w.pp("fc2_latent_proj"), wide, dim, c.mlp_bias)?])
        };
        let shared = || {
            let hidden = config.dim("moe_shared_expert_intermediate_size")?;
            Mlp::load(&w.pp("shared_experts"), &c.mlp(hidden)?)
        };
        Ok(Mixture {
            router: Router::load(w, &router)?,
            experts: Experts::load(&w.pp("switch_mlp"), &ExpertsConfig { form, names, ..experts })?,
            latent: c.moe_latent_size.map(latent).transpose()?,
            shared: (c.n_shared_experts > 0).then(shared).transpose()?,
        })
    }

    /// x + mixture(norm(x)), for x [B, L, D].
    fn forward_add(&self, norm: &Norm, x: &Array) -> Result<Array> {
        let h = norm.forward(x)?;
        let (ids, weights) = self.router.forward(&h)?;
        let y = match &self.latent {
            Some([down, up]) => {
                up.forward_add(&self.experts.mixed(&down.forward(&h)?, &ids, &weights)?, x)?
            }
            None => x.add(self.experts.mixed(&h, &ids, &weights)?)?,
        };
        match &self.shared {
            Some(shared) => shared.forward_onto(&h, &y),
            None => Ok(y),
        }
    }
}

enum Mixer {
    Mamba(Mamba2),
    Attention(Attention),
    Mlp(Mlp),
    Experts(Box<Mixture>),
}

pub(super) struct NemotronLayer {
    norm: Norm,
    mixer: Mixer,
}

impl Layer for NemotronLayer {
    fn forward(&self, x: &Array, cache: &mut LayerCache) -> Result<Array> {
        match &self.mixer {
            Mixer::Mamba(mamba) => mamba.forward_add(&self.norm.forward(x)?, x, cache.state_cache()?),
            Mixer::Attention(attention) => attention.forward_add(&self.norm, x, cache),
            Mixer::Mlp(mlp) => mlp.forward_add(&self.norm, x),
            Mixer::Experts(mixture) => mixture.forward_add(&self.norm, x),
        }
    }

    fn cache(&self) -> CacheSpec {
        match &self.mixer {
            Mixer::Mamba(_) => Mamba2::CACHE,
            Mixer::Attention(_) => CacheSpec::Full,
            Mixer::Mlp(_) | Mixer::Experts(_) => CacheSpec::Nothing,
        }
    }
}

/// Routers are no modules of their own in mlx-lm.
pub(super) const WRITTEN: Written =
    Written { floats: &["mixer.gate"], keeps_type: &["e_score_correction_bias", "A_log"], ..Written::PLAIN };

/// Experts are published one by one, convolutions as torch has them, and with layers that predict further tokens.
pub(super) fn remap(checkpoint: &mut Checkpoint, _: &Config) -> Result<()> {
    checkpoint.ignore(|name| name.starts_with("mtp."));
    // What transformers 5 calls it.
    checkpoint.rename_prefix("model.", "backbone.")?;
    checkpoint.conv_to_mlx(|name| name.ends_with(".mixer.conv1d.weight"))?;
    checkpoint.stack("mixer.experts", "mixer.switch_mlp")?;
    checkpoint.rename_module("switch_mlp.up_proj", "switch_mlp.fc1")?;
    checkpoint.rename_module("switch_mlp.down_proj", "switch_mlp.fc2")
}

pub(super) fn load(config: &Config, w: &Weights) -> Result<Decoder<NemotronLayer>> {
    let c: NemotronConfig = config.parse()?;
    let (m, dim, eps) = (w.pp("backbone"), c.hidden_size, c.layer_norm_epsilon);
    let kinds = c.kinds()?;
    let mixer = |kind: Kind, w: &Weights| match kind {
        Kind::Mamba => Mamba2::load(w, &c.mamba(config)?).map(Mixer::Mamba),
        Kind::Attention => Attention::load(w, &c.attention(config)?).map(Mixer::Attention),
        Kind::Mlp => Mlp::load(w, &c.mlp(config.dim("intermediate_size")?)?).map(Mixer::Mlp),
        Kind::Experts => Mixture::load(w, config, &c).map(|m| Mixer::Experts(Box::new(m))),
    };
    Ok(Decoder {
        embed: Embedding::load(&m.pp("embeddings"), c.vocab_size, dim)?,
        layers: load_layers(&m, kinds.len() as i32, |i, w| {
            let norm = Norm::rms(&w.pp("norm"), dim, eps)?;
            Ok(NemotronLayer { norm, mixer: mixer(kinds[i], &w.pp("mixer"))? })
        })?,
        norm: Norm::rms(&m.pp("norm_f"), dim, eps)?,
        head: Head::load(w, false, dim, c.vocab_size)?,
        scales: Scales::default(),
        vocab_size: c.vocab_size,
        backend: w.backend(),
    })
}

#[cfg(test)]
mod tests;
