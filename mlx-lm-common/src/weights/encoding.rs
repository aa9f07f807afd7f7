//! How tensors are stored, and what becomes of them.

/// A way in which other toolkits than MLX's store the values of a tensor.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Encoding {
    /// In words: `GPTQ 4-bit, groups of 128`.
    pub stored: String,
    /// What becomes of it.
    pub kept: Kept,
}

/// What becomes of a tensor when it is loaded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kept {
    /// It stays packed, in this code of MLX: `affine 4-bit`.
    Packed(String),
    /// It becomes plain floats, in the type that is computed in, because of this.
    Widened(String),
}
