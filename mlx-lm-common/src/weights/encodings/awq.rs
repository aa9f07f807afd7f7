//! Activation-aware quantization (arXiv 2306.00978) in AutoAWQ's layout for matrix products: `qweight` [in, out / 8] holds 4-bit
//! codes q, `qzeros` [groups, out / 8] codes z, `scales` [groups, out] floats s; w = (q - z) · s.

use super::{FLOATS, codes, ending, part, repeats, source};
use crate::{
    Error, Result,
    weights::{Checkpoint, Derived, Tensor},
};
use mlx_rs::{Array, Dtype};

/// Where in a word the code of each of eight columns lies.
const ORDER: [i32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

const WORDS: [Dtype; 2] = [Dtype::Int32, Dtype::Uint32];

pub(super) fn decode(checkpoint: &mut Checkpoint) -> Result<()> {
    for stem in ending(checkpoint, ".qweight") {
        let weight = part(checkpoint, format!("{stem}.qweight"), &WORDS, None)?;
        let scales = part(checkpoint, format!("{stem}.scales"), &FLOATS, None)?;
        let (&[input, words], &[groups, output]) = (weight.1.shape(), scales.1.shape()) else {
            return Err(Error::tensor(weight.0, format!("{:?} is no shape of a matrix", weight.1.shape())));
        };
        if i64::from(words) * 8 != i64::from(output) || input % 8 != 0 {
            let why = format!(
                "{words} words hold no {output} columns of 4 bits, or {input} rows are no multiple of 8"
            );
            return Err(Error::tensor(weight.0, why));
        }
        let times = repeats(&scales.0, input, groups)?;
        let zeros = format!("{stem}.qzeros");
        let zeros = match checkpoint.contains(&zeros) {
            true => Some(part(checkpoint, zeros, &WORDS, Some(&[groups, words]))?),
            false => None,
        };
        let packed = Derived::new(vec![source(weight, 1)], vec![output, input / 8], Dtype::Uint32, |x| {
            codes::pack(&columns(&x[0])?.t(), 4)
        });
        // Biases are products, which only float32 holds exactly, and MLX wants both in one type.
        let turned = move |x: &Array| codes::repeat(&x.as_dtype(Dtype::Float32)?.t(), times);
        let scales = source(scales, 2);
        let shape = vec![output, groups * times];
        let inputs = [Some(scales.clone()), zeros.map(|z| source(z, 1))].into_iter().flatten().collect();
        let biases = Derived::new(inputs, shape.clone(), Dtype::Float32, move |x| {
            let zeros = match x.get(1) {
                Some(zeros) => columns(zeros)?.as_dtype(Dtype::Float32)?,
                None => Array::from_f32(8.0),
            };
            turned(&x[0].as_dtype(Dtype::Float32)?.multiply(zeros)?.negative()?)
        });
        let scales = Derived::new(vec![scales], shape, Dtype::Float32, move |x| turned(&x[0]));
        checkpoint.put(format!("{stem}.weight"), Tensor::Derived(packed))?;
        checkpoint.put(format!("{stem}.scales"), Tensor::Derived(scales))?;
        checkpoint.put(format!("{stem}.biases"), Tensor::Derived(biases))?;
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
