//! Integers of compressed-tensors: w = (q - z) · s, with `weight_scale` [out, groups] or a single one.
//!
//! Packed: `weight_packed` [out, words] holds codes of 2, 4 or 8 bits, lowest first, less half their range, `weight_zero_point`
//! [out · bits / 32, groups], where it is, codes along the outputs, `weight_g_idx` [in] the group of each column. Plain: `weight` holds
//! bytes with a sign, `weight_zero_point` as many as there are scales.

use super::{FLOATS, Groups, INTS, Integers, Settings, Step, WORDS, codes, ending, listed, part};
use crate::{
    Error, Result,
    weights::{Checkpoint, Tensor},
};
use mlx_rs::{Array, Dtype, ops};
use std::rc::Rc;

pub(super) fn decode(checkpoint: &mut Checkpoint, settings: &Settings) -> Result<()> {
    for stem in ending(checkpoint, ".weight_packed") {
        packed(checkpoint, settings, stem)?;
    }
    let signed = |(name, t): (&str, &Tensor)| {
        let stem = name.strip_suffix(".weight").filter(|_| t.dtype() == Some(Dtype::Int8))?;
        checkpoint.contains(&format!("{name}_scale")).then(|| stem.to_string())
    };
    let stems: Vec<String> = checkpoint.iter().filter_map(signed).collect();
    stems.into_iter().try_for_each(|stem| plain(checkpoint, settings, stem))
}

fn packed(checkpoint: &mut Checkpoint, settings: &Settings, stem: String) -> Result<()> {
    let weight = part(checkpoint, format!("{stem}.weight_packed"), &WORDS, None)?;
    let &[rows, words] = weight.1.shape() else {
        return Err(Error::tensor(weight.0, format!("{:?} is no shape of a matrix", weight.1.shape())));
    };
    let shape = format!("{stem}.weight_shape");
    let meant = match checkpoint.get(&shape).map(|t| t.shape() == [2]) {
        Some(true) => listed(checkpoint, shape, &INTS, 2)?.map(|(_, shape)| shape),
        _ => checkpoint.take(&shape).and(None),
    };
    let bits =
        settings.bits().and_then(|b| [2, 4, 8].into_iter().find(|bits| i64::from(*bits) == b)).unwrap_or(4);
    // Rows end in whole words.
    let of_bits =
        |bits: u32, columns: i64| columns > 0 && (columns - 1) / i64::from(32 / bits) + 1 == i64::from(words);
    let told = meant.filter(|shape| shape[0] == i64::from(rows)).and_then(|shape| {
        let bits = [bits, 4, 8, 2].into_iter().find(|bits| of_bits(*bits, shape[1]))?;
        Some((bits, i32::try_from(shape[1]).ok()?))
    });
    let (bits, columns) = match (told, words.checked_mul((32 / bits) as i32)) {
        (Some(told), _) => told,
        (None, Some(columns)) => (bits, columns),
        (None, None) => return Err(Error::tensor(weight.0, "has too many columns")),
    };
    let (scales, lay, count) = scales(checkpoint, &stem, rows)?;
    let index = listed(checkpoint, format!("{stem}.weight_g_idx"), &INTS, columns)?;
    // So marked where no order was found.
    let index = index.filter(|(_, index)| index.iter().any(|g| *g != -1));
    let groups = Groups::new(&scales.0, columns, count, settings.group_size(), index)?;
    let per_word = (32 / bits) as i32;
    let zeros = format!("{stem}.weight_zero_point");
    let zeros: Option<(_, Step)> = match checkpoint.get(&zeros).and_then(Tensor::dtype) {
        Some(Dtype::Int8) => Some(plain_zeros(checkpoint, zeros, [rows, count], 1 << (bits - 1))?),
        Some(_) => {
            let words = (rows - 1).max(0) / per_word + 1;
            let zeros = part(checkpoint, zeros, &WORDS, Some(&[words, count]))?;
            let step = move |x: &Array| {
                let codes = codes::numbers(&x.view_dtype(Dtype::Uint32)?.t().contiguous()?, bits)?;
                Ok(first(&codes, rows)?.as_dtype(Dtype::Float32)?.t())
            };
            Some((zeros, Rc::new(step)))
        }
        None => None,
    };
    let integers = Integers {
        stem,
        what: "compressed-tensors",
        bits,
        shape: [rows, columns],
        weight,
        words: None,
        codes: Rc::new(move |x| first(&codes::numbers(&x.view_dtype(Dtype::Uint32)?, bits)?, columns)),
        scales,
        lay,
        zeros,
        groups,
    };
    integers.put(checkpoint, settings)
}

fn plain(checkpoint: &mut Checkpoint, settings: &Settings, stem: String) -> Result<()> {
    let weight = part(checkpoint, format!("{stem}.weight"), &[Dtype::Int8], None)?;
    let &[rows, columns] = weight.1.shape() else {
        return Err(Error::tensor(weight.0, format!("{:?} is no shape of a matrix", weight.1.shape())));
    };
    let (scales, lay, count) = scales(checkpoint, &stem, rows)?;
    let zeros = format!("{stem}.weight_zero_point");
    let zeros = match checkpoint.contains(&zeros) {
        true => Some(plain_zeros(checkpoint, zeros, [rows, count], 128)?),
        false => None,
    };
    let codes = |x: &Array| {
        Ok(x.as_dtype(Dtype::Int16)?.add(Array::from_slice(&[128i16], &[]))?.as_dtype(Dtype::Uint8)?)
    };
    let integers = Integers {
        stem,
        what: "signed",
        bits: 8,
        shape: [rows, columns],
        weight,
        words: Some(Rc::new(move |x| codes::pack(&codes(x)?, 8))),
        codes: Rc::new(codes),
        groups: Groups::new(&scales.0, columns, count, None, None)?,
        scales,
        lay,
        zeros,
    };
    integers.put(checkpoint, settings)
}

/// `weight_scale`, what makes it [rows, groups], and how many groups there are.
fn scales(checkpoint: &mut Checkpoint, stem: &str, rows: i32) -> Result<((String, Tensor), Step, i32)> {
    let scales = part(checkpoint, format!("{stem}.weight_scale"), &FLOATS, None)?;
    let count = match *scales.1.shape() {
        [] | [1] => 1,
        [n] if n == rows => 1,
        [n, groups] if n == rows || n == 1 && groups == 1 => groups,
        [_, groups] => {
            let (found, wanted) = (scales.1.shape().to_vec(), vec![rows, groups]);
            return Err(Error::Shape { name: scales.0, found, wanted });
        }
        _ => {
            let why = format!("{:?} is no shape of scales of {rows} rows", scales.1.shape());
            return Err(Error::tensor(scales.0, why));
        }
    };
    Ok((scales, spread(rows, count), count))
}

/// What makes of one number for each row and group, or of a single one, [rows, groups].
fn spread(rows: i32, count: i32) -> Step {
    Rc::new(move |x| Ok(ops::broadcast_to(x.reshape(&[-1, count])?, &[rows, count])?))
}

/// Zero points in bytes with a sign: as many as scales.
fn plain_zeros(
    checkpoint: &mut Checkpoint,
    name: String,
    [rows, count]: [i32; 2],
    middle: i32,
) -> Result<((String, Tensor), Step)> {
    let zeros = part(checkpoint, name, &[Dtype::Int8], None)?;
    let number: i64 = zeros.1.shape().iter().map(|n| i64::from(*n)).product();
    if number != i64::from(rows) * i64::from(count) && (number, count) != (1, 1) {
        return Err(Error::Shape {
            name: zeros.0,
            found: zeros.1.shape().to_vec(),
            wanted: vec![rows, count],
        });
    }
    let lay = spread(rows, count);
    let step = move |x: &Array| Ok(lay(&x.as_dtype(Dtype::Float32)?)?.add(Array::from_f32(middle as f32))?);
    Ok((zeros, Rc::new(step)))
}

/// The first `count` columns.
fn first(x: &Array, count: i32) -> Result<Array> {
    Ok(if x.dim(-1) == count { x.clone() } else { crate::raw::slice(x, 1, 0, count)? })
}
