//! 4-bit floats as gpt-oss publishes them: `x_blocks` [.., groups, 16] with two values in a byte, `x_scales` [.., groups]. They
//! are MLX's mxfp4 but for the names.

use super::{ending, part};
use crate::{
    Error, Result,
    weights::{Checkpoint, Tensor},
};
use mlx_rs::Dtype;

pub(super) fn decode(checkpoint: &mut Checkpoint) -> Result<()> {
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
    }
    Ok(())
}
