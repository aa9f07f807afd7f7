//! The memory of one layer.

use super::{
    AttentionSpec, Growing, LatentCache, LayerReport, Qkv, StateCache,
    file::{Item, LayerState},
};
use crate::{Error, Result};
use mlx_rs::Array;

/// Keys and values of a layer, in whatever form.
pub trait KvCache {
    /// The position that comes next.
    fn offset(&self) -> i32;

    /// The most positions that one of them sees, if that is bounded.
    fn most(&self) -> Option<i32>;

    /// Stores the new keys and values and attends: softmax(scale · q · kᵀ) · v over everything that a position may see, as
    /// [B, L, heads · head_dim].
    fn attend(&mut self, qkv: Qkv, spec: &AttentionSpec) -> Result<Array>;

    /// Attends with other queries [B, L, heads · head_dim] of the latest L positions over what is stored already: for layers that
    /// share keys and values with an earlier one.
    fn attend_again(&mut self, q: Array, spec: &AttentionSpec) -> Result<Array>;

    /// Whether the last `n` positions can be taken back.
    fn can_trim(&self, n: i32) -> bool;

    /// Takes back the last `n` positions, all of them or none, and returns how many.
    fn trim(&mut self, n: i32) -> i32;

    /// A copy of its own. Arrays are shared until one side writes.
    fn copy(&self) -> Box<dyn KvCache>;

    /// Bytes that are held.
    fn nbytes(&self) -> usize;

    /// The arrays that are held, for evaluation.
    fn arrays(&self) -> Vec<&Array>;

    /// What a file keeps of it.
    fn state(&self) -> Result<LayerState>;

    /// Takes over what a file holds.
    fn restore(&mut self, state: LayerState) -> Result<()>;
}

/// What one layer remembers: what [`CacheSpec`](super::CacheSpec) asks for, as the policy stores it.
pub enum LayerCache {
    /// Keys and values.
    Attention(Box<dyn KvCache>),
    /// Latents.
    Latent(LatentCache),
    /// Tails of convolutions and states of recurrences.
    State(StateCache),
    /// What another layer remembers; [`Cache::layer`](super::Cache::layer) goes there.
    Shared(usize),
    /// Several.
    Several(Vec<LayerCache>),
    /// Nothing.
    Nothing,
}

impl LayerCache {
    /// As keys and values.
    ///
    /// # Errors
    /// [`Error::Cache`] if the layer remembers something else; so with the others.
    pub fn attention(&mut self) -> Result<&mut dyn KvCache> {
        match self {
            LayerCache::Attention(cache) => Ok(cache.as_mut()),
            other => Err(other.not("keys and values")),
        }
    }

    /// As latents.
    ///
    /// # Errors
    /// As [`LayerCache::attention`].
    pub fn latent(&mut self) -> Result<&mut LatentCache> {
        match self {
            LayerCache::Latent(cache) => Ok(cache),
            other => Err(other.not("latents")),
        }
    }

    /// As states.
    ///
    /// # Errors
    /// As [`LayerCache::attention`].
    pub fn state_cache(&mut self) -> Result<&mut StateCache> {
        match self {
            LayerCache::State(cache) => Ok(cache),
            other => Err(other.not("states")),
        }
    }

    /// The `i`-th of several.
    ///
    /// # Errors
    /// As [`LayerCache::attention`].
    pub fn part(&mut self, i: usize) -> Result<&mut LayerCache> {
        let error = self.not("several things");
        match self {
            LayerCache::Several(parts) => parts.get_mut(i).ok_or(error),
            _ => Err(error),
        }
    }

    fn not(&self, wanted: &str) -> Error {
        Error::Cache(format!("a layer that keeps {} was asked for {wanted}", self.report().kind))
    }

    /// Whether it remembers something itself.
    pub(super) fn is_own(&self) -> bool {
        !matches!(self, LayerCache::Shared(_) | LayerCache::Nothing)
    }

    /// The position that comes next, if it remembers something itself.
    pub fn offset(&self) -> Option<i32> {
        match self {
            LayerCache::Attention(cache) => Some(cache.offset()),
            LayerCache::Latent(cache) => Some(cache.offset()),
            LayerCache::State(cache) => Some(cache.offset()),
            LayerCache::Several(parts) => parts.iter().find_map(LayerCache::offset),
            LayerCache::Shared(_) | LayerCache::Nothing => None,
        }
    }

    pub(super) fn can_trim(&self, n: i32) -> bool {
        match self {
            LayerCache::Attention(cache) => cache.can_trim(n),
            LayerCache::Latent(cache) => cache.can_trim(n),
            LayerCache::State(cache) => cache.can_trim(n),
            LayerCache::Several(parts) => parts.iter().all(|p| p.can_trim(n)),
            LayerCache::Shared(_) | LayerCache::Nothing => true,
        }
    }

    /// Takes back `n` positions, if it can.
    pub(super) fn trim(&mut self, n: i32) -> bool {
        match self {
            LayerCache::Attention(cache) => cache.trim(n) == n,
            LayerCache::Latent(cache) => cache.trim(n) == n,
            LayerCache::State(cache) => cache.trim(n) == n,
            LayerCache::Several(parts) => parts.iter_mut().all(|p| p.trim(n)),
            LayerCache::Shared(_) | LayerCache::Nothing => true,
        }
    }

    pub(super) fn nbytes(&self) -> usize {
        self.arrays().into_iter().map(Array::nbytes).sum()
    }

    pub(super) fn arrays(&self) -> Vec<&Array> {
        match self {
            LayerCache::Attention(cache) => cache.arrays(),
            LayerCache::Latent(cache) => cache.arrays(),
            LayerCache::State(cache) => cache.arrays(),
            LayerCache::Several(parts) => parts.iter().flat_map(LayerCache::arrays).collect(),
            LayerCache::Shared(_) | LayerCache::Nothing => Vec::new(),
        }
    }

    pub(super) fn report(&self) -> LayerReport {
        let positions = |most: Option<i32>| match most {
            Some(n) => format!("{n} positions"),
            None => "all positions".to_string(),
        };
        let of_kind = |kind: String, bounded| LayerReport {
            kind,
            bounded,
            nbytes: self.nbytes(),
            fixed: 0,
            growing: Vec::new(),
        };
        let growing = |kind, most: Option<i32>| {
            // All have their positions on the third axis.
            let each = self.arrays().into_iter().map(|a| a.nbytes() / a.dim(2).max(1) as usize).sum();
            LayerReport { growing: vec![Growing { each, most }], ..of_kind(kind, most.is_some()) }
        };
        match self {
            LayerCache::Attention(cache) => growing(positions(cache.most()), cache.most()),
            LayerCache::Latent(cache) => {
                growing(format!("latents of {}", positions(cache.most())), cache.most())
            }
            LayerCache::State(_) => LayerReport { fixed: self.nbytes(), ..of_kind("a state".into(), true) },
            LayerCache::Shared(of) => of_kind(format!("nothing, but shares with layer {of}"), true),
            LayerCache::Several(parts) => {
                let parts: Vec<_> = parts.iter().map(LayerCache::report).collect();
                let kinds: Vec<_> = parts.iter().map(|p| p.kind.as_str()).collect();
                LayerReport {
                    fixed: parts.iter().map(|p| p.fixed).sum(),
                    growing: parts.iter().flat_map(|p| p.growing.clone()).collect(),
                    ..of_kind(kinds.join(" and "), parts.iter().all(|p| p.bounded))
                }
            }
            LayerCache::Nothing => of_kind("nothing".into(), true),
        }
    }

    /// What a file keeps; nothing of layers that remember nothing themselves.
    pub(super) fn state(&self) -> Result<Option<LayerState>> {
        Ok(Some(match self {
            LayerCache::Attention(cache) => cache.state()?,
            LayerCache::Latent(cache) => cache.state()?,
            LayerCache::State(cache) => {
                let slots = cache.saved()?.into_iter().map(|a| a.map_or(Item::Nothing, Item::Array));
                let items = vec![Item::List(slots.collect()), Item::Nothing, Item::Nothing];
                LayerState { class: "ArraysCache".into(), items }
            }
            LayerCache::Several(parts) => {
                let parts = parts.iter().filter_map(|p| p.state().transpose()).map(|state| {
                    let LayerState { class, items } = state?;
                    Ok(Item::List(vec![Item::List(items), Item::Text(class)]))
                });
                LayerState { class: "CacheList".into(), items: parts.collect::<Result<_>>()? }
            }
            LayerCache::Shared(_) | LayerCache::Nothing => return Ok(None),
        }))
    }

    /// Takes over what a file holds, of a text of `offset` positions.
    pub(super) fn restore(&mut self, state: LayerState, offset: i32) -> Result<()> {
        let wrong = |found: &str, wanted: &str| {
            Err(Error::Cache(format!("a layer is a {found}, this model wants a {wanted}")))
        };
        match self {
            LayerCache::Attention(cache) => cache.restore(state),
            LayerCache::Latent(cache) => cache.restore(state),
            LayerCache::State(cache) => {
                let LayerState { class, items } = state;
                let Some(Item::List(slots)) = items.into_iter().next().filter(|_| class == "ArraysCache")
                else {
                    return wrong(&class, "ArraysCache");
                };
                let slots = slots.into_iter().map(|item| match item {
                    Item::Array(a) => Ok(Some(a)),
                    Item::Nothing => Ok(None),
                    other => Err(Error::Cache(format!("a state holds {other:?}"))),
                });
                *cache = cache.clone().restore(slots.collect::<Result<_>>()?, offset)?;
                Ok(())
            }
            LayerCache::Several(parts) => {
                let LayerState { class, items } = state;
                if class != "CacheList" || items.len() != parts.len() {
                    return wrong(
                        &format!("{class} of {}", items.len()),
                        &format!("CacheList of {}", parts.len()),
                    );
                }
                for (part, item) in parts.iter_mut().zip(items) {
                    match item {
                        Item::List(pair) => match <[Item; 2]>::try_from(pair) {
                            Ok([Item::List(items), Item::Text(class)]) => {
                                part.restore(LayerState { class, items }, offset)?;
                            }
                            _ => return wrong("broken CacheList", "CacheList"),
                        },
                        _ => return wrong("broken CacheList", "CacheList"),
                    }
                }
                Ok(())
            }
            LayerCache::Shared(_) | LayerCache::Nothing => wrong(&state.class, "layer without a cache"),
        }
    }
}

impl Clone for LayerCache {
    fn clone(&self) -> LayerCache {
        match self {
            LayerCache::Attention(cache) => LayerCache::Attention(cache.copy()),
            LayerCache::Latent(cache) => LayerCache::Latent(cache.clone()),
            LayerCache::State(cache) => LayerCache::State(cache.clone()),
            LayerCache::Shared(of) => LayerCache::Shared(*of),
            LayerCache::Several(parts) => LayerCache::Several(parts.clone()),
            LayerCache::Nothing => LayerCache::Nothing,
        }
    }
}
