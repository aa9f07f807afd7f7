//! ggml's element types.

/// An element type: blocks of `values` values in `bytes` bytes.
#[derive(Debug)]
pub(super) struct TensorType {
    pub(super) id: u32,
    pub(super) name: &'static str,
    pub(super) values: u64,
    pub(super) bytes: u64,
    /// How blocks become what MLX has; none if MLX has nothing equal.
    pub(super) format: Option<Format>,
}

/// The layouts that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Dense(Dense),
    Affine(Affine),
}

/// Layouts that become plain values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dense {
    F32,
    F16,
    Bf16,
    /// In groups of 16, which MLX's affine code does not have.
    Q6K,
}

/// Layouts that have an equal in MLX's affine code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Affine {
    Q40,
    Q41,
    Q50,
    Q51,
    Q80,
    Q4K,
    Q5K,
}

impl Dense {
    /// Bytes that a block becomes.
    pub(super) fn bytes(self) -> usize {
        match self {
            Dense::F32 => 4,
            Dense::F16 | Dense::Bf16 => 2,
            Dense::Q6K => 256 * 4,
        }
    }
}

impl Affine {
    /// Bits of a code.
    pub(super) fn bits(self) -> usize {
        match self {
            Affine::Q40 | Affine::Q41 | Affine::Q4K => 4,
            Affine::Q50 | Affine::Q51 | Affine::Q5K => 5,
            Affine::Q80 => 8,
        }
    }

    /// Whether scales are products that only float32 holds.
    pub(super) fn is_k(self) -> bool {
        matches!(self, Affine::Q4K | Affine::Q5K)
    }
}

const fn known(id: u32, name: &'static str, values: u64, bytes: u64, format: Format) -> TensorType {
    TensorType { id, name, values, bytes, format: Some(format) }
}

const fn other(id: u32, name: &'static str, values: u64, bytes: u64) -> TensorType {
    TensorType { id, name, values, bytes, format: None }
}

/// Numbers and sizes of `enum ggml_type`; those missing were withdrawn.
static TYPES: [TensorType; 35] = [
    known(0, "F32", 1, 4, Format::Dense(Dense::F32)),
    known(1, "F16", 1, 2, Format::Dense(Dense::F16)),
    known(2, "Q4_0", 32, 18, Format::Affine(Affine::Q40)),
    known(3, "Q4_1", 32, 20, Format::Affine(Affine::Q41)),
    known(6, "Q5_0", 32, 22, Format::Affine(Affine::Q50)),
    known(7, "Q5_1", 32, 24, Format::Affine(Affine::Q51)),
    known(8, "Q8_0", 32, 34, Format::Affine(Affine::Q80)),
    other(9, "Q8_1", 32, 36),
    other(10, "Q2_K", 256, 84),
    other(11, "Q3_K", 256, 110),
    known(12, "Q4_K", 256, 144, Format::Affine(Affine::Q4K)),
    known(13, "Q5_K", 256, 176, Format::Affine(Affine::Q5K)),
    known(14, "Q6_K", 256, 210, Format::Dense(Dense::Q6K)),
    other(15, "Q8_K", 256, 292),
    other(16, "IQ2_XXS", 256, 66),
    other(17, "IQ2_XS", 256, 74),
    other(18, "IQ3_XXS", 256, 98),
    other(19, "IQ1_S", 256, 50),
    other(20, "IQ4_NL", 32, 18),
    other(21, "IQ3_S", 256, 110),
    other(22, "IQ2_S", 256, 82),
    other(23, "IQ4_XS", 256, 136),
    other(24, "I8", 1, 1),
    other(25, "I16", 1, 2),
    other(26, "I32", 1, 4),
    other(27, "I64", 1, 8),
    other(28, "F64", 1, 8),
    other(29, "IQ1_M", 256, 56),
    known(30, "BF16", 1, 2, Format::Dense(Dense::Bf16)),
    other(34, "TQ1_0", 256, 54),
    other(35, "TQ2_0", 256, 66),
    other(39, "MXFP4", 32, 17),
    other(40, "NVFP4", 64, 36),
    other(41, "Q1_0", 128, 18),
    other(42, "Q2_0", 64, 18),
];

/// The type with this number.
pub(super) fn find(id: u32) -> Option<&'static TensorType> {
    TYPES.iter().find(|t| t.id == id)
}

/// Names of the types that can be read.
pub(super) fn readable() -> String {
    let names: Vec<&str> = TYPES.iter().filter(|t| t.format.is_some()).map(|t| t.name).collect();
    names.join(", ")
}
