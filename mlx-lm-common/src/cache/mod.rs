//! What a model remembers of a sequence. Attention goes through the cache: a layer hands over projected queries, keys and values, and
//! the cache stores and attends in its own way.

mod attend;
mod buffers;
mod file;
mod float;
mod latent;
mod layer;
mod policy;
mod state;

pub use attend::{AttentionSpec, PositionScale, Qkv, Softcap};
pub use latent::{LatentCache, LatentSpec};
pub use layer::{KvCache, LayerCache};
pub use policy::{CachePolicy, CacheSpec};
pub use state::{Recurrence, StateCache};

use crate::{Error, Result};
use file::LayerState;
use mlx_rs::Array;
use std::{path::Path, sync::Arc};

/// What a user notes in a saved cache: names and values.
pub type Metadata = Vec<(String, String)>;

/// The caches of all layers.
#[derive(Clone)]
pub struct Cache {
    layers: Vec<LayerCache>,
    padding: Option<Arc<[i32]>>,
}

/// A state that a cache can go back to; see [`Cache::snapshot`].
pub struct Snapshot(Cache);

/// How one layer remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerReport {
    /// In words: `all positions`, `the latest 512 positions`, `a state` …
    pub kind: String,
    /// Whether it stays within a bound however long the text grows.
    pub bounded: bool,
    /// Bytes that it holds now.
    pub nbytes: usize,
    /// Bytes that do not depend on the length of the text.
    fixed: usize,
    growing: Vec<Growing>,
}

/// What grows with the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Growing {
    /// Bytes that a position takes.
    each: usize,
    /// The most positions that are kept, if that is bounded.
    most: Option<i32>,
}

impl LayerReport {
    /// Bytes of a text of so many positions, spare room not counted; known once the layer has seen one.
    pub fn bytes_at(&self, positions: u64) -> u64 {
        let grown = self.growing.iter().map(|g| {
            let kept = g.most.map_or(positions, |most| positions.min(most.max(0) as u64));
            kept.saturating_mul(g.each as u64)
        });
        grown.fold(self.fixed as u64, u64::saturating_add)
    }
}

impl Cache {
    /// An empty cache for layers of these kinds.
    pub fn new(specs: &[CacheSpec], policy: &CachePolicy) -> Result<Cache> {
        let layers = specs.iter().enumerate().map(|(i, spec)| policy.build(i, spec));
        Ok(Cache { layers: layers.collect::<Result<_>>()?, padding: policy.left_padding.clone() })
    }

    /// How many layers it is for.
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// Whether it is for no layers.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// What layer `i` remembers; another layer's, where they share it.
    ///
    /// # Errors
    /// [`Error::Cache`] if there is no such layer.
    pub fn layer(&mut self, i: usize) -> Result<&mut LayerCache> {
        let count = self.layers.len();
        let own = match self.layers.get(i) {
            Some(LayerCache::Shared(of)) => *of,
            _ => i,
        };
        let missing = || Error::Cache(format!("there is no layer {i} in a cache of {count} layers"));
        self.layers.get_mut(own).ok_or_else(missing)
    }

    /// The position that comes next.
    pub fn offset(&self) -> i32 {
        self.layers.iter().find_map(LayerCache::offset).unwrap_or(0)
    }

    /// The number of positions of each row of a batch, padding not counted; of the only row without padding.
    pub fn lengths(&self) -> Vec<i32> {
        let offset = self.offset();
        match &self.padding {
            Some(rows) => rows.iter().map(|padding| (offset - padding).max(0)).collect(),
            None => vec![offset],
        }
    }

    /// Whether the last `n` positions can be taken back.
    pub fn can_trim(&self, n: i32) -> bool {
        self.layers.iter().all(|l| l.can_trim(n))
    }

    /// Takes back the last `n` positions, in all layers or in none, and returns how many it took back.
    pub fn trim(&mut self, n: i32) -> i32 {
        if n <= 0 || !self.can_trim(n) {
            return 0;
        }
        let mut trimmed = self.layers.clone();
        if !trimmed.iter_mut().all(|l| l.trim(n)) {
            return 0;
        }
        self.layers = trimmed;
        n
    }

    /// The state of now, to go back to with [`Cache::rewind`] even where [`Cache::trim`] cannot. Costs no memory until the cache
    /// is written to again.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.clone())
    }

    /// Goes back to a snapshot.
    pub fn rewind(&mut self, to: &Snapshot) {
        *self = to.0.clone();
    }

    /// Bytes that are held.
    pub fn nbytes(&self) -> usize {
        self.layers.iter().map(LayerCache::nbytes).sum()
    }

    /// The arrays that are held.
    pub fn arrays(&self) -> Vec<&Array> {
        self.layers.iter().flat_map(LayerCache::arrays).collect()
    }

    /// How each layer remembers.
    pub fn report(&self) -> Vec<LayerReport> {
        self.layers.iter().map(LayerCache::report).collect()
    }

    /// Computes whatever is still lazy, so that graphs do not grow.
    pub fn eval(&self) -> Result<()> {
        Ok(mlx_rs::transforms::eval(self.arrays())?)
    }

    /// Writes the cache and `metadata` to a safetensors file in mlx-lm's prompt-cache layout. The file appears whole or not at all.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a batch with padding; [`Error::Io`] or [`Error::File`] if the file cannot be written.
    pub fn save(&self, path: &Path, metadata: &[(String, String)]) -> Result<()> {
        if self.padding.is_some() {
            return Err(Error::Unsupported("the cache of a padded batch cannot be saved".into()));
        }
        let states: Vec<_> =
            self.layers.iter().filter_map(|l| l.state().transpose()).collect::<Result<_>>()?;
        file::save(path, &states, self.offset(), metadata)
    }

    /// Reads a file of [`Cache::save`] or of mlx-lm into a cache for layers of these kinds, with its metadata.
    ///
    /// # Errors
    /// [`Error::Cache`] if it belongs to another model; [`Error::File`] if it is damaged.
    pub fn load(path: &Path, specs: &[CacheSpec], policy: &CachePolicy) -> Result<(Cache, Metadata)> {
        let file::Saved { states, offset, metadata } = file::load(path)?;
        let mut cache = Cache::new(specs, policy)?;
        let own = cache.layers.iter().filter(|l| l.is_own()).count();
        if states.len() != own {
            let (path, found) = (path.display(), states.len());
            return Err(Error::Cache(format!("{path} holds {found} layers, the model has {own}")));
        }
        // States do not know where in the text they are; keys and values do.
        let offset = offset.or_else(|| states.iter().find_map(LayerState::offset)).unwrap_or(0);
        let own = cache.layers.iter_mut().filter(|l| l.is_own());
        for (layer, state) in own.zip(states) {
            layer.restore(state, offset)?;
        }
        Ok((cache, metadata))
    }
}
