//! Integers as compressed-tensors packs them: `weight_packed` [out, in / 8] holds 4-bit codes q in MLX's order, `weight_scale`
//! [out, groups] floats s; w = (q - 8) · s.

use super::{FLOATS, codes, ending, part, repeats, source};
use crate::{
    Error, Result,
    weights::{Checkpoint, Derived, Tensor},
};
use mlx_rs::{Array, Dtype};

pub(super) fn decode(checkpoint: &mut Checkpoint) -> Result<()> {
    for stem in ending(checkpoint, ".weight_packed") {
        for other in ["weight_zero_point", "weight_g_idx", "weight_global_scale"] {
            if checkpoint.contains(&format!("{stem}.{other}")) {
                let why =
                    "is of an encoding that is not supported; symmetric integers without reordering are";
                return Err(Error::tensor(format!("{stem}.{other}"), why));
            }
        }
        let types = [Dtype::Int32, Dtype::Uint32];
        let (name, mut weight) = part(checkpoint, format!("{stem}.weight_packed"), &types, None)?;
        let scales = part(checkpoint, format!("{stem}.weight_scale"), &FLOATS, None)?;
        let (Tensor::Plain(words), &[rows, groups]) = (&mut weight, scales.1.shape()) else {
            return Err(Error::tensor(scales.0, format!("{:?} is no shape of a matrix", scales.1.shape())));
        };
        let &[_, count] = &words.shape[..] else {
            return Err(Error::tensor(name, format!("{:?} is no shape of a matrix", words.shape)));
        };
        if words.shape[0] != rows {
            let (found, wanted) = (vec![rows, groups], vec![words.shape[0], groups]);
            return Err(Error::Shape { name: scales.0, found, wanted });
        }
        let Some(columns) = count.checked_mul(8) else {
            return Err(Error::tensor(name, "has too many columns"));
        };
        words.dtype = Dtype::Uint32;
        let times = repeats(&scales.0, columns, groups)?;
        // The shape that is meant is a tensor of its own; what is asked for says the same.
        checkpoint.take(&format!("{stem}.weight_shape"));
        let (dtype, shape) = (scales.1.dtype().unwrap_or(Dtype::Float32), vec![rows, groups * times]);
        let scales = source(scales, 2);
        // Eight is a power of two: exact in any type.
        let biases = Derived::new(vec![scales.clone()], shape.clone(), dtype, move |x| {
            codes::repeat(&x[0].multiply(Array::from_f32(-8.0).as_dtype(dtype)?)?, times)
        });
        let scales = Derived::new(vec![scales], shape, dtype, move |x| codes::repeat(&x[0], times));
        checkpoint.put(format!("{stem}.weight"), weight)?;
        checkpoint.put(format!("{stem}.scales"), Tensor::Derived(scales))?;
        checkpoint.put(format!("{stem}.biases"), Tensor::Derived(biases))?;
    }
    Ok(())
}
