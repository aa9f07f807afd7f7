//! Blocks that models are made of. Each has a plain form in MLX operations and, where the CPU kernels have one, a fused form; which
//! one runs is settled when a block is loaded.

mod activation;
mod attention;
mod conv;
mod experts;
mod feed_forward;
mod fused;
mod gated_attention;
mod gated_delta;
mod linear;
mod mla;
mod mlp;
mod moe;
mod multi_linear;
mod norm;
mod rope;
mod router;
mod scan;
mod short_conv;
mod ssm;
mod wide;

pub use activation::{Activation, Glu};
pub use attention::{Attention, AttentionConfig, KeysValues};
pub use conv::CausalConv;
pub use experts::{Experts, ExpertsConfig};
pub use feed_forward::FeedForward;
pub use fused::{fused, fused_with, scalar};
pub use gated_attention::GatedAttention;
pub use gated_delta::{GatedDeltaConfig, GatedDeltaNet, gated_delta};
pub use linear::{Embedding, Head, Linear, Projections};
pub use mla::{Mla, MlaConfig};
pub use mlp::{Form, Mlp, MlpConfig};
pub use moe::{Moe, MoeConfig, SharedConfig};
pub use multi_linear::MultiLinear;
pub use norm::Norm;
pub use rope::Rope;
pub use router::{GroupScore, Groups, Normalize, Router, RouterConfig, Score};
pub use short_conv::ShortConv;
pub use ssm::{GatedNorm, Mamba2, Mamba2Config, ssd};
pub use wide::{widen, widened};
