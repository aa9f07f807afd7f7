//! The points that the IQ types choose values from.
//!
//! `grids.bin` has them as little-endian uint16 numbers: eight codes of two bits, or four of three, the first lowest. It is written
//! by `xtask/oracle/gguf_grids.py`.

/// Where the points of a grid begin, and how many there are: a power of two.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    start: usize,
    points: usize,
}

const fn after(before: Grid, points: usize) -> Grid {
    Grid { start: before.start + before.points, points }
}

pub(super) const IQ2_XXS: Grid = Grid { start: 0, points: 256 };
pub(super) const IQ2_XS: Grid = after(IQ2_XXS, 512);
pub(super) const IQ2_S: Grid = after(IQ2_XS, 1024);
pub(super) const IQ3_XXS: Grid = after(IQ2_S, 256);
pub(super) const IQ3_S: Grid = after(IQ3_XXS, 512);
/// Of IQ1_S and IQ1_M; the codes are values plus one.
pub(super) const IQ1: Grid = after(IQ3_S, 2048);

static POINTS: &[u8; 2 * (IQ1.start + IQ1.points)] = include_bytes!("grids.bin");

fn point(grid: Grid, index: usize) -> u16 {
    let at = 2 * (grid.start + index % grid.points);
    u16::from_le_bytes([POINTS[at], POINTS[at + 1]])
}

/// Eight codes of two bits.
pub(super) fn twos(grid: Grid, index: usize) -> impl Iterator<Item = u8> {
    let point = point(grid, index);
    (0..8).map(move |i| (point >> (2 * i)) as u8 & 3)
}

/// Four codes of three bits.
pub(super) fn threes(grid: Grid, index: usize) -> impl Iterator<Item = u8> {
    let point = point(grid, index);
    (0..4).map(move |i| (point >> (3 * i)) as u8 & 7)
}
