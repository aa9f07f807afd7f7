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
    /// As [`Checkpoint::permute`].
    pub fn transpose(&mut self, which: impl Fn(&str) -> bool) -> Result<()> {
        for name in self.names(which) {
            let rank = self.get(&name).map_or(0, |t| t.shape().len());
            if rank < 2 {
                return Err(self.no_axes(&name, "at least 2"));
            }
            let axes: Vec<usize> = (0..rank - 2).chain([rank - 1, rank - 2]).collect();
            self.reorder(&name, &axes)?;
        }
        Ok(())
    }

    /// Reorders the axes: axis `i` of the result is `axes[i]`.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a tensor with another number of axes, one that is packed, or `axes` that are no order.
    pub fn permute(&mut self, which: impl Fn(&str) -> bool, axes: &[usize]) -> Result<()> {
        self.names(which).iter().try_for_each(|name| self.reorder(name, axes))
    }

    fn reorder(&mut self, name: &str, axes: &[usize]) -> Result<()> {
        let Some(tensor) = self.take(name) else { return Ok(()) };
        let (dtype, shape) = plain(name, &tensor)?;
        let mut sorted = axes.to_vec();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..shape.len()) {
            return Err(Error::tensor(name, format!("axes {axes:?} are no order of those of {shape:?}")));
        }
        let (axes, new): (Vec<i32>, Vec<i32>) = axes.iter().map(|&a| (a as i32, shape[a])).unzip();
        let source = Source::new(name, tensor, 1);
        let moved = Derived::new(vec![source], new, dtype, move |x| Ok(x[0].transpose_axes(&axes)?));
        self.put(name.into(), Tensor::Derived(moved))
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

    /// Drops axes of size 1.
    pub fn squeeze(&mut self, which: impl Fn(&str) -> bool) -> Result<()> {
        self.reshape(which, |shape| Some(shape.iter().copied().filter(|&n| n != 1).collect()))
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

    fn no_axes(&self, name: &str, wanted: &str) -> Error {
        let shape = self.get(name).map(Tensor::shape).unwrap_or_default();
        Error::tensor(name, format!("has {} axes {shape:?}, but needs {wanted}", shape.len()))
    }
}

/// Type and shape of a tensor that holds plain values.
fn plain(name: &str, tensor: &Tensor) -> Result<(Dtype, Vec<i32>)> {
    match tensor.dtype() {
        Some(dtype) if dtype != Dtype::Uint32 => Ok((dtype, tensor.shape().to_vec())),
        _ => Err(Error::tensor(name, "is quantized; its values cannot be reordered")),
    }
}
