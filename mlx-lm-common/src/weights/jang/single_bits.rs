//! Weights of a single bit each, which MLX's operations do not know: they become codes of two bits with the same values.

use crate::{
    Result,
    weights::{Checkpoint, Derived, Source, Tensor},
};
use mlx_rs::{Array, Dtype};

impl Checkpoint {
    /// If the matrix `module` packs each of its `columns` into a single bit, it will be read with two.
    ///
    /// # Errors
    /// None but those of a name that is there twice.
    pub(in crate::weights) fn widen_single_bits(&mut self, module: &str, columns: i32) -> Result<bool> {
        let name = format!("{module}.weight");
        let packs = |t: &Tensor| {
            let words = t.shape().last().copied().unwrap_or_default();
            t.dtype() == Some(Dtype::Uint32) && i64::from(words) * 32 == i64::from(columns)
        };
        if !self.get(&name).is_some_and(packs) || !self.contains(&format!("{module}.biases")) {
            return Ok(false);
        }
        let Some(tensor) = self.take(&name) else { return Ok(false) };
        let mut shape = tensor.shape().to_vec();
        if let Some(words) = shape.last_mut() {
            *words = words.saturating_mul(2);
        }
        let source = Source::new(&name, tensor, 1);
        let wide = Derived::new(vec![source], shape, Dtype::Uint32, |x| widen(&x[0])).with_float_type(None);
        self.put(name, Tensor::Derived(wide))?;
        Ok(true)
    }
}

/// Words [.., n] of 32 bits, as words [.., 2 n] of 16 codes of two bits.
fn widen(words: &Array) -> Result<Array> {
    let table: Vec<u16> = (0..256u16).map(|byte| (0..8).map(|i| (byte >> i & 1) << (2 * i)).sum()).collect();
    let codes = Array::from_slice(&table, &[256]).take(&words.view_dtype(Dtype::Uint8)?)?;
    Ok(codes.view_dtype(Dtype::Uint32)?)
}
