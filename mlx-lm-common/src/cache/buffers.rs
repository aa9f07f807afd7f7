//! Arrays that grow with the text: keys and values, or latents.
//!
//! One buffer with room to spare holds the positions in order. A bounded cache lets go of positions that nobody will see again when
//! the buffer is full, some later than it could: so order is plain, masks are ranges, and the last positions can be taken back.

use super::{
    attend::PositionScale,
    file::{Item, LayerState, MOST_POSITIONS},
};
use crate::{Error, Result, raw};
use mlx_rs::{Array, Dtype, ops};
use std::{ops::Range, sync::Arc};

/// Buffers grow by so many positions.
const STEP: i32 = 256;
/// So many positions can always be taken back, also from a bounded cache.
const SLACK: i32 = 64;

/// What a position sees, besides itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Everything before it.
    All,
    /// The first `keep` positions and the latest `size - keep`, its own included.
    Window { size: i32, keep: i32 },
    /// What came before it in its chunk of so many positions.
    Chunk(i32),
}

impl Reach {
    /// Positions that are always visible, and how many of the latest are.
    fn parts(self) -> (i32, Option<i32>) {
        match self {
            Reach::All => (0, None),
            Reach::Window { size, keep } => (keep, Some(size - keep)),
            Reach::Chunk(size) => (0, Some(size)),
        }
    }

    /// The most positions that one can see.
    pub(super) fn most(self) -> Option<i32> {
        let (keep, latest) = self.parts();
        latest.map(|n| keep + n)
    }

    /// The oldest position, pinned ones apart, that `position` sees.
    fn oldest(self, position: i32) -> i32 {
        match self {
            Reach::All => 0,
            Reach::Window { size, keep } => (position - (size - keep) + 1).max(0),
            Reach::Chunk(size) => position / size * size,
        }
    }

    /// The class that mlx-lm keeps such positions in.
    fn class(self) -> &'static str {
        match self {
            Reach::All => "KVCache",
            Reach::Window { .. } => "RotatingKVCache",
            Reach::Chunk(_) => "ChunkedKVCache",
        }
    }
}

/// Left padding of the rows of a batch.
#[derive(Clone)]
pub(super) struct Padding {
    pub(super) rows: Arc<[i32]>,
    /// The same as an array [B].
    pub(super) array: Array,
}

impl Padding {
    pub(super) fn new(rows: Arc<[i32]>) -> Padding {
        let array = Array::from_slice(&rows, &[rows.len() as i32]);
        Padding { rows, array }
    }
}

/// `N` buffers: keys and values are two.
#[derive(Clone)]
pub(super) struct Buffers<const N: usize = 2> {
    /// Each [B, heads, capacity, D], with a D of its own.
    held: Option<[Array; N]>,
    /// Filled slots.
    pub(super) len: i32,
    /// The position that comes next; `offset - len` positions were let go.
    pub(super) offset: i32,
    pub(super) reach: Reach,
    pub(super) padding: Option<Padding>,
    /// Positions that can always be taken back.
    slack: i32,
}

impl<const N: usize> Buffers<N> {
    pub(super) fn new(reach: Reach, rewind: i32, padding: Option<Arc<[i32]>>) -> Buffers<N> {
        let padding = padding.map(Padding::new);
        Buffers { held: None, len: 0, offset: 0, reach, padding, slack: rewind.max(SLACK) }
    }

    /// Takes over what a file holds.
    pub(super) fn restore(&mut self, state: LayerState) -> Result<()> {
        let wanted = self.reach.class();
        if state.class != wanted {
            return Err(Error::Cache(format!("a layer is a {}, this model wants a {wanted}", state.class)));
        }
        let odd = || Error::Cache(format!("a {wanted} is described by {:?}", state.items));
        let (arrays, numbers) = state.items.split_at_checked(N).ok_or_else(odd)?;
        let arrays: Vec<_> = arrays.iter().filter_map(Item::array).collect();
        let numbers: Option<Vec<i32>> = numbers.iter().map(Item::number).collect();
        let numbers =
            numbers.filter(|n| n.iter().all(|n| (0..=MOST_POSITIONS).contains(n))).ok_or_else(odd)?;
        let Ok(arrays) = <[&Array; N]>::try_from(arrays) else {
            let nothing = state.items[..N].iter().all(|item| matches!(item, Item::Nothing));
            return if nothing { Ok(()) } else { Err(odd()) };
        };
        let (shape, alike) =
            (arrays[0].shape(), |a: &&Array| a.shape().get(..3) == arrays[0].shape().get(..3));
        if shape.len() != 4 || !arrays.iter().all(|a| a.ndim() == 4 && alike(a)) {
            let shapes = arrays.map(Array::shape);
            return Err(Error::Cache(format!(
                "a layer keeps {shapes:?}, which are not [B, heads, length, D] each"
            )));
        }
        let slots = shape[2];
        let other = |found: String, wanted: String| {
            Err(Error::Cache(format!("a layer keeps {found}, here {wanted} are wanted")))
        };
        // Which ranges of slots make up the text, in order.
        let (ranges, offset): (Vec<(i32, i32)>, i32) = match (self.reach, &numbers[..]) {
            (Reach::All, &[offset]) if (0..=slots).contains(&offset) => (vec![(0, offset)], offset),
            (Reach::Window { size, keep }, &[offset, k, s, next]) => {
                if (k, s) != (keep, size) {
                    return other(format!("{k} of {s} positions"), format!("{keep} of {size}"));
                }
                if !(0..=slots).contains(&next) || offset < next || keep > next {
                    return Err(odd());
                }
                // A ring that has wrapped: the oldest position is the one to be overwritten next.
                let wrapped = next < slots && offset > next;
                (if wrapped { vec![(0, keep), (next, slots), (keep, next)] } else { vec![(0, next)] }, offset)
            }
            (Reach::Chunk(size), &[offset, s, start]) => {
                if s != size {
                    return other(format!("chunks of {s} positions"), format!("chunks of {size}"));
                }
                let held = offset.checked_sub(start).filter(|n| start >= 0 && (0..=slots).contains(n));
                let held = held.ok_or_else(odd)?;
                if start > self.reach.oldest(offset) {
                    return Err(odd());
                }
                (vec![(0, held)], offset)
            }
            _ => return Err(odd()),
        };
        let in_order = |a: &Array| -> Result<Array> {
            let parts =
                ranges.iter().filter(|(from, to)| from < to).map(|(from, to)| raw::slots(a, *from, *to));
            let parts = parts.collect::<Result<Vec<_>, _>>()?;
            Ok(match &parts[..] {
                [one] => one.clone(),
                [] => raw::slots(a, 0, 0)?,
                many => ops::concatenate(many, 2)?,
            })
        };
        let held = each(|i| in_order(arrays[i]))?;
        (self.len, self.offset) = (held[0].dim(2), offset);
        self.held = Some(held);
        Ok(())
    }

    /// What a file keeps.
    pub(super) fn state(&self) -> Result<LayerState> {
        if self.padding.is_some() {
            return Err(Error::Unsupported("the cache of a padded batch cannot be saved".into()));
        }
        let mut items = match self.held {
            Some(_) => self.view(0, self.len)?.map(Item::Array).to_vec(),
            None => vec![Item::Nothing; N],
        };
        let numbers = match self.reach {
            Reach::All => vec![self.offset],
            Reach::Window { size, keep } => vec![self.offset, keep, size, self.len],
            Reach::Chunk(size) => vec![self.offset, size, self.gone()],
        };
        items.extend(numbers.into_iter().map(Item::Number));
        Ok(LayerState { class: self.reach.class().into(), items })
    }

    /// Slots that are never let go: the first positions of every row.
    fn pinned(&self) -> i32 {
        match self.reach.parts() {
            (0, _) => 0,
            (keep, _) => keep + self.widest_padding(),
        }
    }

    fn widest_padding(&self) -> i32 {
        self.padding.iter().flat_map(|p| p.rows.iter()).max().copied().unwrap_or(0)
    }

    /// The factor of the queries of the next `new` positions of every row, if all have the same.
    pub(super) fn q_factor(&self, scale: Option<PositionScale>, new: i32) -> Option<f32> {
        let (first, last) = (self.offset - self.widest_padding(), self.offset + new - 1);
        scale.map_or(Some(1.0), |scale| scale.uniform(first, last))
    }

    /// Positions that were let go.
    pub(super) fn gone(&self) -> i32 {
        self.offset - self.len
    }

    /// Makes the buffers large enough for `new` more positions; `shapes` are [B, heads, D] of each.
    pub(super) fn make_room(&mut self, new: i32, shapes: [[i32; 3]; N], dtype: Dtype) -> Result<()> {
        let capacity = self.held.as_ref().map_or(0, |held| held[0].dim(2));
        let pins = self.pinned();
        let spacious = |latest: i32| {
            capacity / 2 > pins.saturating_add(latest).saturating_add(self.slack + STEP) && new < STEP
        };
        let bound = self.reach.parts().1;
        if self.len + new <= capacity && !bound.is_some_and(spacious) {
            return Ok(());
        }
        // (pinned, latest) slots to keep of a bounded cache; all of the others.
        let (pinned, latest) = match bound {
            Some(n) if self.len > pins.saturating_add(n - 1).saturating_add(self.slack) => {
                (pins, n - 1 + self.slack)
            }
            _ => (0, self.len),
        };
        let kept = pinned + latest;
        let spare = if bound.is_some() { STEP / 2 } else { 0 };
        let target = (kept + new + spare + STEP - 1) / STEP * STEP;
        let len = self.len;
        let grow = |old: Option<&Array>, [batch, heads, dim]: [i32; 3]| -> Result<Array> {
            let zeros = ops::zeros_dtype(&[batch, heads, target - kept, dim], dtype)?;
            let Some(old) = old else { return Ok(zeros) };
            let part = |r: Range<i32>| raw::slots(old, r.start, r.end);
            Ok(match pinned {
                0 => ops::concatenate(&[part(len - latest..len)?, zeros], 2)?,
                _ => ops::concatenate(&[part(0..pinned)?, part(len - latest..len)?, zeros], 2)?,
            })
        };
        let old = self.held.take();
        self.held = Some(each(|i| grow(old.as_ref().map(|held| &held[i]), shapes[i]))?);
        self.len = kept;
        Ok(())
    }

    /// Appends [B, heads, L, D] to each.
    pub(super) fn write(&mut self, entries: [&Array; N]) -> Result<()> {
        let new = entries[0].dim(2);
        let shapes = entries.map(|x| [x.dim(0), x.dim(1), x.dim(3)]);
        self.make_room(new, shapes, entries[0].dtype())?;
        let (from, to) = (self.len, self.len + new);
        let Some(held) = self.held.as_mut() else { return Err(Error::Cache("no buffer".into())) };
        for (buffer, new) in held.iter_mut().zip(entries) {
            *buffer = raw::with_slots(buffer, new, from, to)?;
        }
        self.advance(new);
        Ok(())
    }

    /// Counts positions that were written.
    pub(super) fn advance(&mut self, new: i32) {
        self.len += new;
        self.offset += new;
    }

    /// Gives the buffers away, to one who writes into their memory; they come back through [`Buffers::put`].
    pub(super) fn take(&mut self) -> Result<[Array; N]> {
        self.held.take().ok_or_else(|| Error::Cache("no buffer".into()))
    }

    pub(super) fn put(&mut self, held: [Array; N]) {
        self.held = Some(held);
    }

    /// Slots `from..to` of each.
    pub(super) fn view(&self, from: i32, to: i32) -> Result<[Array; N]> {
        let Some(held) = &self.held else { return Err(Error::Cache("no buffer".into())) };
        each(|i| Ok(raw::slots(&held[i], from, to)?))
    }

    /// What the `new` latest positions see: all slots from the first number on, as far as the mask says ([new, slots] or
    /// [B, 1, new, slots], true where visible); without a mask, all slots up to their own.
    pub(super) fn visible(&self, new: i32) -> Result<(i32, Option<Array>)> {
        if self.padding.is_some() {
            return Ok((0, Some(self.mask(new, 0)?)));
        }
        let (pinned, gone) = (self.pinned(), self.gone());
        let slot = |oldest: i32| (oldest - gone).max(pinned);
        let first = if pinned == 0 { slot(self.reach.oldest(self.offset - new)) } else { 0 };
        // Where the last of them sees all that the first one sees, and nothing lies between pinned and visible slots.
        let plain =
            slot(self.reach.oldest(self.offset - 1)) <= first.max(pinned) && (pinned == 0 || gone == 0);
        Ok((first, if plain { None } else { Some(self.mask(new, first)?) }))
    }

    /// Which of the slots from `first` on the latest `new` positions see: [L, T], or [B, 1, L, T] where rows are padded.
    pub(super) fn mask(&self, new: i32, first: i32) -> Result<Array> {
        let int = Array::from_int;
        let range = |from: i32, to: i32| ops::arange::<_, i32>(from, to, 1);
        let (pinned, gone) = (self.pinned().min(self.len), self.gone());
        // Positions, since slots do not tell how far pinned ones are away.
        let columns = match pinned {
            0 => range(first + gone, self.offset)?,
            _ => ops::concatenate(&[range(0, pinned)?, range(pinned + gone, self.offset)?], 0)?,
        };
        let rows = range(self.offset - new, self.offset)?.expand_dims(-1)?;
        // Where the text of each row begins.
        let starts = match &self.padding {
            Some(p) => p.array.reshape(&[-1, 1, 1, 1])?,
            None => int(0),
        };
        let mut visible = columns.le(&rows)?;
        match self.reach {
            Reach::All => {}
            Reach::Window { size, keep } => {
                let mut seen = columns.gt(&rows.subtract(int(size - keep))?)?;
                if keep > 0 {
                    seen = seen.logical_or(columns.lt(starts.add(int(keep))?)?)?;
                }
                visible = visible.logical_and(seen)?;
            }
            Reach::Chunk(size) => {
                let chunk = |positions: &Array| positions.subtract(&starts)?.floor_divide(int(size));
                visible = visible.logical_and(chunk(&columns)?.eq(&chunk(&rows)?)?)?;
            }
        }
        if self.padding.is_some() {
            // Padding sees itself: what sees nothing is not a number in some of MLX's kernels.
            visible = visible.logical_and(columns.ge(&starts)?)?.logical_or(columns.eq(&rows)?)?;
        }
        Ok(visible)
    }

    pub(super) fn can_trim(&self, n: i32) -> bool {
        let (pinned, gone) = (self.pinned(), self.gone());
        let (Some(latest), true) = (self.reach.parts().1, gone > 0) else { return n <= self.len };
        // The next position, once `n` are gone, must find all that it may see. Chunks of padded rows begin anywhere.
        let next = self.offset - n;
        let oldest = match self.padding {
            Some(_) => next - latest + 1,
            None => self.reach.oldest(next),
        };
        n <= self.len - pinned && pinned + gone <= oldest.max(pinned)
    }

    /// Takes back the last `n` positions, if [`Buffers::can_trim`] allows it.
    pub(super) fn trim(&mut self, n: i32) -> i32 {
        if n <= 0 || !self.can_trim(n) {
            return 0;
        }
        self.len -= n;
        self.offset -= n;
        n
    }

    pub(super) fn nbytes(&self) -> usize {
        self.held.iter().flatten().map(Array::nbytes).sum()
    }

    pub(super) fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.held.iter().flatten()
    }
}

/// `f` of 0 to N - 1.
fn each<const N: usize>(mut f: impl FnMut(usize) -> Result<Array>) -> Result<[Array; N]> {
    let all = (0..N).map(&mut f).collect::<Result<Vec<_>>>()?;
    all.try_into().map_err(|_| Error::Cache("no buffer".into()))
}
