//! Blocks of 256 values whose groups have scales of their own, in units of float16 factors.

use super::{
    Fault, Parts,
    bits::{five_bits_k, four_bits_k},
    codes, half,
};

pub(super) fn q4_k(blocks: &[u8], to: Parts<'_>) -> Result<(), Fault> {
    codes(blocks, to.weight, |b: &[u8; 144], out: &mut [u8; 128]| four_bits_k(&b[16..], out));
    pairs::<144>(blocks, to.scales, to.biases)
}

pub(super) fn q5_k(blocks: &[u8], to: Parts<'_>) -> Result<(), Fault> {
    codes(blocks, to.weight, |b: &[u8; 176], out: &mut [u8; 160]| five_bits_k(&b[16..48], &b[48..], out));
    pairs::<176>(blocks, to.scales, to.biases)
}

/// Scales and biases: two float16 factors, then eight scales and eight minima of six bits in twelve bytes. The products have at most
/// 17 bits, so float32 holds them.
fn pairs<const N: usize>(blocks: &[u8], scales: &mut [u8], biases: &mut [u8]) -> Result<(), Fault> {
    let (blocks, _) = blocks.as_chunks::<N>();
    let (scales, _) = scales.as_chunks_mut::<32>();
    let (biases, _) = biases.as_chunks_mut::<32>();
    for ((block, scales), biases) in blocks.iter().zip(scales).zip(biases) {
        let (d, m) = (half(block, 0)?, half(block, 2)?);
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

/// Where the two low bits of the values of a group of 16 are: each 32 bytes hold 128 values, two bits above the other.
fn two_bits(group: usize) -> (usize, u32) {
    (group / 8 * 32 + group % 2 * 16, group as u32 % 8 / 2 * 2)
}

/// Two bits a value; scales and minima of four bits.
pub(super) fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) -> Result<(), Fault> {
    let (scales, qs) = (&block[..16], &block[16..80]);
    let (d, m) = (half(block, 80)?, half(block, 82)?);
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (scale, minimum) = (d * f32::from(scales[group] & 15), m * f32::from(scales[group] >> 4));
        let (at, shift) = two_bits(group);
        for (o, q) in out.iter_mut().zip(&qs[at..]) {
            // The product is exact; this rounds once.
            *o = scale * f32::from(q >> shift & 3) - minimum;
        }
    }
    Ok(())
}

/// Two bits a value, and a third in `mask` that is set for values from zero on; scales of six bits.
pub(super) fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) -> Result<(), Fault> {
    let (mask, qs, packed) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half(block, 108)?;
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let low = packed[group % 8] >> (group / 8 * 4) & 15;
        let high = packed[8 + group % 4] >> (group / 4 * 2) & 3;
        let scale = d * f32::from((low | high << 4).cast_signed() - 32);
        let (at, shift) = two_bits(group);
        for ((o, q), h) in out.iter_mut().zip(&qs[at..]).zip(&mask[group % 2 * 16..]) {
            let code = (q >> shift & 3 | (h >> (group / 2) & 1) << 2).cast_signed() - 4;
            *o = scale * f32::from(code);
        }
    }
    Ok(())
}

/// Four bits in `ql`, two in `qh`, a signed scale for 16 values. The product has at most 24 bits, so float32 holds it.
pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) -> Result<(), Fault> {
    let (ql, qh, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half(block, 208)?;
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        // Eight groups share 64 bytes of ql and 32 of qh.
        let (half, quarter, part) = (group / 8, group % 8 / 2, group % 2 * 16);
        let low = &ql[64 * half + quarter % 2 * 32 + part..][..16];
        let high = &qh[32 * half + part..][..16];
        let (low_shift, high_shift) = (quarter / 2 * 4, quarter * 2);
        let scale = d * f32::from(scales[group].cast_signed());
        for ((o, l), h) in out.iter_mut().zip(low).zip(high) {
            let code = l >> low_shift & 15 | (h >> high_shift & 3) << 4;
            *o = scale * f32::from(code.cast_signed() - 32);
        }
    }
    Ok(())
}
