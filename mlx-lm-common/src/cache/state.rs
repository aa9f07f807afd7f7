//! What recurrent layers remember: tails of convolutions and states of recurrences.
//!
//! A recurrence forgets, so positions can be taken back only as far as was asked for when the cache was made: for so many positions
//! it logs what went in, and going back computes the state anew from the latest one that is older.

use crate::{Error, Result, raw};
use mlx_rs::{Array, ops};
use std::{collections::VecDeque, sync::Arc};

/// A recurrence over the positions of `inputs` ([B, L, ..] each) from `state` on (nothing at the start of a text), with a layer's
/// `constants`: the outputs [B, L, ..] and the state after them.
pub type Recurrence =
    fn(state: Option<&Array>, inputs: &[Array], constants: &[Array]) -> Result<(Array, Array)>;

/// A log keeps about so many states, each the start of a span of positions.
const STATES: i32 = 8;

/// The memory of one recurrent layer, in slots: each is either the tail of a convolution or the state of a recurrence, as its first
/// use settles. Copies share their arrays.
#[derive(Clone, Debug)]
pub struct StateCache {
    slots: Vec<Slot>,
    /// The position that comes next.
    offset: i32,
    /// Positions to be logged.
    rewind: i32,
    /// Positions that are logged.
    logged: i32,
    left_padding: Option<Arc<[i32]>>,
}

#[derive(Clone, Debug)]
enum Slot {
    Empty,
    /// From a file: its first use tells what it is.
    Saved(Array),
    Conv(Conv),
    Scan(Scan),
}

/// The tail of a convolution.
#[derive(Clone, Debug)]
struct Conv {
    width: i32,
    /// What the convolution was given in its latest passes [B, width - 1 + L, C], and at least in its last.
    log: VecDeque<Array>,
}

/// The state of a recurrence.
#[derive(Clone, Debug)]
struct Scan {
    state: Option<Array>,
    step: Recurrence,
    constants: Vec<Array>,
    log: VecDeque<Span>,
}

/// A logged span of positions: the state before it, and what went in since, pass by pass.
#[derive(Clone, Debug)]
struct Span {
    before: Option<Array>,
    inputs: Vec<Vec<Array>>,
    len: i32,
}

impl StateCache {
    /// An empty cache of so many slots, whose latest `rewind` positions can be taken back. With 0, nothing is logged and only the
    /// whole text can be taken back. Rows of a batch may have padding on the left, in positions.
    pub fn new(slots: usize, rewind: i32, left_padding: Option<Arc<[i32]>>) -> StateCache {
        StateCache {
            slots: vec![Slot::Empty; slots],
            offset: 0,
            rewind: rewind.max(0),
            logged: 0,
            left_padding,
        }
    }

    /// The position that comes next.
    pub fn offset(&self) -> i32 {
        self.offset
    }

    /// Which of the next `len` columns are no padding, as [B, len]; nothing if none is.
    pub fn mask(&self, len: i32) -> Result<Option<Array>> {
        let Some(padding) = self.left_padding.as_ref().filter(|p| p.iter().any(|&p| p > self.offset)) else {
            return Ok(None);
        };
        let row = |&padding: &i32| (0..len).map(move |i| self.offset + i >= padding);
        let mask: Vec<bool> = padding.iter().flat_map(row).collect();
        Ok(Some(Array::from_slice(&mask, &[padding.len() as i32, len])))
    }

    /// Puts the last `width - 1` inputs of a convolution, zeros where the text begins, before `x` [B, L, C] and remembers:
    /// [B, width - 1 + L, C]. Padding in `x` must be zero.
    pub fn conv_input(&mut self, slot: usize, x: &Array, width: i32) -> Result<Array> {
        let rewind = self.rewind;
        let slot = self.slot(slot)?;
        let wanted = [x.dim(0), width - 1, x.dim(2)];
        let (tail, mut log) = match std::mem::replace(slot, Slot::Empty) {
            Slot::Empty => (ops::zeros_dtype(&wanted, x.dtype())?, VecDeque::new()),
            Slot::Saved(tail) => (tail.as_dtype(x.dtype())?, VecDeque::new()),
            Slot::Conv(conv) => (conv.tail()?, conv.log),
            Slot::Scan(_) => return Err(Error::Cache("a state is used as the tail of a convolution".into())),
        };
        check(&tail, &wanted)?;
        let input = ops::concatenate(&[&tail, x], 1)?;
        let (rows, new) = (input.dim(1), x.dim(1));
        log.push_back(if new > rewind.max(1) {
            // Nothing but what is needed of a long pass.
            raw::slice(&input, 1, new - rewind, rows)?.contiguous()?
        } else {
            input.clone()
        });
        shorten(&mut log, rewind, |pass| pass.dim(1) - width + 1);
        *slot = Slot::Conv(Conv { width, log });
        Ok(input)
    }

    /// Runs a recurrence over `inputs` ([B, L, ..] each) from the state of a slot, and stores the state after them. Padding must be
    /// such that it leaves the state alone.
    pub fn scan(
        &mut self,
        slot: usize,
        step: Recurrence,
        inputs: &[Array],
        constants: &[Array],
    ) -> Result<Array> {
        let rewind = self.rewind;
        let slot = self.slot(slot)?;
        let (mut state, mut log) = match std::mem::replace(slot, Slot::Empty) {
            Slot::Empty => (None, VecDeque::new()),
            Slot::Saved(state) => (Some(state), VecDeque::new()),
            Slot::Scan(scan) => (scan.state, scan.log),
            Slot::Conv(_) => return Err(Error::Cache("the tail of a convolution is used as a state".into())),
        };
        let len = inputs.first().map_or(0, |x| x.dim(1));
        let (mut outputs, mut latest) = (None, inputs.to_vec());
        if rewind > 0 && len > rewind {
            // Nothing but the latest positions of a long pass is logged.
            let (y, between) = step(state.as_ref(), &positions(inputs, 0, len - rewind)?, constants)?;
            (outputs, state, latest) = (Some(y), Some(between), positions(inputs, len - rewind, len)?);
        }
        let (y, after) = step(state.as_ref(), &latest, constants)?;
        if let Some(before) = &state {
            check(before, after.shape())?;
        }
        if rewind > 0 {
            let len = len.min(rewind);
            match log.back_mut() {
                Some(span) if span.len + len <= rewind / STATES && span.inputs[0].len() == latest.len() => {
                    span.inputs.push(latest);
                    span.len += len;
                }
                _ => log.push_back(Span { before: state, inputs: vec![latest], len }),
            }
            shorten(&mut log, rewind, |span| span.len);
        }
        *slot = Slot::Scan(Scan { state: Some(after), step, constants: constants.to_vec(), log });
        Ok(match outputs {
            Some(first) => ops::concatenate(&[first, y], 1)?,
            None => y,
        })
    }

    /// Ends a layer's pass over `len` positions.
    pub fn advance(&mut self, len: i32) {
        self.offset = self.offset.saturating_add(len);
        self.logged = self.logged.saturating_add(len).min(self.rewind);
    }

    /// Whether the last `n` positions can be taken back: as many as are logged, or all.
    pub fn can_trim(&self, n: i32) -> bool {
        0 <= n && (n <= self.logged || n == self.offset)
    }

    /// Takes back the last `n` positions, all of them or none, and returns how many.
    pub fn trim(&mut self, n: i32) -> i32 {
        if n <= 0 || !self.can_trim(n) {
            return 0;
        }
        if n == self.offset {
            *self = StateCache::new(self.slots.len(), self.rewind, self.left_padding.take());
            return n;
        }
        let back = |slot: &Slot| -> Result<Slot> {
            Ok(match slot {
                Slot::Conv(conv) => Slot::Conv(conv.clone().back(n)?),
                Slot::Scan(scan) => Slot::Scan(scan.clone().back(n)?),
                unused => unused.clone(),
            })
        };
        let Ok(slots) = self.slots.iter().map(back).collect::<Result<Vec<_>>>() else { return 0 };
        self.slots = slots;
        self.offset -= n;
        self.logged -= n;
        n
    }

    /// Bytes that are held.
    pub fn nbytes(&self) -> usize {
        self.arrays().iter().map(|a| a.nbytes()).sum()
    }

    /// The arrays that are held, for evaluation.
    pub fn arrays(&self) -> Vec<&Array> {
        self.slots.iter().flat_map(Slot::arrays).collect()
    }

    /// What a file keeps: an array for each slot in use, the last `width - 1` inputs of a convolution [B, width - 1, C] or the state of
    /// a recurrence.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a padded batch.
    pub fn saved(&self) -> Result<Vec<Option<Array>>> {
        if self.left_padding.is_some() {
            return Err(Error::Unsupported("the cache of a padded batch cannot be saved".into()));
        }
        let of_slot = |slot: &Slot| -> Result<Option<Array>> {
            Ok(match slot {
                Slot::Empty => None,
                Slot::Saved(array) => Some(array.clone()),
                Slot::Conv(conv) => Some(conv.tail()?.contiguous()?),
                Slot::Scan(scan) => scan.state.as_ref().map(Array::contiguous).transpose()?,
            })
        };
        self.slots.iter().map(of_slot).collect()
    }

    /// Fills a new cache with what [`StateCache::saved`] gave at `offset`. Nothing of it can be taken back but the whole.
    ///
    /// # Errors
    /// [`Error::Cache`] for another number of slots, or if slots and offset do not fit together. Shapes are checked at the first use.
    pub fn restore(mut self, saved: Vec<Option<Array>>, offset: i32) -> Result<StateCache> {
        let (slots, wanted) = (saved.len(), self.slots.len());
        let used: Vec<_> = saved.iter().flatten().collect();
        let batches = used.iter().all(|a| a.ndim() >= 3 && a.dim(0) == used[0].dim(0));
        if slots != wanted || !batches || used.len() != if offset > 0 { wanted } else { 0 } || offset < 0 {
            let shapes: Vec<_> = saved.iter().map(|a| a.as_ref().map(Array::shape)).collect();
            return Err(Error::Cache(format!(
                "a recurrent layer of {wanted} states is described by {shapes:?} at position {offset}"
            )));
        }
        self.slots = saved.into_iter().map(|a| a.map_or(Slot::Empty, Slot::Saved)).collect();
        self.offset = offset;
        Ok(self)
    }

    fn slot(&mut self, slot: usize) -> Result<&mut Slot> {
        let slots = self.slots.len();
        self.slots
            .get_mut(slot)
            .ok_or_else(|| Error::Cache(format!("slot {slot} of a recurrent layer that has {slots}")))
    }
}

impl Slot {
    fn arrays(&self) -> Vec<&Array> {
        match self {
            Slot::Empty => Vec::new(),
            Slot::Saved(array) => vec![array],
            Slot::Conv(conv) => conv.log.iter().collect(),
            Slot::Scan(scan) => {
                let logged = scan.log.iter().flat_map(|s| s.before.iter().chain(s.inputs.iter().flatten()));
                scan.state.iter().chain(logged).collect()
            }
        }
    }
}

impl Conv {
    fn tail(&self) -> Result<Array> {
        let Some(last) = self.log.back() else { return Err(Error::Cache("no tail".into())) };
        let rows = last.dim(1);
        Ok(raw::slice(last, 1, rows - self.width + 1, rows)?)
    }

    fn back(mut self, mut n: i32) -> Result<Conv> {
        while let Some(last) = self.log.pop_back() {
            let new = last.dim(1) - self.width + 1;
            if n < new || self.log.is_empty() {
                self.log.push_back(raw::slice(&last, 1, 0, last.dim(1) - n)?.contiguous()?);
                break;
            }
            n -= new;
            if n == 0 {
                break;
            }
        }
        Ok(self)
    }
}

impl Scan {
    fn back(mut self, mut n: i32) -> Result<Scan> {
        while n > 0 {
            let Some(span) = self.log.pop_back() else { return Err(Error::Cache("no log".into())) };
            if n < span.len {
                let len = span.len - n;
                let whole = (0..span.inputs[0].len()).map(|i| {
                    let parts: Vec<_> = span.inputs.iter().map(|pass| &pass[i]).collect();
                    ops::concatenate(&parts, 1)
                });
                let inputs = positions(&whole.collect::<Result<Vec<_>, _>>()?, 0, len)?;
                self.state = Some((self.step)(span.before.as_ref(), &inputs, &self.constants)?.1);
                self.log.push_back(Span { inputs: vec![inputs], len, ..span });
                break;
            }
            n -= span.len;
            self.state = span.before;
        }
        Ok(self)
    }
}

/// Drops the oldest entries of a log that still covers so many positions without them, but never the last.
fn shorten<T>(log: &mut VecDeque<T>, rewind: i32, len: impl Fn(&T) -> i32) {
    let mut after: i32 = log.iter().skip(1).map(&len).sum();
    while log.len() > 1 && after >= rewind {
        log.pop_front();
        after -= log.front().map_or(0, &len);
    }
}

/// Positions `from..to` of each input, on their own: they do not keep the rest alive.
fn positions(inputs: &[Array], from: i32, to: i32) -> Result<Vec<Array>> {
    inputs.iter().map(|x| Ok(raw::slice(x, 1, from, to)?.contiguous()?)).collect()
}

/// That what a slot remembers has a shape that fits the layer.
fn check(remembered: &Array, wanted: &[i32]) -> Result<()> {
    if remembered.shape() == wanted {
        return Ok(());
    }
    Err(Error::Cache(format!("a layer remembers {:?}, this model wants {wanted:?}", remembered.shape())))
}
