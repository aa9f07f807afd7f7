//! The latents of multi-head latent attention (arXiv 2405.04434): instead of keys and values of every head, one latent per position
//! that they are made from, and one rotated key that all heads share.

use super::{
    attend::{PositionScale, Positions, merge},
    buffers::{Buffers, Reach},
    file::{Item, LayerState},
};
use crate::{
    At, Error, Result,
    nn::{MultiLinear, Norm, Rope},
    raw,
};
use mlx_rs::{
    Array,
    fast::{self, ScaledDotProductAttentionMask as Mask},
    ops,
};
use std::sync::Arc;

/// Everything about a layer's latent attention that does not change from token to token.
#[derive(Clone, Debug)]
pub struct LatentSpec {
    /// Heads.
    pub heads: i32,
    /// Width of a latent, r.
    pub rank: i32,
    /// Width of the part of queries and keys that is made from latents.
    pub nope_dim: i32,
    /// Width of the part that is rotated; all heads share its keys.
    pub rope_dim: i32,
    /// Width of a head's values.
    pub value_dim: i32,
    /// Multiplies the scores.
    pub scale: f32,
    /// Normalizes latents.
    pub norm: Norm,
    /// Rotates the rotated part by position.
    pub rope: Option<Rope>,
    /// Makes queries longer as the text grows.
    pub q_scale: Option<PositionScale>,
    /// Queries, but for their rotated part, to what they look for in latents, r wide; backward, latents to keys.
    pub embed: MultiLinear,
    /// Latents to values.
    pub unembed: MultiLinear,
    /// Whether parts are copied before they are rotated: MLX's rotation on CUDA misreads slices (ml-explore/mlx-lm#1896).
    pub copies: bool,
}

impl LatentSpec {
    /// Whether it takes fewer multiplications to compare queries of `len` positions with latents than to make keys and values of
    /// all of them: so for few positions.
    fn absorbs(&self, len: i32) -> bool {
        let [len, rank, nope, rope, value] =
            [len, self.rank, self.nope_dim, self.rope_dim, self.value_dim].map(i64::from);
        len * 2 * (rank + rope) <= len * (nope + rope + value) + rank * (nope + value)
    }

    /// Queries [B, L, heads · (nope + rope)] in their two parts, the second rotated: [B, heads, L, ..]. `grow` says whether they are
    /// to be multiplied by what is due to their positions.
    fn queries(&self, q: &Array, at: Positions, grow: bool) -> Result<[Array; 2]> {
        let (batch, len, dim) = (q.dim(0), q.dim(1), self.nope_dim + self.rope_dim);
        // One position lies in memory as its heads do.
        let q = match len {
            1 => q.reshape(&[batch, self.heads, 1, dim])?,
            _ => q.reshape(&[batch, len, self.heads, dim])?.transpose_axes(&[0, 2, 1, 3])?,
        };
        let q = match self.q_scale.filter(|_| grow) {
            Some(scale) => scale.apply(q, at)?,
            None => q,
        };
        let [nope, rotated] = parts(&q, self.nope_dim)?;
        Ok([nope, self.rotated(rotated, at)?])
    }

    /// What is remembered of the entries [B, L, rank + rope]: the latent, normalized, and the shared key, rotated.
    fn entries(&self, kv: &Array, at: Positions) -> Result<Array> {
        let kv = kv.reshape(&[kv.dim(0), 1, kv.dim(1), self.rank + self.rope_dim])?;
        let [latent, key] = parts(&kv, self.rank)?;
        Ok(ops::concatenate(&[self.norm.forward(&latent)?, self.rotated(key, at)?], 3)?)
    }

    fn rotated(&self, x: Array, at: Positions) -> Result<Array> {
        match &self.rope {
            Some(rope) if self.copies => rope.forward(&x.contiguous()?, at.first, at.padding),
            Some(rope) => rope.forward(&x, at.first, at.padding),
            None => Ok(x),
        }
    }

    /// Attention over entries [B, 1, T, rank + rope] themselves: queries are taken into the space of latents, what is found
    /// there is taken out of it.
    fn attend_latents(
        &self,
        q: [Array; 2],
        entries: &Array,
        scale: f32,
        mask: Option<Mask>,
    ) -> Result<Array> {
        let [nope, rotated] = q;
        let q = ops::concatenate(&[self.embed.forward(&nope).at("embed_q")?, rotated], 3)?;
        let (batch, width) = (q.dim(0), q.dim(3));
        // The heads of a single position are rows of one matrix, so that all of them read what they share at once.
        let single = q.dim(2) == 1;
        let q = if single { q.reshape(&[batch, 1, self.heads, width])? } else { q };
        // Whole entries as values: some of MLX's matrix products would copy a part of each.
        let y = fast::scaled_dot_product_attention(q, entries, entries, scale, mask, None)?;
        let y = raw::slice(&y, 3, 0, self.rank)?;
        let y = if single { y.reshape(&[batch, self.heads, 1, self.rank])? } else { y };
        self.unembed.forward(&y).at("unembed_out")
    }

    /// Attention over the keys and values of all heads, made from entries [B, 1, T, rank + rope].
    fn attend_heads(&self, q: [Array; 2], entries: &Array, scale: f32, mask: Option<Mask>) -> Result<Array> {
        let [latents, rotated] = parts(entries, self.rank)?;
        // In one piece, before they are repeated for each head.
        let latents = latents.contiguous()?;
        let shape = [entries.dim(0), self.heads, entries.dim(2), self.rope_dim];
        let rotated = ops::broadcast_to(rotated, &shape)?;
        let k = ops::concatenate(&[self.embed.backward(&latents).at("embed_q")?, rotated], 3)?;
        let v = self.unembed.forward(&latents).at("unembed_out")?;
        let q = ops::concatenate(&q, 3)?;
        Ok(fast::scaled_dot_product_attention(q, k, v, scale, mask, None)?)
    }
}

/// The first `size` channels of x [B, H, L, D] and the others, as one node.
fn parts(x: &Array, size: i32) -> Result<[Array; 2]> {
    let parts = x.split_at_indices(&[size], 3)?;
    parts.try_into().map_err(|_| Error::Unsupported("MLX split an array into other than two".into()))
}

/// What a layer of latent attention remembers: of each position its latent and, behind it, its rotated key.
#[derive(Clone)]
pub struct LatentCache {
    /// [B, 1, T, rank + rope]
    entries: Buffers<1>,
    /// How much of an entry is the latent, once there are entries.
    rank: i32,
}

impl LatentCache {
    pub(super) fn new(reach: Reach, rewind: i32, padding: Option<Arc<[i32]>>) -> LatentCache {
        LatentCache { entries: Buffers::new(reach, rewind, padding), rank: 0 }
    }

    /// The position that comes next.
    pub fn offset(&self) -> i32 {
        self.entries.offset
    }

    /// Stores what is remembered of the new positions and attends: queries [B, L, heads · (nope + rope)], entries
    /// [B, L, rank + rope] before norm and rotation, to [B, L, heads · value].
    pub fn attend(&mut self, q: &Array, kv: &Array, spec: &LatentSpec) -> Result<Array> {
        let len = q.dim(1);
        let at = Positions {
            first: self.entries.offset,
            padding: self.entries.padding.as_ref().map(|p| &p.array),
        };
        // What all queries are multiplied by may as well multiply the scores.
        let factor = self.entries.q_factor(spec.q_scale, len);
        let scale = spec.scale * factor.unwrap_or(1.0);
        let (q, new) = (spec.queries(q, at, factor.is_none())?, spec.entries(kv, at)?);
        if self.rank != spec.rank && self.offset() > 0 {
            let (found, wanted) = (self.rank, spec.rank);
            return Err(Error::Cache(format!("latents are {found} wide, this model wants {wanted}")));
        }
        self.rank = spec.rank;
        self.entries.write([&new])?;
        let (first, mask) = self.entries.visible(len)?;
        let [entries] = self.entries.view(first, self.entries.len)?;
        let mask = match &mask {
            Some(mask) => Some(Mask::Array(mask)),
            None => (len > 1).then_some(Mask::Causal),
        };
        merge(&if spec.absorbs(len) {
            spec.attend_latents(q, &entries, scale, mask)?
        } else {
            spec.attend_heads(q, &entries, scale, mask)?
        })
    }

    pub(super) fn most(&self) -> Option<i32> {
        self.entries.reach.most()
    }

    pub(super) fn can_trim(&self, n: i32) -> bool {
        self.entries.can_trim(n)
    }

    pub(super) fn trim(&mut self, n: i32) -> i32 {
        self.entries.trim(n)
    }

    pub(super) fn arrays(&self) -> Vec<&Array> {
        self.entries.arrays().collect()
    }

    /// As mlx-lm keeps latents: as the keys of one head, and the rotated keys as its values.
    pub(super) fn state(&self) -> Result<LayerState> {
        let LayerState { class, mut items } = self.entries.state()?;
        let both = match items.first() {
            Some(Item::Array(a)) => parts(a, self.rank)?.map(Item::Array),
            _ => [Item::Nothing, Item::Nothing],
        };
        items.splice(..1, both);
        Ok(LayerState { class, items })
    }

    pub(super) fn restore(&mut self, state: LayerState) -> Result<()> {
        let LayerState { class, mut items } = state;
        let entries = match &items[..] {
            [Item::Array(latent), Item::Array(key), ..] => {
                let (a, b) = (latent.shape(), key.shape());
                if a.len() != 4 || b.len() != 4 || a[..3] != b[..3] || a[1] != 1 {
                    let what = "are not [B, 1, length, D] both";
                    return Err(Error::Cache(format!("latents {a:?} and keys {b:?} {what}")));
                }
                self.rank = latent.dim(3);
                Item::Array(ops::concatenate(&[latent, key], 3)?)
            }
            [Item::Nothing, Item::Nothing, ..] => Item::Nothing,
            _ => return Err(Error::Cache(format!("latents are described by {items:?}"))),
        };
        items.splice(..2, [entries]);
        self.entries.restore(LayerState { class, items })
    }
}
