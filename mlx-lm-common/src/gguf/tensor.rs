//! A tensor of a GGUF file: what it will be, and how it gets there.

use super::{
    header::TensorInfo,
    types::{self, Format},
    unpack::{self, Fault, Parts},
};
use crate::{Error, Result, file::CheckpointFile};
use std::sync::Arc;

/// Bytes of the file that are held at a time.
const CHUNK: usize = 1 << 20;
/// Values that share a scale.
const GROUP: usize = 32;
/// MLX's arrays begin on cache lines.
const LINE: usize = 64;

/// A float type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Element {
    F32,
    F16,
    Bf16,
}

/// What a tensor becomes in memory: everything row-major and little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Plain values.
    Dense {
        /// Their type.
        element: Element,
        /// Bytes of all values.
        bytes: usize,
    },
    /// MLX's affine code, w = scale·code + bias.
    Affine {
        /// Bits of a code: 4, 5 or 8.
        bits: i32,
        /// Values that share a scale and a bias.
        group: i32,
        /// The type of scales and biases.
        element: Element,
        /// Bytes of the packed uint32 words [.., rows, columns · bits / 32].
        weight_bytes: usize,
        /// Bytes of the scales [.., rows, columns / group]; the biases have as many.
        scale_bytes: usize,
    },
}

/// Memory to read a tensor into, of the sizes that its [`Kind`] says.
#[derive(Debug)]
pub enum Output<'a> {
    /// For [`Kind::Dense`].
    Dense(&'a mut [u8]),
    /// For [`Kind::Affine`].
    Affine {
        /// Packed words.
        weight: &'a mut [u8],
        /// Scales.
        scales: &'a mut [u8],
        /// Biases.
        biases: &'a mut [u8],
    },
}

/// How reading ended.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// The output is filled.
    Complete,
    /// A bias of this tensor is beyond float16. Read [`GgufTensor::widened`] instead. No useful model has such a tensor, so it
    /// is not searched for in advance.
    Float16Overflow,
}

/// A row that is not part of the tensor.
pub(super) const ELSEWHERE: u32 = u32::MAX;

/// A tensor, still in its file.
#[derive(Clone, Debug)]
pub struct GgufTensor {
    source: Arc<CheckpointFile>,
    name: String,
    shape: Vec<i32>,
    type_name: &'static str,
    format: Format,
    block_bytes: usize,
    /// Blocks of the tensor, of its part of the file, and of a row of that.
    blocks: usize,
    file_blocks: usize,
    row_blocks: usize,
    offset: u64,
    /// Which row each row of the file is, if not the same, or [`ELSEWHERE`].
    order: Option<Arc<[u32]>>,
    wide: bool,
}

impl GgufTensor {
    pub(super) fn new(source: &Arc<CheckpointFile>, info: &TensorInfo, name: String) -> Result<GgufTensor> {
        let kind = info.kind;
        let Some(format) = kind.format else {
            let readable = types::readable();
            return Err(Error::tensor(
                &info.name,
                format!("elements of type {}; {readable} can be read", kind.name),
            ));
        };
        let too_large = |_| Error::tensor(&info.name, "too large for this computer");
        let blocks = usize::try_from(info.bytes / kind.bytes).map_err(too_large)?;
        Ok(GgufTensor {
            source: source.clone(),
            name,
            shape: info.shape.clone(),
            type_name: kind.name,
            format,
            block_bytes: kind.bytes as usize,
            blocks,
            file_blocks: blocks,
            // Where no row moves, all blocks are one row.
            row_blocks: blocks,
            offset: info.offset,
            order: None,
            wide: false,
        })
    }

    /// Rows that can be told apart: all but the last axis counts them, or the only one.
    pub(crate) fn rows(&self) -> usize {
        let rows = if self.shape.len() > 1 { &self.shape[..self.shape.len() - 1] } else { &self.shape[..] };
        rows.iter().map(|n| *n as usize).product()
    }

    /// The tensor of this shape that has row i of this one as row `order[i]`, and lacks those that are [`ELSEWHERE`]. Rows are as
    /// long, each has its place, and this tensor has its rows in the order of the file.
    ///
    /// # Errors
    /// [`Error::Tensor`] for blocks that span rows, and an order for other rows.
    pub(crate) fn reordered(&self, shape: Vec<i32>, order: &[u32]) -> Result<GgufTensor> {
        let (rows, bad) = (self.rows(), |why: String| Error::tensor(&self.name, why));
        if !self.blocks.is_multiple_of(rows) {
            return Err(bad(format!("blocks of type {} that span rows", self.type_name)));
        }
        if order.len() != rows || self.order.is_some() {
            return Err(bad(format!("{rows} rows cannot be ordered as {}", order.len())));
        }
        let row_blocks = self.blocks / rows;
        // What is left out before and behind is not read.
        let kept = |row: &u32| *row != ELSEWHERE;
        let first = order.iter().position(kept).unwrap_or(rows);
        let last = order.iter().rposition(kept).map_or(first, |i| i + 1);
        let order = &order[first..last];
        let same = order.iter().enumerate().all(|(i, to)| *to as usize == i);
        Ok(GgufTensor {
            shape,
            blocks: order.iter().filter(|row| kept(row)).count() * row_blocks,
            file_blocks: order.len() * row_blocks,
            row_blocks: if same { (order.len() * row_blocks).max(1) } else { row_blocks },
            offset: self.offset + (first * row_blocks * self.block_bytes) as u64,
            order: (!same).then(|| order.into()),
            ..self.clone()
        })
    }

    /// Of an axis that counts rows, the `size` entries from `start` on of each group of `group`.
    ///
    /// # Errors
    /// As [`GgufTensor::reordered`].
    pub(crate) fn cut(&self, axis: usize, group: i32, start: i32, size: i32) -> Result<GgufTensor> {
        let (last, rows) = (self.shape.len() - 1, self.rows());
        if axis == last && last > 0 {
            return Err(Error::tensor(&self.name, "cannot be split along its rows"));
        }
        let end = if last > 0 { last } else { 1 };
        let inner: usize = self.shape[(axis + 1).min(end)..end].iter().map(|n| *n as usize).product();
        let (count, [group, start, size]) =
            (self.shape[axis] as usize, [group, start, size].map(|n| n as usize));
        let kept = count / group * size;
        let place = |row: usize| {
            let (outer, at, rest) = (row / inner / count, row / inner % count, row % inner);
            let (number, within) = (at / group, at % group);
            match within.checked_sub(start).filter(|n| *n < size) {
                Some(n) => ((outer * kept + number * size + n) * inner + rest) as u32,
                None => ELSEWHERE,
            }
        };
        let mut shape = self.shape.clone();
        shape[axis] = kept as i32;
        self.reordered(shape, &(0..rows).map(place).collect::<Vec<u32>>())
    }

    /// The published name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sizes of the axes as values count, row-major: `[rows, columns]` for a matrix.
    pub fn shape(&self) -> &[i32] {
        &self.shape
    }

    /// ggml's name of the element type, such as `Q4_K`.
    pub fn type_name(&self) -> &'static str {
        self.type_name
    }

    /// Bytes in the file.
    pub fn file_bytes(&self) -> u64 {
        self.blocks as u64 * self.block_bytes as u64
    }

    /// Bytes in memory, each part rounded up to cache lines.
    pub fn memory_bytes(&self) -> usize {
        match self.kind() {
            Kind::Dense { bytes, .. } => bytes.next_multiple_of(LINE),
            Kind::Affine { weight_bytes, scale_bytes, .. } => {
                weight_bytes.next_multiple_of(LINE) + 2 * scale_bytes.next_multiple_of(LINE)
            }
        }
    }

    /// What the tensor becomes, with the sizes of its parts.
    pub fn kind(&self) -> Kind {
        match self.format {
            Format::Dense(format) => Kind::Dense {
                element: match format {
                    types::Dense::F16 => Element::F16,
                    types::Dense::Bf16 => Element::Bf16,
                    types::Dense::F32 | types::Dense::Q6K => Element::F32,
                },
                bytes: self.blocks * format.bytes(),
            },
            Format::Affine(format) => {
                let block = self.affine_block(format);
                Kind::Affine {
                    bits: format.bits() as i32,
                    group: GROUP as i32,
                    element: if self.wide || format.is_k() { Element::F32 } else { Element::F16 },
                    weight_bytes: self.blocks * block.weight,
                    scale_bytes: self.blocks * block.scales,
                }
            }
        }
    }

    /// The same tensor with scales and biases in float32 where [`GgufTensor::kind`] says float16.
    pub fn widened(&self) -> GgufTensor {
        GgufTensor { wide: true, ..self.clone() }
    }

    /// Reads the tensor into `output`, in one pass and with a megabyte of working memory, rows in the published order.
    ///
    /// Values are equal to those that the file means. The formats with a scale for 32 values (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0) and
    /// for 256 (Q4_K, Q5_K) stay packed; Q6_K becomes float32.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Tensor`] for a scale that is not finite, or an output of another kind or size.
    pub fn read_into(&self, mut output: Output<'_>) -> Result<Read> {
        self.check(&output)?;
        let chunk_blocks = (CHUNK / self.block_bytes).min(self.file_blocks);
        let mut buffer = vec![0; chunk_blocks * self.block_bytes];
        let mut block = 0;
        while block < self.file_blocks {
            let count = chunk_blocks.min(self.file_blocks - block);
            let bytes = &mut buffer[..count * self.block_bytes];
            self.source.read_at(bytes, self.offset + (block * self.block_bytes) as u64)?;
            let mut done = 0;
            while done < count {
                let (row, column) = ((block + done) / self.row_blocks, (block + done) % self.row_blocks);
                let run = (self.row_blocks - column).min(count - done);
                let from = &bytes[done * self.block_bytes..][..run * self.block_bytes];
                done += run;
                let to = self.order.as_ref().map_or(row, |order| order[row] as usize);
                if to == ELSEWHERE as usize {
                    continue;
                }
                match self.unpack(from, to * self.row_blocks + column, run, &mut output) {
                    Ok(()) => {}
                    Err(Fault::Overflow) => return Ok(Read::Float16Overflow),
                    Err(Fault::NotFinite) => {
                        return Err(Error::tensor(
                            &self.name,
                            "a block with a scale that is infinite or not a number",
                        ));
                    }
                }
            }
            block += count;
        }
        Ok(Read::Complete)
    }

    /// Converts `run` blocks to their place in the output, which begins with block `at`.
    fn unpack(&self, from: &[u8], at: usize, run: usize, output: &mut Output<'_>) -> Result<(), Fault> {
        let part = |size: usize| at * size..(at + run) * size;
        match (self.format, output) {
            (Format::Dense(format), Output::Dense(out)) => {
                unpack::dense(format, from, &mut out[part(format.bytes())])
            }
            (Format::Affine(format), Output::Affine { weight, scales, biases }) => {
                let block = self.affine_block(format);
                let to = Parts {
                    weight: &mut weight[part(block.weight)],
                    scales: &mut scales[part(block.scales)],
                    biases: &mut biases[part(block.scales)],
                    wide: self.wide,
                };
                unpack::affine(format, from, to)
            }
            // Excluded by `check`.
            _ => Ok(()),
        }
    }

    fn check(&self, output: &Output<'_>) -> Result<()> {
        let fits = match (self.kind(), output) {
            (Kind::Dense { bytes, .. }, Output::Dense(out)) => out.len() == bytes,
            (Kind::Affine { weight_bytes, scale_bytes, .. }, Output::Affine { weight, scales, biases }) => {
                weight.len() == weight_bytes && scales.len() == scale_bytes && biases.len() == scale_bytes
            }
            _ => false,
        };
        if fits {
            Ok(())
        } else {
            Err(Error::tensor(&self.name, format!("the output is not of {:?}", self.kind())))
        }
    }

    fn affine_block(&self, format: types::Affine) -> AffineBlock {
        let values = if format.is_k() { 256 } else { GROUP };
        let scale = if self.wide || format.is_k() { 4 } else { 2 };
        AffineBlock { weight: values * format.bits() / 8, scales: values / GROUP * scale }
    }
}

/// Bytes that a block becomes.
struct AffineBlock {
    weight: usize,
    scales: usize,
}
