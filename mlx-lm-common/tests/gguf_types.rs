//! Every quantized type of ggml against the package gguf: what blocks mean, whether they stay packed, in what form and precision.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "common/gguf.rs"]
mod builder;
#[path = "common/parts.rs"]
mod parts;
#[path = "common/random.rs"]
mod random;
#[path = "common/read.rs"]
mod read;

use builder::Builder;
use half::{bf16, f16};
use mlx_lm_common::gguf::{Element, GgufTensor, Kind, Read};
use parts::{assert_same, read};
use random::{EXTREMES, Random};
use read::try_read;
use serde_json::Value;

/// A type as `xtask/oracle/gguf_blocks.py` recorded it.
struct Recorded {
    name: String,
    id: u32,
    values: usize,
    bytes: usize,
    halves: Vec<usize>,
    hashes: Vec<u64>,
}

fn recorded() -> Vec<Recorded> {
    let all: Value = serde_json::from_str(include_str!("data/gguf_blocks.json")).unwrap();
    let number = |v: &Value| v.as_u64().unwrap() as usize;
    all.as_object()
        .unwrap()
        .iter()
        .map(|(name, t)| Recorded {
            name: name.clone(),
            id: number(&t["id"]) as u32,
            values: number(&t["values"]),
            bytes: number(&t["bytes"]),
            halves: t["halves"].as_array().unwrap().iter().map(number).collect(),
            hashes: t["hashes"]
                .as_array()
                .unwrap()
                .iter()
                .map(|h| u64::from_str_radix(h.as_str().unwrap(), 16).unwrap())
                .collect(),
        })
        .collect()
}

impl Recorded {
    /// The recorded blocks: every second one has odd scales.
    fn blocks(&self) -> Vec<u8> {
        let mut random = Random(self.id.into());
        (0..self.hashes.len()).flat_map(|i| self.block(&mut random, i % 2 == 1)).collect()
    }

    fn block(&self, random: &mut Random, odd: bool) -> Vec<u8> {
        let mut block: Vec<u8> = (0..self.bytes).map(|_| random.next() as u8).collect();
        let mut half = || {
            let any = random.next() as u16;
            let bits = if odd { EXTREMES[usize::from(any) % EXTREMES.len()] } else { any };
            if bits & 0x7c00 == 0x7c00 { bits ^ 0x4000 } else { bits }
        };
        for &at in &self.halves {
            block[at..at + 2].copy_from_slice(&half().to_le_bytes());
        }
        if self.name == "IQ1_M" {
            let bits = half();
            for i in 0..4 {
                block[49 + 2 * i] = (block[49 + 2 * i] & 15) | (((bits >> (4 * i)) & 15) as u8 * 16);
            }
        }
        block[..self.scale_bytes()].iter_mut().for_each(|b| *b = (*b).min(0xfe));
        block
    }

    /// Bytes at the start that are floats of eight bits.
    fn scale_bytes(&self) -> usize {
        match self.name.as_str() {
            "MXFP4" => 1,
            "NVFP4" => 4,
            _ => 0,
        }
    }

    fn tensor(&self, data: Vec<u8>, dims: &[u64]) -> GgufTensor {
        tensor(self.id, dims, data)
    }
}

/// A file with one tensor, and that tensor.
fn tensor(id: u32, dims: &[u64], data: Vec<u8>) -> GgufTensor {
    let gguf = Builder::model("qwen2").tensor("x", dims, id, data).open().unwrap();
    gguf.tensors().unwrap().into_iter().find(|t| t.name() == "x").unwrap()
}

/// FNV-1a of the bytes of values.
fn hash(values: &[f32]) -> u64 {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

#[test]
fn blocks_mean_what_the_package_says() {
    for t in recorded() {
        let count = t.hashes.len();
        let tensor = t.tensor(t.blocks(), &[t.values as u64, count as u64]).widened();
        let (outcome, parts) = read(&tensor);
        assert_eq!(outcome, Read::Complete, "{}", t.name);
        let mut values = parts.values();
        if !tensor.is_widened() {
            // Where scale·code and bias cancel out, zero is positive.
            values.iter_mut().for_each(|v| *v += 0.0);
        }
        for (i, (values, wanted)) in values.chunks_exact(t.values).zip(&t.hashes).enumerate() {
            assert_eq!(hash(values), *wanted, "{} block {i}: {:?} …", t.name, &values[..8]);
        }
    }
}

#[test]
fn mlx_reads_what_stays_packed() {
    for t in recorded().iter().filter(|t| t.name != "MXFP4") {
        let tensor = t.tensor(t.blocks(), &[t.values as u64 * 2, t.hashes.len() as u64 / 2]).widened();
        let (_, parts) = read(&tensor);
        assert_same(&t.name, &parts.mlx(t.hashes.len() as i32 / 2), &parts.values());
    }
    // MLX's own arithmetic ends where bfloat16's normal numbers do.
    let t = recorded().into_iter().find(|t| t.name == "MXFP4").unwrap();
    let mut data = t.blocks();
    data.chunks_exact_mut(17).for_each(|block| block[0] = block[0] / 2 + 64);
    let (_, parts) = read(&t.tensor(data, &[64, 32]));
    assert_same("MXFP4", &parts.mlx(32), &parts.values());
}

#[test]
fn one_and_two_bits_around_zero() {
    let mut random = Random(41);
    let value = |b: &[u8], i: usize, bits: usize| {
        let code = b[2 + i * bits / 8] >> (i * bits % 8) & ((1 << bits) - 1);
        let factor = if bits == 1 { 2.0 * f32::from(code) - 1.0 } else { f32::from(code) - 1.0 };
        f16::from_le_bytes([b[0], b[1]]).to_f32() * factor
    };
    for (name, id, bits, values) in [("Q1_0", 41, 1, 128), ("Q2_0", 42, 2, 64)] {
        let mut data: Vec<u8> = (0..18 * 64).map(|_| random.next() as u8).collect();
        for (block, half) in data.chunks_exact_mut(18).zip(EXTREMES.iter().cycle()) {
            block[..2].copy_from_slice(&half.to_le_bytes());
        }
        let blocks = data.chunks_exact(18);
        let wanted: Vec<f32> = blocks.flat_map(|b| (0..values).map(move |i| value(b, i, bits))).collect();
        let t = tensor(id, &[2 * values as u64, 32], data);
        assert_eq!(t.type_name(), name);
        let (outcome, parts) = read(&t);
        assert_eq!(outcome, Read::Complete);
        assert_same(name, &parts.values(), &wanted);
        assert_same(name, &parts.mlx(32), &wanted);
    }
}

#[test]
fn forms_in_memory() {
    let wide = ["Q2_K", "Q3_K", "Q6_K", "IQ2_XS", "IQ2_S", "IQ1_M"];
    for t in recorded() {
        let tensor = t.tensor(vec![0; t.bytes * 6], &[t.values as u64 * 2, 3]);
        let wanted = match t.name.as_str() {
            "Q4_0" | "Q4_1" | "Q4_K" | "IQ3_S" => "4-bit affine, groups of 32",
            "Q5_0" | "Q5_1" | "Q5_K" => "5-bit affine, groups of 32",
            "Q8_0" | "IQ4_NL" | "IQ4_XS" | "IQ2_XXS" => "8-bit affine, groups of 32",
            "IQ3_XXS" => "6-bit affine, groups of 32",
            "IQ1_S" => "2-bit affine, groups of 32",
            "TQ1_0" | "TQ2_0" => "2-bit affine, groups of 128",
            "MXFP4" => "mxfp4",
            "NVFP4" => "nvfp4",
            _ => "f32",
        };
        assert_eq!(tensor.kind().describe(), wanted, "{}", t.name);
        assert_eq!(tensor.is_widened(), wide.contains(&t.name.as_str()), "{}", t.name);
        let (values, group) = (6 * t.values, if t.name == "NVFP4" { 16 } else { 32 });
        let (weight, scales) = match tensor.kind() {
            Kind::Dense { bytes, .. } => (bytes, 0),
            Kind::Affine { bits, group, element, weight_bytes, scale_bytes } => {
                assert_eq!(weight_bytes, values * bits as usize / 8);
                assert_eq!(scale_bytes, values / group as usize * element.bytes());
                (weight_bytes, 2 * scale_bytes.next_multiple_of(64))
            }
            Kind::Float4 { weight_bytes, scale_bytes, .. } => {
                assert_eq!((weight_bytes, scale_bytes), (values / 2, values / group));
                (weight_bytes, scale_bytes.next_multiple_of(64))
            }
        };
        assert_eq!(tensor.memory_bytes(), weight.next_multiple_of(64) + scales, "{}", t.name);
    }
}

/// Values that lose their packed form become the compute type at once, and are rounded once.
#[test]
fn floats_of_sixteen_bits() {
    for t in recorded() {
        let tensor = t.tensor(t.blocks(), &[t.values as u64, t.hashes.len() as u64]);
        for element in [Element::F16, Element::Bf16] {
            let narrow = tensor.with_floats(element);
            if !tensor.is_widened() {
                assert_eq!(narrow.kind(), tensor.kind());
                continue;
            }
            let round = |v: &f32| match element {
                Element::F16 => f16::from_f32(*v).to_f32(),
                _ => bf16::from_f32(*v).to_f32(),
            };
            assert_eq!(narrow.memory_bytes() * 2, tensor.memory_bytes());
            let wanted: Vec<f32> = read(&tensor).1.values().iter().map(round).collect();
            assert_same(&t.name, &read(&narrow).1.values(), &wanted);
        }
    }
}

#[test]
fn plain_numbers() {
    let floats: Vec<f32> = (0..64).map(|i| (i as f32 - 31.0) * 1.01).collect();
    let data: Vec<u8> = floats.iter().flat_map(|f| f.to_le_bytes()).collect();
    let t = tensor(0, &[32, 2], data);
    let wanted: Vec<f32> = floats.iter().map(|f| bf16::from_f32(*f).to_f32()).collect();
    assert_same("F32 as bfloat16", &read(&t.with_floats(Element::Bf16)).1.values(), &wanted);
    for (id, element, bytes) in [
        (24, Element::I8, 1),
        (25, Element::I16, 2),
        (26, Element::I32, 4),
        (27, Element::I64, 8),
        (28, Element::F64, 8),
    ] {
        let data: Vec<u8> = (0..64 * bytes).map(|i| i as u8).collect();
        let t = tensor(id, &[32, 2], data.clone());
        assert_eq!(t.with_floats(Element::F16).kind(), Kind::Dense { element, bytes: data.len() });
        assert_eq!(read(&t).1.weight, data);
    }
}

/// Stacked experts: three axes, and rows that end inside the chunks that the file is read in.
#[test]
fn stacked_experts_of_every_type() {
    for t in recorded() {
        let (experts, rows) = (5, 3 * t.hashes.len());
        let data: Vec<u8> = t.blocks().repeat(experts * rows / t.hashes.len());
        let tensor = t.tensor(data, &[t.values as u64, rows as u64, experts as u64]);
        assert_eq!(tensor.shape(), [experts as i32, rows as i32, t.values as i32]);
        let one = read(&t.tensor(t.blocks(), &[t.values as u64, t.hashes.len() as u64]).widened()).1.values();
        let all = read(&tensor.widened()).1.values();
        for (i, values) in all.chunks_exact(one.len()).enumerate() {
            assert_same(&format!("{} part {i}", t.name), values, &one);
        }
    }
}

#[test]
fn scales_that_are_no_numbers() {
    for t in recorded() {
        let refused = |change: &dyn Fn(&mut [u8])| {
            let mut data = vec![0; 2 * t.bytes];
            change(&mut data[t.bytes..]);
            let tensor = t.tensor(data, &[2 * t.values as u64]);
            for tensor in [tensor.widened(), tensor] {
                let message = try_read(&tensor).err().unwrap_or_else(|| panic!("{}", t.name)).to_string();
                assert!(message.contains("tensor `x`: a block with a scale"), "{}: {message}", t.name);
            }
        };
        for bad in [0x7c00_u16, 0xfc00, 0x7e01] {
            for &at in &t.halves {
                refused(&|block| block[at..at + 2].copy_from_slice(&bad.to_le_bytes()));
            }
            if t.name == "IQ1_M" {
                refused(&|block| (0..4).for_each(|i| block[49 + 2 * i] = (bad >> (4 * i) & 15) as u8 * 16));
            }
        }
        for at in 0..t.scale_bytes() {
            refused(&|block| block[at] = 0xff);
        }
    }
}

#[test]
fn types_that_live_in_memory_alone() {
    for (name, id, values, bytes) in [("Q8_1", 9, 32, 36), ("Q8_K", 15, 256, 292)] {
        let gguf = Builder::model("qwen2").tensor("x", &[values], id, vec![0; bytes]).open().unwrap();
        let message = gguf.tensors().unwrap_err().to_string();
        assert!(message.contains(&format!("tensor `x`: elements of type {name}; F32, F16")), "{message}");
    }
}
