//! Reads tensors of GGUF files.

use mlx_lm_common::{
    Result,
    gguf::{GgufTensor, Kind, Output, Read},
};

/// Reads a tensor into fresh memory: weight, scales, biases; what it does not have is empty.
pub(crate) fn try_read(t: &GgufTensor) -> Result<(Read, [Vec<u8>; 3])> {
    let sizes = match t.kind() {
        Kind::Dense { bytes, .. } => [bytes, 0, 0],
        Kind::Affine { weight_bytes, scale_bytes, .. } => [weight_bytes, scale_bytes, scale_bytes],
        Kind::Float4 { weight_bytes, scale_bytes, .. } => [weight_bytes, scale_bytes, 0],
    };
    let mut parts = sizes.map(|size| vec![0; size]);
    let [weight, scales, biases] = &mut parts;
    let output = match t.kind() {
        Kind::Dense { .. } => Output::Dense(weight),
        Kind::Affine { .. } => Output::Affine { weight, scales, biases },
        Kind::Float4 { .. } => Output::Float4 { weight, scales },
    };
    Ok((t.read_into(output)?, parts))
}
