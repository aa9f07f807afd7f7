//! Codes of one or two bits around zero: w = d·(code - 1).

use super::{Fault, Parts, bits::pack, codes, legacy};

const POWERS: [u8; 5] = [1, 3, 9, 27, 81];

/// Five digits to base three in a byte, as a fraction of 256: 32 bytes, 16 bytes, then four bytes with four digits each.
pub(super) fn tq1_0(blocks: &[u8], to: Parts<'_>) -> Result<(), Fault> {
    codes(blocks, to.weight, |b: &[u8; 54], out: &mut [u8; 64]| {
        let mut digits = [0; 256];
        let mut rest = &mut digits[..];
        for (bytes, powers) in [(&b[..32], &POWERS[..]), (&b[32..48], &POWERS), (&b[48..52], &POWERS[..4])] {
            for power in powers {
                let (here, after) = rest.split_at_mut(bytes.len());
                for (o, q) in here.iter_mut().zip(bytes) {
                    *o = ((u16::from(q.wrapping_mul(*power)) * 3) >> 8) as u8;
                }
                rest = after;
            }
        }
        pack(&digits, 2, out);
    });
    scales(last::<54>(blocks), to)
}

/// Two bits a value: each 32 bytes hold 128 values, two bits above the other.
pub(super) fn tq2_0(blocks: &[u8], to: Parts<'_>) -> Result<(), Fault> {
    codes(blocks, to.weight, |b: &[u8; 66], out: &mut [u8; 64]| {
        let mut codes = [0; 256];
        for (i, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let bytes = &b[i / 4 * 32..][..32];
            codes.iter_mut().zip(bytes).for_each(|(o, q)| *o = q >> (i % 4 * 2) & 3);
        }
        pack(&codes, 2, out);
    });
    scales(last::<66>(blocks), to)
}

/// One bit a value: code 0 or 2.
pub(super) fn q1_0(blocks: &[u8], to: Parts<'_>) -> Result<(), Fault> {
    codes(blocks, to.weight, |b: &[u8; 18], out: &mut [u8; 32]| {
        for (o, q) in out.as_chunks_mut::<2>().0.iter_mut().zip(&b[2..]) {
            let word = (0..8).fold(0, |word, i| word | u16::from(q >> i & 1) << (2 * i + 1));
            *o = word.to_le_bytes();
        }
    });
    scales(legacy::first::<18>(blocks), to)
}

/// Two bits a value, packed as MLX packs them.
pub(super) fn q2_0(blocks: &[u8], to: Parts<'_>) -> Result<(), Fault> {
    codes(blocks, to.weight, |b: &[u8; 18], out: &mut [u8; 16]| out.copy_from_slice(&b[2..]));
    scales(legacy::first::<18>(blocks), to)
}

/// The scales at the end of blocks of 256 values, for each half of them.
fn last<const N: usize>(blocks: &[u8]) -> impl Iterator<Item = u16> {
    blocks.as_chunks::<N>().0.iter().flat_map(|b| [u16::from_le_bytes([b[N - 2], b[N - 1]]); 2])
}

fn scales(halves: impl Iterator<Item = u16>, to: Parts<'_>) -> Result<(), Fault> {
    legacy::scaled(halves, 0, to.scales, to.biases, to.wide)
}
