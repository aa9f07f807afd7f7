//! A checkpoint before any tensor is read: names and places, whatever the container, and the verbs that bring published layouts
//! into the one that architectures read.

use super::{
    Packed,
    stored::{Stored, is_float},
};
use crate::{
    Error, Result,
    gguf::{Element, GgufTensor, Kind, Output, Read},
    raw::Arena,
};
use mlx_rs::{Array, Dtype};
use std::collections::BTreeMap;

/// One tensor of a checkpoint, still in its file.
#[derive(Clone, Debug)]
pub enum Tensor {
    /// Plain values.
    Plain(Stored),
    /// A tensor of a GGUF file, in blocks of its own.
    Gguf(GgufTensor),
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
        }
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> u64 {
        match self {
            Tensor::Plain(t) => t.bytes(),
            Tensor::Gguf(t) => t.file_bytes(),
        }
    }

    /// Bytes in memory at most, if its floats become `compute`.
    pub fn memory_bytes(&self, compute: Dtype) -> usize {
        match self {
            Tensor::Plain(t) => t.memory_bytes(compute),
            // In three blocks at most.
            Tensor::Gguf(t) => t.memory_bytes() + 3 * Arena::footprint(0),
        }
    }

    /// The type of its floats, if it holds any.
    pub fn float_type(&self) -> Option<Dtype> {
        match self {
            Tensor::Plain(t) => is_float(t.dtype).then_some(t.dtype),
            // What GGUF's scales are; activations of such models fit it.
            Tensor::Gguf(_) => Some(Dtype::Float16),
        }
    }

    /// Reads it; dense floats become `dtype` if one is given.
    pub fn load(&self, arena: &Arena, dtype: Option<Dtype>) -> Result<Loaded> {
        match self {
            Tensor::Plain(t) => t.load(arena, dtype).map(Loaded::Plain),
            Tensor::Gguf(t) => load_gguf(t, arena, dtype),
        }
    }
}

/// All tensors of a checkpoint by name.
#[derive(Clone, Debug, Default)]
pub struct Checkpoint {
    tensors: BTreeMap<String, Tensor>,
}

impl Checkpoint {
    /// A checkpoint of these tensors.
    pub fn new(tensors: BTreeMap<String, Tensor>) -> Checkpoint {
        Checkpoint { tensors }
    }

    /// Names and tensors, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, t)| (name.as_str(), t))
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Bytes in the files.
    pub fn bytes(&self) -> u64 {
        self.tensors.values().map(Tensor::bytes).sum()
    }

    /// Bytes that all tensors take in memory at most, if floats become `compute`.
    pub fn memory_bytes(&self, compute: Dtype) -> usize {
        self.tensors.values().map(|t| t.memory_bytes(compute)).sum()
    }

    /// The float type that most bytes have: what the checkpoint computes in.
    pub fn float_type(&self) -> Option<Dtype> {
        let mut bytes: Vec<(Dtype, u64)> = Vec::new();
        for t in self.tensors.values() {
            let Some(dtype) = t.float_type() else { continue };
            match bytes.iter_mut().find(|(d, _)| *d == dtype) {
                Some((_, n)) => *n += t.bytes(),
                None => bytes.push((dtype, t.bytes())),
            }
        }
        bytes.into_iter().max_by_key(|(_, n)| *n).map(|(d, _)| d)
    }

    /// Leaves out the tensors that `which` names; they are never read.
    pub fn ignore(&mut self, which: impl Fn(&str) -> bool) {
        self.tensors.retain(|name, _| !which(name));
    }

    /// Gives new names where `to` returns one.
    ///
    /// # Errors
    /// [`Error::Tensor`] if two tensors would have the same name.
    pub fn rename(&mut self, to: impl Fn(&str) -> Option<String>) -> Result<()> {
        for name in self.tensors.keys().cloned().collect::<Vec<_>>() {
            let Some(new) = to(&name).filter(|new| *new != name) else { continue };
            if self.tensors.contains_key(&new) {
                return Err(Error::tensor(
                    name,
                    format!("would be renamed to `{new}`, which is there already"),
                ));
            }
            if let Some(t) = self.tensors.remove(&name) {
                self.tensors.insert(new, t);
            }
        }
        Ok(())
    }

    /// Makes `a.from.0.b`, `a.from.1.b` … one tensor `a.to.b` with the number as its first axis, for every `a` and `b`: the
    /// experts of a mixture, published one by one.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] for a gap in the numbers, [`Error::Tensor`] for parts that differ in shape or type.
    pub fn stack(&mut self, from: &str, to: &str) -> Result<()> {
        let infix = format!(".{from}.");
        let mut stacks: BTreeMap<String, BTreeMap<usize, String>> = BTreeMap::new();
        for name in self.tensors.keys() {
            let Some((head, rest)) = name.split_once(&infix) else { continue };
            let Some((number, tail)) = rest.split_once('.') else { continue };
            let Ok(number) = number.parse::<usize>() else { continue };
            stacks.entry(format!("{head}.{to}.{tail}")).or_default().insert(number, name.clone());
        }
        for (name, parts) in stacks {
            let mut stored = Vec::with_capacity(parts.len());
            for (i, (number, part)) in parts.iter().enumerate() {
                if *number != i {
                    return Err(Error::MissingTensor(part.replacen(
                        &format!("{infix}{number}."),
                        &format!("{infix}{i}."),
                        1,
                    )));
                }
                match self.tensors.remove(part) {
                    Some(Tensor::Plain(t)) => stored.push(t),
                    _ => return Err(Error::tensor(part, "cannot be stacked with its neighbours")),
                }
            }
            let Some(stack) = Stored::stack(stored) else {
                return Err(Error::tensor(name, "its parts differ in shape or type"));
            };
            self.tensors.insert(name, Tensor::Plain(stack));
        }
        Ok(())
    }

    pub(super) fn take(&mut self, name: &str) -> Option<Tensor> {
        self.tensors.remove(name)
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
