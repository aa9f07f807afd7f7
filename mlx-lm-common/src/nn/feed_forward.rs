//! What follows the mixer in a layer of models that are dense in some layers and mixtures in others.

use super::{Mlp, MlpConfig, Moe, MoeConfig, Norm};
use crate::{Result, weights::Weights};
use mlx_rs::Array;

/// One feed-forward block, or a mixture of many.
#[derive(Clone, Debug)]
pub enum FeedForward {
    /// One for all tokens.
    Dense(Mlp),
    /// A few of many for each token.
    Experts(Box<Moe>),
}

impl FeedForward {
    /// Loads one block from `w`.
    pub fn dense(w: &Weights, c: &MlpConfig) -> Result<FeedForward> {
        Mlp::load(w, c).map(FeedForward::Dense)
    }

    /// Loads a mixture from `w`.
    pub fn experts(w: &Weights, c: &MoeConfig) -> Result<FeedForward> {
        Ok(FeedForward::Experts(Box::new(Moe::load(w, c)?)))
    }

    /// block(norm(x)), for x [B, L, dim].
    pub fn forward(&self, norm: &Norm, x: &Array) -> Result<Array> {
        match self {
            FeedForward::Dense(mlp) => mlp.forward(Some(norm), x),
            FeedForward::Experts(moe) => moe.forward(&norm.forward(x)?),
        }
    }

    /// x + block(norm(x)), for x [B, L, dim].
    pub fn forward_add(&self, norm: &Norm, x: &Array) -> Result<Array> {
        match self {
            FeedForward::Dense(mlp) => mlp.forward_add(norm, x),
            FeedForward::Experts(moe) => moe.forward_add(norm, x),
        }
    }
}
