//! How positions are rotated.

use super::{
    keys::{Keys, decimal, positive},
    names::{ROPE_FACTORS, ROPE_FREQS},
};
use crate::{
    Error, Result,
    gguf::{
        header::TensorInfo,
        metadata::Field,
        types::{Element, Format},
    },
};
use serde_json::{Map, Value, json};

/// `rope_scaling` for `dims` rotated channels of a head.
pub(super) fn scaling(keys: &Keys<'_>, dims: i32) -> Result<Option<Value>> {
    let kind = keys.optional("rope.scaling.type", Field::str)?.unwrap_or("linear");
    // Zero stands for no scaling, and there is an older name.
    let zero = |field: Field<'_>| if field.f32()? == 0.0 { Ok(1.0) } else { positive(field) };
    let factor = match keys.optional("rope.scaling.factor", zero)? {
        Some(factor) => Some(factor),
        None => keys.optional("rope.scale_linear", zero)?,
    };
    if keys.tensor(ROPE_FACTORS[0]).is_some() {
        return long(keys, dims).map(Some);
    }
    for fixed in ["rope.scaling.attn_factor", "rope.scaling.yarn_ext_factor"] {
        // Negative stands for the default.
        if keys.optional(fixed, Field::f32)?.is_some_and(|x| x != 1.0 && (x >= 0.0 || x.is_nan())) {
            return Err(keys.wanted(fixed, "1, or no such key"));
        }
    }
    let scaled = factor.is_some_and(|factor| factor != 1.0);
    let scaling = match kind {
        "none" => None,
        "linear" => {
            factor.filter(|_| scaled).map(|factor| json!({"rope_type": "linear", "factor": decimal(factor)}))
        }
        "yarn" => Some(yarn(keys, factor)?),
        _ => return Err(keys.wanted("rope.scaling.type", "none, linear or yarn")),
    };
    let Some(info) = keys.tensor(ROPE_FREQS) else { return Ok(scaling) };
    if scaling.is_some() {
        return Err(Error::tensor(
            ROPE_FREQS,
            format!("divides frequencies that are scaled ({kind}) already"),
        ));
    }
    let factors: Vec<Value> = divisors(info, dims)?.into_iter().map(decimal).collect();
    Ok(Some(json!({"rope_type": "freq_factors", "factors": factors})))
}

fn yarn(keys: &Keys<'_>, factor: Option<f32>) -> Result<Value> {
    let factor = factor.ok_or_else(|| keys.wanted("rope.scaling.factor", "a positive number"))?;
    let original = keys
        .size_opt("rope.scaling.original_context_length")?
        .map_or_else(|| keys.size("context_length"), Ok)?;
    let mut yarn = Map::new();
    yarn.insert("rope_type".into(), "yarn".into());
    yarn.insert("factor".into(), decimal(factor));
    yarn.insert("original_max_position_embeddings".into(), original.into());
    for (key, name) in [
        ("rope.scaling.yarn_attn_factor", "attention_factor"),
        ("rope.scaling.yarn_beta_fast", "beta_fast"),
        ("rope.scaling.yarn_beta_slow", "beta_slow"),
    ] {
        // Negative stands for the default.
        if let Some(x) = keys.optional(key, Field::f32)?.filter(|&x| x >= 0.0 || x.is_nan()) {
            if !x.is_finite() {
                return Err(keys.wanted(key, "a number"));
            }
            yarn.insert(name.into(), decimal(x));
        }
    }
    Ok(yarn.into())
}

/// Divisors for long texts and short ones.
fn long(keys: &Keys<'_>, dims: i32) -> Result<Value> {
    let factors = |name: &str| -> Result<Value> {
        let info = keys.tensor(name).ok_or_else(|| Error::MissingTensor(name.into()))?;
        Ok(divisors(info, dims)?.into_iter().map(decimal).collect::<Vec<_>>().into())
    };
    let original = keys.size("rope.scaling.original_context_length")?;
    let mut long = json!({
        "rope_type": "longrope", "original_max_position_embeddings": original,
        "long_factor": factors(ROPE_FACTORS[0])?, "short_factor": factors(ROPE_FACTORS[1])?,
    });
    if let Some(scale) = keys.positive_opt("rope.scaling.attn_factor")? {
        long["long_mscale"] = decimal(scale);
    }
    Ok(long)
}

/// The divisors of the rotary frequencies that a tensor holds.
pub(super) fn divisors(info: &TensorInfo, dims: i32) -> Result<Vec<f32>> {
    let half = dims / 2;
    if info.shape != [half] {
        return Err(Error::Shape { name: info.name.clone(), found: info.shape.clone(), wanted: vec![half] });
    }
    let factors = floats(info)?;
    match factors.iter().find(|f| !f.is_finite() || **f <= 0.0) {
        Some(f) => Err(Error::tensor(&info.name, format!("the factor {f}; wanted positive numbers"))),
        None => Ok(factors),
    }
}

/// The values of a small tensor of float32.
fn floats(info: &TensorInfo) -> Result<Vec<f32>> {
    if info.kind.format != Some(Format::Plain(Element::F32)) {
        return Err(Error::tensor(&info.name, format!("elements of type {}, wanted F32", info.kind.name)));
    }
    let mut bytes = vec![0; info.bytes as usize];
    info.source.read_at(&mut bytes, info.offset)?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
}
