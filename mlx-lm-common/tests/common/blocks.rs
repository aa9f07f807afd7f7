//! ggml's block formats, value by value, written from their description rather than for speed.

use crate::random::Random;
use half::{bf16, f16};

/// ggml's number of a type, its values and bytes for a block, where its float16 numbers are, and value `i` of a block.
pub(crate) struct Format {
    pub(crate) name: &'static str,
    pub(crate) id: u32,
    pub(crate) values: usize,
    pub(crate) bytes: usize,
    pub(crate) halves: &'static [usize],
    /// Bits of MLX's code, and the power of two between scale and bias where the file has no bias.
    pub(crate) code: Option<(i32, Option<i32>)>,
    pub(crate) value: fn(&[u8], usize) -> f32,
}

fn half(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

/// Four bits of value `i` of 32: the first sixteen are low nibbles, the others high.
fn nibble(b: &[u8], i: usize) -> i32 {
    i32::from(if i < 16 { b[i] % 16 } else { b[i - 16] / 16 })
}

/// As [`nibble`], with a fifth bit from the word before.
fn five(b: &[u8], i: usize) -> i32 {
    let fifth = u32::from_le_bytes([b[0], b[1], b[2], b[3]]) >> i & 1;
    nibble(&b[4..], i) + 16 * fifth as i32
}

/// Scale and minimum of group `g` of a K block: entry g and g + 8 of sixteen six-bit numbers, whose low four bits of the later half
/// lie in the last four bytes and whose high two bits lie above the earlier ones.
fn k_pair(b: &[u8], g: usize) -> (f32, f32) {
    let s = &b[4..16];
    let (scale, minimum) = match g {
        0..4 => (s[g] % 64, s[g + 4] % 64),
        _ => (s[g + 4] % 16 + s[g - 4] / 64 * 16, s[g + 4] / 16 + s[g] / 64 * 16),
    };
    (half(b, 0) * f32::from(scale), half(b, 2) * f32::from(minimum))
}

/// Nibble of value `i` of 256: each 32 bytes hold two groups.
fn k_nibble(b: &[u8], i: usize) -> i32 {
    let byte = b[i / 64 * 32 + i % 32];
    i32::from(if i % 64 < 32 { byte % 16 } else { byte / 16 })
}

fn k_value(b: &[u8], i: usize, code: i32) -> f32 {
    let (scale, minimum) = k_pair(b, i / 32);
    // Products are exact; this rounds once.
    scale * code as f32 - minimum
}

fn q6_k(b: &[u8], i: usize) -> f32 {
    let (half_block, within) = (i / 128, i % 128);
    let low = b[64 * half_block + within % 64];
    let low = if within < 64 { low % 16 } else { low / 16 };
    let high = b[128 + 32 * half_block + within % 32] >> (within / 32 * 2) & 3;
    let scale = b[192 + i / 16] as i8;
    half(b, 208) * f32::from(scale) * (i32::from(low) + 16 * i32::from(high) - 32) as f32
}

pub(crate) const FORMATS: [Format; 11] = [
    Format {
        name: "F32",
        id: 0,
        values: 1,
        bytes: 4,
        halves: &[],
        code: None,
        value: |b, _| f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
    },
    Format { name: "F16", id: 1, values: 1, bytes: 2, halves: &[0], code: None, value: |b, _| half(b, 0) },
    Format {
        name: "BF16",
        id: 30,
        values: 1,
        bytes: 2,
        halves: &[],
        code: None,
        value: |b, _| bf16::from_le_bytes([b[0], b[1]]).to_f32(),
    },
    Format {
        name: "Q4_0",
        id: 2,
        values: 32,
        bytes: 18,
        halves: &[0],
        code: Some((4, Some(3))),
        value: |b, i| half(b, 0) * (nibble(&b[2..], i) - 8) as f32,
    },
    Format {
        name: "Q4_1",
        id: 3,
        values: 32,
        bytes: 20,
        halves: &[0, 2],
        code: Some((4, None)),
        value: |b, i| half(b, 0) * nibble(&b[4..], i) as f32 + half(b, 2),
    },
    Format {
        name: "Q5_0",
        id: 6,
        values: 32,
        bytes: 22,
        halves: &[0],
        code: Some((5, Some(4))),
        value: |b, i| half(b, 0) * (five(&b[2..], i) - 16) as f32,
    },
    Format {
        name: "Q5_1",
        id: 7,
        values: 32,
        bytes: 24,
        halves: &[0, 2],
        code: Some((5, None)),
        value: |b, i| half(b, 0) * five(&b[4..], i) as f32 + half(b, 2),
    },
    Format {
        name: "Q8_0",
        id: 8,
        values: 32,
        bytes: 34,
        halves: &[0],
        code: Some((8, Some(7))),
        value: |b, i| half(b, 0) * f32::from(b[2 + i] as i8),
    },
    Format {
        name: "Q4_K",
        id: 12,
        values: 256,
        bytes: 144,
        halves: &[0, 2],
        code: Some((4, None)),
        value: |b, i| k_value(b, i, k_nibble(&b[16..], i)),
    },
    Format {
        name: "Q5_K",
        id: 13,
        values: 256,
        bytes: 176,
        halves: &[0, 2],
        code: Some((5, None)),
        value: |b, i| k_value(b, i, k_nibble(&b[48..], i) + 16 * i32::from(b[16 + i % 32] >> (i / 32) & 1)),
    },
    Format { name: "Q6_K", id: 14, values: 256, bytes: 210, halves: &[208], code: None, value: q6_k },
];

impl Format {
    /// Blocks of random bytes, their float16 numbers finite and, from `extremes` on, as bad as they get.
    pub(crate) fn blocks(&self, count: usize, random: &mut Random, extremes: &[u16]) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..count * self.bytes).map(|_| random.next() as u8).collect();
        for block in bytes.chunks_exact_mut(self.bytes) {
            if self.id == 0 {
                // Any float32 that is a number.
                block[3] &= 0xbf;
            }
            for &at in self.halves {
                let any = random.next() as u16;
                let mut half = if random.next().is_multiple_of(2) && !extremes.is_empty() {
                    extremes[random.next() as usize % extremes.len()]
                } else {
                    any
                };
                if half & 0x7c00 == 0x7c00 {
                    half ^= 0x4000;
                }
                block[at..at + 2].copy_from_slice(&half.to_le_bytes());
            }
        }
        bytes
    }

    /// All values of some blocks.
    pub(crate) fn values(&self, blocks: &[u8]) -> Vec<f32> {
        blocks.chunks_exact(self.bytes).flat_map(|b| (0..self.values).map(|i| (self.value)(b, i))).collect()
    }

    /// Whether every block has its bias in float16.
    pub(crate) fn fits(&self, blocks: &[u8]) -> bool {
        let Some((_, Some(power))) = self.code else { return true };
        blocks.chunks_exact(self.bytes).all(|b| f16::from_f32(half(b, 0) * 2_f32.powi(power)).is_finite())
    }
}
