//! Verbs that move values or change how they are counted.

use crate::{
    Error, Result,
    weights::{Checkpoint, Derived, Source, Tensor},
};
use mlx_rs::Dtype;

impl Checkpoint {
    /// Swaps the last two axes.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a tensor of fewer axes, or one that is packed.
    pub fn transpose(&mut self, which: impl Fn(&str) -> bool) -> Result<()> {
        for name in self.names(which) {
            let Some(tensor) = self.take(&name) else { continue };
            let (dtype, mut shape) = plain(&name, &tensor)?;
            let [.., rows, columns] = &mut shape[..] else {
                return Err(Error::tensor(name, format!("has the axes {shape:?}, but needs 2 at least")));
            };
            std::mem::swap(rows, columns);
            let source = Source::new(&name, tensor, 1);
            let moved = Derived::new(vec![source], shape, dtype, |x| Ok(x[0].swap_axes(-1, -2)?));
            self.put(name, Tensor::Derived(moved))?;
        }
        Ok(())
    }

    /// Kernels of depthwise convolutions, [C, 1, K] as torch has them, become [C, K, 1] as MLX has them. Those that are so
    /// already stay.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a tensor that is neither.
    pub fn conv_to_mlx(&mut self, which: impl Fn(&str) -> bool) -> Result<()> {
        self.reshape(which, |shape| match *shape {
            [c, k, 1] | [c, 1, k] => Some(vec![c, k, 1]),
            _ => None,
        })
    }

    /// Counts the same values, in the same order, as the shape that `shape` makes of the one that is there.
    ///
    /// # Errors
    /// [`Error::Tensor`] where `shape` gives nothing or another number of values, and for packed tensors.
    pub fn reshape(
        &mut self,
        which: impl Fn(&str) -> bool,
        shape: impl Fn(&[i32]) -> Option<Vec<i32>>,
    ) -> Result<()> {
        for name in self.names(which) {
            let Some(tensor) = self.take(&name) else { continue };
            let (dtype, old) = plain(&name, &tensor)?;
            let count =
                |shape: &[i32]| shape.iter().try_fold(1u64, |n, d| n.checked_mul(u64::try_from(*d).ok()?));
            let new = shape(&old).filter(|new| count(new).is_some() && count(new) == count(&old));
            let Some(new) = new else {
                return Err(Error::tensor(name, format!("shape {old:?} cannot be read as it should be")));
            };
            let tensor = match tensor {
                Tensor::Plain(mut t) => {
                    t.shape = new;
                    Tensor::Plain(t)
                }
                tensor => {
                    let to = new.clone();
                    let source = Source::new(&name, tensor, 1);
                    Tensor::Derived(Derived::new(vec![source], new, dtype, move |x| Ok(x[0].reshape(&to)?)))
                }
            };
            self.put(name, tensor)?;
        }
        Ok(())
    }
}

/// Type and shape of a tensor that holds plain values.
fn plain(name: &str, tensor: &Tensor) -> Result<(Dtype, Vec<i32>)> {
    match tensor.dtype() {
        Some(dtype) if dtype != Dtype::Uint32 => Ok((dtype, tensor.shape().to_vec())),
        _ => Err(Error::tensor(name, "is quantized; its values cannot be reordered")),
    }
}
