//! One layer of Gemma 4.

use super::config::{Gemma4Config, LayerConfig, MixtureKeys, PerLayerSize};
use mlx_lm_common::{
    At, Result,
    cache::{AttentionSpec, CacheSpec, LayerCache},
    nn::{
        Attention, Experts, ExpertsConfig, Form, Glu, KeysValues, Linear, Mlp, MlpConfig, Norm, Rope, Router,
        RouterConfig, Score, fused,
    },
    weights::Weights,
};
use mlx_rs::{Array, error::Exception};

pub(super) struct Gemma4Layer {
    input_layernorm: Norm,
    self_attn: Attention,
    post_attention_layernorm: Norm,
    pre_feedforward_layernorm: Norm,
    mlp: Mlp,
    mixture: Option<Mixture>,
    post_feedforward_layernorm: Norm,
    per_layer: Option<PerLayer>,
    layer_scalar: Array,
    pub(super) cache: CacheSpec,
    compile: bool,
}

impl Gemma4Layer {
    pub(super) fn load(w: &Weights, c: &Gemma4Config, layer: LayerConfig, rope: Rope) -> Result<Gemma4Layer> {
        let norm = |name: &str| Norm::rms(&w.pp(name), c.keys.hidden_size, c.keys.rms_norm_eps);
        let form = Form::Gated(Glu::Act(c.activation));
        let mlp = MlpConfig { form, ..MlpConfig::new(c.keys.hidden_size, layer.hidden) };
        Ok(Gemma4Layer {
            input_layernorm: norm("input_layernorm")?,
            self_attn: attention(&w.pp("self_attn"), c, &layer, rope)?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            pre_feedforward_layernorm: norm("pre_feedforward_layernorm")?,
            mlp: Mlp::load(&w.pp("mlp"), &mlp)?,
            mixture: c.mixture.as_ref().map(|keys| Mixture::load(w, c, keys)).transpose()?,
            post_feedforward_layernorm: norm("post_feedforward_layernorm")?,
            per_layer: c.per_layer.as_ref().map(|size| PerLayer::load(w, c, size)).transpose()?,
            layer_scalar: w.tensor("layer_scalar", &[1])?,
            cache: layer.cache,
            compile: w.backend().compile,
        })
    }

    /// [B, L, D] to [B, L, D], with the layer's own `input` [B, L, d].
    pub(super) fn forward(&self, x: &Array, input: Option<&Array>, cache: &mut LayerCache) -> Result<Array> {
        let y = self.self_attn.forward(&self.input_layernorm, x, cache)?;
        let mut x = x.add(self.post_attention_layernorm.forward(&y)?)?;
        let mut y = self.mlp.forward(Some(&self.pre_feedforward_layernorm), &x)?;
        if let Some(mixture) = &self.mixture {
            y = mixture.forward_beside(&y, &x)?;
        }
        y = self.post_feedforward_layernorm.forward(&y)?;
        if let (Some(per_layer), Some(input)) = (&self.per_layer, input) {
            x = x.add(y)?;
            y = per_layer.forward(&x, input, self.compile)?;
        }
        let [x] = fused(self.compile, scaled_sum, [&x, &y, &self.layer_scalar])?;
        Ok(x)
    }
}

fn scaled_sum([x, y, scale]: [&Array; 3]) -> Result<[Array; 1], Exception> {
    Ok([x.add(y)?.multiply(scale)?])
}

fn attention(w: &Weights, c: &Gemma4Config, layer: &LayerConfig, rope: Rope) -> Result<Attention> {
    let &LayerConfig { kv_heads, head_dim, keys_values, .. } = layer;
    let (backend, eps) = (w.backend(), c.keys.rms_norm_eps);
    let own = keys_values != KeysValues::Shared;
    let spec = AttentionSpec {
        scale: 1.0,
        q_norm: Some(Norm::rms(&w.pp("q_norm"), head_dim, eps)?),
        k_norm: own.then(|| Norm::rms(&w.pp("k_norm"), head_dim, eps)).transpose()?,
        v_norm: own.then(|| Norm::rms_unit(backend, head_dim, eps)).transpose()?,
        rope: Some(rope),
        ..AttentionSpec::new(c.keys.num_attention_heads, kv_heads, head_dim, backend.kernels)
    };
    Attention::around(spec, w, c.keys.hidden_size, keys_values, [c.keys.attention_bias; 2])
}

/// Experts beside the dense block.
struct Mixture {
    router_norm: Norm,
    router: Router,
    pre_feedforward_layernorm_2: Norm,
    experts: Experts,
    /// After the dense block.
    post_feedforward_layernorm_1: Norm,
    post_feedforward_layernorm_2: Norm,
}

impl Mixture {
    fn load(w: &Weights, c: &Gemma4Config, keys: &MixtureKeys) -> Result<Mixture> {
        let (dim, eps) = (c.keys.hidden_size, c.keys.rms_norm_eps);
        let norm = |name: &str| Norm::rms(&w.pp(name), dim, eps);
        let root = Array::from_f32((dim as f32).powf(-0.5));
        let router = RouterConfig {
            k_key: "top_k_experts",
            name: "proj",
            score: Score::TopKSoftmax,
            expert_scale: Some("per_expert_scale"),
            ..RouterConfig::new(dim, keys.num_experts, keys.top_k_experts)
        };
        let form = Form::Gated(Glu::Act(c.activation));
        let experts =
            ExpertsConfig { form, ..ExpertsConfig::new(dim, keys.moe_intermediate_size, keys.num_experts) };
        Ok(Mixture {
            router_norm: Norm::rms_folded(&w.pp("router"), "scale", dim, eps, |scale| scale.multiply(root))?,
            router: Router::load(&w.pp("router"), &router)?,
            pre_feedforward_layernorm_2: norm("pre_feedforward_layernorm_2")?,
            experts: Experts::load(&w.pp("experts.switch_glu"), &experts)?,
            post_feedforward_layernorm_1: norm("post_feedforward_layernorm_1")?,
            post_feedforward_layernorm_2: norm("post_feedforward_layernorm_2")?,
        })
    }

    /// What the dense block made of x, and what the experts make of it.
    fn forward_beside(&self, dense: &Array, x: &Array) -> Result<Array> {
        let (ids, weights) = self.router.forward(&self.router_norm.forward(x)?).at("router")?;
        let mixed = self
            .experts
            .mixed(&self.pre_feedforward_layernorm_2.forward(x)?, &ids, &weights)
            .at("experts")?;
        let dense = self.post_feedforward_layernorm_1.forward(dense)?;
        Ok(dense.add(self.post_feedforward_layernorm_2.forward(&mixed)?)?)
    }
}

/// How a layer takes its own input.
struct PerLayer {
    glu: Glu,
    per_layer_input_gate: Linear,
    per_layer_projection: Linear,
    post_per_layer_input_norm: Norm,
}

impl PerLayer {
    fn load(w: &Weights, c: &Gemma4Config, size: &PerLayerSize) -> Result<PerLayer> {
        let (dim, inner) = (c.keys.hidden_size, size.dim);
        let eps = c.keys.rms_norm_eps / (size.scale * size.scale);
        Ok(PerLayer {
            glu: Glu::Act(c.activation),
            per_layer_input_gate: Linear::load(&w.pp("per_layer_input_gate"), dim, inner, false)?,
            per_layer_projection: Linear::load(&w.pp("per_layer_projection"), inner, dim, false)?,
            post_per_layer_input_norm: Norm::rms(&w.pp("post_per_layer_input_norm"), dim, eps)?,
        })
    }

    fn forward(&self, x: &Array, input: &Array, compile: bool) -> Result<Array> {
        let gate = self.per_layer_input_gate.forward(x).at("per_layer_input_gate")?;
        let gated = self.glu.forward(&gate, input, compile)?;
        let y = self.per_layer_projection.forward(&gated).at("per_layer_projection")?;
        self.post_per_layer_input_norm.forward(&y)
    }
}
