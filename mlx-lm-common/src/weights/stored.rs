//! A tensor that is still in its file, and how it comes into memory: read once, converted on the way.

use crate::{
    Result,
    file::CheckpointFile,
    raw::{Arena, size_of},
};
use half::{bf16, f16};
use mlx_rs::{Array, Dtype};
use std::sync::Arc;

/// How much of a file is held at a time while its values are picked out or their type is converted.
const CHUNK: usize = 1 << 20;

/// Plain values in a file: row-major, little-endian.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Where the values begin: in a single place, or in one for each matrix of a stack.
    pub parts: Vec<(Arc<CheckpointFile>, u64)>,
    /// Bytes in each part.
    pub part_bytes: usize,
    /// How the bytes of a part lie apart, if not one after the other.
    pub runs: Option<Runs>,
    /// The type in the file; 8-bit floats are `Uint8`.
    pub dtype: Dtype,
    /// Which 8-bit floats the bytes are, if the file says that they are.
    pub float8: Option<Float8>,
    /// Sizes of the axes.
    pub shape: Vec<i32>,
}

/// Bytes that lie in runs, at equal distances from one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Runs {
    /// Bytes in a run.
    pub bytes: usize,
    /// Bytes from the start of a run to the start of the next.
    pub stride: usize,
}

/// Floats of 8 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float8 {
    /// A sign, 4 bits of exponent, 3 of mantissa.
    E4m3,
    /// A sign, 5 bits of exponent, 2 of mantissa.
    E5m2,
    /// 8 bits of exponent: powers of two.
    E8m0,
}

impl Stored {
    /// Bytes in the file.
    pub fn bytes(&self) -> u64 {
        self.part_bytes as u64 * self.parts.len() as u64
    }

    /// The bytes of its first part as they are in the file.
    pub(super) fn bytes_in_file(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.part_bytes];
        if let Some((file, offset)) = self.parts.first() {
            file.read_at(&mut bytes, *offset)?;
        }
        Ok(bytes)
    }

    /// Bytes in memory at most, if floats become `compute`.
    pub fn memory_bytes(&self, compute: Dtype) -> usize {
        let converted =
            if is_float(self.dtype) { self.part_bytes / size_of(self.dtype) * size_of(compute) } else { 0 };
        Arena::footprint(self.part_bytes.max(converted).saturating_mul(self.parts.len()))
    }

    /// Equal tensors as one, along a new first axis. `None` if they differ in shape or type, or there are none.
    pub fn stack(tensors: &[&Stored]) -> Option<Stored> {
        let first = tensors.first()?;
        let alike = |t: &Stored| {
            (&t.shape, t.dtype, t.float8, t.runs, t.parts.len())
                == (&first.shape, first.dtype, first.float8, first.runs, 1)
        };
        if !tensors.iter().all(|t| alike(t)) {
            return None;
        }
        let count = i32::try_from(tensors.len()).ok()?;
        Some(Stored {
            shape: [&[count], &first.shape[..]].concat(),
            parts: tensors.iter().flat_map(|t| t.parts.clone()).collect(),
            ..(*first).clone()
        })
    }

    /// The entries of `axis` come in groups of `group`: of each group, the `size` entries from `start` on. `None` if they would
    /// not lie at equal distances. The caller has checked that groups and entries are there.
    pub(super) fn cut(&self, axis: usize, group: i32, start: i32, size: i32) -> Option<Stored> {
        let mut cut = self.clone();
        cut.shape[axis] = self.shape[axis] / group * size;
        let entry =
            self.shape[axis + 1..].iter().map(|n| *n as usize).product::<usize>() * size_of(self.dtype);
        let [group, start, size] = [group, start, size].map(|n| n as usize * entry);
        if self.part_bytes == 0 {
            return Some(cut);
        }
        if !self.part_bytes.is_multiple_of(group) {
            return None;
        }
        cut.part_bytes = self.part_bytes / group * size;
        cut.parts.iter_mut().for_each(|(_, offset)| *offset += start as u64);
        cut.runs = match self.runs {
            Some(runs) if size == group => Some(runs),
            Some(runs) if group == runs.bytes => Some(Runs { bytes: size, ..runs }),
            Some(_) => return None,
            None if cut.part_bytes == size => None,
            None => Some(Runs { bytes: size, stride: group }),
        };
        Some(cut)
    }

    /// Reads the values; floats become `dtype` if one is given.
    pub fn load(&self, arena: &Arena, dtype: Option<Dtype>) -> Result<Array> {
        let to = dtype.filter(|_| is_float(self.dtype)).unwrap_or(self.dtype);
        let grown = |bytes: usize| bytes / size_of(self.dtype) * size_of(to);
        let runs = self.runs.unwrap_or(Runs { bytes: self.part_bytes, stride: self.part_bytes });
        let mut block = arena.block(grown(self.part_bytes) * self.parts.len())?;
        let outputs = block.bytes_mut().chunks_exact_mut(grown(self.part_bytes).max(1));
        let mut buffer = Vec::new();
        for ((file, offset), out) in self.parts.iter().zip(outputs) {
            // Short runs are read several at a time, with what lies between them.
            let together = (CHUNK / runs.stride.max(1)).max(1);
            for (i, out) in out.chunks_mut(grown(runs.bytes * together).max(1)).enumerate() {
                let offset = offset + (i * together * runs.stride) as u64;
                if together == 1 {
                    self.read_run(file, offset, out, to, &mut buffer)?;
                    continue;
                }
                let count = out.len() / grown(runs.bytes).max(1);
                buffer.resize((count - 1) * runs.stride + runs.bytes, 0);
                file.read_at(&mut buffer, offset)?;
                for (from, out) in buffer.chunks(runs.stride).zip(out.chunks_mut(grown(runs.bytes))) {
                    convert(&from[..runs.bytes], self.dtype, out, to);
                }
            }
        }
        block.into_array(&self.shape, to)
    }

    fn read_run(
        &self,
        file: &CheckpointFile,
        offset: u64,
        out: &mut [u8],
        to: Dtype,
        buffer: &mut Vec<u8>,
    ) -> Result<()> {
        if to == self.dtype {
            return file.read_at(out, offset);
        }
        let (from_size, to_size) = (size_of(self.dtype), size_of(to));
        for (i, out) in out.chunks_mut(CHUNK / from_size * to_size).enumerate() {
            buffer.resize(out.len() / to_size * from_size, 0);
            file.read_at(buffer, offset + (i * CHUNK) as u64)?;
            convert(buffer, self.dtype, out, to);
        }
        Ok(())
    }
}

/// Whether a type may be converted between precisions.
pub(super) fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float32)
}

/// Copies whole values; floats into `to_type`.
fn convert(from: &[u8], from_type: Dtype, to: &mut [u8], to_type: Dtype) {
    match from_type {
        _ if from_type == to_type => to.copy_from_slice(from),
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
