//! Matrices of turned rows: W = V·R for a rotation R. What they are multiplied with is turned once, and V, which is what is stored,
//! then gives the same product.

use super::{Packed, stored::is_float};
use crate::{
    Error, Result, raw,
    turboquant::{Rotation, codebook},
};
use mlx_lm_kernels as kernels;
use mlx_rs::{Array, Dtype, ops, transforms::eval};
use std::{cell::RefCell, collections::HashMap};

/// A matrix [.., out, in] of turned rows.
#[derive(Clone, Debug)]
pub struct Rotated {
    /// Turns what the matrix is multiplied with.
    pub rotation: Rotation,
    /// The turned rows.
    pub values: Turned,
}

/// How turned rows are stored.
#[derive(Clone, Debug)]
pub enum Turned {
    /// As levels of a codebook.
    Codes(Codes),
    /// In one of MLX's layouts, with scales in float32.
    Packed(Packed),
}

/// Rows of unit length as numbers of levels, and their lengths: the `tq_packed`, `tq_norms` and `tq_bits` of a JANGTQ bundle.
#[derive(Clone, Debug)]
pub struct Codes {
    /// uint32 words [.., out, ⌈in / ⌊32 / bits⌋⌉]; the first code of a word is in its lowest bits.
    pub words: Array,
    /// The length of each row: [.., out], float32.
    pub norms: Array,
    /// Bits a code.
    pub bits: i32,
    /// Values in a row.
    pub columns: i32,
    /// The levels of several codes at a time, by the bits that these take together: [2^(n · bits), n], float32.
    levels: Array,
    /// Whether products are the CPU kernels' work.
    kernels: bool,
}

/// Rotations and levels, which matrices of one width share.
#[derive(Default)]
pub(super) struct Shared {
    rotations: RefCell<HashMap<(i32, u64), Rotation>>,
    levels: RefCell<HashMap<(i32, i32), Array>>,
}

impl Shared {
    pub(super) fn rotation(&self, dim: i32, seed: u64) -> Rotation {
        let mut known = self.rotations.borrow_mut();
        known.entry((dim, seed)).or_insert_with(|| Rotation::new(dim, seed)).clone()
    }

    fn levels(&self, dim: i32, bits: i32) -> Array {
        let mut known = self.levels.borrow_mut();
        known.entry((dim, bits)).or_insert_with(|| levels(dim, bits)).clone()
    }
}

/// Codes that are looked up together: as many as fill a byte, in words of a whole number of such groups.
fn together(bits: i32) -> i32 {
    if bits == 3 { 2 } else { 8 / bits }
}

fn levels(dim: i32, bits: i32) -> Array {
    let (book, together) = (codebook(dim.unsigned_abs() as usize, bits.unsigned_abs()), together(bits));
    let mask = (1usize << bits) - 1;
    let groups = 1usize << (together * bits);
    let values = (0..groups).flat_map(|group| (0..together).map(move |i| group >> (i * bits) & mask));
    let values: Vec<f32> = values.map(|code| book[code]).collect();
    Array::from_slice(&values, &[groups as i32, together])
}

impl Codes {
    /// Checks the parts of a matrix of this `shape` [.., out, in] against one another. `stored_bits` is what the bundle says a code
    /// takes, which must be what the words have room for; `name` is for errors.
    pub(super) fn new(
        name: &str,
        shape: &[i32],
        (words, norms): (Array, Array),
        stored_bits: &[u8],
        shared: &Shared,
    ) -> Result<Codes> {
        let [rows @ .., columns] = shape else { return Err(Error::tensor(name, "a scalar of codes")) };
        let columns = *columns;
        let bits = match stored_bits {
            [first, others @ ..] if (1..=8).contains(first) && others.iter().all(|b| b == first) => {
                i32::from(*first)
            }
            _ => {
                let found: Vec<u8> = stored_bits.iter().take(8).copied().collect();
                let why = format!("holds {found:?}, but must hold one number of bits, from 1 to 8");
                return Err(Error::tensor(format!("{name}.tq_bits"), why));
            }
        };
        let room = (columns - 1) / (32 / bits) + 1;
        for (part, array, last) in [("tq_packed", &words, room), ("tq_norms", &norms, 1)] {
            let wanted = [rows, &[last]].concat();
            if array.shape() != wanted {
                let (name, found) = (format!("{name}.{part}"), array.shape().to_vec());
                return Err(if part == "tq_packed" && found.len() == wanted.len() {
                    let why = format!(
                        "shape {found:?} is not {wanted:?}, which {columns} codes of {bits} bits need"
                    );
                    Error::tensor(name, why)
                } else {
                    Error::Shape { name, found, wanted }
                });
            }
        }
        if words.dtype() != Dtype::Uint32 || !is_float(norms.dtype()) {
            let (w, n) = (words.dtype(), norms.dtype());
            return Err(Error::tensor(
                name,
                format!("codes of {w:?} with norms of {n:?} are no JANGTQ matrix"),
            ));
        }
        let norms = norms.reshape(rows)?.as_dtype(Dtype::Float32)?;
        norms.eval()?;
        Ok(Codes { words, norms, bits, columns, levels: shared.levels(columns, bits), kernels: false })
    }

    /// The same, for the CPU kernels if `kernels`.
    pub(super) fn with_kernels(self, kernels: bool) -> Codes {
        Codes { kernels, ..self }
    }

    fn kernel(&self) -> kernels::Codes<'_> {
        let Codes { words, norms, levels, bits, columns, .. } = self;
        kernels::Codes { words, norms, levels, bits: *bits, columns: *columns }
    }

    /// Matrix `i` of a stack.
    fn only(&self, i: i32) -> Result<Codes> {
        let of = |a: &Array| Ok::<_, Error>(raw::slice(a, 0, i, i + 1)?.squeeze_axes(&[0])?);
        Ok(Codes { words: of(&self.words)?, norms: of(&self.norms)?, levels: self.levels.clone(), ..*self })
    }

    /// The values of `words` [.., in / ..], which are some of this matrix: rows of unit length [.., in], float32.
    pub fn look_up(&self, words: &Array) -> Result<Array> {
        let together = together(self.bits);
        let groups = if together * self.bits == 8 {
            words.view_dtype(Dtype::Uint8)?
        } else {
            let width = together * self.bits;
            let shifts: Vec<u32> = (0..32 / self.bits / together).map(|i| 1 << (i * width)).collect();
            let shifts = Array::from_slice(&shifts, &[shifts.len() as i32]);
            let groups = words.expand_dims(-1)?.floor_divide(shifts)?;
            groups.remainder(Array::from_slice(&[1u32 << width], &[]))?.flatten(-2, -1)?
        };
        let values = self.levels.take_axis(groups, 0)?.flatten(-2, -1)?;
        if values.dim(-1) == self.columns {
            return Ok(values);
        }
        Ok(raw::slice(&values, values.ndim() - 1, 0, self.columns)?)
    }
}

impl Rotated {
    /// The plain matrix, in float32.
    pub fn dense(&self) -> Result<Array> {
        let turned = match &self.values {
            Turned::Codes(c) => c.look_up(&c.words)?.multiply(c.norms.expand_dims(-1)?)?,
            Turned::Packed(p) => raw::dequantize(&p.weight, &p.scales, p.biases.as_ref(), p.format())?,
        };
        self.rotation.inverse(&turned)
    }

    /// The plain rows of the numbers `ids` [..], in float32: [.., in].
    pub fn rows(&self, ids: &Array) -> Result<Array> {
        let take = |a: &Array| a.take_axis(ids, 0);
        let turned = match &self.values {
            Turned::Codes(c) => c.look_up(&take(&c.words)?)?.multiply(take(&c.norms)?.expand_dims(-1)?)?,
            Turned::Packed(p) => {
                let biases = p.biases.as_ref().map(take).transpose()?;
                raw::dequantize(&take(&p.weight)?, &take(&p.scales)?, biases.as_ref(), p.format())?
            }
        };
        self.rotation.inverse(&turned)
    }

    /// x · Wᵀ of an x [.., in] that is turned already, for a W [out, in]: [.., out], float32.
    pub fn product(&self, turned: &Array) -> Result<Array> {
        match &self.values {
            Turned::Codes(c) => c.product(turned),
            Turned::Packed(p) => {
                let biases = p.biases.as_ref();
                Ok(raw::quantized_matmul(turned, &p.weight, &p.scales, biases, true, p.format())?)
            }
        }
    }

    /// `x[rows] · W[ids]ᵀ` of matrices x [.., 1, in] that are turned already, for a stack W [E, out, in]: [.., 1, out] for every one of
    /// `ids` [..], float32. Without `rows` there is one of x for each, and `ids` ascend.
    pub fn gather(&self, turned: &Array, rows: Option<&Array>, ids: &Array) -> Result<Array> {
        match &self.values {
            Turned::Codes(c) => c.gather(turned, rows, ids),
            Turned::Packed(p) => {
                let (biases, sorted) = (p.biases.as_ref(), rows.is_none());
                let to = (rows, ids);
                Ok(raw::gather_qmm(turned, &p.weight, &p.scales, biases, to, p.format(), sorted)?)
            }
        }
    }
}

/// Values that are looked up at a time, if a row or a matrix of a stack is no more: 64 MiB.
const AT_ONCE: i32 = 1 << 24;

/// Products by MLX's operations look up levels for a part of the rows, or of the matrices, at a time: in float32 a model may be larger
/// than the computer.
impl Codes {
    fn product(&self, x: &Array) -> Result<Array> {
        if self.kernels {
            return Ok(kernels::codes_product(x, self.kernel(), None)?);
        }
        let rows = self.words.dim(0);
        let at_once = (AT_ONCE / self.columns.max(1)).max(1);
        let starts = (0..rows).step_by(at_once as usize);
        let parts = starts.map(|start| -> Result<Array> {
            let words = raw::slice(&self.words, 0, start, rows.min(start.saturating_add(at_once)))?;
            Ok(ops::matmul(x, self.look_up(&words)?.t())?)
        });
        Ok(joined(parts.collect::<Result<_>>()?, -1)?.multiply(&self.norms)?)
    }

    fn gather(&self, x: &Array, rows: Option<&Array>, ids: &Array) -> Result<Array> {
        if self.kernels {
            return Ok(kernels::codes_product(x, self.kernel(), Some((rows, ids)))?);
        }
        let x = x.flatten(0, -3)?;
        let y = match rows {
            Some(rows) => {
                self.by_pair(&x.take_axis(rows.flatten(None, None)?, 0)?, &ids.flatten(None, None)?)?
            }
            None => self.by_matrix(&x, &ids.flatten(None, None)?)?,
        };
        Ok(y.reshape(&[ids.shape(), &y.shape()[1..]].concat())?)
    }

    /// x [n, 1, in] with a matrix of its own for each: for a few of them.
    fn by_pair(&self, x: &Array, ids: &Array) -> Result<Array> {
        let one = i64::from(self.words.dim(1)) * i64::from(self.columns);
        let at_once = (i64::from(AT_ONCE) / one.max(1)).max(1) as i32;
        let (count, mut parts) = (ids.dim(0), Vec::new());
        for start in (0..count).step_by(at_once as usize) {
            let part = |a: &Array| raw::slice(a, 0, start, count.min(start.saturating_add(at_once)));
            let ids = part(ids)?;
            let w = self.look_up(&self.words.take_axis(&ids, 0)?)?;
            let y = ops::matmul(part(x)?, w.swap_axes(-1, -2)?)?;
            parts.push(y.multiply(self.norms.take_axis(&ids, 0)?.expand_dims(-2)?)?);
            if count > at_once {
                eval(parts.last())?;
            }
        }
        Ok(joined(parts, 0)?)
    }

    /// x [n, 1, in] in ascending order of the matrices that they go to, each of which is looked up once.
    fn by_matrix(&self, x: &Array, ids: &Array) -> Result<Array> {
        let ids = ids.to_vec_cast::<i32>().map_err(|e| Error::Unsupported(e.to_string()))?;
        let (mut start, mut parts) = (0, Vec::new());
        for same in ids.chunk_by(|a, b| a == b) {
            let end = start + same.len() as i32;
            parts.push(self.only(same[0])?.product(&raw::slice(x, 0, start, end)?)?);
            eval(parts.last())?;
            start = end;
        }
        Ok(joined(parts, 0)?)
    }
}

/// The parts along an axis as one array.
fn joined(mut parts: Vec<Array>, axis: i32) -> Result<Array, mlx_rs::error::Exception> {
    if parts.len() == 1 { Ok(parts.remove(0)) } else { ops::concatenate(&parts, axis) }
}
