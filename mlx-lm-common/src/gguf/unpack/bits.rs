//! Codes to MLX's stream of bits.

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

/// Codes of `bits` bits, a byte each, one after the other.
pub(super) fn pack(codes: &[u8], bits: usize, out: &mut [u8]) {
    for (codes, out) in codes.as_chunks::<8>().0.iter().zip(out.chunks_exact_mut(bits)) {
        let word = codes.iter().enumerate().fold(0_u64, |word, (i, c)| word | u64::from(*c) << (i * bits));
        out.copy_from_slice(&word.to_le_bytes()[..bits]);
    }
}

/// 32 codes (or 16): low nibbles first, then high ones.
pub(super) fn four_bits(nibbles: &[u8], out: &mut [u8]) {
    let bytes = eights(nibbles).chain(eights(nibbles).map(|x| x >> 4));
    let (out, _) = out.as_chunks_mut::<4>();
    out.iter_mut().zip(bytes).for_each(|(o, x)| *o = pack_four(x & LOW_NIBBLES));
}

/// As [`four_bits`], with the fifth bits of all 32 codes in a word.
pub(super) fn five_bits(fifth: &[u8], nibbles: &[u8], out: &mut [u8]) {
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
pub(super) fn four_bits_k(nibbles: &[u8], out: &mut [u8]) {
    let (nibbles, _) = nibbles.as_chunks::<32>();
    let (out, _) = out.as_chunks_mut::<32>();
    nibbles.iter().zip(out).for_each(|(nibbles, out)| four_bits(nibbles, out));
}

/// As [`four_bits_k`]; bit g of byte l of `fifth` belongs to code l of group g.
pub(super) fn five_bits_k(fifth: &[u8], nibbles: &[u8], out: &mut [u8]) {
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
