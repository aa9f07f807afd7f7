//! Integer codes in groups of columns: w = (q - z) · s. They stay packed, as MLX's affine code, where runs of 32 columns share scale
//! and zero point; else they become plain floats.

use super::{Settings, codes, source};
use crate::{
    Error, Result,
    weights::{Checkpoint, Derived, Encoding, Kept, Source, Tensor},
};
use mlx_rs::{Array, Dtype, ops};
use std::rc::Rc;

/// Brings an array as it is stored into another form.
pub(super) type Step = Rc<dyn Fn(&Array) -> Result<Array>>;

/// A matrix [rows, columns] of integer codes.
pub(super) struct Integers {
    /// The module that it belongs to.
    pub(super) stem: String,
    /// What the encoding is called.
    pub(super) what: &'static str,
    pub(super) bits: u32,
    pub(super) shape: [i32; 2],
    /// The codes as they are stored.
    pub(super) weight: (String, Tensor),
    /// Makes of them MLX's words [rows, columns · bits / 32], if they are not.
    pub(super) words: Option<Step>,
    /// Makes of them numbers [rows, columns].
    pub(super) codes: Step,
    pub(super) scales: (String, Tensor),
    /// Makes of the scales [rows, groups].
    pub(super) lay: Step,
    /// Zero points, and what makes of them float32 [rows, groups]; without them zero is in the middle.
    pub(super) zeros: Option<((String, Tensor), Step)>,
    pub(super) groups: Groups,
}

/// Which columns share a scale.
#[derive(Clone)]
pub(super) enum Groups {
    /// So many, as many times.
    Equal { size: i32, count: i32 },
    /// The group of each column.
    Listed(Rc<[i32]>, i32),
}

impl Groups {
    /// Of `columns` with so many groups. `index` lists the group of each column; without it, groups are equal, or of `size` but for the
    /// last one. `name` is of the scales.
    pub(super) fn new(
        name: &str,
        columns: i32,
        count: i32,
        size: Option<i64>,
        index: Option<(String, Vec<i64>)>,
    ) -> Result<Groups> {
        if let Some((name, index)) = index {
            let listed = index.iter().map(|g| i32::try_from(*g).ok().filter(|g| (0..count).contains(g)));
            let listed: Option<Rc<[i32]>> = listed.collect();
            let Some(listed) = listed else {
                let wrong = index.iter().find(|g| **g < 0 || **g >= i64::from(count)).unwrap_or(&0);
                return Err(Error::tensor(name, format!("names group {wrong} of {count}")));
            };
            let size = columns.checked_div(count).unwrap_or(0);
            let plain = size > 0
                && columns % count == 0
                && listed.iter().enumerate().all(|(i, g)| i as i32 / size == *g);
            return Ok(if plain { Groups::Equal { size, count } } else { Groups::Listed(listed, count) });
        }
        if count > 0 && columns > 0 && columns % count == 0 {
            return Ok(Groups::Equal { size: columns / count, count });
        }
        let size = size.and_then(|size| i32::try_from(size).ok()).filter(|size| *size > 0 && columns > 0);
        match size.filter(|size| (columns - 1) / size + 1 == count) {
            Some(size) => Ok(Groups::Listed((0..columns).map(|i| i / size).collect(), count)),
            None => {
                Err(Error::tensor(name, format!("{count} scales for {columns} columns make no equal groups")))
            }
        }
    }

    fn count(&self) -> i32 {
        match self {
            Groups::Equal { count, .. } | Groups::Listed(_, count) => *count,
        }
    }

    /// What spreads [rows, groups] over groups of a size that MLX has, and how many of them there are.
    fn spread(&self) -> Option<(Step, i32)> {
        let sizes = [128, 64, 32];
        match self {
            Groups::Equal { size, count } => {
                let times = size / sizes.into_iter().find(|s| size % s == 0)?;
                Some((Rc::new(move |x| codes::repeat(x, times)), count.checked_mul(times)?))
            }
            Groups::Listed(of, _) => {
                let runs = |size: &usize| {
                    of.chunks(*size).all(|run| run.len() == *size && run.iter().all(|g| *g == run[0]))
                };
                let size = sizes.map(|size| size as usize).into_iter().find(runs)?;
                let index: Vec<i32> = of.iter().step_by(size).copied().collect();
                let count = index.len() as i32;
                Some((Rc::new(move |x| Ok(x.take_axis(Array::from_slice(&index, &[count]), -1)?)), count))
            }
        }
    }

    /// What spreads [rows, groups] over all columns.
    fn over_columns(&self) -> Step {
        match self.clone() {
            Groups::Equal { size, .. } => Rc::new(move |x| codes::repeat(x, size)),
            Groups::Listed(of, _) => {
                Rc::new(move |x| Ok(x.take_axis(Array::from_slice(&of, &[of.len() as i32]), -1)?))
            }
        }
    }

    fn in_words(&self) -> String {
        match self {
            Groups::Equal { count: 1, .. } => "a scale for each row".into(),
            Groups::Equal { size, .. } => format!("groups of {size}"),
            Groups::Listed(..) => "listed groups".into(),
        }
    }
}

impl Integers {
    /// Puts `weight`, and `scales` and `biases` if it stays packed, into the checkpoint.
    pub(super) fn put(self, checkpoint: &mut Checkpoint, settings: &Settings) -> Result<()> {
        let [rows, columns] = self.shape;
        if rows == 0 || columns == 0 {
            return Err(Error::tensor(
                self.weight.0,
                format!("{rows} rows of {columns} columns have no values"),
            ));
        }
        settings.compare(checkpoint, &self.weight.0, self.bits, &self.groups);
        let groups = self.groups.count();
        let stored = format!("{} {}-bit, {}", self.what, self.bits, self.groups.in_words());
        let weight = format!("{}.weight", self.stem);
        let middle = (1 << (self.bits - 1)) as f32;
        let symmetric = self.zeros.is_none();
        let scales = source(self.scales, if self.groups.spread().is_some() { 2 } else { 1 });
        let zeros: Vec<(Rc<Source>, Step)> =
            self.zeros.into_iter().map(|(zeros, step)| (source(zeros, 1), step)).collect();
        let zero_step = zeros.first().map(|(_, step)| step.clone());
        let zeros = zeros.into_iter().map(|(zeros, _)| zeros);
        let zero = move |x: Option<&Array>| match (&zero_step, x) {
            (Some(step), Some(x)) => step(x),
            _ => Ok(Array::from_f32(middle)),
        };
        let lay = self.lay;
        let Some((spread, count)) = self.groups.spread() else {
            let why = match self.groups {
                Groups::Equal { size, .. } => format!("MLX has no groups of {size}"),
                Groups::Listed(..) => "MLX has no groups of columns that lie apart".into(),
            };
            checkpoint.note(self.stem, Encoding { stored, kept: Kept::Widened(why) });
            let (codes, over) = (self.codes, self.groups.over_columns());
            let inputs = [source(self.weight, 1), scales].into_iter().chain(zeros).collect();
            let floats = Derived::new(inputs, vec![rows, columns], Dtype::Float32, move |x| {
                let scale = over(&lay(&x[1])?.as_dtype(Dtype::Float32)?)?;
                let zero = zero(x.get(2))?;
                let zero = if zero.ndim() == 2 { over(&zero)? } else { zero };
                Ok(codes(&x[0])?.as_dtype(Dtype::Float32)?.subtract(zero)?.multiply(scale)?)
            });
            return checkpoint.put(weight, Tensor::Derived(floats));
        };
        let kept = Kept::Packed(format!("affine {}-bit", self.bits));
        checkpoint.note(self.stem.as_str(), Encoding { stored, kept });
        // Biases are products, which only float32 holds exactly, and MLX wants both in one type. Half a power of two is exact in any.
        let own = scales.tensor().dtype().unwrap_or(Dtype::Float32);
        let dtype = if symmetric { own } else { Dtype::Float32 };
        let shape = vec![rows, count];
        let (lay_biases, spread_biases) = (lay.clone(), spread.clone());
        let inputs = [scales.clone()].into_iter().chain(zeros).collect();
        let biases = Derived::new(inputs, shape.clone(), dtype, move |x| {
            let scale = lay_biases(&x[0])?.as_dtype(Dtype::Float32)?;
            let zero = zero(x.get(1))?;
            let biases = scale.multiply(zero)?.negative()?.as_dtype(dtype)?;
            spread_biases(&ops::broadcast_to(biases, &[rows, groups])?)
        });
        let scales = Derived::new(vec![scales], shape, dtype, move |x| spread(&lay(&x[0])?.as_dtype(dtype)?));
        let packed = match (self.words, self.weight) {
            (Some(words), codes) => {
                let shape = vec![rows, (i64::from(columns) * i64::from(self.bits) / 32) as i32];
                Tensor::Derived(Derived::new(vec![source(codes, 1)], shape, Dtype::Uint32, move |x| {
                    words(&x[0])
                }))
            }
            (None, (name, codes)) => codes::as_words(&name, codes)?,
        };
        checkpoint.put(weight, packed)?;
        checkpoint.put(format!("{}.scales", self.stem), Tensor::Derived(scales))?;
        checkpoint.put(format!("{}.biases", self.stem), Tensor::Derived(biases))
    }
}
