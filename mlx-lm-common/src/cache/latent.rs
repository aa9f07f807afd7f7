//! The latents of multi-head latent attention (arXiv 2405.04434): instead of keys and values of every head, one latent per position
//! that they are made from, and one rotated key that all heads share.

use super::{
    buffers::{Buffers, Reach},
    file::LayerState,
};
use crate::Result;
use mlx_rs::Array;
use std::sync::Arc;

/// What a layer of latent attention remembers: of each position a latent `[B, 1, T, r]` and a rotated key `[B, 1, T, d]`.
#[derive(Clone)]
pub struct LatentCache(Buffers);

impl LatentCache {
    pub(super) fn new(reach: Reach, rewind: i32, padding: Option<Arc<[i32]>>) -> LatentCache {
        LatentCache(Buffers::new(reach, rewind, padding))
    }

    /// The position that comes next.
    pub fn offset(&self) -> i32 {
        self.0.offset
    }

    pub(super) fn most(&self) -> Option<i32> {
        self.0.reach.most()
    }

    pub(super) fn can_trim(&self, n: i32) -> bool {
        self.0.can_trim(n)
    }

    pub(super) fn trim(&mut self, n: i32) -> i32 {
        self.0.trim(n)
    }

    pub(super) fn arrays(&self) -> Vec<&Array> {
        self.0.arrays().collect()
    }

    pub(super) fn state(&self) -> Result<LayerState> {
        self.0.state()
    }

    pub(super) fn restore(&mut self, state: LayerState) -> Result<()> {
        self.0.restore(state)
    }
}
