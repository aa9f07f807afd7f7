//! Blocks whose values are looked up: in a table of sixteen, or several at once in a grid.
//!
//! Grids hold magnitudes; signs are apart, eight bits for eight values, or seven where their number is even.

use super::{
    Fault, Parts, codes, finite,
    grids::{self, IQ1, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS},
    half, legacy,
};

/// What the sixteen codes of IQ4 mean, plus 128.
const IQ4: [u8; 16] = [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];
/// The magnitudes of the IQ2 types.
const IQ2: [u8; 4] = [8, 25, 43, 0];
/// The magnitudes of IQ3_XXS, halved.
const IQ3: [u8; 8] = [2, 6, 10, 14, 18, 22, 26, 31];
const DELTA: f32 = 0.125;

/// Bits of seven signs and, so that their number is even, of an eighth.
fn even(signs: u32) -> u8 {
    let seven = signs as u8 & 0x7f;
    seven | (seven.count_ones() as u8 & 1) << 7
}

fn u16_at(bytes: &[u8], i: usize) -> u16 {
    u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// `middle` + or - a magnitude.
fn signed(middle: u8, magnitude: u8, negative: bool) -> u8 {
    if negative { middle - magnitude } else { middle + magnitude }
}

/// 16 bytes: low nibbles first, then high ones.
fn iq4(nibbles: &[u8], out: &mut [u8; 32]) {
    let (low, high) = out.split_at_mut(16);
    for ((l, h), q) in low.iter_mut().zip(high).zip(nibbles) {
        (*l, *h) = (IQ4[usize::from(q & 15)], IQ4[usize::from(q >> 4)]);
    }
}

pub(super) fn iq4_nl(blocks: &[u8], to: Parts<'_>) -> Result<(), Fault> {
    codes(blocks, to.weight, |b: &[u8; 18], out: &mut [u8; 32]| iq4(&b[2..], out));
    legacy::scaled(legacy::first::<18>(blocks), 7, to.scales, to.biases, to.wide)
}

pub(super) fn iq4_xs(block: &[u8; 136], d: f32, group: usize, out: &mut [u8; 32]) -> (f32, f32) {
    let high = u16_at(block, 1) >> (2 * group) & 3;
    let low = block[4 + group / 2] >> (group % 2 * 4) & 15;
    iq4(&block[8 + 16 * group..][..16], out);
    let scale = d * f32::from((low | (high as u8) << 4).cast_signed() - 32);
    (scale, -128.0 * scale)
}

pub(super) fn iq2_xxs(block: &[u8; 66], d: f32, group: usize, out: &mut [u8; 32]) -> (f32, f32) {
    let at = 2 + 8 * group;
    let word = u32_at(block, at + 4);
    for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let signs = even(word >> (7 * i));
        let grid = grids::twos(IQ2_XXS, block[at + i].into());
        for (j, (o, g)) in out.iter_mut().zip(grid).enumerate() {
            *o = signed(128, IQ2[usize::from(g)], signs >> j & 1 == 1);
        }
    }
    let scale = d * (0.5 + (word >> 28) as f32) * 0.25;
    (scale, -128.0 * scale)
}

pub(super) fn iq3_xxs(block: &[u8; 98], d: f32, group: usize, out: &mut [u8; 32]) -> (f32, f32) {
    let indices = &block[2 + 8 * group..][..8];
    let word = u32_at(block, 66 + 4 * group);
    for (i, (out, index)) in out.as_chunks_mut::<4>().0.iter_mut().zip(indices).enumerate() {
        let signs = even(word >> (7 * (i / 2))) >> (i % 2 * 4);
        let grid = grids::threes(IQ3_XXS, (*index).into());
        for (j, (o, g)) in out.iter_mut().zip(grid).enumerate() {
            *o = signed(32, IQ3[usize::from(g)], signs >> j & 1 == 1);
        }
    }
    let scale = d * (0.5 + (word >> 28) as f32);
    (scale, -32.0 * scale)
}

/// The magnitudes are odd: with both signs they are the sixteen codes of four bits, times two, less fifteen.
pub(super) fn iq3_s(block: &[u8; 110], d: f32, group: usize, out: &mut [u8; 32]) -> (f32, f32) {
    let (indices, ninth) = (&block[2 + 8 * group..][..8], u32::from(block[66 + group]));
    let signs = u32_at(block, 74 + 4 * group);
    for (i, (out, low)) in out.as_chunks_mut::<4>().0.iter_mut().zip(indices).enumerate() {
        let grid = grids::threes(IQ3_S, usize::from(*low) | (ninth as usize >> i & 1) << 8);
        for (j, (o, g)) in out.iter_mut().zip(grid).enumerate() {
            *o = if signs >> (4 * i + j) & 1 == 1 { 7 - g } else { 8 + g };
        }
    }
    let scale = d * f32::from(2 * (block[106 + group / 2] >> (group % 2 * 4) & 15) + 1);
    (2.0 * scale, -15.0 * scale)
}

pub(super) fn iq1_s(block: &[u8; 50], d: f32, group: usize, out: &mut [u8; 32]) -> (f32, f32) {
    let (low, high) = (&block[2 + 4 * group..][..4], u16_at(&block[34..], group));
    for (i, (out, low)) in out.as_chunks_mut::<8>().0.iter_mut().zip(low).enumerate() {
        let index = usize::from(*low) | usize::from(high >> (3 * i) & 7) << 8;
        out.iter_mut().zip(grids::twos(IQ1, index)).for_each(|(o, g)| *o = g);
    }
    let scale = d * f32::from(2 * (high >> 12 & 7) + 1);
    (scale, scale * (if high >> 15 == 0 { DELTA } else { -DELTA } - 1.0))
}

/// Eight values of an IQ2 grid, by a scale and signs.
fn eight(out: &mut [f32; 8], scale: f32, grid: impl Iterator<Item = u8>, signs: u8) {
    for (j, (o, g)) in out.iter_mut().zip(grid).enumerate() {
        let value = scale * f32::from(IQ2[usize::from(g)]);
        *o = if signs >> j & 1 == 1 { -value } else { value };
    }
}

pub(super) fn iq2_xs(block: &[u8; 74], out: &mut [f32; 256]) -> Result<(), Fault> {
    let d = half(block, 0)?;
    for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let code = u16_at(&block[2..], i);
        let scale = block[66 + i / 4] >> (i / 2 % 2 * 4) & 15;
        let grid = grids::twos(IQ2_XS, usize::from(code & 511));
        eight(out, d * (0.5 + f32::from(scale)) * 0.25, grid, even(u32::from(code) >> 9));
    }
    Ok(())
}

pub(super) fn iq2_s(block: &[u8; 82], out: &mut [f32; 256]) -> Result<(), Fault> {
    let d = half(block, 0)?;
    for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let high = block[66 + i / 4] >> (i % 4 * 2) & 3;
        let scale = block[74 + i / 4] >> (i / 2 % 2 * 4) & 15;
        let grid = grids::twos(IQ2_S, usize::from(block[2 + i]) | usize::from(high) << 8);
        eight(out, d * (0.5 + f32::from(scale)) * 0.25, grid, block[34 + i]);
    }
    Ok(())
}

/// The factor is in the highest nibbles of the scales.
pub(super) fn iq1_m(block: &[u8; 56], out: &mut [f32; 256]) -> Result<(), Fault> {
    let scales = &block[48..];
    let d = finite((0..4).fold(0, |bits, i| bits | u16_at(scales, i) >> 12 << (4 * i)))?;
    for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let scale = d * f32::from(2 * (u16_at(scales, i / 8) >> (i / 2 % 4 * 3) & 7) + 1);
        let high = block[32 + i / 2] >> (i % 2 * 4) & 15;
        let delta = if high & 8 == 0 { DELTA } else { -DELTA };
        let grid = grids::twos(IQ1, usize::from(block[i]) | usize::from(high & 7) << 8);
        out.iter_mut().zip(grid).for_each(|(o, g)| *o = scale * (f32::from(g) - 1.0 + delta));
    }
    Ok(())
}
