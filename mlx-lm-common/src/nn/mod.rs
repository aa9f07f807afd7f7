//! Blocks that models are made of. Each has a plain form in MLX operations and, where the CPU kernels have one, a fused form; which
//! one runs is settled when a block is loaded.

mod attention;
mod linear;
mod mlp;
mod moe;
mod norm;
mod rope;

pub use attention::{Attention, AttentionConfig};
pub use linear::{Embedding, Head, Linear, Projections};
pub use mlp::{Mlp, swiglu};
pub use moe::{Moe, MoeConfig, SwitchGlu};
pub use norm::Norm;
pub use rope::Rope;
