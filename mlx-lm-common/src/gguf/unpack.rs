//! Blocks of GGUF to MLX's packed words, scales and biases, value for value.
//!
//! MLX has w = scale·code + bias for groups of 32 values, codes as one little-endian stream of bits. The layouts of the blocks are
//! those of ggml's `ggml-common.h`. Everything is little-endian.

use super::{
    f16::{is_finite, times_power_of_two},
    types::{Affine, Dense},
};
use half::f16;

/// Where the parts of affine code go. Each slice has exactly the room that the blocks need.
pub(super) struct Parts<'a> {
    pub(super) weight: &'a mut [u8],
    pub(super) scales: &'a mut [u8],
    pub(super) biases: &'a mut [u8],
    /// Scales and biases are float32 where float16 would do.
    pub(super) wide: bool,
}

/// Why blocks have no equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A scale or minimum is an infinity or not a number.
    NotFinite,
    /// A bias is beyond float16.
    Overflow,
}

/// Converts whole blocks to plain values.
pub(super) fn dense(format: Dense, blocks: &[u8], out: &mut [u8]) -> Result<(), Fault> {
    match format {
        Dense::F32 | Dense::F16 | Dense::Bf16 => out.copy_from_slice(blocks),
        Dense::Q6K => return q6_k(blocks, out),
    }
    Ok(())
}

/// Converts whole blocks to affine code.
pub(super) fn affine(format: Affine, blocks: &[u8], to: Parts<'_>) -> Result<(), Fault> {
    match format {
        Affine::Q40 => {
            codes(blocks, to.weight, |b: &[u8; 18], out: &mut [u8; 16]| four_bits(&b[2..], out));
            pairs::<18>(blocks, Bias::Scaled(3), to.scales, to.biases, to.wide)
        }
        Affine::Q41 => {
            codes(blocks, to.weight, |b: &[u8; 20], out: &mut [u8; 16]| four_bits(&b[4..], out));
            pairs::<20>(blocks, Bias::Stored, to.scales, to.biases, to.wide)
        }
        Affine::Q50 => {
            codes(blocks, to.weight, |b: &[u8; 22], out: &mut [u8; 20]| five_bits(&b[2..6], &b[6..], out));
            pairs::<22>(blocks, Bias::Scaled(4), to.scales, to.biases, to.wide)
        }
        Affine::Q51 => {
            codes(blocks, to.weight, |b: &[u8; 24], out: &mut [u8; 20]| five_bits(&b[4..8], &b[8..], out));
            pairs::<24>(blocks, Bias::Stored, to.scales, to.biases, to.wide)
        }
        Affine::Q80 => {
            // From -128..128 to 0..256.
            codes(blocks, to.weight, |b: &[u8; 34], out: &mut [u8; 32]| {
                out.iter_mut().zip(&b[2..]).for_each(|(o, q)| *o = q ^ 0x80);
            });
            pairs::<34>(blocks, Bias::Scaled(7), to.scales, to.biases, to.wide)
        }
        Affine::Q4K => {
            codes(blocks, to.weight, |b: &[u8; 144], out: &mut [u8; 128]| four_bits_k(&b[16..], out));
            pairs_k::<144>(blocks, to.scales, to.biases)
        }
        Affine::Q5K => {
            codes(blocks, to.weight, |b: &[u8; 176], out: &mut [u8; 160]| {
                five_bits_k(&b[16..48], &b[48..], out)
            });
            pairs_k::<176>(blocks, to.scales, to.biases)
        }
    }
}

fn codes<const IN: usize, const OUT: usize>(
    blocks: &[u8],
    weight: &mut [u8],
    f: impl Fn(&[u8; IN], &mut [u8; OUT]),
) {
    let (blocks, _) = blocks.as_chunks::<IN>();
    let (words, _) = weight.as_chunks_mut::<OUT>();
    blocks.iter().zip(words).for_each(|(block, out)| f(block, out));
}

const LOW_NIBBLES: u64 = 0x0f0f_0f0f_0f0f_0f0f;
const LOW_BITS: u64 = 0x0101_0101_0101_0101;

fn eights(bytes: &[u8]) -> impl Iterator<Item = u64> + Clone {
    bytes.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b))
}

/// Eight codes of four bits, a byte each, to a word.
fn pack_four(x: u64) -> [u8; 4] {
    let x = (x | x >> 4) & 0x00ff_00ff_00ff_00ff;
    let x = (x | x >> 8) & 0x0000_ffff_0000_ffff;
    ((x | x >> 16) as u32).to_le_bytes()
}

/// Eight codes of five bits, a byte each, to five bytes.
fn pack_five(x: u64) -> [u8; 5] {
    let x = x & 0x001f_001f_001f_001f | (x & 0x1f00_1f00_1f00_1f00) >> 3;
    let x = x & 0x0000_03ff_0000_03ff | (x & 0x03ff_0000_03ff_0000) >> 6;
    let x = x & 0x0000_0000_000f_ffff | (x & 0x000f_ffff_0000_0000) >> 12;
    let [a, b, c, d, e, ..] = x.to_le_bytes();
    [a, b, c, d, e]
}

/// 32 codes: low nibbles first, then high ones.
fn four_bits(nibbles: &[u8], out: &mut [u8]) {
    let bytes = eights(nibbles).chain(eights(nibbles).map(|x| x >> 4));
    let (out, _) = out.as_chunks_mut::<4>();
    out.iter_mut().zip(bytes).for_each(|(o, x)| *o = pack_four(x & LOW_NIBBLES));
}

/// As [`four_bits`], with the fifth bits of all 32 codes in a word.
fn five_bits(fifth: &[u8], nibbles: &[u8], out: &mut [u8]) {
    let bytes = eights(nibbles).chain(eights(nibbles).map(|x| x >> 4));
    let (out, _) = out.as_chunks_mut::<5>();
    for ((o, x), &bits) in out.iter_mut().zip(bytes).zip(fifth) {
        // Bit i to byte i, then whatever is not zero to the fifth bit.
        let spread = u64::from(bits).wrapping_mul(LOW_BITS) & 0x8040_2010_0804_0201;
        let spread = (spread + 0x7f * LOW_BITS) >> 7 & LOW_BITS;
        *o = pack_five(x & LOW_NIBBLES | spread << 4);
    }
}

/// 256 codes: 32 bytes hold the low nibbles of one group and the high nibbles of the next.
fn four_bits_k(nibbles: &[u8], out: &mut [u8]) {
    let (nibbles, _) = nibbles.as_chunks::<32>();
    let (out, _) = out.as_chunks_mut::<32>();
    for (nibbles, out) in nibbles.iter().zip(out) {
        let bytes = eights(nibbles).chain(eights(nibbles).map(|x| x >> 4));
        let (out, _) = out.as_chunks_mut::<4>();
        out.iter_mut().zip(bytes).for_each(|(o, x)| *o = pack_four(x & LOW_NIBBLES));
    }
}

/// As [`four_bits_k`]; bit g of byte l of `fifth` belongs to code l of group g.
fn five_bits_k(fifth: &[u8], nibbles: &[u8], out: &mut [u8]) {
    let (nibbles, _) = nibbles.as_chunks::<32>();
    let (out, _) = out.as_chunks_mut::<20>();
    for (group, out) in out.iter_mut().enumerate() {
        let shift = group % 2 * 4;
        let (out, _) = out.as_chunks_mut::<5>();
        for ((o, x), bits) in out.iter_mut().zip(eights(&nibbles[group / 2])).zip(eights(fifth)) {
            *o = pack_five(x >> shift & LOW_NIBBLES | (bits >> group & LOW_BITS) << 4);
        }
    }
}

/// What a block's bias is.
#[derive(Clone, Copy)]
enum Bias {
    /// The scale times -2^n: codes are signed, around the middle of their range.
    Scaled(u16),
    /// After the scale.
    Stored,
}

/// Scales and biases of blocks that begin with a float16 scale.
fn pairs<const N: usize>(
    blocks: &[u8],
    bias: Bias,
    scales: &mut [u8],
    biases: &mut [u8],
    wide: bool,
) -> Result<(), Fault> {
    let (blocks, _) = blocks.as_chunks::<N>();
    let pair = |block: &[u8; N]| {
        let scale = u16::from_le_bytes([block[0], block[1]]);
        let stored = u16::from_le_bytes([block[2], block[3]]);
        let finite = is_finite(scale) && (matches!(bias, Bias::Scaled(_)) || is_finite(stored));
        if finite { Ok((scale, stored)) } else { Err(Fault::NotFinite) }
    };
    if wide {
        let (scales, _) = scales.as_chunks_mut::<4>();
        let (biases, _) = biases.as_chunks_mut::<4>();
        for ((block, s), b) in blocks.iter().zip(scales).zip(biases) {
            let (scale, stored) = pair(block)?;
            let (scale, stored) = (f16::from_bits(scale).to_f32(), f16::from_bits(stored).to_f32());
            *s = scale.to_le_bytes();
            *b = match bias {
                Bias::Scaled(power) => -scale * f32::from(1_u16 << power),
                Bias::Stored => stored,
            }
            .to_le_bytes();
        }
        return Ok(());
    }
    let (scales, _) = scales.as_chunks_mut::<2>();
    let (biases, _) = biases.as_chunks_mut::<2>();
    for ((block, s), b) in blocks.iter().zip(scales).zip(biases) {
        let (scale, stored) = pair(block)?;
        *s = scale.to_le_bytes();
        *b = match bias {
            Bias::Scaled(power) => times_power_of_two(scale, power).ok_or(Fault::Overflow)? ^ 0x8000,
            Bias::Stored => stored,
        }
        .to_le_bytes();
    }
    Ok(())
}

/// Scales and biases of K blocks: two float16 factors, then eight scales and eight minima of six bits in twelve bytes. The products
/// have at most 17 bits, so float32 holds them.
fn pairs_k<const N: usize>(blocks: &[u8], scales: &mut [u8], biases: &mut [u8]) -> Result<(), Fault> {
    let (blocks, _) = blocks.as_chunks::<N>();
    let (scales, _) = scales.as_chunks_mut::<32>();
    let (biases, _) = biases.as_chunks_mut::<32>();
    for ((block, scales), biases) in blocks.iter().zip(scales).zip(biases) {
        let (d, m) = (u16::from_le_bytes([block[0], block[1]]), u16::from_le_bytes([block[2], block[3]]));
        if !is_finite(d) || !is_finite(m) {
            return Err(Fault::NotFinite);
        }
        let (d, m) = (f16::from_bits(d).to_f32(), f16::from_bits(m).to_f32());
        let packed = &block[4..16];
        for group in 0..8 {
            let (scale, minimum) = if group < 4 {
                (packed[group] & 63, packed[group + 4] & 63)
            } else {
                let (low, high) = (packed[group + 4] & 15, packed[group + 4] >> 4);
                (low | packed[group - 4] >> 6 << 4, high | packed[group] >> 6 << 4)
            };
            scales[4 * group..4 * group + 4].copy_from_slice(&(d * f32::from(scale)).to_le_bytes());
            biases[4 * group..4 * group + 4].copy_from_slice(&(-m * f32::from(minimum)).to_le_bytes());
        }
    }
    Ok(())
}

/// Values of Q6_K: four bits in `ql`, two in `qh`, a signed scale for 16 values, a float16 factor for all. The product has at most 24
/// bits, so float32 holds it.
fn q6_k(blocks: &[u8], out: &mut [u8]) -> Result<(), Fault> {
    let (blocks, _) = blocks.as_chunks::<210>();
    let (out, _) = out.as_chunks_mut::<1024>();
    for (block, out) in blocks.iter().zip(out) {
        let (ql, rest) = block.split_at(128);
        let (qh, rest) = rest.split_at(64);
        let d = u16::from_le_bytes([rest[16], rest[17]]);
        if !is_finite(d) {
            return Err(Fault::NotFinite);
        }
        let d = f16::from_bits(d).to_f32();
        let (out, _) = out.as_chunks_mut::<64>();
        for (group, out) in out.iter_mut().enumerate() {
            // Groups of 16; eight of them share 64 bytes of ql and 32 of qh.
            let (half, quarter, part) = (group / 8, group % 8 / 2, group % 2 * 16);
            let low = &ql[64 * half + quarter % 2 * 32 + part..][..16];
            let high = &qh[32 * half + part..][..16];
            let (low_shift, high_shift) = (quarter / 2 * 4, quarter * 2);
            let scale = d * f32::from(rest[group].cast_signed());
            let (out, _) = out.as_chunks_mut::<4>();
            for ((o, l), h) in out.iter_mut().zip(low).zip(high) {
                let code = l >> low_shift & 15 | (h >> high_shift & 3) << 4;
                *o = (scale * f32::from(code.wrapping_sub(32).cast_signed())).to_le_bytes();
            }
        }
    }
    Ok(())
}
