//! Llama 4, and its text model alone (MobileLLM-R1): layers with RoPE see their own chunk of the text, layers without see all of it,
//! with queries that grow with the position (arXiv 2501.19399). Some layers route each token to one expert beside a shared one; the
//! score multiplies what goes into the expert.
//!
//! Where the two differ this is transformers: queries and keys are normalized with `rms_norm_eps`, in layers with RoPE only (mlx-lm
//! takes 1e-6, or all layers), and `no_rope_layers`, `moe_layers`, `layer_types` count in either model.

use super::{gemma3::check_groups, mixtral::MixtralLayer};
use mlx_lm_common::{
    Config, Error, Result,
    cache::{AttentionSpec, CacheSpec, PositionScale},
    config::{RopeConfig, RopeKind, dim, epsilon, optional_dim},
    model::{Decoder, Scales, load_layers},
    nn::{
        Activation, Attention, Embedding, ExpertsConfig, FeedForward, Form, Glu, Head, KeysValues, MlpConfig,
        MoeConfig, Norm, Rope, RouterConfig, Score, SharedConfig,
    },
    weights::{Checkpoint, Weights},
};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Llama4Config {
    #[serde(deserialize_with = "dim")]
    hidden_size: i32,
    /// Of experts.
    #[serde(deserialize_with = "dim")]
    intermediate_size: i32,
    /// Of layers without experts.
    #[serde(deserialize_with = "dim")]
    intermediate_size_mlp: i32,
    #[serde(deserialize_with = "dim")]
    num_hidden_layers: i32,
    #[serde(deserialize_with = "dim")]
    num_attention_heads: i32,
    #[serde(deserialize_with = "dim")]
    num_key_value_heads: i32,
    #[serde(deserialize_with = "dim")]
    head_dim: i32,
    #[serde(deserialize_with = "dim")]
    vocab_size: i32,
    #[serde(deserialize_with = "epsilon")]
    rms_norm_eps: f32,
    hidden_act: String,
    attention_bias: bool,
    use_qk_norm: bool,
    #[serde(default, deserialize_with = "optional_dim")]
    attention_chunk_size: Option<i32>,
    layer_types: Option<Vec<Kind>>,
    /// 1 where there is RoPE.
    no_rope_layers: Option<Vec<i32>>,
    #[serde(deserialize_with = "dim")]
    no_rope_layer_interval: i32,
    attn_temperature_tuning: Value,
    #[serde(deserialize_with = "dim")]
    floor_scale: i32,
    attn_scale: f32,
    num_local_experts: i32,
    num_experts_per_tok: i32,
    moe_layers: Option<Vec<usize>>,
    interleave_moe_layer_step: usize,
}

/// What a layer sees.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    ChunkedAttention,
    FullAttention,
}

impl Llama4Config {
    fn read(config: &Config) -> Result<Llama4Config> {
        let c: Llama4Config = config.parse()?;
        check_groups(c.num_attention_heads, "num_key_value_heads", c.num_key_value_heads)?;
        for (key, listed) in [
            ("layer_types", c.layer_types.as_ref().map(Vec::len)),
            ("no_rope_layers", c.no_rope_layers.as_ref().map(Vec::len)),
        ] {
            let layers = c.num_hidden_layers;
            if let Some(n) = listed.filter(|n| i32::try_from(*n) != Ok(layers)) {
                return Err(Error::config(
                    key,
                    format!("{n} entries"),
                    format!("one for each of the {layers} layers"),
                ));
            }
        }
        Ok(c)
    }

    fn rotates(&self, layer: usize) -> bool {
        match &self.no_rope_layers {
            Some(layers) => layers.get(layer).is_none_or(|&rotates| rotates != 0),
            None => !(layer + 1).is_multiple_of(self.no_rope_layer_interval as usize),
        }
    }

    fn routes(&self, layer: usize) -> bool {
        let step = self.interleave_moe_layer_step;
        let listed = self.moe_layers.as_ref().map(|layers| layers.contains(&layer));
        self.num_local_experts > 0 && listed.unwrap_or(step > 0 && (layer + 1).is_multiple_of(step))
    }

    fn cache(&self, layer: usize) -> CacheSpec {
        let chunked = match &self.layer_types {
            Some(kinds) => matches!(kinds.get(layer), Some(Kind::ChunkedAttention)),
            None => self.rotates(layer),
        };
        self.attention_chunk_size.filter(|_| chunked).map_or(CacheSpec::Full, CacheSpec::Chunked)
    }

    /// How queries grow in layers without RoPE, if they do. The switch was a number once.
    fn growth(&self) -> Result<Option<PositionScale>> {
        let on = match &self.attn_temperature_tuning {
            Value::Bool(on) => *on,
            Value::Number(n) => n.as_f64() != Some(0.0),
            other => return Err(Error::config("attn_temperature_tuning", other, "true or false")),
        };
        Ok(on.then_some(PositionScale { every: self.floor_scale, factor: self.attn_scale, from: 1 }))
    }

    fn moe(&self, form: Form) -> MoeConfig {
        let (dim, width, count) = (self.hidden_size, self.intermediate_size, self.num_local_experts);
        let router = RouterConfig::new(dim, count, self.num_experts_per_tok);
        let mlp = MlpConfig { form, ..MlpConfig::new(dim, width) };
        MoeConfig {
            experts_name: "experts",
            weigh_input: true,
            shared: Some(SharedConfig { name: "shared_expert", mlp, gate: None }),
            ..MoeConfig::new(
                RouterConfig { name: "router", score: Score::Sigmoid, ..router },
                ExpertsConfig { form, ..ExpertsConfig::new(dim, width, count) },
            )
        }
    }
}

/// Experts are published as [E, in, out], gate and up in one.
pub(super) fn remap(checkpoint: &mut Checkpoint, config: &Config) -> Result<()> {
    checkpoint.keep_text()?;
    super::remap(checkpoint, config)?;
    let [gate_up, gate, up, down] =
        ["gate_up", "gate", "up", "down"].map(|name| format!("feed_forward.experts.{name}_proj"));
    checkpoint.transpose(|name| name.ends_with(&gate_up) || name.ends_with(&down))?;
    let width = config.dim("intermediate_size")?;
    checkpoint.split(&gate_up, -2, &[(&gate, width), (&up, width)])?;
    checkpoint.rename_module(&down, &down)
}

pub(super) fn load(config: &Config, w: &Weights) -> Result<Decoder<MixtralLayer>> {
    // No chunks are not the same as no word of them.
    let chunks = if config.value.get("attention_chunk_size").is_some() { Value::Null } else { json!(8192) };
    let config = &config.with_defaults(json!({
        "rope_theta": 500_000.0, "hidden_act": "silu", "attention_bias": false, "use_qk_norm": true,
        "attention_chunk_size": chunks, "no_rope_layer_interval": 4, "attn_temperature_tuning": true,
        "floor_scale": 8192, "attn_scale": 0.1, "num_local_experts": 0, "num_experts_per_tok": 1,
        "interleave_moe_layer_step": 1,
    }))?;
    let c = Llama4Config::read(config)?;
    let (m, dim, eps, backend) = (w.pp("model"), c.hidden_size, c.rms_norm_eps, w.backend());
    let rope = RopeConfig::from_config(config, None, c.head_dim)?;
    // A turn leaves lengths alone, so the norm may come first, where the cache may do both at once; unless turning also scales.
    let scales = matches!(rope.kind, RopeKind::Yarn { .. } | RopeKind::LongRope { .. });
    let rope = Rope::new(rope, true)?;
    let head_norm = Norm::rms_unit(backend, c.head_dim, eps)?;
    let growth = c.growth()?;
    let form = Form::Gated(Glu::Act(Activation::from_config("hidden_act", &c.hidden_act)?));
    let attention = |i: usize, w: &Weights| {
        let rotates = c.rotates(i);
        let norm = (rotates && c.use_qk_norm).then_some(&head_norm);
        let spec = AttentionSpec {
            q_norm: norm.cloned(),
            k_norm: norm.cloned(),
            norm_after_rope: scales,
            rope: rotates.then(|| rope.clone()),
            q_scale: growth.filter(|_| !rotates),
            ..AttentionSpec::new(c.num_attention_heads, c.num_key_value_heads, c.head_dim, backend.kernels)
        };
        Attention::around(spec, w, dim, KeysValues::Own, [c.attention_bias; 2])
    };
    let feed_forward = |i: usize, w: &Weights| {
        if c.routes(i) {
            return FeedForward::experts(w, &c.moe(form));
        }
        let config = MlpConfig { form, ..MlpConfig::new(dim, c.intermediate_size_mlp) };
        FeedForward::dense(w, &config)
    };
    Ok(Decoder {
        embed: Embedding::load(&m.pp("embed_tokens"), c.vocab_size, dim)?,
        layers: load_layers(&m, c.num_hidden_layers, |i, w| {
            Ok(MixtralLayer {
                input_layernorm: Norm::rms(&w.pp("input_layernorm"), dim, eps)?,
                self_attn: attention(i, &w.pp("self_attn"))?,
                post_attention_layernorm: Norm::rms(&w.pp("post_attention_layernorm"), dim, eps)?,
                feed_forward: feed_forward(i, &w.pp("feed_forward"))?,
                cache: c.cache(i),
            })
        })?,
        norm: Norm::rms(&m.pp("norm"), dim, eps)?,
        head: Head::load(w, super::tied(config, w)?, dim, c.vocab_size)?,
        scales: Scales::default(),
        vocab_size: c.vocab_size,
        backend,
    })
}
