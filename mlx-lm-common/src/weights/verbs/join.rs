//! Modules, put together.

use super::{Part, members, rows_of};
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
            if member.part == Part::GlobalScale {
                // Names come in order: the weights are still there.
                for (module, part) in from.iter().zip(&mut parts) {
                    let rows = rows_of(self, &member, module).unwrap_or_default().to_vec();
                    *part = (part.0.clone(), by_row(part, rows)?);
                }
            }
            let to = member.of(to);
            let from_last =
                if matches!(member.part, Part::Bias | Part::GlobalScale | Part::CodeBits) { 1 } else { 2 };
            let whole = follow(&to, parts, from_last)?;
            self.put(to, whole)?;
        }
        Ok(())
    }
}

/// A global scale of a whole matrix, or of each of a stack, as one for each of its `rows` [.., out].
fn by_row((name, scale): &(String, Tensor), rows: Vec<i32>) -> Result<Tensor> {
    let dtype =
        scale.dtype().ok_or_else(|| Error::tensor(name, "is quantized, but must hold plain values"))?;
    let count: i64 = scale.shape().iter().map(|n| i64::from(*n)).product();
    let each = match rows.split_last() {
        _ if scale.shape() == rows => rows.clone(),
        _ if count == 1 => vec![1; rows.len()],
        Some((_, stack)) if count == stack.iter().map(|n| i64::from(*n)).product::<i64>() => {
            [stack, &[1]].concat()
        }
        _ => return Err(Error::Shape { name: name.clone(), found: scale.shape().to_vec(), wanted: rows }),
    };
    let shape = rows.clone();
    let spread = move |x: &[mlx_rs::Array]| Ok(ops::broadcast_to(x[0].reshape(&each)?, &rows)?);
    Ok(Tensor::Derived(Derived::new(vec![Source::new(name, scale.clone(), 1)], shape, dtype, spread)))
}

/// Tensors that follow one another along an axis, counted from the end.
fn follow(name: &str, parts: Vec<(String, Tensor)>, from_last: usize) -> Result<Tensor> {
    let names: Vec<_> = parts.iter().map(|(part, _)| format!("`{part}`")).collect();
    let differ =
        || Error::tensor(name, format!("cannot be joined: {} differ in shape or type", names.join(", ")));
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
