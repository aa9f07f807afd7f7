//! Blocks of 32 values with a float16 scale, and with a float16 minimum in some.

use super::{
    super::f16::{is_finite, times_power_of_two},
    Fault, Parts,
    bits::{five_bits, four_bits},
    codes,
};
use half::f16;

pub(super) fn q4_0(blocks: &[u8], to: Parts<'_>) -> Result<(), Fault> {
    codes(blocks, to.weight, |b: &[u8; 18], out: &mut [u8; 16]| four_bits(&b[2..], out));
    scaled(first::<18>(blocks), 3, to.scales, to.biases, to.wide)
}

pub(super) fn q4_1(blocks: &[u8], to: Parts<'_>) -> Result<(), Fault> {
    codes(blocks, to.weight, |b: &[u8; 20], out: &mut [u8; 16]| four_bits(&b[4..], out));
    stored::<20>(blocks, to.scales, to.biases, to.wide)
}

pub(super) fn q5_0(blocks: &[u8], to: Parts<'_>) -> Result<(), Fault> {
    codes(blocks, to.weight, |b: &[u8; 22], out: &mut [u8; 20]| five_bits(&b[2..6], &b[6..], out));
    scaled(first::<22>(blocks), 4, to.scales, to.biases, to.wide)
}

pub(super) fn q5_1(blocks: &[u8], to: Parts<'_>) -> Result<(), Fault> {
    codes(blocks, to.weight, |b: &[u8; 24], out: &mut [u8; 20]| five_bits(&b[4..8], &b[8..], out));
    stored::<24>(blocks, to.scales, to.biases, to.wide)
}

pub(super) fn q8_0(blocks: &[u8], to: Parts<'_>) -> Result<(), Fault> {
    // From -128..128 to 0..256.
    codes(blocks, to.weight, |b: &[u8; 34], out: &mut [u8; 32]| {
        out.iter_mut().zip(&b[2..]).for_each(|(o, q)| *o = q ^ 0x80);
    });
    scaled(first::<34>(blocks), 7, to.scales, to.biases, to.wide)
}

/// The bits of the scales that blocks begin with.
pub(super) fn first<const N: usize>(blocks: &[u8]) -> impl Iterator<Item = u16> {
    blocks.as_chunks::<N>().0.iter().map(|b| u16::from_le_bytes([b[0], b[1]]))
}

/// Scales as they are, and biases that are -2^`power` times as much: codes are signed, around the middle of their range.
pub(super) fn scaled(
    halves: impl Iterator<Item = u16>,
    power: u16,
    scales: &mut [u8],
    biases: &mut [u8],
    wide: bool,
) -> Result<(), Fault> {
    if wide {
        let pairs = scales.as_chunks_mut::<4>().0.iter_mut().zip(biases.as_chunks_mut::<4>().0);
        for (half, (s, b)) in halves.zip(pairs) {
            let scale = super::finite(half)?;
            (*s, *b) = (scale.to_le_bytes(), (-scale * f32::from(1_u16 << power)).to_le_bytes());
        }
        return Ok(());
    }
    let pairs = scales.as_chunks_mut::<2>().0.iter_mut().zip(biases.as_chunks_mut::<2>().0);
    for (half, (s, b)) in halves.zip(pairs) {
        if !is_finite(half) {
            return Err(Fault::NotFinite);
        }
        let bias = times_power_of_two(half, power).ok_or(Fault::Overflow)? ^ 0x8000;
        (*s, *b) = (half.to_le_bytes(), bias.to_le_bytes());
    }
    Ok(())
}

/// Scales and, after them, the biases.
fn stored<const N: usize>(
    blocks: &[u8],
    scales: &mut [u8],
    biases: &mut [u8],
    wide: bool,
) -> Result<(), Fault> {
    let part = |at: usize, out: &mut [u8]| -> Result<(), Fault> {
        let halves = blocks.as_chunks::<N>().0.iter().map(|b| u16::from_le_bytes([b[at], b[at + 1]]));
        let size = if wide { 4 } else { 2 };
        for (half, out) in halves.zip(out.chunks_exact_mut(size)) {
            if !is_finite(half) {
                return Err(Fault::NotFinite);
            }
            if wide {
                out.copy_from_slice(&f16::from_bits(half).to_f32().to_le_bytes());
            } else {
                out.copy_from_slice(&half.to_le_bytes());
            }
        }
        Ok(())
    };
    part(0, scales)?;
    part(2, biases)
}
