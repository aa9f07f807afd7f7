//! Ternary weights (arXiv 2402.17764) as published: `weight` [out / 4, in] has in each byte the codes of four rows that lie
//! out / 4 apart, 0, 1 and 2 for -1, 0 and 1; `weight_scale` is one float. They become 2-bit codes with w = s · q - s.

use super::{FLOATS, Settings, all_finite, codes, part, repeats, source};
use crate::{
    Config, Error, Result,
    weights::{Checkpoint, Derived, Encoding, Kept, Tensor},
};
use mlx_rs::{Array, Dtype, ops};

pub(super) fn decode(checkpoint: &mut Checkpoint, config: &Config, settings: &Settings) -> Result<()> {
    // Those that MLX has quantized besides say nothing of ternary codes any more.
    let ternary = settings.is_bitnet() || config.model_type == "bitnet";
    let is_packed = |t: &Tensor| t.dtype() == Some(Dtype::Uint8);
    let all = checkpoint.iter().filter(|(_, t)| ternary && is_packed(t));
    let stems: Vec<String> = all.filter_map(|(n, _)| n.strip_suffix(".weight").map(str::to_string)).collect();
    for stem in stems {
        let weight = part(checkpoint, format!("{stem}.weight"), &[Dtype::Uint8], None)?;
        let scale = part(checkpoint, format!("{stem}.weight_scale"), &FLOATS, None)?;
        let &[quarter, columns] = weight.1.shape() else {
            return Err(Error::tensor(weight.0, format!("{:?} is no shape of a matrix", weight.1.shape())));
        };
        let Some(rows) = quarter.checked_mul(4) else {
            return Err(Error::tensor(weight.0, "has too many rows"));
        };
        if scale.1.shape().iter().any(|n| *n != 1) {
            return Err(Error::Shape { name: scale.0, found: scale.1.shape().to_vec(), wanted: vec![1] });
        }
        let groups = repeats(&weight.0, columns, 1)?;
        let packed = Derived::new(vec![source(weight, 1)], vec![rows, columns / 16], Dtype::Uint32, |x| {
            codes::pack(&ops::concatenate(&codes::planes(&x[0], 2)?, 0)?, 2)
        });
        let divides = settings.divides();
        // The inverse of a scale is no number of its type.
        let dtype = scale.1.dtype().filter(|_| !divides).unwrap_or(Dtype::Float32);
        let (shape, name) = (vec![rows, groups], scale.0.clone());
        let all = move |x: &Array, sign: f32| {
            let x = x.reshape(&[1, 1])?.as_dtype(Dtype::Float32)?;
            let one = Array::from_f32(sign);
            let x = if divides { one.divide(x)? } else { one.multiply(x)? };
            all_finite(&name, &x)?;
            Ok(ops::broadcast_to(x.as_dtype(dtype)?, &[rows, groups])?)
        };
        let (scale, negative) = (source(scale, 2), all.clone());
        let biases = Derived::new(vec![scale.clone()], shape.clone(), dtype, move |x| negative(&x[0], -1.0));
        let scales = Derived::new(vec![scale], shape, dtype, move |x| all(&x[0], 1.0));
        let kept = Kept::Packed("affine 2-bit".into());
        checkpoint.note(stem.as_str(), Encoding { stored: "ternary".into(), kept });
        checkpoint.put(format!("{stem}.weight"), Tensor::Derived(packed))?;
        checkpoint.put(format!("{stem}.scales"), Tensor::Derived(scales))?;
        checkpoint.put(format!("{stem}.biases"), Tensor::Derived(biases))?;
    }
    Ok(())
}
