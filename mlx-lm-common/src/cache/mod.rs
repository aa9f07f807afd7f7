//! What a model remembers of a sequence. Attention goes through the cache: a layer hands over projected queries, keys and values, and
//! the cache stores and attends in its own way.

mod attend;
mod file;
mod float;
mod policy;

pub use attend::{AttentionSpec, Qkv};
pub use policy::{CachePolicy, CacheSpec};

use crate::{Error, Result};
use mlx_rs::Array;
use std::{any::Any, path::Path};

/// The memory of one layer.
pub trait KvCache: Any {
    /// The position that comes next.
    fn offset(&self) -> i32;

    /// Stores the new keys and values and attends: softmax(scale · q · kᵀ) · v over everything that a position may see, as
    /// [B, L, heads · head_dim].
    fn attend(&mut self, qkv: Qkv, spec: &AttentionSpec) -> Result<Array>;

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

    /// What a file keeps of it, in mlx-lm's words.
    fn state(&self) -> Result<LayerState>;
}

/// One layer's part of a saved cache, in mlx-lm's words.
#[derive(Clone, Debug)]
pub struct LayerState {
    /// `KVCache`, `RotatingKVCache` …
    pub class: String,
    /// Keys and values; nothing if the cache is empty.
    pub kv: Option<[Array; 2]>,
    /// What follows them: the offset, and for a `RotatingKVCache` also `keep`, `max_size` and the slot to be written next.
    pub scalars: Vec<i32>,
}

/// What a user notes in a saved cache: names and values.
pub type Metadata = Vec<(String, String)>;

/// The caches of all layers.
pub struct Cache {
    layers: Vec<Box<dyn KvCache>>,
}

/// A state that a cache can go back to; see [`Cache::snapshot`].
pub struct Snapshot(Cache);

impl Cache {
    /// An empty cache for layers of these kinds.
    pub fn new(specs: &[CacheSpec], policy: &CachePolicy) -> Result<Cache> {
        Ok(Cache { layers: specs.iter().map(|s| policy.build(s)).collect::<Result<_>>()? })
    }

    /// A cache of each layer, in order.
    pub fn layers_mut(&mut self) -> &mut [Box<dyn KvCache>] {
        &mut self.layers
    }

    /// The position that comes next.
    pub fn offset(&self) -> i32 {
        self.layers.first().map_or(0, |l| l.offset())
    }

    /// Takes back the last `n` positions, in all layers or in none, and returns how many it took back.
    pub fn trim(&mut self, n: i32) -> i32 {
        if n <= 0 || !self.layers.iter().all(|l| l.can_trim(n)) {
            return 0;
        }
        self.layers.iter_mut().for_each(|l| {
            l.trim(n);
        });
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
        self.layers.iter().map(|l| l.nbytes()).sum()
    }

    /// The arrays that are held.
    pub fn arrays(&self) -> Vec<&Array> {
        self.layers.iter().flat_map(|l| l.arrays()).collect()
    }

    /// Computes whatever is still lazy, so that graphs do not grow.
    pub fn eval(&self) -> Result<()> {
        Ok(mlx_rs::transforms::eval(self.arrays())?)
    }

    /// Writes the cache and `metadata` to a safetensors file in mlx-lm's prompt-cache layout. The file appears whole or not at all.
    pub fn save(&self, path: &Path, metadata: &[(String, String)]) -> Result<()> {
        let states = self.layers.iter().map(|l| l.state()).collect::<Result<Vec<_>>>()?;
        file::save(path, &states, metadata)
    }

    /// Reads a file of [`Cache::save`] or of mlx-lm into a cache for layers of these kinds, with its metadata.
    ///
    /// # Errors
    /// [`Error::Cache`] if it belongs to another model; [`Error::File`] if it is damaged.
    pub fn load(path: &Path, specs: &[CacheSpec], policy: &CachePolicy) -> Result<(Cache, Metadata)> {
        let (states, metadata) = file::load(path)?;
        if states.len() != specs.len() {
            return Err(Error::Cache(format!(
                "{} holds {} layers, the model has {}",
                path.display(),
                states.len(),
                specs.len()
            )));
        }
        let layers = specs
            .iter()
            .zip(states)
            .map(|(spec, state)| policy.restore(spec, state))
            .collect::<Result<_>>()?;
        Ok((Cache { layers }, metadata))
    }
}

impl Clone for Cache {
    fn clone(&self) -> Cache {
        Cache { layers: self.layers.iter().map(|l| l.copy()).collect() }
    }
}
