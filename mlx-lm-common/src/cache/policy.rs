//! Models say what their layers need; a policy decides how it is stored.

use super::{LatentCache, LayerCache, buffers::Reach, float::FloatCache, state::StateCache};
use crate::{Error, Result};
use std::sync::Arc;

/// Positions that a bounded cache always keeps: attention leans on the first few (arXiv 2309.17453).
const SINKS: i32 = 4;

/// What a layer needs remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CacheSpec {
    /// Keys and values of every position.
    Full,
    /// Of the latest so many positions, the current one included.
    Window(i32),
    /// Of a position's own chunk of so many positions.
    Chunked(i32),
    /// A latent of every position, from which keys and values are made (MLA).
    Latent,
    /// So many arrays that do not grow with the text: tails of convolutions, states of recurrences.
    State(usize),
    /// What layer i remembers.
    Shared(usize),
    /// Several, for a layer of several mixers.
    Several(Vec<CacheSpec>),
    /// Nothing.
    Nothing,
}

/// How caches are stored.
#[derive(Clone, Debug, Default)]
pub struct CachePolicy {
    /// Bounds the layers that would keep more positions, all or those of a larger window: the first four and the latest are kept, so many in all.
    pub max_size: Option<i32>,
    /// Left padding of each row of a batch, in positions.
    pub left_padding: Option<Arc<[i32]>>,
    /// How many positions [`Cache::trim`](super::Cache::trim) must be able to take back from windows and states. Windows give 64
    /// always; for states it costs memory.
    pub rewind: i32,
}

impl CachePolicy {
    /// An empty cache for layer `layer`.
    pub(super) fn build(&self, layer: usize, spec: &CacheSpec) -> Result<LayerCache> {
        let padding = || self.left_padding.clone();
        let float =
            |reach| Ok(LayerCache::Attention(Box::new(FloatCache::new(reach, self.rewind, padding()))));
        match spec {
            CacheSpec::Full => float(self.all()?),
            CacheSpec::Window(size) => match self.max_size {
                Some(most) if most < *size => float(self.all()?),
                _ => float(Reach::Window { size: positive("sliding_window", *size)?, keep: 0 }),
            },
            CacheSpec::Chunked(size) => float(Reach::Chunk(positive("attention_chunk_size", *size)?)),
            CacheSpec::Latent => {
                Ok(LayerCache::Latent(LatentCache::new(self.all()?, self.rewind, padding())))
            }
            CacheSpec::State(slots) => Ok(LayerCache::State(StateCache::new(*slots, self.rewind, padding()))),
            CacheSpec::Shared(of) if *of < layer => Ok(LayerCache::Shared(*of)),
            CacheSpec::Shared(of) => Err(Error::config(
                "num_kv_shared_layers",
                format!("layer {layer} using what layer {of} remembers"),
                "an earlier layer",
            )),
            CacheSpec::Several(parts) => {
                let parts = parts.iter().map(|part| self.build(layer, part));
                Ok(LayerCache::Several(parts.collect::<Result<_>>()?))
            }
            CacheSpec::Nothing => Ok(LayerCache::Nothing),
        }
    }

    /// The reach of a layer that would keep every position.
    fn all(&self) -> Result<Reach> {
        match self.max_size {
            None => Ok(Reach::All),
            Some(size) if size > SINKS => Ok(Reach::Window { size, keep: SINKS }),
            Some(size) => Err(Error::Parameter {
                name: "max_kv_size",
                found: size.to_string(),
                wanted: format!("more than the {SINKS} first positions, which are always kept"),
            }),
        }
    }
}

fn positive(key: &str, size: i32) -> Result<i32> {
    if size > 0 { Ok(size) } else { Err(Error::config(key, size, "a positive number")) }
}
