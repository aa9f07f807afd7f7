//! 4-bit floats: two in a byte, low bits first, with a scale for each group of columns. They are MLX's codes but for the names.
//!
//! In groups of 32 with powers of two they are MXFP4, in groups of 16 with 8-bit floats NVFP4, whose scales have a scale of their own:
//! ModelOpt's `weight_scale_2`, which multiplies, or compressed-tensors' `weight_global_scale`, which divides. Fused experts are
//! published as `x`, `x_weight_scale` and `x_weight_scale_2` [E], or [E, parts] with one for each part that is fused.

use super::{FLOATS, all_finite, codes, ending, part, source};
use crate::{
    Error, Result,
    weights::{Checkpoint, Derived, Encoding, Float8, Kept, NVFP4_MAX, Tensor},
};
use mlx_rs::{Array, Dtype, ops};

/// The tensors of a matrix.
struct Names {
    module: String,
    weight: String,
    scale: String,
    /// And whether values are divided by it.
    global: Option<(String, bool)>,
}

pub(super) fn decode(checkpoint: &mut Checkpoint) -> Result<()> {
    blocks(checkpoint)?;
    for names in modelopt(checkpoint).into_iter().chain(compressed(checkpoint)) {
        decode_one(checkpoint, names)?;
    }
    Ok(())
}

/// As gpt-oss publishes them: `x_blocks` [.., groups, 16], `x_scales` [.., groups].
fn blocks(checkpoint: &mut Checkpoint) -> Result<()> {
    for stem in ending(checkpoint, "_blocks") {
        let (name, mut blocks) = part(checkpoint, format!("{stem}_blocks"), &[Dtype::Uint8], None)?;
        let shape = blocks.shape().to_vec();
        let ([rows @ .., groups, 16], Tensor::Plain(words)) = (&shape[..], &mut blocks) else {
            return Err(Error::tensor(name, format!("has shape {shape:?}, but blocks have 16 bytes")));
        };
        let Some(columns) = groups.checked_mul(4) else {
            return Err(Error::tensor(name, "has too many columns"));
        };
        words.dtype = Dtype::Uint32;
        words.shape = [rows, &[columns]].concat();
        let scales = [rows, &[*groups]].concat();
        let (_, scales) = part(checkpoint, format!("{stem}_scales"), &[Dtype::Uint8], Some(&scales))?;
        checkpoint.put(format!("{stem}.weight"), blocks)?;
        checkpoint.put(format!("{stem}.scales"), scales)?;
        checkpoint.note(stem, Encoding { stored: "MXFP4".into(), kept: Kept::Packed("mxfp4".into()) });
    }
    Ok(())
}

/// Bytes with scales that are bytes.
fn modelopt(checkpoint: &Checkpoint) -> Vec<Names> {
    let is_bytes =
        |t: &Tensor| matches!(t, Tensor::Plain(t) if t.dtype == Dtype::Uint8 && t.float8.is_none());
    let is_scale = |name: &String| {
        let t = checkpoint.get(name);
        t.is_some_and(|t| matches!(t, Tensor::Plain(t) if t.dtype == Dtype::Uint8))
    };
    let names = |(weight, t): (&str, &Tensor)| {
        let scales = [format!("{weight}_scale"), format!("{weight}_weight_scale")];
        let scale = scales.into_iter().find(|name| is_bytes(t) && is_scale(name))?;
        let global = Some(format!("{scale}_2")).filter(|name| checkpoint.contains(name));
        let module = weight.strip_suffix(".weight").unwrap_or(weight).to_string();
        Some(Names { module, weight: weight.into(), scale, global: global.map(|g| (g, false)) })
    };
    checkpoint.iter().filter_map(names).collect()
}

/// `weight_packed` of bytes.
fn compressed(checkpoint: &Checkpoint) -> Vec<Names> {
    let names = |module: String| {
        let weight = format!("{module}.weight_packed");
        let global = format!("{module}.weight_global_scale");
        let of_bytes = checkpoint.get(&weight)?.dtype() == Some(Dtype::Uint8);
        let global = Some((global, true)).filter(|(name, _)| checkpoint.contains(name));
        of_bytes.then(|| Names { scale: format!("{module}.weight_scale"), module, weight, global })
    };
    ending(checkpoint, ".weight_packed").into_iter().filter_map(names).collect()
}

fn decode_one(checkpoint: &mut Checkpoint, names: Names) -> Result<()> {
    let weight = part(checkpoint, names.weight, &[Dtype::Uint8], None)?;
    let scales = part(checkpoint, names.scale, &[Dtype::Uint8], None)?;
    let shape = weight.1.shape().to_vec();
    let found = scales.1.shape().to_vec();
    let ([rows @ .., bytes], [others @ .., groups]) = (&shape[..], &found[..]) else {
        return Err(Error::tensor(weight.0, format!("{shape:?} is no shape of a matrix")));
    };
    let bytes_in_group =
        bytes.checked_div(*groups).filter(|n| *n > 0 && bytes % groups == 0 && rows == others);
    let exponents = !matches!(&scales.1, Tensor::Plain(t) if t.float8 == Some(Float8::E4m3));
    let stored = match (bytes_in_group, exponents) {
        (Some(8), false) => "NVFP4",
        (Some(16), true) => "MXFP4",
        _ => {
            let why =
                format!("scales {found:?} fit no groups of 16 or 32 values of {shape:?}, two in a byte");
            return Err(Error::tensor(scales.0, why));
        }
    };
    if rows.contains(&0) {
        return Err(Error::tensor(weight.0, format!("has shape {shape:?}, without values")));
    }
    let mode = stored.to_lowercase();
    let mut kept = mode.clone();
    if let Some((name, divides)) = names.global {
        if exponents {
            return Err(Error::tensor(name, "is a scale of scales, which MXFP4 has not"));
        }
        let scale = part(checkpoint, name, &FLOATS, None)?;
        checkpoint.put(format!("{}.global_scale", names.module), global(scale, rows, divides)?)?;
        kept += " with a global scale";
    }
    let words = codes::as_words(&weight.0, weight.1)?;
    let (_, mut scales) = scales;
    if let Tensor::Plain(scales) = &mut scales {
        // They are MLX's now, and no 8-bit floats to widen.
        scales.float8 = None;
    }
    checkpoint.put(format!("{}.weight", names.module), words)?;
    checkpoint.put(format!("{}.scales", names.module), scales)?;
    checkpoint.note(names.module, Encoding { stored: stored.into(), kept: Kept::Packed(kept) });
    Ok(())
}

/// MLX's global scale of rows [.., out].
fn global(scale: (String, Tensor), rows: &[i32], divides: bool) -> Result<Tensor> {
    let found = scale.1.shape().to_vec();
    let (shape, parts) = match (&found[..], rows) {
        ([] | [1], _) => (found.clone(), None),
        ([e], [stack, _]) if e == stack => (found.clone(), None),
        ([e, 1], [stack, _]) if e == stack => (found.clone(), None),
        ([e, parts], [stack, out]) if e == stack && *parts > 0 && out % parts == 0 => {
            (rows.to_vec(), Some(out / parts))
        }
        _ => {
            let wanted = rows.split_last().map(|(_, stack)| stack.to_vec()).unwrap_or_default();
            return Err(Error::Shape { name: scale.0, found, wanted });
        }
    };
    let (largest, to) = (Array::from_f32(NVFP4_MAX), shape.clone());
    let name = scale.0.clone();
    let compute = move |x: &[Array]| {
        let x = x[0].as_dtype(Dtype::Float32)?;
        let x = if divides { largest.divide(x)? } else { x.multiply(&largest)? };
        all_finite(&name, &x)?;
        let Some(times) = parts else { return Ok(x) };
        let wide = ops::broadcast_to(x.expand_dims(-1)?, &[&found[..], &[times]].concat())?;
        Ok(wide.reshape(&to)?)
    };
    let inputs = vec![source(scale, 1)];
    // What is computed in shows in the tensors that are not quantized.
    Ok(Tensor::Derived(Derived::new(inputs, shape, Dtype::Float32, compute).with_float_type(None)))
}
