//! A tensor that is still in its file, and how it comes into memory: read once, converted on the way.

use crate::{
    Result,
    file::CheckpointFile,
    raw::{Arena, size_of},
};
use half::{bf16, f16};
use mlx_rs::{Array, Dtype};
use std::sync::Arc;

/// How much of a file is held at a time while its type is converted.
const CHUNK: usize = 1 << 20;

/// Plain values in a file: row-major, little-endian.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Where the values lie, one after the other: a single range, or one for each matrix of a stack.
    pub parts: Vec<(Arc<CheckpointFile>, u64)>,
    /// Bytes in each part.
    pub part_bytes: usize,
    /// The type in the file; 8-bit floats are `Uint8`.
    pub dtype: Dtype,
    /// Sizes of the axes.
    pub shape: Vec<i32>,
}

impl Stored {
    /// Bytes in the file.
    pub fn bytes(&self) -> u64 {
        self.part_bytes as u64 * self.parts.len() as u64
    }

    /// Bytes in memory at most, if floats become `compute`.
    pub fn memory_bytes(&self, compute: Dtype) -> usize {
        let converted =
            if is_float(self.dtype) { self.part_bytes / size_of(self.dtype) * size_of(compute) } else { 0 };
        Arena::footprint(self.part_bytes.max(converted).saturating_mul(self.parts.len()))
    }

    /// Equal tensors as one, along a new first axis. `None` if they differ in shape or type, or there are none.
    pub fn stack(tensors: Vec<Stored>) -> Option<Stored> {
        let first = tensors.first()?;
        if tensors.iter().any(|t| t.shape != first.shape || t.dtype != first.dtype || t.parts.len() != 1) {
            return None;
        }
        let count = i32::try_from(tensors.len()).ok()?;
        Some(Stored {
            shape: [&[count], &first.shape[..]].concat(),
            dtype: first.dtype,
            part_bytes: first.part_bytes,
            parts: tensors.into_iter().flat_map(|t| t.parts).collect(),
        })
    }

    /// Reads the values; floats become `dtype` if one is given.
    pub fn load(&self, arena: &Arena, dtype: Option<Dtype>) -> Result<Array> {
        let to = dtype.filter(|_| is_float(self.dtype)).unwrap_or(self.dtype);
        let (from_size, to_size) = (size_of(self.dtype), size_of(to));
        let mut block = arena.block(self.part_bytes / from_size * to_size * self.parts.len())?;
        let outputs = block.bytes_mut().chunks_exact_mut((self.part_bytes / from_size * to_size).max(1));
        let mut buffer = Vec::new();
        for ((file, offset), out) in self.parts.iter().zip(outputs) {
            if to == self.dtype {
                file.read_at(out, *offset)?;
                continue;
            }
            buffer.resize(CHUNK.min(self.part_bytes), 0);
            for (i, out) in out.chunks_mut(CHUNK / from_size * to_size).enumerate() {
                let buffer = &mut buffer[..out.len() / to_size * from_size];
                file.read_at(buffer, offset + (i * CHUNK) as u64)?;
                convert(buffer, self.dtype, out, to);
            }
        }
        block.into_array(&self.shape, to)
    }
}

/// Whether a type may be converted between precisions.
pub(super) fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float32)
}

/// Converts whole values between float types.
fn convert(from: &[u8], from_type: Dtype, to: &mut [u8], to_type: Dtype) {
    match from_type {
        Dtype::Float16 => {
            narrow(from.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()), to, to_type)
        }
        Dtype::Bfloat16 => {
            narrow(from.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()), to, to_type)
        }
        _ => narrow(from.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])), to, to_type),
    }
}

fn narrow(values: impl Iterator<Item = f32>, to: &mut [u8], to_type: Dtype) {
    match to_type {
        Dtype::Float16 => {
            to.chunks_exact_mut(2)
                .zip(values)
                .for_each(|(b, v)| b.copy_from_slice(&f16::from_f32(v).to_le_bytes()));
        }
        Dtype::Bfloat16 => {
            to.chunks_exact_mut(2)
                .zip(values)
                .for_each(|(b, v)| b.copy_from_slice(&bf16::from_f32(v).to_le_bytes()));
        }
        _ => to.chunks_exact_mut(4).zip(values).for_each(|(b, v)| b.copy_from_slice(&v.to_le_bytes())),
    }
}
