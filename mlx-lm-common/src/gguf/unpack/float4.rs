//! 4-bit floats: a sign, two bits of exponent, one of mantissa, as MLX has them.

use super::{Fault, bits::four_bits};

/// 32 values with a power of two as scale.
pub(super) fn mxfp4(blocks: &[u8], weight: &mut [u8], scales: &mut [u8]) -> Result<(), Fault> {
    let outputs = weight.as_chunks_mut::<16>().0.iter_mut().zip(scales);
    for (block, (words, scale)) in blocks.as_chunks::<17>().0.iter().zip(outputs) {
        // No number.
        if block[0] == 0xff {
            return Err(Fault::NotFinite);
        }
        *scale = block[0];
        four_bits(&block[1..], words);
    }
    Ok(())
}

/// Four times 16 values; the scales of all come first. They are 8-bit floats with four bits of exponent, whose sign is not looked
/// at; what would be no number is zero.
pub(super) fn nvfp4(blocks: &[u8], weight: &mut [u8], scales: &mut [u8]) -> Result<(), Fault> {
    let outputs = weight.as_chunks_mut::<32>().0.iter_mut().zip(scales.as_chunks_mut::<4>().0);
    for (block, (words, scales)) in blocks.as_chunks::<36>().0.iter().zip(outputs) {
        for (scale, stored) in scales.iter_mut().zip(block) {
            *scale = match stored {
                0x7f => 0,
                // 480, which MLX's scales do not reach.
                0xff => return Err(Fault::NotFinite),
                stored => stored & 0x7f,
            };
        }
        let nibbles = block[4..].as_chunks::<8>().0.iter();
        nibbles.zip(words.as_chunks_mut::<8>().0).for_each(|(nibbles, words)| four_bits(nibbles, words));
    }
    Ok(())
}
