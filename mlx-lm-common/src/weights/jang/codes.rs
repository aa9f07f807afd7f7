//! JANGTQ: matrices of turned rows, stored as `tq_packed` codes with `tq_norms` and `tq_bits`. They become the `weight`, `scales` and
//! `tq_bits` of their modules, so verbs move them as they move what MLX has packed.

use crate::{
    Error, Result,
    weights::{Checkpoint, Stored, Tensor, stored::is_float},
};
use mlx_rs::Dtype;

/// Gives the parts of JANGTQ matrices their names.
///
/// # Errors
/// [`Error::MissingTensor`] for a part that is not there, [`Error::Tensor`] or [`Error::Shape`] for parts that do not belong together,
/// and for matrices of the format JANGH.
pub(super) fn decode(checkpoint: &mut Checkpoint) -> Result<()> {
    const CODES: &str = ".tq_packed";
    if let Some((name, _)) = checkpoint.iter().find(|(name, _)| name.contains(".tq2_")) {
        let why = "is of a JANGH matrix (mode `jangtq2`: levels from a formula, one scale for each row), a format that cannot be read; \
                   use a JANG, JANGTQ or MLX version of the model";
        return Err(Error::tensor(name, why));
    }
    let bases = checkpoint.names(|name| name.ends_with(CODES));
    for name in bases {
        let base = name.strip_suffix(CODES).unwrap_or(&name).to_string();
        let [norms_name, bits_name] = ["tq_norms", "tq_bits"].map(|part| format!("{base}.{part}"));
        if !checkpoint.contains(&bits_name) {
            return Err(Error::MissingTensor(bits_name));
        }
        let (Some(codes), Some(norms)) = (checkpoint.take(&name), checkpoint.take(&norms_name)) else {
            return Err(Error::MissingTensor(norms_name));
        };
        if codes.dtype() != Some(Dtype::Uint32) || codes.shape().len() < 2 {
            let (dtype, shape) = (codes.dtype(), codes.shape());
            let why = format!("is {dtype:?} of shape {shape:?}, but must hold rows of 32-bit words");
            return Err(Error::tensor(name, why));
        }
        let norms = column(&norms_name, norms, &codes.shape()[..codes.shape().len() - 1])?;
        checkpoint.put(format!("{base}.weight"), codes)?;
        checkpoint.put(format!("{base}.scales"), norms)?;
    }
    let missing = checkpoint.iter().find_map(|(name, _)| {
        let bits =
            name.strip_suffix(".tq_bits").filter(|base| !checkpoint.contains(&format!("{base}.weight")));
        name.strip_suffix(".tq_norms").or(bits).map(|base| format!("{base}{CODES}"))
    });
    missing.map_or(Ok(()), |codes| Err(Error::MissingTensor(codes)))
}

/// One norm for each of these `rows` [.., out], as [.., out, 1]: scales of groups that are whole rows.
fn column(name: &str, norms: Tensor, rows: &[i32]) -> Result<Tensor> {
    match norms {
        Tensor::Plain(t) if is_float(t.dtype) && t.shape == rows => {
            Ok(Tensor::Plain(Stored { shape: [rows, &[1]].concat(), ..t }))
        }
        t if t.dtype().is_some_and(is_float) => {
            Err(Error::Shape { name: name.into(), found: t.shape().to_vec(), wanted: rows.to_vec() })
        }
        t => Err(Error::tensor(name, format!("holds {:?}, but must hold floats", t.dtype()))),
    }
}
