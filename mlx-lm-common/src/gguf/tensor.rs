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

/// A tensor, still in its file.
#[derive(Clone, Debug)]
pub struct GgufTensor {
    source: Arc<CheckpointFile>,
    name: String,
    shape: Vec<i32>,
    type_name: &'static str,
    format: Format,
    block_bytes: usize,
    /// Blocks of the tensor, and of a row: one index of the first axis.
    blocks: usize,
    row_blocks: usize,
    offset: u64,
    /// Rows of a head, if rows come interleaved: the two halves of each head, row by row.
    interleaved: Option<usize>,
    wide: bool,
}

impl GgufTensor {
    /// `heads` are (count, rows of each) if the rows are interleaved.
    pub(super) fn new(
        source: &Arc<CheckpointFile>,
        info: &TensorInfo,
        name: String,
        heads: Option<(i32, i32)>,
    ) -> Result<GgufTensor> {
        let kind = info.kind;
        let Some(format) = kind.format else {
            let readable = types::readable();
            return Err(Error::tensor(
                &info.name,
                format!("elements of type {}; {readable} can be read", kind.name),
            ));
        };
        let block_bytes = kind.bytes as usize;
        let too_large = |_| Error::tensor(&info.name, "too large for this computer");
        let blocks = usize::try_from(info.bytes / kind.bytes).map_err(too_large)?;
        let rows = info.shape[0] as usize;
        if let Some((count, dim)) = heads {
            if count.checked_mul(dim) != Some(info.shape[0]) {
                let mut wanted = info.shape.clone();
                wanted[0] = count.saturating_mul(dim);
                return Err(Error::Shape { name: info.name.clone(), found: info.shape.clone(), wanted });
            }
            if blocks % rows != 0 {
                return Err(Error::tensor(
                    &info.name,
                    format!("blocks of type {} that span rows", kind.name),
                ));
            }
        }
        Ok(GgufTensor {
            source: source.clone(),
            name,
            shape: info.shape.clone(),
            type_name: kind.name,
            format,
            block_bytes,
            blocks,
            // Where no row moves, all blocks are one row.
            row_blocks: if heads.is_some() { blocks / rows } else { blocks },
            offset: info.offset,
            interleaved: heads.map(|(_, dim)| dim as usize),
            wide: false,
        })
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
        let chunk_blocks = (CHUNK / self.block_bytes).min(self.blocks);
        let mut buffer = vec![0; chunk_blocks * self.block_bytes];
        let mut block = 0;
        while block < self.blocks {
            let count = chunk_blocks.min(self.blocks - block);
            let bytes = &mut buffer[..count * self.block_bytes];
            self.source.read_at(bytes, self.offset + (block * self.block_bytes) as u64)?;
            let mut done = 0;
            while done < count {
                let (row, column) = ((block + done) / self.row_blocks, (block + done) % self.row_blocks);
                let run = (self.row_blocks - column).min(count - done);
                let from = &bytes[done * self.block_bytes..][..run * self.block_bytes];
                match self.unpack(from, self.published_row(row) * self.row_blocks + column, run, &mut output)
                {
                    Ok(()) => done += run,
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

    /// Where a row of the file belongs: rows 0, 1, 2 … of a head are rows 0, h, 1, h + 1 … of the published one, with h half the
    /// head, because rotary pairs lie side by side in the file and half a head apart outside.
    fn published_row(&self, row: usize) -> usize {
        let Some(dim) = self.interleaved else { return row };
        let (head, within) = (row / dim, row % dim);
        head * dim + within % 2 * (dim / 2) + within / 2
    }
}

/// Bytes that a block becomes.
struct AffineBlock {
    weight: usize,
    scales: usize,
}
