//! Llama and Mistral.

use super::{
    Family,
    common::{self, Heads},
    keys::Keys,
    names,
};
use crate::{Error, Result, gguf::header::TensorInfo};
use serde_json::Value;

pub(super) const LLAMA: Family = Family { order: interleaved, ..Family::plain(config) };

fn config(keys: &Keys<'_>) -> Result<Value> {
    decoder(keys, "llama")
}

/// A decoder without anything of its own.
pub(super) fn decoder(keys: &Keys<'_>, model_type: &str) -> Result<Value> {
    let heads = Heads::whole(keys)?;
    common::no_experts(keys)?;
    let mut config = common::base(keys, model_type)?;
    common::attention(keys, &mut config, &heads)?;
    common::rope(keys, &mut config, heads.rotated)?;
    common::feed_forward(keys, &mut config)?;
    Ok(config)
}

/// Rows of queries and keys: converters interleave the halves of each head, because rotary pairs lie side by side in the file and
/// half a head apart outside.
pub(super) fn interleaved(keys: &Keys<'_>, info: &TensorInfo) -> Result<Option<Vec<u32>>> {
    let part = names::in_layer(&info.name).and_then(|(_, rest)| rest.split('.').next()).unwrap_or_default();
    if !matches!(part, "attn_q" | "attn_k") {
        return Ok(None);
    }
    let heads = Heads::whole(keys)?;
    let rows = if part == "attn_q" { heads.query } else { heads.key }.saturating_mul(heads.dim);
    if info.shape[0] != rows {
        let wanted = [&[rows], &info.shape[1..]].concat();
        return Err(Error::Shape { name: info.name.clone(), found: info.shape.clone(), wanted });
    }
    let dim = heads.dim as usize;
    let place = |row: usize| {
        let (head, within) = (row / dim, row % dim);
        (head * dim + within % 2 * (dim / 2) + within / 2) as u32
    };
    Ok(Some((0..rows as usize).map(place).collect()))
}
