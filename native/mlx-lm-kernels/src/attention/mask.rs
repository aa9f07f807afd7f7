//! Which slots of a cache queries see.

use std::ops::Range;

/// Keys in a block.
pub(super) const KEYS: usize = 64;

/// A query at slot p sees slot j if j ≤ p, and j > p - window or j < keep.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mask {
    pub(super) window: Option<usize>,
    pub(super) keep: usize,
}

/// Slots in blocks: those that are always visible, then those of the windows.
#[derive(Clone, Debug)]
pub(super) struct Seen([Range<usize>; 2]);

impl Mask {
    /// The first slot of the window of a query at slot `p`.
    fn low(&self, p: usize) -> usize {
        self.window.map_or(0, |w| (p + 1).saturating_sub(w))
    }

    /// The slots, from `start` on, that some query at slots `first..=last` sees.
    pub(super) fn visible(&self, start: usize, first: usize, last: usize) -> Seen {
        let low = self.low(first);
        let from = low.max(start);
        Seen([start..self.keep.min(low).max(start), from..(last + 1).max(from)])
    }

    /// What the query at slot `p` does not see of `count` slots from `s0` on, as a range before which it sees all, and where
    /// what it sees ends. `None` if it sees nothing of them.
    pub(super) fn hidden(&self, p: usize, s0: usize, count: usize) -> Option<(Range<usize>, usize)> {
        let within = |slot: usize| slot.saturating_sub(s0).min(count);
        let (kept, low, end) = (within(self.keep), within(self.low(p)), within(p + 1));
        let hidden = kept.min(low)..low;
        (end > 0 && !(hidden.start == 0 && hidden.end >= end)).then_some((hidden, end))
    }
}

impl Seen {
    /// How many blocks there are.
    pub(super) fn blocks(&self) -> usize {
        self.0.iter().map(|r| r.len().div_ceil(KEYS)).sum()
    }

    /// First slot and size of block `i`.
    pub(super) fn block(&self, mut i: usize) -> (usize, usize) {
        for r in &self.0 {
            let blocks = r.len().div_ceil(KEYS);
            if i < blocks {
                let s0 = r.start + i * KEYS;
                return (s0, KEYS.min(r.end - s0));
            }
            i -= blocks;
        }
        (0, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every slot that a query sees by the definition, and no other, is seen once through blocks.
    #[test]
    fn blocks_show_what_the_definition_says() {
        for window in [None, Some(1), Some(5), Some(64), Some(100)] {
            for keep in [0, 1, 4, 70, 300] {
                for start in [0, 3, 90, 400] {
                    for (first, last) in [(0, 0), (0, 9), (63, 64), (130, 161), (299, 299)] {
                        let mask = Mask { window, keep };
                        let seen = mask.visible(start, first, last);
                        for p in first..=last {
                            let mut times = vec![0; last + 1];
                            for (s0, count) in (0..seen.blocks()).map(|b| seen.block(b)) {
                                let Some((hidden, end)) = mask.hidden(p, s0, count) else { continue };
                                (0..end).filter(|i| !hidden.contains(i)).for_each(|i| times[s0 + i] += 1);
                            }
                            for (j, times) in times.into_iter().enumerate() {
                                let near = window.is_none_or(|w| j + w > p);
                                let visible = j >= start && j <= p && (near || j < keep);
                                assert_eq!(
                                    times,
                                    usize::from(visible),
                                    "{mask:?} from {start}, {p} sees {j}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}
