//! GGUF tensors in memory, and what they mean there.

use crate::read::try_read;
use half::{bf16, f16};
use mlx_lm_common::{
    gguf::{Element, GgufTensor, Kind, Read},
    raw::{self, Mode},
};
use mlx_rs::{Array, Dtype};

/// A tensor in memory.
pub(crate) struct Parts {
    pub(crate) kind: Kind,
    pub(crate) weight: Vec<u8>,
    pub(crate) scales: Vec<u8>,
    pub(crate) biases: Vec<u8>,
}

/// Reads a good tensor into fresh memory.
pub(crate) fn read(t: &GgufTensor) -> (Read, Parts) {
    let (outcome, [weight, scales, biases]) = try_read(t).unwrap();
    (outcome, Parts { kind: t.kind(), weight, scales, biases })
}

fn floats(bytes: &[u8], element: Element) -> Vec<f32> {
    let halves = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
    match element {
        Element::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Element::F16 => halves().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
        Element::Bf16 => halves().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
        _ => panic!("{element:?} is no float"),
    }
}

/// What is packed: code i at bits `i · bits` of a little-endian stream.
pub(crate) fn stream(bytes: &[u8], bits: usize) -> Vec<u32> {
    let bit = |n: usize| u32::from(bytes[n / 8] >> (n % 8) & 1);
    (0..bytes.len() * 8 / bits).map(|i| (0..bits).map(|b| bit(i * bits + b) << b).sum()).collect()
}

/// A 4-bit float.
fn e2m1(code: u32) -> f32 {
    let magnitude = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][code as usize % 8];
    if code < 8 { magnitude } else { -magnitude }
}

/// An 8-bit float with four bits of exponent.
fn e4m3(bits: u8) -> f32 {
    let (exponent, fraction) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    if exponent == 0 { fraction * 2_f32.powi(-9) } else { (1.0 + fraction / 8.0) * 2_f32.powi(exponent - 7) }
}

impl Parts {
    /// The values, by the formulas that MLX documents.
    pub(crate) fn values(&self) -> Vec<f32> {
        match self.kind {
            Kind::Dense { element, .. } => floats(&self.weight, element),
            Kind::Affine { bits, group, element, .. } => {
                let (scales, biases) = (floats(&self.scales, element), floats(&self.biases, element));
                let codes = stream(&self.weight, bits as usize).into_iter();
                codes
                    .enumerate()
                    .map(|(i, c)| scales[i / group as usize] * c as f32 + biases[i / group as usize])
                    .collect()
            }
            Kind::Float4 { mode, .. } => {
                let scale = |group: usize| match mode {
                    Mode::Nvfp4 => e4m3(self.scales[group]),
                    _ => 2_f64.powi(i32::from(self.scales[group]) - 127) as f32,
                };
                let group = self.weight.len() * 2 / self.scales.len();
                stream(&self.weight, 4)
                    .into_iter()
                    .enumerate()
                    .map(|(i, c)| scale(i / group) * e2m1(c))
                    .collect()
            }
        }
    }

    /// The values of a matrix, by MLX itself; in float32 for affine code.
    pub(crate) fn mlx(&self, rows: i32) -> Vec<f32> {
        let words: Vec<u32> =
            self.weight.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let words = Array::from_slice(&words, &[rows, words.len() as i32 / rows]);
        let groups = |n: usize| [rows, n as i32 / rows];
        let (scales, biases, format) = match self.kind {
            Kind::Dense { .. } => return self.values(),
            Kind::Affine { bits, group, element, .. } => {
                let [scales, biases] = [&self.scales, &self.biases].map(|bytes| {
                    let values = floats(bytes, element);
                    Array::from_slice(&values, &groups(values.len()))
                });
                (scales, Some(biases), (group, bits, Mode::Affine))
            }
            Kind::Float4 { mode, .. } => {
                let group = if mode == Mode::Nvfp4 { 16 } else { 32 };
                (Array::from_slice(&self.scales, &groups(self.scales.len())), None, (group, 4, mode))
            }
        };
        raw::init();
        let out = raw::dequantize(&words, &scales, biases.as_ref(), format).unwrap();
        out.as_dtype(Dtype::Float32).unwrap().as_slice::<f32>().to_vec()
    }
}

pub(crate) fn assert_same(what: &str, found: &[f32], wanted: &[f32]) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (i, (f, w)) in found.iter().zip(wanted).enumerate() {
        assert!(f == w || f.is_nan() && w.is_nan(), "{what}: value {i} is {f:e}, wanted {w:e}");
    }
}
