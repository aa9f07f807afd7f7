//! GPTQ (arXiv 2210.17323) in AutoGPTQ's layout: `qweight` [in · bits / 32, out] holds codes q along the inputs, `qzeros`
//! [groups, out · bits / 32] codes z along the outputs, lowest bits first and 3-bit codes across words, `scales` [groups, out] floats s,
//! and `g_idx` [in], where it is, the group of each input; w = (q - z) · s. Zero points are stored less one, but in `gptq_v2`.

use super::{FLOATS, Groups, INTS, Integers, Settings, WORDS, codes, ending, listed, part};
use crate::{Error, Result, weights::Checkpoint};
use mlx_rs::{Array, Dtype};
use std::rc::Rc;

pub(super) fn decode(checkpoint: &mut Checkpoint, settings: &Settings) -> Result<()> {
    for stem in ending(checkpoint, ".qweight") {
        // AutoAWQ packs along the outputs.
        let columns = |part: &str| checkpoint.get(&format!("{stem}.{part}"))?.shape().get(1).copied();
        if columns("scales") == columns("qweight") {
            decode_one(checkpoint, settings, stem)?;
        }
    }
    Ok(())
}

fn decode_one(checkpoint: &mut Checkpoint, settings: &Settings, stem: String) -> Result<()> {
    let weight = part(checkpoint, format!("{stem}.qweight"), &WORDS, None)?;
    let scales = part(checkpoint, format!("{stem}.scales"), &FLOATS, None)?;
    let (&[words, rows], &[count, _]) = (weight.1.shape(), scales.1.shape()) else {
        return Err(Error::tensor(weight.0, format!("{:?} is no shape of a matrix", weight.1.shape())));
    };
    let zeros = format!("{stem}.qzeros");
    let zeros = match checkpoint.contains(&zeros) {
        true => Some(part(checkpoint, zeros, &WORDS, None)?),
        false => None,
    };
    let bits = match &zeros {
        Some((name, zeros)) => {
            let found = zeros.shape().to_vec();
            let bits = |across: i32| (rows > 0).then(|| i64::from(across) * 32 / i64::from(rows));
            match found[..] {
                [c, across] if c == count && i64::from(across) * 32 % i64::from(rows.max(1)) == 0 => {
                    bits(across)
                }
                _ => None,
            }
            .ok_or_else(|| {
                Error::tensor(
                    name,
                    format!("has shape {found:?}, but there are {count} groups of {rows} outputs"),
                )
            })?
        }
        None => settings.bits().unwrap_or(4),
    };
    let wrong = |why: String| Error::tensor(&weight.0, why);
    let Some(bits) = [2, 3, 4, 8].into_iter().find(|b| i64::from(*b) == bits) else {
        return Err(wrong(format!("holds codes of {bits} bits, which is none of 2, 3, 4 and 8")));
    };
    let columns = i64::from(words) * 32 / i64::from(bits);
    let columns = i32::try_from(columns).map_err(|_| wrong("has too many inputs".into()))?;
    // Words of 3-bit codes come in threes, of 32 codes.
    if bits == 3 && (words % 3 != 0 || rows % 32 != 0) {
        return Err(wrong(format!("{words} words of {rows} outputs hold no codes of 3 bits")));
    }
    let index = listed(checkpoint, format!("{stem}.g_idx"), &INTS, columns)?;
    let groups = Groups::new(&scales.0, columns, count, settings.group_size(), index)?;
    let offset = if settings.is_gptq_v2() { 0.0 } else { 1.0 };
    let turned = |x: &Array| Ok(x.view_dtype(Dtype::Uint32)?.t().contiguous()?);
    let zeros = zeros.map(|zeros| -> (_, super::Step) {
        let step = move |x: &Array| {
            let zeros = codes::numbers(&x.view_dtype(Dtype::Uint32)?, bits)?.as_dtype(Dtype::Float32)?;
            Ok(zeros.add(Array::from_f32(offset))?.t())
        };
        (zeros, Rc::new(step))
    });
    let integers = Integers {
        stem,
        what: "GPTQ",
        bits,
        shape: [rows, columns],
        weight,
        words: Some(Rc::new(turned)),
        codes: Rc::new(move |x| codes::numbers(&turned(x)?, bits)),
        scales,
        lay: Rc::new(|x| Ok(x.t())),
        zeros,
        groups,
    };
    integers.put(checkpoint, settings)
}
