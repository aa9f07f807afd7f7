//! Values in ggml's blocks, rounded as ggml rounds them.

use half::{bf16, f16};

/// How matrices are written. Vectors are float32 whatever matrices are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// float32.
    F32,
    /// float16.
    F16,
    /// bfloat16.
    Bf16,
    /// 8 bits in groups of 32.
    Q8_0,
    /// 4 bits in groups of 32. The matrix that logits come from is [`FileType::Q8_0`], because its errors are seen at once.
    Q4_0,
}

/// Values of a quantized block.
const BLOCK: usize = 32;

impl FileType {
    /// All of them.
    pub const ALL: [FileType; 5] =
        [FileType::F32, FileType::F16, FileType::Bf16, FileType::Q8_0, FileType::Q4_0];

    /// As the command line has it: `f32`, `f16`, `bf16`, `q8_0`, `q4_0`.
    pub fn name(self) -> &'static str {
        match self {
            FileType::F32 => "f32",
            FileType::F16 => "f16",
            FileType::Bf16 => "bf16",
            FileType::Q8_0 => "q8_0",
            FileType::Q4_0 => "q4_0",
        }
    }

    /// The type of this name.
    pub fn named(name: &str) -> Option<FileType> {
        FileType::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// ggml's number of the type.
    pub(super) fn id(self) -> u32 {
        match self {
            FileType::F32 => 0,
            FileType::F16 => 1,
            FileType::Q4_0 => 2,
            FileType::Q8_0 => 8,
            FileType::Bf16 => 30,
        }
    }

    /// `general.file_type`: llama.cpp's number of files whose matrices mostly are of the type.
    pub(super) fn file_id(self) -> u32 {
        match self {
            FileType::F32 => 0,
            FileType::F16 => 1,
            FileType::Q4_0 => 2,
            FileType::Q8_0 => 7,
            FileType::Bf16 => 32,
        }
    }

    /// Values and bytes of a block.
    pub(super) fn block(self) -> (usize, usize) {
        match self {
            FileType::F32 => (1, 4),
            FileType::F16 | FileType::Bf16 => (1, 2),
            FileType::Q8_0 => (BLOCK, 34),
            FileType::Q4_0 => (BLOCK, 18),
        }
    }

    /// The largest magnitude that fits.
    pub(super) fn limit(self) -> f32 {
        let half = f16::MAX.to_f32();
        match self {
            FileType::F32 => f32::MAX,
            FileType::Bf16 => bf16::MAX.to_f32(),
            FileType::F16 => half,
            FileType::Q8_0 => half * 127.0,
            FileType::Q4_0 => half * 8.0,
        }
    }

    /// Appends a row of values, which are whole blocks and within the limit.
    pub(super) fn pack(self, row: &[f32], out: &mut Vec<u8>) {
        match self {
            FileType::F32 => row.iter().for_each(|x| out.extend(x.to_le_bytes())),
            FileType::F16 => row.iter().for_each(|x| out.extend(f16::from_f32(*x).to_le_bytes())),
            FileType::Bf16 => row.iter().for_each(|x| out.extend(bf16::from_f32(*x).to_le_bytes())),
            FileType::Q8_0 => row.as_chunks().0.iter().for_each(|block| q8_0(block, out)),
            FileType::Q4_0 => row.as_chunks().0.iter().for_each(|block| q4_0(block, out)),
        }
    }
}

/// A scale, so that the largest magnitude is 127, and a code for each value.
fn q8_0(block: &[f32; BLOCK], out: &mut Vec<u8>) {
    let scale = block.iter().fold(0_f32, |most, x| most.max(x.abs())) / 127.0;
    let inverse = inverse(scale);
    out.extend(f16::from_f32(scale).to_le_bytes());
    // Ties go away from zero, as `roundf` has it.
    out.extend(block.iter().map(|x| (x * inverse).round() as i8 as u8));
}

/// A scale, so that the first value of the largest magnitude is -8, and a code for each value; the first 16 are the low nibbles.
fn q4_0(block: &[f32; BLOCK], out: &mut Vec<u8>) {
    let largest = block.iter().fold(block[0], |most, x| if x.abs() > most.abs() { *x } else { most });
    let scale = largest / -8.0;
    let inverse = inverse(scale);
    out.extend(f16::from_f32(scale).to_le_bytes());
    let code = |x: f32| ((x * inverse + 8.5) as u8).min(15);
    out.extend((0..BLOCK / 2).map(|i| code(block[i]) | code(block[i + BLOCK / 2]) << 4));
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

#[cfg(test)]
mod tests;
