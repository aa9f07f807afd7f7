//! Fused modules, taken apart.

use super::{Part, members, rows_of};
use crate::{
    Error, Result,
    weights::{Checkpoint, Derived, Source, Tensor},
};
use mlx_rs::{Array, Dtype};
use std::rc::Rc;

impl Checkpoint {
    /// Takes the outputs of a fused module apart. `parts` names the modules and how many outputs each has in a group; the groups
    /// follow one another until the outputs end. So `[("q", 64), ("k", 16), ("v", 16)]` takes 96 outputs apart that lie one part
    /// after the other, and as many for each head if there are more; `[("gate", 1), ("up", 1)]` are interleaved.
    ///
    /// Outputs are the rows of a weight, `axis` -2; or its columns, -1, where a layout has weights [in, out]; or whatever axis,
    /// counted from the last one, they are of a convolution. A bias is cut along its last axis.
    ///
    /// # Errors
    /// [`Error::Tensor`] where the outputs are no whole number of groups, and for columns of packed weights.
    pub fn split(&mut self, module: &str, axis: i32, parts: &[(&str, i32)]) -> Result<()> {
        let group = parts.iter().try_fold(0i32, |sum, (_, size)| sum.checked_add((*size).max(0)));
        let group = group.filter(|group| *group > 0 && parts.iter().all(|(_, size)| *size > 0));
        let members = members(self, module);
        if !members.is_empty() {
            parts.iter().for_each(|(to, _)| self.aliases.module(module, to));
        }
        for member in members {
            let Some(tensor) = self.take(&member.name) else { continue };
            // Names come in order: the weight is still there.
            let whole = |c: &Checkpoint| rows_of(c, &member, module) != Some(tensor.shape());
            if member.part == Part::CodeBits || member.part == Part::GlobalScale && whole(self) {
                parts.iter().try_for_each(|(to, _)| self.put(member.of(to), tensor.clone()))?;
                continue;
            }
            let bad = |why: String| Error::tensor(&member.name, why);
            let shape = tensor.shape().to_vec();
            let packed = member.part != Part::Bias
                && (member.part != Part::Weight || matches!(tensor.dtype(), None | Some(Dtype::Uint32)));
            if packed && axis == -1 {
                return Err(bad("is packed along the axis that it would be split on".into()));
            }
            let from_last = if matches!(member.part, Part::Bias | Part::GlobalScale) { -1 } else { axis };
            let axis = usize::try_from(shape.len() as i64 + i64::from(from_last));
            let Some(axis) = axis.ok().filter(|a| *a < shape.len()) else {
                return Err(bad(format!("has no axis {from_last}: its shape is {shape:?}")));
            };
            let Some(group) = group.filter(|group| shape[axis] % group == 0) else {
                let sizes: Vec<i32> = parts.iter().map(|(_, size)| *size).collect();
                return Err(bad(format!(
                    "has {} entries on axis {axis} of {shape:?}, no whole number of groups of {sizes:?}",
                    shape[axis]
                )));
            };
            let source = Source::new(&member.name, tensor, parts.len());
            let mut start = 0;
            for (to, size) in parts {
                let part = match source.tensor() {
                    Tensor::Gguf(t) if axis + 1 < shape.len() || axis == 0 => {
                        Tensor::Gguf(t.cut(axis, group, start, *size)?)
                    }
                    _ => cut(&source, axis, group, start, *size)
                        .ok_or_else(|| bad("is quantized in blocks that cannot be split".into()))?,
                };
                self.put(member.of(to), part)?;
                start += size;
            }
        }
        Ok(())
    }
}

/// The `size` entries from `start` on of each group of `axis`: another place in the file, or computed.
fn cut(source: &Rc<Source>, axis: usize, group: i32, start: i32, size: i32) -> Option<Tensor> {
    if let Tensor::Plain(stored) = source.tensor()
        && let Some(part) = stored.cut(axis, group, start, size)
    {
        return Some(Tensor::Plain(part));
    }
    let dtype = source.tensor().dtype()?;
    let mut shape = source.tensor().shape().to_vec();
    let groups = shape[axis] / group;
    shape[axis] = groups * size;
    let (grouped, flat) = ([&shape[..axis], &[groups, group], &shape[axis + 1..]].concat(), shape.clone());
    let compute = move |x: &[Array]| {
        let parts = x[0].reshape(&grouped)?.split_at_indices(&[start, start + size], axis as i32 + 1)?;
        match <[Array; 3]>::try_from(parts) {
            Ok([_, part, _]) => Ok(part.reshape(&flat)?),
            Err(_) => Err(Error::Unsupported("MLX split an array into other than three".into())),
        }
    };
    Some(Tensor::Derived(Derived::new(vec![source.clone()], shape, dtype, compute)))
}
