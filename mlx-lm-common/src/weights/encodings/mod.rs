//! Encodings of other toolkits, decoded before an architecture sees a name: 8-bit floats become plain floats, packed codes
//! become MLX's where it has such codes, with the same values. [`Checkpoint::encodings`] tells what was found.
//!
//! What a tensor is shows in the tensors themselves. `quantization_config` only tells what they cannot: that somebody uses an
//! encoding which is not known here, how large blocks are, whether a scale multiplies or divides.

mod awq;
mod bitnet;
mod codes;
mod compressed;
mod float4;
mod fp8;
mod gptq;
mod integers;
mod settings;

use super::{Checkpoint, Source, Tensor};
use crate::{Config, Error, Result};
use integers::{Groups, Integers, Step};
use mlx_rs::{Array, Dtype};
use settings::Settings;
use std::rc::Rc;

/// Brings what other toolkits have quantized into MLX's layout.
///
/// # Errors
/// [`Error::Config`] for an encoding that is not known, [`Error::MissingTensor`], [`Error::Shape`] or [`Error::Tensor`] for
/// tensors that do not belong together.
pub(super) fn decode(checkpoint: &mut Checkpoint, config: &Config) -> Result<()> {
    let settings = Settings::read(config)?;
    if let Some(name) = ending(checkpoint, ".pre_quant_scale").first() {
        let why = "inputs that are scaled before a matrix are not supported";
        return Err(Error::tensor(format!("{name}.pre_quant_scale"), why));
    }
    float4::decode(checkpoint)?;
    gptq::decode(checkpoint, &settings)?;
    awq::decode(checkpoint, &settings)?;
    compressed::decode(checkpoint, &settings)?;
    bitnet::decode(checkpoint, config, &settings)?;
    fp8::decode(checkpoint, &settings)?;
    if checkpoint.encodings().next().is_some() {
        checkpoint.ignore(|name| UNUSED.iter().any(|suffix| name.ends_with(suffix)));
    }
    Ok(())
}

/// Scales of activations, and of caches, which are not quantized here.
const UNUSED: [&str; 9] = [
    "activation_scale",
    ".input_scale",
    "_input_scale",
    ".input_scale_ub",
    ".input_zero_point",
    ".input_global_scale",
    ".output_scale",
    ".k_scale",
    ".v_scale",
];

/// The tensors whose name ends in `suffix`, and what comes before it.
fn ending(checkpoint: &Checkpoint, suffix: &str) -> Vec<String> {
    let stem = |(name, _): (&str, &Tensor)| name.strip_suffix(suffix).map(str::to_string);
    checkpoint.iter().filter_map(stem).collect()
}

/// Takes the tensor `name`, which must be there, of one of these types and of this shape if that is known.
fn part(
    checkpoint: &mut Checkpoint,
    name: String,
    types: &[Dtype],
    shape: Option<&[i32]>,
) -> Result<(String, Tensor)> {
    let Some(tensor) = checkpoint.take(&name) else { return Err(Error::MissingTensor(name)) };
    if !tensor.dtype().is_some_and(|t| types.contains(&t)) {
        return Err(Error::tensor(name, format!("holds {:?}, but must hold {types:?}", tensor.dtype())));
    }
    match shape {
        Some(wanted) if tensor.shape() != wanted => {
            Err(Error::Shape { name, found: tensor.shape().to_vec(), wanted: wanted.to_vec() })
        }
        _ => Ok((name, tensor)),
    }
}

/// What so many derived tensors read.
fn source((name, tensor): (String, Tensor), readers: usize) -> Rc<Source> {
    Source::new(name, tensor, readers)
}

/// Refuses scales of whole matrices that are no numbers, or that nothing can be divided by: they would make all values such.
pub(super) fn all_finite(name: &str, x: &Array) -> Result<()> {
    let finite = x.is_finite()?.all(false)?.try_item_cast::<bool>();
    if finite.map_err(|e| Error::tensor(name, e.to_string()))? {
        return Ok(());
    }
    Err(Error::tensor(name, "holds a scale of a whole matrix that is no finite number, or divides by 0"))
}

/// How often each scale must be repeated so that groups are of a size that MLX has.
fn repeats(name: &str, columns: i32, groups: i32) -> Result<i32> {
    let group = if groups > 0 && columns % groups == 0 { columns / groups } else { 0 };
    let size = [128, 64, 32].into_iter().find(|size| group > 0 && group % size == 0);
    size.map(|size| group / size).ok_or_else(|| {
        let why = format!("{groups} scales for {columns} columns make no groups of a multiple of 32");
        Error::tensor(name, why)
    })
}

/// The integers of the tensor `name`, if it is there: so many, of one of these types.
fn listed(
    checkpoint: &mut Checkpoint,
    name: String,
    types: &[Dtype],
    count: i32,
) -> Result<Option<(String, Vec<i64>)>> {
    if !checkpoint.contains(&name) {
        return Ok(None);
    }
    let (name, tensor) = part(checkpoint, name, types, Some(&[count]))?;
    let Tensor::Plain(stored) = &tensor else {
        return Err(Error::tensor(name, "must be stored as it is"));
    };
    let bytes = stored.bytes_in_file()?;
    let values = match stored.dtype {
        Dtype::Int64 => bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
        _ => bytes.as_chunks().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect(),
    };
    Ok(Some((name, values)))
}

const INTS: [Dtype; 2] = [Dtype::Int32, Dtype::Int64];

const WORDS: [Dtype; 2] = [Dtype::Int32, Dtype::Uint32];

const FLOATS: [Dtype; 3] = [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16];
