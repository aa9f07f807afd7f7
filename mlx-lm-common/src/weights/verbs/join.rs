//! Modules, put together.

use super::{Part, members};
use crate::{
    Error, Result,
    weights::{Checkpoint, Derived, Source, Tensor},
};
use mlx_rs::ops;

impl Checkpoint {
    /// Makes one module `to` of the modules `from`, whose outputs, the rows of their weights, follow one another.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] where one of them has a part that another lacks, [`Error::Tensor`] for parts that differ in more than
    /// the number of rows.
    pub fn join(&mut self, from: &[&str], to: &str) -> Result<()> {
        let Some(first) = from.first() else { return Ok(()) };
        for member in members(self, first) {
            let mut parts = Vec::with_capacity(from.len());
            for name in from.iter().map(|module| member.of(module)) {
                let tensor = self.take(&name).ok_or_else(|| Error::MissingTensor(name.clone()))?;
                parts.push((name, tensor));
            }
            let to = member.of(to);
            let from_last = if member.part == Part::Bias { 1 } else { 2 };
            let whole = follow(&to, parts, from_last)?;
            self.put(to, whole)?;
        }
        Ok(())
    }
}

/// Tensors that follow one another along an axis, counted from the end.
fn follow(name: &str, parts: Vec<(String, Tensor)>, from_last: usize) -> Result<Tensor> {
    let differ = || Error::tensor(name, "cannot be joined: its parts differ in shape or type");
    let kind = |t: &Tensor| Some((t.shape().len().checked_sub(from_last)?, t.dtype()?, t.shape().to_vec()));
    let kinds: Option<Vec<_>> = parts.iter().map(|(_, t)| kind(t)).collect();
    let Some([(axis, dtype, first), others @ ..]) = kinds.as_deref() else { return Err(differ()) };
    let mut shape = first.clone();
    for (a, d, other) in others {
        let mut rest = other.clone();
        if (a, d) != (axis, dtype) || rest.len() != shape.len() {
            return Err(differ());
        }
        rest[*axis] = shape[*axis];
        if rest != shape {
            return Err(differ());
        }
        shape[*axis] = shape[*axis].checked_add(other[*axis]).ok_or_else(differ)?;
    }
    let (axis, dtype) = (*axis as i32, *dtype);
    let inputs = parts.into_iter().map(|(name, t)| Source::new(name, t, 1)).collect();
    let join = move |parts: &[mlx_rs::Array]| Ok(ops::concatenate(parts, axis)?);
    Ok(Tensor::Derived(Derived::new(inputs, shape, dtype, join)))
}
