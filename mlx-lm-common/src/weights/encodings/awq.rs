//! Activation-aware quantization (arXiv 2306.00978) in AutoAWQ's layout for matrix products: `qweight` [in, out / 8] holds 4-bit
//! codes q, `qzeros` [groups, out / 8] codes z, `scales` [groups, out] floats s; w = (q - z) · s.

use super::{FLOATS, Groups, Integers, Settings, WORDS, codes, ending, part};
use crate::{Error, Result, weights::Checkpoint};
use mlx_rs::{Array, Dtype};
use std::rc::Rc;

/// Where in a word the code of each of eight columns lies.
const ORDER: [i32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

pub(super) fn decode(checkpoint: &mut Checkpoint, settings: &Settings) -> Result<()> {
    for stem in ending(checkpoint, ".qweight") {
        let weight = part(checkpoint, format!("{stem}.qweight"), &WORDS, None)?;
        let scales = part(checkpoint, format!("{stem}.scales"), &FLOATS, None)?;
        let (&[input, words], &[count, output]) = (weight.1.shape(), scales.1.shape()) else {
            return Err(Error::tensor(weight.0, format!("{:?} is no shape of a matrix", weight.1.shape())));
        };
        if i64::from(words) * 8 != i64::from(output) || input % 8 != 0 {
            let why = format!(
                "{words} words hold no {output} columns of 4 bits, or {input} rows are no multiple of 8"
            );
            return Err(Error::tensor(weight.0, why));
        }
        let groups = Groups::new(&scales.0, input, count, settings.group_size(), None)?;
        let zeros = format!("{stem}.qzeros");
        let zeros = match checkpoint.contains(&zeros) {
            true => Some(part(checkpoint, zeros, &WORDS, Some(&[count, words]))?),
            false => None,
        };
        let zeros = zeros.map(|zeros| -> (_, super::Step) {
            (zeros, Rc::new(|x: &Array| Ok(columns(x)?.as_dtype(Dtype::Float32)?.t())))
        });
        let integers = Integers {
            stem,
            what: "AWQ",
            bits: 4,
            shape: [output, input],
            weight,
            words: Some(Rc::new(|x| codes::pack(&columns(x)?.t(), 4))),
            codes: Rc::new(|x| Ok(columns(x)?.t())),
            scales,
            lay: Rc::new(|x| Ok(x.t())),
            zeros,
            groups,
        };
        integers.put(checkpoint, settings)?;
    }
    Ok(())
}

/// The codes in words [n, m], in the order of their columns: bytes [n, 8 · m].
fn columns(words: &Array) -> Result<Array> {
    let (rows, words_in_row) = (words.dim(0), words.dim(1));
    let codes = codes::unpack(words, 4)?.reshape(&[rows, words_in_row, 8])?;
    let ordered = codes.take_axis(Array::from_slice(&ORDER, &[8]), -1)?;
    Ok(ordered.reshape(&[rows, words_in_row * 8])?)
}
