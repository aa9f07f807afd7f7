//! ggml's element types.

/// An element type: blocks of `values` values in `bytes` bytes.
#[derive(Debug)]
pub(super) struct TensorType {
    pub(super) id: u32,
    pub(super) name: &'static str,
    pub(super) values: u64,
    pub(super) bytes: u64,
    /// How blocks become what MLX has; none for types that only live in memory.
    pub(super) format: Option<Format>,
}

/// The layouts that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Plain values.
    Plain(Element),
    /// Blocks that MLX has no equal of: their values become floats.
    Wide(Wide),
    /// Blocks that have an equal in MLX's affine code.
    Affine(Affine),
    /// Blocks that have an equal in MLX's 4-bit floats.
    Float4(Float4),
}

/// The type of plain values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Element {
    F32,
    F16,
    Bf16,
    F64,
    I8,
    I16,
    I32,
    I64,
}

impl Element {
    /// Bytes of a value.
    pub fn bytes(self) -> usize {
        match self {
            Element::I8 => 1,
            Element::F16 | Element::Bf16 | Element::I16 => 2,
            Element::F32 | Element::I32 => 4,
            Element::F64 | Element::I64 => 8,
        }
    }

    /// Whether values may be converted to another precision.
    pub(super) fn converts(self) -> bool {
        matches!(self, Element::F32 | Element::F16 | Element::Bf16)
    }
}

/// Blocks of 256 values in groups of 8 or 16, which MLX's affine code does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wide {
    Q2K,
    Q3K,
    Q6K,
    Iq2Xs,
    Iq2S,
    Iq1M,
}

/// Blocks whose values are scale·code + bias for 32 values or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Affine {
    Q40,
    Q41,
    Q50,
    Q51,
    Q80,
    Q4K,
    Q5K,
    Iq4Nl,
    Iq4Xs,
    Iq2Xxs,
    Iq3Xxs,
    Iq3S,
    Iq1S,
    Tq10,
    Tq20,
    Q10,
    Q20,
}

/// 4-bit floats with an 8-bit float as scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Float4 {
    Mxfp4,
    Nvfp4,
}

/// How an [`Affine`] type is packed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Values of a block.
    pub(super) values: usize,
    /// Bits of a code: the fewest that hold all values, of those that MLX has.
    pub(super) bits: usize,
    /// Values that share a scale and a bias.
    pub(super) group: usize,
    /// Whether float16 holds scales, and as a rule biases; else they are products that only float32 holds.
    pub(super) half: bool,
}

impl Affine {
    pub(super) fn layout(self) -> Layout {
        let (values, bits, group, half) = match self {
            Affine::Q40 | Affine::Q41 => (32, 4, 32, true),
            Affine::Q50 | Affine::Q51 => (32, 5, 32, true),
            Affine::Q80 | Affine::Iq4Nl => (32, 8, 32, true),
            Affine::Q4K | Affine::Iq3S => (256, 4, 32, false),
            Affine::Q5K => (256, 5, 32, false),
            Affine::Iq3Xxs => (256, 6, 32, false),
            Affine::Iq4Xs | Affine::Iq2Xxs => (256, 8, 32, false),
            Affine::Iq1S => (256, 2, 32, false),
            Affine::Tq10 | Affine::Tq20 => (256, 2, 128, true),
            Affine::Q10 => (128, 2, 128, true),
            Affine::Q20 => (64, 2, 64, true),
        };
        Layout { values, bits, group, half }
    }
}

impl Float4 {
    /// Values of a block.
    pub(super) fn values(self) -> usize {
        match self {
            Float4::Mxfp4 => 32,
            Float4::Nvfp4 => 64,
        }
    }

    /// Values that share a scale.
    pub(super) fn group(self) -> usize {
        match self {
            Float4::Mxfp4 => 32,
            Float4::Nvfp4 => 16,
        }
    }
}

const fn plain(id: u32, name: &'static str, bytes: u64, element: Element) -> TensorType {
    TensorType { id, name, values: 1, bytes, format: Some(Format::Plain(element)) }
}

const fn wide(id: u32, name: &'static str, bytes: u64, format: Wide) -> TensorType {
    TensorType { id, name, values: 256, bytes, format: Some(Format::Wide(format)) }
}

const fn affine(id: u32, name: &'static str, values: u64, bytes: u64, format: Affine) -> TensorType {
    TensorType { id, name, values, bytes, format: Some(Format::Affine(format)) }
}

const fn float4(id: u32, name: &'static str, values: u64, bytes: u64, format: Float4) -> TensorType {
    TensorType { id, name, values, bytes, format: Some(Format::Float4(format)) }
}

const fn other(id: u32, name: &'static str, values: u64, bytes: u64) -> TensorType {
    TensorType { id, name, values, bytes, format: None }
}

/// Numbers and sizes of `enum ggml_type`; those missing were withdrawn.
static TYPES: [TensorType; 35] = [
    plain(0, "F32", 4, Element::F32),
    plain(1, "F16", 2, Element::F16),
    affine(2, "Q4_0", 32, 18, Affine::Q40),
    affine(3, "Q4_1", 32, 20, Affine::Q41),
    affine(6, "Q5_0", 32, 22, Affine::Q50),
    affine(7, "Q5_1", 32, 24, Affine::Q51),
    affine(8, "Q8_0", 32, 34, Affine::Q80),
    // What activations become while ggml multiplies.
    other(9, "Q8_1", 32, 36),
    wide(10, "Q2_K", 84, Wide::Q2K),
    wide(11, "Q3_K", 110, Wide::Q3K),
    affine(12, "Q4_K", 256, 144, Affine::Q4K),
    affine(13, "Q5_K", 256, 176, Affine::Q5K),
    wide(14, "Q6_K", 210, Wide::Q6K),
    other(15, "Q8_K", 256, 292),
    affine(16, "IQ2_XXS", 256, 66, Affine::Iq2Xxs),
    wide(17, "IQ2_XS", 74, Wide::Iq2Xs),
    affine(18, "IQ3_XXS", 256, 98, Affine::Iq3Xxs),
    affine(19, "IQ1_S", 256, 50, Affine::Iq1S),
    affine(20, "IQ4_NL", 32, 18, Affine::Iq4Nl),
    affine(21, "IQ3_S", 256, 110, Affine::Iq3S),
    wide(22, "IQ2_S", 82, Wide::Iq2S),
    affine(23, "IQ4_XS", 256, 136, Affine::Iq4Xs),
    plain(24, "I8", 1, Element::I8),
    plain(25, "I16", 2, Element::I16),
    plain(26, "I32", 4, Element::I32),
    plain(27, "I64", 8, Element::I64),
    plain(28, "F64", 8, Element::F64),
    wide(29, "IQ1_M", 56, Wide::Iq1M),
    plain(30, "BF16", 2, Element::Bf16),
    affine(34, "TQ1_0", 256, 54, Affine::Tq10),
    affine(35, "TQ2_0", 256, 66, Affine::Tq20),
    float4(39, "MXFP4", 32, 17, Float4::Mxfp4),
    float4(40, "NVFP4", 64, 36, Float4::Nvfp4),
    affine(41, "Q1_0", 128, 18, Affine::Q10),
    affine(42, "Q2_0", 64, 18, Affine::Q20),
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
