//! Keys and values as floats.

use super::{
    AttentionSpec, KvCache, Qkv,
    attend::{self, Positions, merge},
    buffers::{Buffers, Reach},
    file::LayerState,
};
use crate::{Result, nn::Norm};
use mlx_lm_kernels as kernels;
use mlx_rs::{
    Array,
    fast::{self, ScaledDotProductAttentionMask as Mask},
};
use std::sync::Arc;

#[derive(Clone)]
pub(super) struct FloatCache(Buffers);

impl FloatCache {
    pub(super) fn new(reach: Reach, rewind: i32, padding: Option<Arc<[i32]>>) -> FloatCache {
        FloatCache(Buffers::new(reach, rewind, padding))
    }

    /// Where `first` is the position of the first of some columns.
    fn positions(&self, first: i32) -> Positions<'_> {
        Positions { first, padding: self.0.padding.as_ref().map(|p| &p.array) }
    }

    /// Attention by MLX's own operations.
    fn attend_plain(&mut self, qkv: &Qkv, spec: &AttentionSpec) -> Result<Array> {
        let [q, k, v] = attend::heads(qkv, spec, self.positions(self.0.offset))?;
        self.0.write([&k, &v])?;
        self.read(&q, spec)
    }

    /// Attention of the latest positions, whose queries are [B, heads, L, D], over what is stored.
    fn read(&self, q: &Array, spec: &AttentionSpec) -> Result<Array> {
        let new = q.dim(2);
        let (first, mask) = self.0.visible(new)?;
        let [k, v] = self.0.view(first, self.0.len)?;
        if let Some(softcap) = spec.softcap {
            let mask = match mask {
                None if new > 1 => Some(self.0.mask(new, first)?),
                mask => mask,
            };
            return merge(&attend::capped([q, &k, &v], spec, softcap, mask.as_ref())?);
        }
        let mask = match &mask {
            Some(mask) => Some(Mask::Array(mask)),
            None => (new > 1).then_some(Mask::Causal),
        };
        merge(&fast::scaled_dot_product_attention(q, &k, &v, spec.scale, mask, spec.sinks.as_ref())?)
    }

    /// Whether the CPU kernels take such attention.
    fn fuses(&self, qkv: &Qkv, spec: &AttentionSpec) -> bool {
        let norms = [&spec.q_norm, &spec.k_norm].into_iter().flatten().all(|n| n.kernel().is_some());
        // The kernel counts padding in slots and positions alike, which holds until slots are let go.
        let aligned = self.0.padding.is_none() || self.0.reach == Reach::All;
        spec.fused
            && norms
            && aligned
            && !matches!(self.0.reach, Reach::Chunk(_))
            && spec.v_norm.is_none()
            && spec.sinks.is_none()
            && spec.softcap.is_none()
            && self.0.q_factor(spec.q_scale, qkv.q.dim(1)).is_some()
            && !(spec.norm_after_rope && spec.q_norm.is_some())
            && qkv.v.dim(-1) == spec.kv_heads * spec.head_dim
            && kernels::attend_supported(spec.head_dim)
    }

    /// Attention by the CPU kernels: one node of the graph.
    fn attend_fused(&mut self, qkv: &Qkv, spec: &AttentionSpec) -> Result<Array> {
        let (batch, new) = (qkv.k.dim(0), qkv.k.dim(1));
        let cache = &mut self.0;
        cache.make_room(new, [[batch, spec.kv_heads, spec.head_dim]; 2], qkv.k.dtype())?;
        // Taken out, so that nobody else holds them when the node runs: it writes into their memory.
        let pair = cache.take()?;
        let (window, keep) = match cache.reach {
            Reach::Window { size, keep } => (Some(size - keep), keep),
            _ => (None, 0),
        };
        let attend = kernels::Attend {
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            head_dim: spec.head_dim,
            scale: spec.scale * cache.q_factor(spec.q_scale, new).unwrap_or(1.0),
            q_norm: spec.q_norm.as_ref().and_then(Norm::kernel),
            k_norm: spec.k_norm.as_ref().and_then(Norm::kernel),
            rope: spec.rope.as_ref().map(|r| r.kernel(cache.offset + new)),
            position: cache.offset,
            len: cache.len,
            window,
            keep,
            starts: cache.padding.as_ref().map(|p| p.rows.clone()),
        };
        let (y, keys, values) = kernels::attend(&qkv.q, &qkv.k, &qkv.v, pair, &attend)?;
        cache.put([keys, values]);
        cache.advance(new);
        Ok(y)
    }
}

impl KvCache for FloatCache {
    fn offset(&self) -> i32 {
        self.0.offset
    }

    fn most(&self) -> Option<i32> {
        self.0.reach.most()
    }

    fn attend(&mut self, qkv: Qkv, spec: &AttentionSpec) -> Result<Array> {
        if self.fuses(&qkv, spec) { self.attend_fused(&qkv, spec) } else { self.attend_plain(&qkv, spec) }
    }

    fn attend_again(&mut self, q: Array, spec: &AttentionSpec) -> Result<Array> {
        let first = self.0.offset - q.dim(1);
        let q = attend::queries(&q, spec, self.positions(first))?;
        self.read(&q, spec)
    }

    fn can_trim(&self, n: i32) -> bool {
        self.0.can_trim(n)
    }

    fn trim(&mut self, n: i32) -> i32 {
        self.0.trim(n)
    }

    fn copy(&self) -> Box<dyn KvCache> {
        Box::new(self.clone())
    }

    fn nbytes(&self) -> usize {
        self.0.nbytes()
    }

    fn arrays(&self) -> Vec<&Array> {
        self.0.arrays().collect()
    }

    fn state(&self) -> Result<LayerState> {
        self.0.state()
    }

    fn restore(&mut self, state: LayerState) -> Result<()> {
        self.0.restore(state)
    }
}
