//! Attention whose output passes a gate.

use super::{Linear, Norm, Projections, fused::fused, scan::exactly};
use crate::{
    At, Error, Result,
    cache::{AttentionSpec, LayerCache, Qkv},
    weights::Weights,
};
use mlx_rs::{Array, ops};

/// Attention whose output is multiplied by a sigmoid of the input, channel by channel (arXiv 2505.06708).
#[derive(Clone, Debug)]
pub struct GatedAttention {
    /// To queries, the gate, keys and values.
    inputs: Projections,
    output: Linear,
    spec: AttentionSpec,
    compile: bool,
}

impl GatedAttention {
    /// Loads what projects to and from attention as `spec` has it, for a model of width `dim`: `q_proj`, `gate_proj` of the same
    /// width, `k_proj`, `v_proj` and `o_proj` below `w`, with biases or without.
    ///
    /// # Errors
    /// [`Error::Config`] for more heads than there can be.
    pub fn load(spec: AttentionSpec, w: &Weights, dim: i32, bias: bool) -> Result<GatedAttention> {
        let width = |key: &str, heads: i32| {
            let wanted = || format!("fewer heads of {}", spec.head_dim);
            heads.checked_mul(spec.head_dim).ok_or_else(|| Error::config(key, heads, wanted()))
        };
        let q = width("num_attention_heads", spec.heads)?;
        let kv = width("num_key_value_heads", spec.kv_heads)?;
        let inputs = [("q_proj", q), ("gate_proj", q), ("k_proj", kv), ("v_proj", kv)];
        Ok(GatedAttention {
            inputs: Projections::load(w, dim, &inputs, bias)?,
            output: Linear::load(&w.pp("o_proj"), q, dim, bias)?,
            spec,
            compile: w.backend().compile,
        })
    }

    /// x + attention(norm(x)), for x [B, L, dim].
    pub fn forward_add(&self, norm: &Norm, x: &Array, cache: &mut LayerCache) -> Result<Array> {
        let [q, gate, k, v] = exactly(self.inputs.forward(Some(norm), x).at("qkv")?)?;
        let y = cache.attention()?.attend(Qkv { q, k, v }, &self.spec).at("attend")?;
        let [y] = fused(self.compile, |[gate, y]| Ok([ops::sigmoid(gate)?.multiply(y)?]), [&gate, &y])?;
        self.output.forward_add(&y, x).at("o_proj")
    }
}
