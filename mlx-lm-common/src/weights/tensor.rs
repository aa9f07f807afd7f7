//! One tensor of a checkpoint, whatever holds it.

use super::{
    Derived, Packed,
    stored::{Stored, is_float},
};
use crate::{
    Error, Result,
    gguf::{Element, GgufTensor, Kind, Output, Read},
    raw::Arena,
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
    /// A GGUF tensor that kept its packed form: weight, scales, biases.
    Packed([Array; 3]),
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

    /// The type of its values before floats are converted; `None` for the blocks of a GGUF file.
    pub fn dtype(&self) -> Option<Dtype> {
        match self {
            Tensor::Plain(t) => Some(t.dtype),
            Tensor::Gguf(_) => None,
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
            // In three blocks at most.
            Tensor::Gguf(t) => t.memory_bytes() + 3 * Arena::footprint(0),
            Tensor::Derived(t) => t.memory_bytes(compute),
        }
    }

    /// The type of its floats, if it holds any.
    pub fn float_type(&self) -> Option<Dtype> {
        match self {
            Tensor::Plain(t) => is_float(t.dtype).then_some(t.dtype),
            // What GGUF's scales are; activations of such models fit it.
            Tensor::Gguf(_) => Some(Dtype::Float16),
            Tensor::Derived(t) => t.float_type(),
        }
    }

    /// Reads it; dense floats become `dtype` if one is given.
    pub fn load(&self, arena: &Arena, dtype: Option<Dtype>) -> Result<Loaded> {
        match self {
            Tensor::Plain(t) => t.load(arena, dtype).map(Loaded::Plain),
            Tensor::Gguf(t) => load_gguf(t, arena, dtype),
            Tensor::Derived(t) => t.load(arena, dtype).map(Loaded::Plain),
        }
    }
}

impl Loaded {
    /// The values of a tensor that must not be packed.
    pub fn plain(self, name: &str) -> Result<Array> {
        match self {
            Loaded::Plain(a) => Ok(a),
            Loaded::Packed(_) => Err(Error::tensor(name, "is quantized, but must hold plain values here")),
        }
    }

    /// The packed parts, checked against `shape`.
    pub fn packed(self, name: &str, shape: &[i32]) -> Result<Packed> {
        match self {
            Loaded::Packed([weight, scales, biases]) => {
                Packed::new(name, shape, weight, scales, Some(biases))
            }
            Loaded::Plain(_) => Err(Error::tensor(name, "holds plain values, but must be quantized here")),
        }
    }
}

fn load_gguf(t: &GgufTensor, arena: &Arena, dtype: Option<Dtype>) -> Result<Loaded> {
    let float = |element| match element {
        Element::F32 => Dtype::Float32,
        Element::F16 => Dtype::Float16,
        Element::Bf16 => Dtype::Bfloat16,
    };
    match t.kind() {
        Kind::Dense { element, bytes } => {
            let mut block = arena.block(bytes)?;
            let _ = t.read_into(Output::Dense(block.bytes_mut()))?;
            let array = block.into_array(t.shape(), float(element))?;
            Ok(Loaded::Plain(match dtype {
                Some(to) if to != array.dtype() => array.as_dtype(to)?,
                _ => array,
            }))
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
            let with_columns = |columns: i32| match t.shape() {
                [rows @ .., _] => [rows, &[columns]].concat(),
                [] => vec![columns],
            };
            let columns = t.shape().last().copied().unwrap_or(1);
            let words = with_columns((i64::from(columns) * i64::from(bits) / 32) as i32);
            let groups = with_columns(columns / group);
            Ok(Loaded::Packed([
                weight.into_array(&words, Dtype::Uint32)?,
                scales.into_array(&groups, float(element))?,
                biases.into_array(&groups, float(element))?,
            ]))
        }
    }
}
