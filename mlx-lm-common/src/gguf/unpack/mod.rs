//! Blocks of GGUF to what MLX computes with, value for value.
//!
//! MLX's affine code is w = scale·code + bias for groups of 32, 64 or 128 values, codes as one little-endian stream of bits. Every
//! product and sum here is exact in float32 unless the format itself rounds, so the order of operations cannot matter. The layouts of
//! the blocks are those of ggml's `ggml-common.h`. Everything is little-endian.

mod bits;
mod float4;
mod grids;
mod iq;
mod k;
mod legacy;
mod ternary;

use super::{
    f16::is_finite,
    types::{Affine, Element, Float4, Layout, Wide},
};
use half::{bf16, f16};

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

/// Copies plain values; floats as `to`, if they are of another type.
pub(super) fn plain(from_type: Element, from: &[u8], to: Element, out: &mut [u8]) {
    match from_type {
        _ if from_type == to => out.copy_from_slice(from),
        Element::F16 => {
            store(from.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()), to, out)
        }
        Element::Bf16 => {
            store(from.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()), to, out)
        }
        _ => store(from.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)), to, out),
    }
}

fn store(values: impl Iterator<Item = f32>, to: Element, out: &mut [u8]) {
    match to {
        Element::F16 => {
            out.as_chunks_mut::<2>()
                .0
                .iter_mut()
                .zip(values)
                .for_each(|(o, v)| *o = f16::from_f32(v).to_le_bytes());
        }
        Element::Bf16 => {
            out.as_chunks_mut::<2>()
                .0
                .iter_mut()
                .zip(values)
                .for_each(|(o, v)| *o = bf16::from_f32(v).to_le_bytes());
        }
        _ => out.as_chunks_mut::<4>().0.iter_mut().zip(values).for_each(|(o, v)| *o = v.to_le_bytes()),
    }
}

/// Converts whole blocks to values of type `to`, a block at a time by way of float32.
pub(super) fn wide(format: Wide, blocks: &[u8], to: Element, out: &mut [u8]) -> Result<(), Fault> {
    match format {
        Wide::Q2K => values(blocks, to, out, k::q2_k),
        Wide::Q3K => values(blocks, to, out, k::q3_k),
        Wide::Q6K => values(blocks, to, out, k::q6_k),
        Wide::Iq2Xs => values(blocks, to, out, iq::iq2_xs),
        Wide::Iq2S => values(blocks, to, out, iq::iq2_s),
        Wide::Iq1M => values(blocks, to, out, iq::iq1_m),
    }
}

fn values<const N: usize>(
    blocks: &[u8],
    to: Element,
    out: &mut [u8],
    f: impl Fn(&[u8; N], &mut [f32; 256]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut values = [0.0; 256];
    for (block, out) in blocks.as_chunks::<N>().0.iter().zip(out.chunks_exact_mut(256 * to.bytes())) {
        f(block, &mut values)?;
        store(values.iter().copied(), to, out);
    }
    Ok(())
}

/// Converts whole blocks to affine code.
pub(super) fn affine(format: Affine, blocks: &[u8], to: Parts<'_>) -> Result<(), Fault> {
    let layout = format.layout();
    match format {
        Affine::Q40 => legacy::q4_0(blocks, to),
        Affine::Q41 => legacy::q4_1(blocks, to),
        Affine::Q50 => legacy::q5_0(blocks, to),
        Affine::Q51 => legacy::q5_1(blocks, to),
        Affine::Q80 => legacy::q8_0(blocks, to),
        Affine::Q4K => k::q4_k(blocks, to),
        Affine::Q5K => k::q5_k(blocks, to),
        Affine::Iq4Nl => iq::iq4_nl(blocks, to),
        Affine::Iq4Xs => groups(blocks, layout, to, iq::iq4_xs),
        Affine::Iq2Xxs => groups(blocks, layout, to, iq::iq2_xxs),
        Affine::Iq3Xxs => groups(blocks, layout, to, iq::iq3_xxs),
        Affine::Iq3S => groups(blocks, layout, to, iq::iq3_s),
        Affine::Iq1S => groups(blocks, layout, to, iq::iq1_s),
        Affine::Tq10 => ternary::tq1_0(blocks, to),
        Affine::Tq20 => ternary::tq2_0(blocks, to),
        Affine::Q10 => ternary::q1_0(blocks, to),
        Affine::Q20 => ternary::q2_0(blocks, to),
    }
}

/// Converts whole blocks to 4-bit floats with 8-bit scales.
pub(super) fn float4(
    format: Float4,
    blocks: &[u8],
    weight: &mut [u8],
    scales: &mut [u8],
) -> Result<(), Fault> {
    match format {
        Float4::Mxfp4 => float4::mxfp4(blocks, weight, scales),
        Float4::Nvfp4 => float4::nvfp4(blocks, weight, scales),
    }
}

/// Blocks of 256 values with a float16 factor in front, in groups of 32 that `f` unpacks: the block, its factor, the number of the
/// group, room for 32 codes; it returns scale and bias.
fn groups<const N: usize>(
    blocks: &[u8],
    layout: Layout,
    to: Parts<'_>,
    f: impl Fn(&[u8; N], f32, usize, &mut [u8; 32]) -> (f32, f32),
) -> Result<(), Fault> {
    let mut weight = to.weight.chunks_exact_mut(4 * layout.bits);
    let mut pairs = to.scales.as_chunks_mut::<4>().0.iter_mut().zip(to.biases.as_chunks_mut::<4>().0);
    let mut codes = [0; 32];
    for block in blocks.as_chunks::<N>().0 {
        let d = half(block, 0)?;
        for (group, (words, (scale, bias))) in weight.by_ref().zip(pairs.by_ref()).take(8).enumerate() {
            let pair = f(block, d, group, &mut codes);
            bits::pack(&codes, layout.bits, words);
            (*scale, *bias) = (pair.0.to_le_bytes(), pair.1.to_le_bytes());
        }
    }
    Ok(())
}

/// Codes of whole blocks.
fn codes<const IN: usize, const OUT: usize>(
    blocks: &[u8],
    weight: &mut [u8],
    f: impl Fn(&[u8; IN], &mut [u8; OUT]),
) {
    let (blocks, _) = blocks.as_chunks::<IN>();
    let (words, _) = weight.as_chunks_mut::<OUT>();
    blocks.iter().zip(words).for_each(|(block, out)| f(block, out));
}

/// The float16 number at byte `at`, which must be finite.
fn half(block: &[u8], at: usize) -> Result<f32, Fault> {
    finite(u16::from_le_bytes([block[at], block[at + 1]]))
}

fn finite(bits: u16) -> Result<f32, Fault> {
    if is_finite(bits) { Ok(f16::from_bits(bits).to_f32()) } else { Err(Fault::NotFinite) }
}
