//! Version 1 of the format: flat streams of codes, `qweight`, with `scales` and `biases` or `zeros` for each block, beside the `shape`
//! and width of the matrix. A stream is, bit for bit, what MLX packs row by row; so it is read as it lies in the file.
//!
//! Versions 1.0 and 1.1 have `zeros`, from which biases are -scale · zero. 1.0 has a width for each block, `bit_map`, of which there is
//! but one in a matrix.

use crate::{
    Config, Error, Result,
    raw::Arena,
    weights::{Checkpoint, Derived, Source, Stored, Tensor, stored::is_float},
};
use mlx_rs::{Array, Dtype};
use std::rc::Rc;

/// Values in a block of files that do not store shapes.
const BLOCK: i64 = 64;

/// Turns streams into packed matrices of the same codes.
///
/// # Errors
/// [`Error::MissingTensor`] or [`Error::Tensor`] for parts that do not belong together.
pub(super) fn decode(checkpoint: &mut Checkpoint, config: &Config) -> Result<()> {
    let is_stream = |name: &&str| name.ends_with(".qweight");
    let bases = checkpoint.iter().map(|(name, _)| name).filter(is_stream);
    let bases: Vec<String> =
        bases.filter_map(|name| name.strip_suffix(".qweight")).map(String::from).collect();
    for base in bases {
        let stream = Stream::take(checkpoint, &base)?;
        let shape = match stream.shape()? {
            Some(shape) => shape,
            None => infer_shape(config, &base, stream.blocks()?)?,
        };
        let [weight, scales, biases] = stream.unroll(&shape)?;
        for (part, tensor) in [("weight", weight), ("scales", scales), ("biases", biases)] {
            checkpoint.put(format!("{base}.{part}"), tensor)?;
        }
    }
    Ok(())
}

/// The tensors of a matrix.
struct Stream<'a> {
    base: &'a str,
    codes: Stored,
    scales: Tensor,
    biases: Option<Tensor>,
    zeros: Option<Tensor>,
    width: Option<Tensor>,
    shape: Option<Tensor>,
}

impl<'a> Stream<'a> {
    fn take(checkpoint: &mut Checkpoint, base: &'a str) -> Result<Stream<'a>> {
        let mut part = |part: &str| checkpoint.take(&format!("{base}.{part}"));
        let [codes, scales] = ["qweight", "scales"].map(|name| part(name).ok_or(name));
        let missing = |part: &str| Error::MissingTensor(format!("{base}.{part}"));
        let (biases, zeros) = (part("biases"), part("zeros"));
        let (bits, map) = (part("bits"), part("bit_map"));
        let (shape, _) = (part("shape"), part("block_offsets"));
        let codes = match codes.map_err(missing)? {
            Tensor::Plain(codes) if codes.dtype == Dtype::Uint8 && codes.shape.len() == 1 => codes,
            other => {
                let (dtype, shape) = (other.dtype(), other.shape());
                let why = format!("is {dtype:?} of shape {shape:?}, but a stream is a row of bytes");
                return Err(Error::tensor(format!("{base}.qweight"), why));
            }
        };
        let scales = scales.map_err(missing)?;
        Ok(Stream { base, codes, scales, biases, zeros, width: bits.or(map), shape })
    }

    fn bad<T>(&self, part: &str, why: String) -> Result<T> {
        Err(Error::tensor(format!("{}.{part}", self.base), why))
    }

    /// How many blocks there are: each has a scale.
    fn blocks(&self) -> Result<i32> {
        match self.scales.shape() {
            &[blocks] if blocks > 0 && self.scales.dtype().is_some_and(is_float) => Ok(blocks),
            shape => self.bad(
                "scales",
                format!(
                    "is {:?} of shape {shape:?}, but must hold a float for each block",
                    self.scales.dtype()
                ),
            ),
        }
    }

    /// The shape that is stored.
    fn shape(&self) -> Result<Option<Vec<i32>>> {
        let Some(tensor) = &self.shape else { return Ok(None) };
        if !matches!(tensor.shape(), [2 | 3]) || tensor.dtype() != Some(Dtype::Int64) {
            return self.bad(
                "shape",
                format!(
                    "is {:?} of shape {:?}, but must hold two or three sizes",
                    tensor.dtype(),
                    tensor.shape()
                ),
            );
        }
        let sizes = integers(tensor)?;
        let shape: Option<Vec<i32>> =
            sizes.iter().map(|n| i32::try_from(*n).ok().filter(|n| *n > 0)).collect();
        match shape {
            Some(shape) => Ok(Some(shape)),
            None => self.bad("shape", format!("names the sizes {sizes:?}, which no matrix has")),
        }
    }

    /// Bits of a code: what the length of the stream leaves for each value. What is noted must agree.
    fn bits(&self, values: u64) -> Result<i32> {
        let bytes = self.codes.part_bytes as u64;
        let bits = [2, 3, 4, 5, 6, 8].into_iter().find(|bits| bytes * 8 == values * bits);
        let noted = match &self.width {
            // The first of a width for each block.
            Some(Tensor::Plain(t)) if t.dtype == Dtype::Uint8 && t.part_bytes > 0 => {
                let first = Stored { part_bytes: 1, shape: vec![1], ..t.clone() };
                integers(&Tensor::Plain(first))?.first().copied()
            }
            _ => None,
        };
        match bits {
            Some(bits) if noted.is_none_or(|noted| noted == bits as i64) => Ok(bits as i32),
            _ => {
                let noted = noted.map_or(String::new(), |noted| format!(" of {noted} bits"));
                self.bad("qweight", format!("has {bytes} bytes, which are not {values} codes{noted}: it is cut short, or of mixed widths"))
            }
        }
    }

    /// Weight, scales and biases of a matrix of this shape, as MLX has them.
    fn unroll(self, shape: &[i32]) -> Result<[Tensor; 3]> {
        let blocks = self.blocks()?;
        let (columns, rows) = match shape {
            [rows @ .., columns] => (*columns, rows),
            [] => return self.bad("shape", "is empty".into()),
        };
        let values = shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d as u64)).filter(|n| *n <= 1 << 48);
        let Some(values) = values else { return self.bad("shape", format!("{shape:?} has too many values")) };
        let block = values / blocks as u64;
        if block * blocks as u64 != values || block == 0 || !(columns as u64).is_multiple_of(block) {
            return self.bad(
                "scales",
                format!("holds {blocks} scales, which do not divide the rows of {shape:?} into blocks"),
            );
        }
        let bits = self.bits(values)?;
        if i64::from(columns) * i64::from(bits) % 32 != 0 {
            return self.bad(
                "qweight",
                format!("rows of {columns} codes of {bits} bits are no whole number of words"),
            );
        }
        let words = [rows, &[(i64::from(columns) * i64::from(bits) / 32) as i32]].concat();
        let groups = [rows, &[(columns as u64 / block) as i32]].concat();
        let Stream { base, codes, scales, biases, zeros, .. } = self;
        let weight = Tensor::Plain(Stored { dtype: Dtype::Uint32, shape: words, ..codes });
        let part = |part: &str, tensor: Tensor, readers| -> Result<Rc<Source>> {
            let tensor = one_for_each_block(base, part, tensor, blocks)?;
            Ok(Source::new(format!("{base}.{part}"), tensor, readers))
        };
        // In float32, as the format's package has them: biases that are worked out fit nothing narrower.
        let wide = |source, sign: f32| {
            let shape = groups.clone();
            let compute = move |x: &[Array]| {
                let first = x[0].as_dtype(Dtype::Float32)?.multiply(Array::from_f32(sign))?;
                let product = match x.get(1) {
                    Some(zeros) => first.multiply(zeros.as_dtype(Dtype::Float32)?)?,
                    None => first,
                };
                Ok(product.reshape(&shape)?)
            };
            Tensor::Derived(Derived::new(source, groups.clone(), Dtype::Float32, compute))
        };
        if let Some(biases) = biases {
            let (scales, biases) = (part("scales", scales, 1)?, part("biases", biases, 1)?);
            return Ok([weight, wide(vec![scales], 1.0), wide(vec![biases], 1.0)]);
        }
        let scales = part("scales", scales, 2)?;
        let biases = match zeros {
            Some(zeros) => wide(vec![scales.clone(), part("zeros", zeros, 1)?], -1.0),
            None => wide(vec![scales.clone()], 0.0),
        };
        Ok([weight, wide(vec![scales], 1.0), biases])
    }
}

/// The values of a small tensor.
fn integers(tensor: &Tensor) -> Result<Vec<i64>> {
    let values = tensor.load(&Arena::new(0), None)?.plain("")?.to_vec_cast::<i64>();
    values.map_err(|e| Error::Unsupported(e.to_string()))
}

/// Checks that a tensor holds a float for each block.
fn one_for_each_block(base: &str, part: &str, tensor: Tensor, blocks: i32) -> Result<Tensor> {
    if !tensor.dtype().is_some_and(is_float) {
        return Err(Error::tensor(
            format!("{base}.{part}"),
            format!("holds {:?}, but must hold floats", tensor.dtype()),
        ));
    }
    match tensor.shape() {
        [n] if *n == blocks => Ok(tensor),
        found => {
            Err(Error::Shape { name: format!("{base}.{part}"), found: found.to_vec(), wanted: vec![blocks] })
        }
    }
}

/// The shape of a matrix whose file does not say it, from the model's sizes: what feeds it tells its columns, and the blocks its rows.
fn infer_shape(config: &Config, base: &str, blocks: i32) -> Result<Vec<i32>> {
    let name = base.rsplit('.').next().unwrap_or(base);
    let size = |key: &str| config.dim(key);
    let columns = match name {
        "o_proj" => match config.get("head_dim")? {
            Some(head_dim) => size("num_attention_heads")?.saturating_mul(head_dim),
            None => size("hidden_size")?,
        },
        "down_proj" | "w2" if base.contains(".experts.") => match config.get("moe_intermediate_size")? {
            Some(size) => size,
            None => size("intermediate_size")?,
        },
        "down_proj" | "w2" if base.contains(".shared_expert.") => {
            match config.get("shared_expert_intermediate_size")? {
                Some(size) => size,
                None => size("intermediate_size")?,
            }
        }
        "down_proj" | "w2" => size("intermediate_size")?,
        _ => size("hidden_size")?,
    };
    let values = i64::from(blocks) * BLOCK;
    let rows = i32::try_from(values / i64::from(columns))
        .ok()
        .filter(|r| i64::from(*r) * i64::from(columns) == values);
    match rows.filter(|rows| *rows > 0) {
        Some(rows) => Ok(vec![rows, columns]),
        None => Err(Error::MissingTensor(format!("{base}.shape"))),
    }
}
