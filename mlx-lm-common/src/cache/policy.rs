//! Models say what their layers need; a policy decides how it is stored.

use super::{KvCache, LayerState, float::FloatCache};
use crate::{Error, Result};
use std::sync::Arc;

/// Positions that a bounded cache always keeps: attention leans on the first few (arXiv 2309.17453).
const SINKS: i32 = 4;

/// What a layer needs remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CacheSpec {
    /// Every position.
    Full,
    /// The latest so many positions, the current one included.
    Window(i32),
}

/// How caches are stored.
#[derive(Clone, Debug, Default)]
pub struct CachePolicy {
    /// Bounds the layers that would keep every position: the first four and the latest are kept, so many in all.
    pub max_size: Option<i32>,
    /// Left padding of each row of a batch, in positions.
    pub left_padding: Option<Arc<[i32]>>,
}

impl CachePolicy {
    /// An empty cache for one layer.
    pub(super) fn build(&self, spec: &CacheSpec) -> Result<Box<dyn KvCache>> {
        Ok(Box::new(FloatCache::new(self.window(spec)?, self.left_padding.clone())))
    }

    /// The cache of one layer from a file.
    pub(super) fn restore(&self, spec: &CacheSpec, state: LayerState) -> Result<Box<dyn KvCache>> {
        Ok(Box::new(FloatCache::restore(self.window(spec)?, self.left_padding.clone(), state)?))
    }

    /// Size and pinned positions of a bounded cache.
    fn window(&self, spec: &CacheSpec) -> Result<Option<(i32, i32)>> {
        match (*spec, self.max_size) {
            (CacheSpec::Window(size), _) if size > 0 => Ok(Some((size, 0))),
            (CacheSpec::Window(size), _) => Err(Error::config("sliding_window", size, "a positive number")),
            (CacheSpec::Full, Some(size)) if size > SINKS => Ok(Some((size, SINKS))),
            (CacheSpec::Full, Some(size)) => Err(Error::Parameter {
                name: "max_kv_size",
                found: size.to_string(),
                wanted: format!("more than the {SINKS} first positions, which are always kept"),
            }),
            (CacheSpec::Full, None) => Ok(None),
        }
    }
}
