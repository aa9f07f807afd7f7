//! One tensor of a checkpoint, whatever holds it.

use super::{
    Derived, Packed,
    stored::{Stored, is_float},
};
use crate::{
    Error, Result,
    gguf::{Element, GgufTensor, Kind, Output, Read},
    raw::{Arena, Mode},
};
use mlx_rs::{Array, Dtype};

/// One tensor of a checkpoint, not read yet.
#[derive(Clone, Debug)]
pub enum Tensor {
    /// Plain values.
    Plain(Stored),
    /// A tensor of a GGUF file, in blocks of its own.
    Gguf(GgufTensor),
    /// Values that are computed from other tensors when they are asked for.
    Derived(Derived),
}

/// What a tensor becomes in memory.
pub enum Loaded {
    /// Plain values.
    Plain(Array),
    /// A GGUF tensor that kept its packed form: weight, scales, and biases in affine code.
    Packed(Array, Array, Option<Array>),
}

impl Tensor {
    /// Its shape, as the values count (not the packed words of a GGUF tensor).
    pub fn shape(&self) -> &[i32] {
        match self {
            Tensor::Plain(t) => &t.shape,
            Tensor::Gguf(t) => t.shape(),
            Tensor::Derived(t) => t.shape(),
        }
    }

    /// The type of its values before floats are converted; `None` for packed blocks of a GGUF file.
    pub fn dtype(&self) -> Option<Dtype> {
        match self {
            Tensor::Plain(t) => Some(t.dtype),
            Tensor::Gguf(t) => match t.kind() {
                Kind::Dense { element, .. } => Some(dtype_of(element)),
                Kind::Affine { .. } | Kind::Float4 { .. } => None,
            },
            Tensor::Derived(t) => Some(t.dtype()),
        }
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> u64 {
        match self {
            Tensor::Plain(t) => t.bytes(),
            Tensor::Gguf(t) => t.file_bytes(),
            Tensor::Derived(t) => t.bytes(),
        }
    }

    /// Bytes in memory at most, if its floats become `compute`.
    pub fn memory_bytes(&self, compute: Dtype) -> usize {
        match self {
            Tensor::Plain(t) => t.memory_bytes(compute),
            Tensor::Gguf(t) => {
                let converted = element_of(compute).map_or(0, |to| t.with_floats(to).memory_bytes());
                let own = if t.is_widened() { 0 } else { t.memory_bytes() };
                // In three blocks at most.
                own.max(converted) + 3 * Arena::footprint(0)
            }
            Tensor::Derived(t) => t.memory_bytes(compute),
        }
    }

    /// The type of its floats, if it holds any.
    pub fn float_type(&self) -> Option<Dtype> {
        match self {
            Tensor::Plain(t) => is_float(t.dtype).then_some(t.dtype),
            Tensor::Gguf(t) => match t.kind() {
                Kind::Dense { element, .. } if !t.is_widened() => {
                    Some(dtype_of(element)).filter(|d| is_float(*d))
                }
                // What the float modes dequantize to.
                Kind::Float4 { .. } => Some(Dtype::Bfloat16),
                // What GGUF's scales are; activations of such models fit it.
                _ => Some(Dtype::Float16),
            },
            Tensor::Derived(t) => t.float_type(),
        }
    }

    /// Reads it; dense floats become `dtype` if one is given.
    pub fn load(&self, arena: &Arena, dtype: Option<Dtype>) -> Result<Loaded> {
        match self {
            Tensor::Plain(t) => t.load(arena, dtype).map(Loaded::Plain),
            Tensor::Gguf(t) => match t.columns() {
                None => load_gguf(t, arena, dtype),
                Some(from) => load_gguf(t, arena, dtype)?.with_columns(t.name(), from),
            },
            Tensor::Derived(t) => t.load(arena, dtype).map(Loaded::Plain),
        }
    }
}

impl Loaded {
    /// The values of a tensor that must not be packed.
    pub fn plain(self, name: &str) -> Result<Array> {
        match self {
            Loaded::Plain(a) => Ok(a),
            Loaded::Packed(..) => Err(Error::tensor(name, "is quantized, but must hold plain values here")),
        }
    }

    /// The same with block i of the columns being block `from[i]`.
    fn with_columns(self, name: &str, from: &[u32]) -> Result<Loaded> {
        let moved = |array: &Array| moved(name, array, from);
        Ok(match self {
            Loaded::Plain(a) => Loaded::Plain(moved(&a)?),
            Loaded::Packed(weight, scales, biases) => {
                Loaded::Packed(moved(&weight)?, moved(&scales)?, biases.as_ref().map(moved).transpose()?)
            }
        })
    }

    /// The packed parts, checked against `shape`.
    pub fn packed(self, name: &str, shape: &[i32]) -> Result<Packed> {
        match self {
            Loaded::Packed(weight, scales, biases) => Packed::new(name, shape, weight, scales, biases),
            Loaded::Plain(_) => Err(Error::tensor(name, "holds plain values, but must be quantized here")),
        }
    }
}

/// The same with block i of the columns being block `from[i]`.
fn moved(name: &str, array: &Array, from: &[u32]) -> Result<Array> {
    let (shape, count) = (array.shape().to_vec(), from.len() as i32);
    let [rows @ .., columns] = &shape[..] else { return Ok(array.clone()) };
    if columns % count != 0 {
        return Err(Error::tensor(
            name,
            format!("is packed in groups that are longer than 1/{count} of a row"),
        ));
    }
    let blocks = array.reshape(&[rows, &[count, columns / count]].concat())?;
    let from = Array::from_slice(from, &[count]);
    let moved = blocks.take_axis(&from, rows.len() as i32)?.reshape(&shape)?.contiguous()?;
    moved.eval()?;
    Ok(moved)
}

fn load_gguf(t: &GgufTensor, arena: &Arena, dtype: Option<Dtype>) -> Result<Loaded> {
    let with_columns = |columns: i64| match t.shape() {
        [rows @ .., _] => [rows, &[columns as i32]].concat(),
        [] => vec![columns as i32],
    };
    let columns = t.shape().last().map_or(1, |n| i64::from(*n));
    match t.kind() {
        Kind::Dense { element, bytes } => {
            let wanted = dtype.and_then(element_of).filter(|wanted| *wanted != element);
            if let Some(wanted) = wanted {
                let converted = t.with_floats(wanted);
                if converted.kind() != t.kind() {
                    return load_gguf(&converted, arena, None);
                }
            }
            let mut block = arena.block(bytes)?;
            let _ = t.read_into(Output::Dense(block.bytes_mut()))?;
            block.into_array(t.shape(), dtype_of(element)).map(Loaded::Plain)
        }
        Kind::Affine { bits, group, element, weight_bytes, scale_bytes } => {
            let [mut weight, mut scales, mut biases] =
                [arena.block(weight_bytes)?, arena.block(scale_bytes)?, arena.block(scale_bytes)?];
            let output = Output::Affine {
                weight: weight.bytes_mut(),
                scales: scales.bytes_mut(),
                biases: biases.bytes_mut(),
            };
            if t.read_into(output)? == Read::Float16Overflow {
                return load_gguf(&t.widened(), arena, dtype);
            }
            let words = with_columns(columns * i64::from(bits) / 32);
            let groups = with_columns(columns / i64::from(group));
            Ok(Loaded::Packed(
                weight.into_array(&words, Dtype::Uint32)?,
                scales.into_array(&groups, dtype_of(element))?,
                Some(biases.into_array(&groups, dtype_of(element))?),
            ))
        }
        Kind::Float4 { mode, weight_bytes, scale_bytes } => {
            let [mut weight, mut scales] = [arena.block(weight_bytes)?, arena.block(scale_bytes)?];
            let output = Output::Float4 { weight: weight.bytes_mut(), scales: scales.bytes_mut() };
            let _ = t.read_into(output)?;
            let group = if mode == Mode::Nvfp4 { 16 } else { 32 };
            Ok(Loaded::Packed(
                weight.into_array(&with_columns(columns / 8), Dtype::Uint32)?,
                scales.into_array(&with_columns(columns / group), Dtype::Uint8)?,
                None,
            ))
        }
    }
}

fn dtype_of(element: Element) -> Dtype {
    match element {
        Element::F32 => Dtype::Float32,
        Element::F16 => Dtype::Float16,
        Element::Bf16 => Dtype::Bfloat16,
        Element::F64 => Dtype::Float64,
        Element::I8 => Dtype::Int8,
        Element::I16 => Dtype::Int16,
        Element::I32 => Dtype::Int32,
        Element::I64 => Dtype::Int64,
    }
}

fn element_of(float: Dtype) -> Option<Element> {
    match float {
        Dtype::Float32 => Some(Element::F32),
        Dtype::Float16 => Some(Element::F16),
        Dtype::Bfloat16 => Some(Element::Bf16),
        _ => None,
    }
}
