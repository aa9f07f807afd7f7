//! Matrices of turned rows: W = V·R for a rotation R. What they are multiplied with is turned once, and V, which is what is stored,
//! then gives the same product.

use super::Packed;
use crate::{Error, Result, raw, turboquant::Rotation, turboquant::codebook};
use mlx_rs::{Array, Dtype, ops};
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
    /// In one of MLX's layouts.
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
        if words.dtype() != Dtype::Uint32 || norms.dtype() != Dtype::Float32 {
            let (w, n) = (words.dtype(), norms.dtype());
            return Err(Error::tensor(
                name,
                format!("codes of {w:?} with norms of {n:?} are no JANGTQ matrix"),
            ));
        }
        let norms = norms.reshape(rows)?;
        norms.eval()?;
        Ok(Codes { words, norms, bits, columns, levels: shared.levels(columns, bits) })
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

    /// x · Wᵀ of an x [.., in] that is turned already, for a W [out, in]: [.., out]. Codes are looked up for a part of the rows at a
    /// time.
    pub fn product(&self, turned: &Array) -> Result<Array> {
        let c = match &self.values {
            Turned::Codes(c) => c,
            Turned::Packed(p) => {
                let biases = p.biases.as_ref();
                return Ok(raw::quantized_matmul(turned, &p.weight, &p.scales, biases, true, p.format())?);
            }
        };
        let rows = c.words.dim(0);
        let at_once = (AT_ONCE / c.columns.max(1)).max(1);
        let starts = (0..rows).step_by(at_once as usize);
        let parts = starts.map(|start| -> Result<Array> {
            let words = raw::slice(&c.words, 0, start, rows.min(start.saturating_add(at_once)))?;
            Ok(ops::matmul(turned, c.look_up(&words)?.t())?)
        });
        let mut parts = parts.collect::<Result<Vec<_>>>()?;
        let y = if parts.len() == 1 { parts.remove(0) } else { ops::concatenate(&parts, -1)? };
        Ok(y.multiply(&c.norms)?)
    }
}

/// Values that are looked up at a time: 64 MiB.
const AT_ONCE: i32 = 1 << 24;
