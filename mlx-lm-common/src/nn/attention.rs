//! The attention block: projections, attention through the cache, output projection.

use super::{Linear, Norm, Projections, Rope};
use crate::{
    At, Error, Result,
    cache::{AttentionSpec, LayerCache, PositionScale, Qkv},
    weights::Weights,
};
use mlx_rs::Array;

/// The sizes and options of an [`Attention`].
#[derive(Clone, Debug)]
pub struct AttentionConfig {
    /// Width of the model.
    pub dim: i32,
    /// Query heads.
    pub heads: i32,
    /// Key and value heads; `heads` is a multiple of it.
    pub kv_heads: i32,
    /// Width of a head.
    pub head_dim: i32,
    /// Whether the projections of queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the output projection has one.
    pub output_bias: bool,
    /// Rotation of queries and keys; none in layers without positions.
    pub rope: Option<Rope>,
    /// Epsilon of RMS norms over each query and key head, where the model has them.
    pub qk_norm: Option<f32>,
}

/// Where the keys and values of a layer come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeysValues {
    /// From `k_proj` and `v_proj`.
    Own,
    /// Both from `k_proj`: values are what keys are before they are normalized and rotated.
    One,
    /// From an earlier layer, whose cache the layer is given.
    Shared,
}

/// Attention with grouped heads (arXiv 2305.13245).
#[derive(Clone, Debug)]
pub struct Attention {
    /// Queries, keys and values, as far as the layer projects them.
    qkv: Projections,
    keys_values: KeysValues,
    /// Over the queries of all heads together, and over the keys, where the model has them.
    joint_norms: Option<[Norm; 2]>,
    output: Linear,
    spec: AttentionSpec,
}

impl Attention {
    /// Loads `q_proj`, `k_proj`, `v_proj` and `o_proj` below `w`, and `q_norm` and `k_norm` if asked for.
    pub fn load(w: &Weights, c: &AttentionConfig) -> Result<Attention> {
        let norm = |name: &str| c.qk_norm.map(|eps| Norm::rms(&w.pp(name), c.head_dim, eps)).transpose();
        let spec = AttentionSpec {
            q_norm: norm("q_norm")?,
            k_norm: norm("k_norm")?,
            rope: c.rope.clone(),
            ..AttentionSpec::new(c.heads, c.kv_heads, c.head_dim, w.backend().kernels)
        };
        Attention::around(spec, w, c.dim, KeysValues::Own, [c.qkv_bias, c.output_bias])
    }

    /// Loads what projects to and from attention as `spec` has it, for a model of width `dim`: `q_proj`, those of `k_proj` and
    /// `v_proj` that `keys_values` asks for, and `o_proj`, below `w`. `biases` says whether the former and the latter have them.
    pub fn around(
        spec: AttentionSpec,
        w: &Weights,
        dim: i32,
        keys_values: KeysValues,
        biases: [bool; 2],
    ) -> Result<Attention> {
        Attention::around_to(spec, w, dim, keys_values, biases, "o_proj")
    }

    /// As [`Attention::around`], with an output projection of the name `output`.
    pub fn around_to(
        spec: AttentionSpec,
        w: &Weights,
        dim: i32,
        keys_values: KeysValues,
        biases: [bool; 2],
        output: &str,
    ) -> Result<Attention> {
        let width = |heads: i32| {
            let wanted = || format!("fewer heads of {}", spec.head_dim);
            heads
                .checked_mul(spec.head_dim)
                .ok_or_else(|| Error::config("num_attention_heads", heads, wanted()))
        };
        let (q, kv) = (width(spec.heads)?, width(spec.kv_heads)?);
        let all = [("q_proj", q), ("k_proj", kv), ("v_proj", kv)];
        let projected = match keys_values {
            KeysValues::Own => &all[..],
            KeysValues::One => &all[..2],
            KeysValues::Shared => &all[..1],
        };
        Ok(Attention {
            qkv: Projections::load(w, dim, projected, biases[0])?,
            keys_values,
            joint_norms: None,
            output: Linear::load(&w.pp(output), q, dim, biases[1])?,
            spec,
        })
    }

    /// The same with queries that grow with their position.
    pub fn with_q_scale(self, q_scale: Option<PositionScale>) -> Attention {
        Attention { spec: AttentionSpec { q_scale, ..self.spec }, ..self }
    }

    /// The same with norms over the queries and the keys of all heads together (OLMo 2, arXiv 2501.00656): `q_norm`
    /// `[heads · head_dim]` and `k_norm` `[kv_heads · head_dim]` below `w`.
    pub fn with_joint_norms(self, w: &Weights, eps: f32) -> Result<Attention> {
        let norm = |name: &str, heads: i32| Norm::rms(&w.pp(name), heads * self.spec.head_dim, eps);
        let norms = [norm("q_norm", self.spec.heads)?, norm("k_norm", self.spec.kv_heads)?];
        Ok(Attention { joint_norms: Some(norms), ..self })
    }

    /// attention(norm(x)), or attention(x) without a norm, for x [B, L, dim].
    pub fn forward<'n>(
        &self,
        norm: impl Into<Option<&'n Norm>>,
        x: &Array,
        cache: &mut LayerCache,
    ) -> Result<Array> {
        self.output.forward(&self.attend(norm.into(), x, cache)?).at("o_proj")
    }

    /// x + attention(norm(x)), for x [B, L, dim].
    pub fn forward_add(&self, norm: &Norm, x: &Array, cache: &mut LayerCache) -> Result<Array> {
        self.output.forward_add(&self.attend(Some(norm), x, cache)?, x).at("o_proj")
    }

    /// residual + attention(x), for x and a residual [B, L, dim].
    pub fn forward_onto(&self, x: &Array, residual: &Array, cache: &mut LayerCache) -> Result<Array> {
        self.output.forward_add(&self.attend(None, x, cache)?, residual).at("o_proj")
    }

    /// What goes into the output projection: [B, L, heads · head_dim].
    fn attend(&self, norm: Option<&Norm>, x: &Array, cache: &mut LayerCache) -> Result<Array> {
        let mut projected = self.qkv.forward(norm, x).at("qkv")?;
        for (norm, x) in self.joint_norms.iter().flatten().zip(&mut projected) {
            *x = norm.forward(x)?;
        }
        let cache = cache.attention()?;
        match self.keys_values {
            KeysValues::Own => {}
            KeysValues::One => projected.extend(projected.last().cloned()),
            KeysValues::Shared => {
                let q =
                    projected.pop().ok_or_else(|| Error::Unsupported("attention without queries".into()))?;
                return cache.attend_again(q, &self.spec).at("attend");
            }
        }
        cache.attend(Qkv::from(projected)?, &self.spec).at("attend")
    }
}
