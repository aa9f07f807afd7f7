//! A tensor of a GGUF file: what it will be, and how it gets there.

use super::{
    header::TensorInfo,
    types::{self, Element, Float4, Format},
    unpack::{self, Fault, Parts},
};
use crate::{Error, Result, file::CheckpointFile, raw::Mode};
use std::sync::Arc;

/// Bytes of the file that are held at a time.
const CHUNK: usize = 1 << 20;
/// MLX's arrays begin on cache lines.
const LINE: usize = 64;

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
        /// Bits of a code: 2, 4, 5, 6 or 8.
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
    /// MLX's 4-bit floats.
    Float4 {
        /// [`Mode::Mxfp4`] or [`Mode::Nvfp4`].
        mode: Mode,
        /// Bytes of the packed uint32 words [.., rows, columns / 8].
        weight_bytes: usize,
        /// Bytes of the scales, one each [.., rows, columns / group], with groups of 32 or 16.
        scale_bytes: usize,
    },
}

impl Kind {
    /// The form in a few words, as in `2-bit affine, groups of 128`.
    pub fn describe(self) -> String {
        match self {
            Kind::Dense { element, .. } => format!("{element:?}").to_lowercase(),
            Kind::Affine { bits, group, .. } => format!("{bits}-bit affine, groups of {group}"),
            Kind::Float4 { mode, .. } => mode.name().into(),
        }
    }
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
    /// For [`Kind::Float4`].
    Float4 {
        /// Packed words.
        weight: &'a mut [u8],
        /// Scales.
        scales: &'a mut [u8],
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
    /// Which block of columns each block of columns is, if not the same. Readers of the parts put them in order.
    columns: Option<Arc<[u32]>>,
    wide: bool,
    /// What plain floats become, if not what they are.
    float: Option<Element>,
}

impl GgufTensor {
    pub(super) fn new(info: &TensorInfo, name: String) -> Result<GgufTensor> {
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
            source: info.source.clone(),
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
            columns: None,
            wide: false,
            float: None,
        })
    }

    /// Rows that can be told apart: all but the last axis counts them, or the only one.
    pub(crate) fn rows(&self) -> usize {
        let rows = if self.shape.len() > 1 { &self.shape[..self.shape.len() - 1] } else { &self.shape[..] };
        rows.iter().map(|n| *n as usize).product()
    }

    /// The tensor of this shape that has row i of this one as row `order[i]`, and lacks those that are [`ELSEWHERE`]. Rows are as
    /// long, and each has its place.
    ///
    /// # Errors
    /// [`Error::Tensor`] for blocks that span rows, and an order for other rows.
    pub(crate) fn reordered(&self, shape: Vec<i32>, order: &[u32]) -> Result<GgufTensor> {
        let (rows, bad) = (self.rows(), |why: String| Error::tensor(&self.name, why));
        if !self.blocks.is_multiple_of(rows) {
            return Err(bad(format!("blocks of type {} that span rows", self.type_name)));
        }
        if order.len() != rows {
            return Err(bad(format!("{rows} rows cannot be ordered as {}", order.len())));
        }
        // Where the rows of the file go, if they have moved before.
        let order: Vec<u32> = match &self.order {
            Some(first) => {
                first.iter().map(|to| order.get(*to as usize).copied().unwrap_or(ELSEWHERE)).collect()
            }
            None => order.to_vec(),
        };
        let row_blocks = self.blocks / rows;
        // What is left out before and behind is not read.
        let kept = |row: &u32| *row != ELSEWHERE;
        let first = order.iter().position(kept).unwrap_or(order.len());
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

    /// The tensor whose columns, in as many equal blocks as `from` has, are those of this one: block i is block `from[i]` of it.
    ///
    /// # Errors
    /// [`Error::Tensor`] for columns that do not divide into so many blocks.
    pub(crate) fn with_columns(&self, from: &[u32]) -> Result<GgufTensor> {
        let columns = self.shape.last().map_or(0, |n| *n as usize);
        if from.is_empty() || !columns.is_multiple_of(from.len()) {
            return Err(Error::tensor(
                &self.name,
                format!("{columns} columns, which cannot be divided into {} blocks", from.len()),
            ));
        }
        Ok(GgufTensor { columns: Some(from.into()), ..self.clone() })
    }

    /// Which block of columns each block of columns is, if not the same.
    pub(crate) fn columns(&self) -> Option<&[u32]> {
        self.columns.as_deref()
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

    /// Whether the values lose their packed form in memory, because MLX has none that is equal.
    pub fn is_widened(&self) -> bool {
        matches!(self.format, Format::Wide(_))
    }

    /// Bytes in memory, each part rounded up to cache lines.
    pub fn memory_bytes(&self) -> usize {
        let lines = |bytes: usize| bytes.next_multiple_of(LINE);
        match self.kind() {
            Kind::Dense { bytes, .. } => lines(bytes),
            Kind::Affine { weight_bytes, scale_bytes, .. } => lines(weight_bytes) + 2 * lines(scale_bytes),
            Kind::Float4 { weight_bytes, scale_bytes, .. } => lines(weight_bytes) + lines(scale_bytes),
        }
    }

    /// What the tensor becomes, with the sizes of its parts.
    pub fn kind(&self) -> Kind {
        let block = self.block();
        let (weight_bytes, scale_bytes) = (self.blocks * block.weight, self.blocks * block.scales);
        match self.format {
            Format::Plain(_) | Format::Wide(_) => {
                Kind::Dense { element: self.element(), bytes: weight_bytes }
            }
            Format::Affine(format) => {
                let layout = format.layout();
                Kind::Affine {
                    bits: layout.bits as i32,
                    group: layout.group as i32,
                    element: if self.wide || !layout.half { Element::F32 } else { Element::F16 },
                    weight_bytes,
                    scale_bytes,
                }
            }
            Format::Float4(format) => {
                let mode = match format {
                    Float4::Mxfp4 => Mode::Mxfp4,
                    Float4::Nvfp4 => Mode::Nvfp4,
                };
                Kind::Float4 { mode, weight_bytes, scale_bytes }
            }
        }
    }

    /// The type of plain values in memory.
    fn element(&self) -> Element {
        match (self.format, self.float) {
            (Format::Plain(own), Some(to)) if own.converts() => to,
            (Format::Plain(own), _) => own,
            (_, to) => to.unwrap_or(Element::F32),
        }
    }

    /// The same tensor with plain floats as `element`, if [`GgufTensor::kind`] says that it has such: float32, float16 and bfloat16
    /// become one another, and values that lose their packed form become this instead of float32.
    pub fn with_floats(&self, element: Element) -> GgufTensor {
        GgufTensor { float: element.converts().then_some(element), ..self.clone() }
    }

    /// The same tensor with scales and biases in float32 where [`GgufTensor::kind`] says float16.
    pub fn widened(&self) -> GgufTensor {
        GgufTensor { wide: true, ..self.clone() }
    }

    /// Reads the tensor into `output`, in one pass and with a megabyte of working memory, rows in the published order.
    ///
    /// Values are equal to those that the file means, unless [`GgufTensor::with_floats`] asked for others. Formats stay packed whose
    /// groups of values have an equal in MLX's codes, with as few bits as MLX has for them:
    ///
    /// | types | in memory |
    /// |---|---|
    /// | Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K | affine, of as many bits |
    /// | Q1_0, Q2_0, TQ1_0, TQ2_0, IQ1_S | affine, 2 bits |
    /// | IQ3_S; IQ3_XXS; IQ2_XXS, IQ4_NL, IQ4_XS | affine, 4; 6; 8 bits: magnitudes that are unevenly spaced take the codes between them |
    /// | MXFP4, NVFP4 | mxfp4, nvfp4 |
    /// | Q2_K, Q3_K, Q6_K, IQ2_XS, IQ2_S, IQ1_M | floats: their groups of 8 or 16 have no equal |
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
        let block = self.block();
        let weights = at * block.weight..(at + run) * block.weight;
        let scaled = at * block.scales..(at + run) * block.scales;
        match (self.format, output) {
            (Format::Plain(own), Output::Dense(out)) => {
                unpack::plain(own, from, self.element(), &mut out[weights]);
                Ok(())
            }
            (Format::Wide(format), Output::Dense(out)) => {
                unpack::wide(format, from, self.element(), &mut out[weights])
            }
            (Format::Affine(format), Output::Affine { weight, scales, biases }) => {
                let to = Parts {
                    weight: &mut weight[weights],
                    scales: &mut scales[scaled.clone()],
                    biases: &mut biases[scaled],
                    wide: self.wide,
                };
                unpack::affine(format, from, to)
            }
            (Format::Float4(format), Output::Float4 { weight, scales }) => {
                unpack::float4(format, from, &mut weight[weights], &mut scales[scaled])
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
            (Kind::Float4 { weight_bytes, scale_bytes, .. }, Output::Float4 { weight, scales }) => {
                weight.len() == weight_bytes && scales.len() == scale_bytes
            }
            _ => false,
        };
        if fits {
            Ok(())
        } else {
            Err(Error::tensor(&self.name, format!("the output is not of {:?}", self.kind())))
        }
    }

    /// What a block becomes.
    fn block(&self) -> Block {
        match self.format {
            Format::Plain(_) => Block { weight: self.element().bytes(), scales: 0 },
            Format::Wide(_) => Block { weight: 256 * self.element().bytes(), scales: 0 },
            Format::Affine(format) => {
                let layout = format.layout();
                let scale = if self.wide || !layout.half { 4 } else { 2 };
                Block {
                    weight: layout.values * layout.bits / 8,
                    scales: layout.values / layout.group * scale,
                }
            }
            Format::Float4(format) => {
                Block { weight: format.values() / 2, scales: format.values() / format.group() }
            }
        }
    }
}

/// Bytes that a block becomes: codes or values, and as many of scales as of biases.
struct Block {
    weight: usize,
    scales: usize,
}
