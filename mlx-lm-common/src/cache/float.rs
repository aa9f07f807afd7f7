//! Keys and values as floats, unbounded or bounded.
//!
//! One buffer with room to spare holds the positions in order. A bounded cache lets go of positions that nobody will see again when
//! the buffer is full, some later than it could: so order is plain, masks are ranges, and the last positions can be taken back.

use super::{
    AttentionSpec, KvCache, LayerState, Qkv,
    attend::{Positions, heads, merge},
};
use crate::{Error, Result, raw};
use mlx_lm_kernels as kernels;
use mlx_rs::{
    Array,
    fast::{self, ScaledDotProductAttentionMask as Mask},
    ops,
};
use std::sync::Arc;

/// Buffers grow by so many positions.
const STEP: i32 = 256;
/// So many positions can always be taken back, also from a bounded cache.
const SLACK: i32 = 64;

#[derive(Clone)]
pub(super) struct FloatCache {
    /// Keys and values [B, heads, capacity, D].
    kv: Option<[Array; 2]>,
    /// Filled slots of the buffer.
    len: i32,
    /// The position that comes next; `offset - len` positions were let go.
    offset: i32,
    bound: Option<Bound>,
    padding: Option<Padding>,
}

/// A position sees the first `keep` positions and the latest `size - keep`, its own included.
#[derive(Clone, Copy)]
struct Bound {
    size: i32,
    keep: i32,
}

#[derive(Clone)]
struct Padding {
    rows: Arc<[i32]>,
    array: Array,
}

impl Bound {
    fn window(self) -> i32 {
        self.size - self.keep
    }
}

impl FloatCache {
    /// An empty cache; `bound` is size and pinned positions.
    pub(super) fn new(bound: Option<(i32, i32)>, padding: Option<Arc<[i32]>>) -> FloatCache {
        let padding = padding.map(|rows| {
            let array = Array::from_slice(&rows, &[rows.len() as i32]);
            Padding { rows, array }
        });
        let bound = bound.map(|(size, keep)| Bound { size, keep });
        FloatCache { kv: None, len: 0, offset: 0, bound, padding }
    }

    /// The cache that a file holds.
    pub(super) fn restore(
        bound: Option<(i32, i32)>,
        padding: Option<Arc<[i32]>>,
        state: LayerState,
    ) -> Result<FloatCache> {
        let mut cache = FloatCache::new(bound, padding);
        let wanted = if bound.is_some() { "RotatingKVCache" } else { "KVCache" };
        if state.class != wanted {
            return Err(Error::Cache(format!("a layer is a {}, this model wants a {wanted}", state.class)));
        }
        let Some([keys, values]) = state.kv else { return Ok(cache) };
        if keys.ndim() != 4 || keys.shape()[..3] != values.shape()[..3] || values.ndim() != 4 {
            let (k, v) = (keys.shape(), values.shape());
            return Err(Error::Cache(format!("keys {k:?} and values {v:?} are not [B, heads, length, D]")));
        }
        let slots = keys.dim(2);
        let odd =
            |found: &[i32]| Error::Cache(format!("a {wanted} of {slots} slots is described by {found:?}"));
        let Some(bound) = cache.bound else {
            let &[offset] = &state.scalars[..] else { return Err(odd(&state.scalars)) };
            if !(0..=slots).contains(&offset) {
                return Err(odd(&state.scalars));
            }
            (cache.kv, cache.len, cache.offset) = (Some([keys, values]), offset, offset);
            return Ok(cache);
        };
        let &[offset, keep, size, next] = &state.scalars[..] else { return Err(odd(&state.scalars)) };
        if (keep, size) != (bound.keep, bound.size) {
            return Err(Error::Cache(format!(
                "a layer keeps {keep} of {size} positions, here {} of {} are wanted",
                bound.keep, bound.size
            )));
        }
        if !(0..=slots).contains(&next) || offset < next || keep > next {
            return Err(odd(&state.scalars));
        }
        // A ring that has wrapped: the oldest position is the one to be overwritten next.
        let in_order = |a: &Array| -> Result<Array> {
            let part = |r: std::ops::Range<i32>| raw::slots(a, r.start, r.end);
            Ok(if next == slots {
                a.clone()
            } else if offset > next {
                ops::concatenate(&[part(0..keep)?, part(next..slots)?, part(keep..next)?], 2)?
            } else {
                part(0..next)?
            })
        };
        let kv = [in_order(&keys)?, in_order(&values)?];
        (cache.len, cache.offset) = (kv[0].dim(2), offset);
        cache.kv = Some(kv);
        Ok(cache)
    }

    /// Positions that were let go.
    fn gone(&self) -> i32 {
        self.offset - self.len
    }

    /// Makes the buffer large enough for `new` more positions.
    fn make_room(&mut self, new: i32, heads: [i32; 3], dtype: mlx_rs::Dtype) -> Result<()> {
        let [batch, kv_heads, head_dim] = heads;
        let capacity = self.kv.as_ref().map_or(0, |kv| kv[0].dim(2));
        let wasteful =
            self.bound.is_some_and(|b| capacity / 2 > b.size.saturating_add(SLACK + STEP) && new < STEP);
        if self.len + new <= capacity && !wasteful {
            return Ok(());
        }
        // (pinned, latest) slots to keep of a bounded cache; all of the others.
        let (pinned, latest) = match self.bound {
            Some(b) if self.len > (b.size - 1).saturating_add(SLACK) => (b.keep, b.window() - 1 + SLACK),
            _ => (0, self.len),
        };
        let kept = pinned + latest;
        let spare = if self.bound.is_some() { STEP / 2 } else { 0 };
        let target = (kept + new + spare + STEP - 1) / STEP * STEP;
        let zeros = ops::zeros_dtype(&[batch, kv_heads, target - kept, head_dim], dtype)?;
        let len = self.len;
        let grow = |old: &Array| -> Result<Array> {
            let part = |r: std::ops::Range<i32>| raw::slots(old, r.start, r.end);
            Ok(match pinned {
                0 => ops::concatenate(&[part(len - latest..len)?, zeros.clone()], 2)?,
                _ => ops::concatenate(&[part(0..pinned)?, part(len - latest..len)?, zeros.clone()], 2)?,
            })
        };
        self.kv = Some(match self.kv.take() {
            Some([k, v]) => [grow(&k)?, grow(&v)?],
            None => [zeros.clone(), zeros.clone()],
        });
        self.len = kept;
        Ok(())
    }

    /// Which slots the `new` latest positions see: [new, len] or [B, 1, new, len], true where visible.
    fn mask(&self, new: i32) -> Result<Array> {
        let columns = ops::arange::<_, i32>(0, self.len, 1)?;
        let rows = ops::arange::<_, i32>(self.len - new, self.len, 1)?.expand_dims(-1)?;
        let mut visible = columns.le(&rows)?;
        if let Some(b) = self.bound {
            let recent = columns.gt(&rows.subtract(Array::from_int(b.window()))?)?;
            visible = visible.logical_and(recent.logical_or(columns.lt(Array::from_int(b.keep))?)?)?;
        }
        if let Some(p) = &self.padding {
            let starts = p.array.subtract(Array::from_int(self.gone()))?.reshape(&[-1, 1, 1, 1])?;
            // Padding sees itself: what sees nothing is not a number in some of MLX's kernels.
            visible = visible.logical_and(columns.ge(&starts)?)?.logical_or(columns.eq(&rows)?)?;
        }
        Ok(visible)
    }

    /// Attention by MLX's own operations.
    fn attend_plain(&mut self, qkv: &Qkv, spec: &AttentionSpec) -> Result<Array> {
        let at = Positions { first: self.offset, padding: self.padding.as_ref().map(|p| &p.array) };
        let [q, k, v] = heads(qkv, spec, at)?;
        let new = k.dim(2);
        self.make_room(new, [k.dim(0), k.dim(1), k.dim(3)], k.dtype())?;
        let (from, to) = (self.len, self.len + new);
        let Some(buffers) = self.kv.as_mut() else { return Err(Error::Cache("no buffer".into())) };
        for (buffer, new) in buffers.iter_mut().zip([&k, &v]) {
            *buffer = raw::with_slots(buffer, new, from, to)?;
        }
        (self.len, self.offset) = (to, self.offset + new);
        // One position that sees a range needs no mask.
        let first = match self.bound {
            Some(b) if new == 1 && b.keep == 0 => (to - b.size).max(0),
            _ => 0,
        };
        let bounded = self.bound.is_some_and(|b| to - first > b.size);
        let mask = (bounded || self.padding.is_some()).then(|| self.mask(new)).transpose()?;
        let [k, v] = buffers_view(&self.kv, first, to)?;
        let mask = match &mask {
            Some(mask) => Some(Mask::Array(mask)),
            None => (new > 1).then_some(Mask::Causal),
        };
        merge(&fast::scaled_dot_product_attention(&q, &k, &v, spec.scale, mask, None)?)
    }

    /// Attention by the CPU kernels: one node of the graph.
    fn attend_fused(&mut self, qkv: &Qkv, spec: &AttentionSpec) -> Result<Array> {
        let (batch, new) = (qkv.k.dim(0), qkv.k.dim(1));
        self.make_room(new, [batch, spec.kv_heads, spec.head_dim], qkv.k.dtype())?;
        // Taken out, so that nobody else holds them when the node runs: it writes into their memory.
        let Some([k_cache, v_cache]) = self.kv.take() else { return Err(Error::Cache("no buffer".into())) };
        let attend = kernels::Attend {
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            head_dim: spec.head_dim,
            scale: spec.scale,
            q_norm: spec.q_norm.as_ref().and_then(|n| n.kernel()),
            k_norm: spec.k_norm.as_ref().and_then(|n| n.kernel()),
            rope: spec.rope.as_ref().map(|r| r.kernel(self.offset + new)),
            position: self.offset,
            len: self.len,
            window: self.bound.map(Bound::window),
            keep: self.bound.map_or(0, |b| b.keep),
            starts: self.padding.as_ref().map(|p| p.rows.clone()),
        };
        let (y, k_cache, v_cache) = kernels::attend(&qkv.q, &qkv.k, &qkv.v, [k_cache, v_cache], &attend)?;
        self.kv = Some([k_cache, v_cache]);
        (self.len, self.offset) = (self.len + new, self.offset + new);
        Ok(y)
    }
}

fn buffers_view(kv: &Option<[Array; 2]>, from: i32, to: i32) -> Result<[Array; 2]> {
    let Some([k, v]) = kv else { return Err(Error::Cache("no buffer".into())) };
    Ok([raw::slots(k, from, to)?, raw::slots(v, from, to)?])
}

impl KvCache for FloatCache {
    fn offset(&self) -> i32 {
        self.offset
    }

    fn attend(&mut self, qkv: Qkv, spec: &AttentionSpec) -> Result<Array> {
        let normed = [&spec.q_norm, &spec.k_norm].into_iter().flatten().all(|n| n.kernel().is_some());
        // The kernel counts padding in slots and positions alike, which holds until slots are let go.
        let aligned = self.padding.is_none() || self.bound.is_none();
        if spec.fused && normed && aligned && kernels::attend_supported(spec.head_dim) {
            self.attend_fused(&qkv, spec)
        } else {
            self.attend_plain(&qkv, spec)
        }
    }

    fn can_trim(&self, n: i32) -> bool {
        if self.gone() == 0 {
            return n <= self.len;
        }
        let Some(b) = self.bound else { return n <= self.len };
        // The next position, once `n` are gone, must find all that it may see.
        let oldest_seen = self.offset - n - b.window() + 1;
        n <= self.len - b.keep && b.keep + self.gone() <= oldest_seen.max(b.keep)
    }

    fn trim(&mut self, n: i32) -> i32 {
        if n <= 0 || !self.can_trim(n) {
            return 0;
        }
        self.len -= n;
        self.offset -= n;
        n
    }

    fn copy(&self) -> Box<dyn KvCache> {
        Box::new(self.clone())
    }

    fn nbytes(&self) -> usize {
        self.kv.iter().flatten().map(Array::nbytes).sum()
    }

    fn arrays(&self) -> Vec<&Array> {
        self.kv.iter().flatten().collect()
    }

    fn state(&self) -> Result<LayerState> {
        if self.padding.is_some() {
            return Err(Error::Unsupported("the cache of a padded batch cannot be saved".into()));
        }
        let kv = self.kv.as_ref().map(|_| buffers_view(&self.kv, 0, self.len)).transpose()?;
        let (class, scalars) = match self.bound {
            Some(b) => ("RotatingKVCache", vec![self.offset, b.keep, b.size, self.len]),
            None => ("KVCache", vec![self.offset]),
        };
        Ok(LayerState { class: class.into(), kv, scalars })
    }
}
