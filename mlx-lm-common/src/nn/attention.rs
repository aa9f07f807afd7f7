//! The attention block: projections, attention through the cache, output projection.

use super::{Linear, Norm, Projections, Rope};
use crate::{
    At, Error, Result,
    cache::{AttentionSpec, LayerCache, Qkv},
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

/// Attention with grouped heads (arXiv 2305.13245).
#[derive(Clone, Debug)]
pub struct Attention {
    qkv: Projections,
    output: Linear,
    spec: AttentionSpec,
}

impl Attention {
    /// Loads `q_proj`, `k_proj`, `v_proj` and `o_proj` below `w`, and `q_norm` and `k_norm` if asked for.
    pub fn load(w: &Weights, c: &AttentionConfig) -> Result<Attention> {
        let width = |heads: i32| {
            heads.checked_mul(c.head_dim).ok_or_else(|| {
                Error::config("num_attention_heads", heads, format!("fewer heads of {}", c.head_dim))
            })
        };
        let (q, kv) = (width(c.heads)?, width(c.kv_heads)?);
        let norm = |name: &str| c.qk_norm.map(|eps| Norm::rms(&w.pp(name), c.head_dim, eps)).transpose();
        Ok(Attention {
            qkv: Projections::load(w, c.dim, &[("q_proj", q), ("k_proj", kv), ("v_proj", kv)], c.qkv_bias)?,
            output: Linear::load(&w.pp("o_proj"), q, c.dim, c.output_bias)?,
            spec: AttentionSpec {
                q_norm: norm("q_norm")?,
                k_norm: norm("k_norm")?,
                rope: c.rope.clone(),
                ..AttentionSpec::new(c.heads, c.kv_heads, c.head_dim, w.backend().kernels)
            },
        })
    }

    /// x + attention(norm(x)), for x [B, L, dim].
    pub fn forward_add(&self, norm: &Norm, x: &Array, cache: &mut LayerCache) -> Result<Array> {
        let qkv = Qkv::from(self.qkv.forward(Some(norm), x).at("qkv")?)?;
        let y = cache.attention()?.attend(qkv, &self.spec).at("attend")?;
        self.output.forward_add(&y, x).at("o_proj")
    }
}
