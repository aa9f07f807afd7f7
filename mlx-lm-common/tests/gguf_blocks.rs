//! GGUF tensors in MLX's layout: equal, value for value, to what the block formats mean.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "common/blocks.rs"]
mod blocks;
#[path = "common/gguf.rs"]
mod builder;
#[path = "common/parts.rs"]
mod parts;
#[path = "common/random.rs"]
mod random;
#[path = "common/read.rs"]
mod read;

use blocks::{FORMATS, Format};
use builder::Builder;
use mlx_lm_common::gguf::{Element, GgufTensor, Kind, Output, Read};
use mlx_rs::{Array, ops};
use parts::{assert_same, read, stream};
use random::{EXTREMES, Random};

/// A file with one tensor, and that tensor.
fn tensor(format: &Format, dims: &[u64], data: Vec<u8>) -> GgufTensor {
    let gguf = Builder::model("qwen2").tensor("x", dims, format.id, data).open().unwrap();
    gguf.tensors().unwrap().into_iter().find(|t| t.name() == "x").unwrap()
}

#[test]
fn every_format_is_exact() {
    let mut random = Random(1);
    for format in &FORMATS {
        for (rows, columns, extremes) in [(1, 256, &EXTREMES[..9]), (3, 768, &[]), (16, 512, &EXTREMES)] {
            let data = format.blocks(rows * columns / format.values, &mut random, extremes);
            let (wanted, fits) = (format.values(&data), format.fits(&data));
            let t = tensor(format, &[columns as u64, rows as u64], data);
            let what = format!("{} [{rows}, {columns}]", format.name);
            assert_eq!(t.shape(), [rows as i32, columns as i32]);
            assert_eq!(t.type_name(), format.name);
            assert_eq!(t.file_bytes() as usize, rows * columns / format.values * format.bytes);
            let (outcome, parts) = read(&t);
            assert_eq!(outcome, if fits { Read::Complete } else { Read::Float16Overflow }, "{what}");
            if fits {
                assert_same(&what, &parts.values(), &wanted);
                assert_same(&what, &parts.mlx(rows as i32), &wanted);
            }
            let (outcome, parts) = read(&t.widened());
            assert_eq!(outcome, Read::Complete);
            assert_same(&what, &parts.values(), &wanted);
            assert_same(&what, &parts.mlx(rows as i32), &wanted);
        }
    }
}

#[test]
fn kinds_and_sizes() {
    for format in &FORMATS {
        let t = tensor(format, &[512, 3], vec![0; 3 * 512 / format.values * format.bytes]);
        let dense = |element, bytes| Kind::Dense { element, bytes };
        let affine = |bits: i32, element, scale_bytes| {
            let weight_bytes = 3 * 512 * bits as usize / 8;
            Kind::Affine { bits, group: 32, element, weight_bytes, scale_bytes }
        };
        let (kind, wide) = match format.name {
            "F32" | "Q6_K" => (dense(Element::F32, 6144), dense(Element::F32, 6144)),
            "F16" => (dense(Element::F16, 3072), dense(Element::F16, 3072)),
            "BF16" => (dense(Element::Bf16, 3072), dense(Element::Bf16, 3072)),
            "Q4_K" => (affine(4, Element::F32, 192), affine(4, Element::F32, 192)),
            "Q5_K" => (affine(5, Element::F32, 192), affine(5, Element::F32, 192)),
            "Q4_0" | "Q4_1" => (affine(4, Element::F16, 96), affine(4, Element::F32, 192)),
            "Q5_0" | "Q5_1" => (affine(5, Element::F16, 96), affine(5, Element::F32, 192)),
            _ => (affine(8, Element::F16, 96), affine(8, Element::F32, 192)),
        };
        assert_eq!((t.kind(), t.widened().kind()), (kind, wide), "{}", format.name);
        let memory = match kind {
            Kind::Dense { bytes, .. } => bytes,
            Kind::Affine { weight_bytes, scale_bytes, .. } => {
                weight_bytes + 2 * scale_bytes.div_ceil(64) * 64
            }
            Kind::Float4 { .. } => unreachable!("{}", format.name),
        };
        assert_eq!(t.memory_bytes(), memory);
    }
}

#[test]
fn mlx_packs_codes_as_one_stream() {
    let mut random = Random(2);
    for bits in [4, 5, 8] {
        let words: Vec<u32> = (0..2 * 4 * bits).map(|_| random.next() as u32).collect();
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let scales = Array::from_slice(&[1_f32; 8], &[2, 4]);
        let biases = Array::from_slice(&[0_f32; 8], &[2, 4]);
        let packed = Array::from_slice(&words, &[2, 4 * bits as i32]);
        let codes = ops::dequantize(&packed, &scales, &biases, 32, bits as i32).unwrap();
        let wanted: Vec<f32> = stream(&bytes, bits).into_iter().map(|c| c as f32).collect();
        assert_eq!(codes.as_slice::<f32>(), wanted);
        // And quantizing what they mean gives the same words: every code of a group is hit by its own value.
        let values: Vec<f32> = (0..64).map(|i| (i % 32 % (1 << bits)) as f32).collect();
        let array = Array::from_slice(&values, &[2, 32]);
        let (packed, scales, biases) = ops::quantize(&array, 32, bits as i32).unwrap();
        let back = ops::dequantize(&packed, &scales, &biases, 32, bits as i32).unwrap();
        let bytes: Vec<u8> = packed.as_slice::<u32>().iter().flat_map(|w| w.to_le_bytes()).collect();
        let (s, b) = (scales.as_slice::<f32>(), biases.as_slice::<f32>());
        let ours: Vec<f32> =
            stream(&bytes, bits).iter().enumerate().map(|(i, &c)| s[i / 32] * c as f32 + b[i / 32]).collect();
        assert_eq!(back.as_slice::<f32>(), ours);
    }
}

/// Rows of a head as the file has them, from 0, 1, 2 … outside: halves interleaved.
fn interleaved(rows: usize, dim: usize) -> Vec<usize> {
    let mut order = Vec::new();
    for head in 0..rows / dim {
        for pair in 0..dim / 2 {
            order.extend([head * dim + pair, head * dim + dim / 2 + pair]);
        }
    }
    order
}

#[test]
fn llama_queries_and_keys_get_their_order_back() {
    let mut random = Random(3);
    // Large enough for several chunks of the file, which end inside rows.
    let (heads, dim, width) = (12, 64, 768_usize);
    for format in FORMATS.iter().filter(|f| ["F32", "F16", "Q4_1", "Q5_K", "Q6_K", "Q8_0"].contains(&f.name))
    {
        for (part, heads) in [("attn_q", heads), ("attn_k", heads / 3), ("attn_v", heads / 3)] {
            let rows = heads * dim;
            let row = width / format.values * format.bytes;
            let outside = format.blocks(rows * width / format.values, &mut random, &[]);
            let order: Vec<usize> =
                if part == "attn_v" { (0..rows).collect() } else { interleaved(rows, dim) };
            let data = order.iter().flat_map(|&r| outside[r * row..(r + 1) * row].to_vec()).collect();
            let bias: Vec<u8> = order.iter().flat_map(|&r| (r as f32).to_le_bytes()).collect();
            let open = |architecture: &str| {
                let gguf = Builder::model(architecture)
                    .u32(&format!("{architecture}.embedding_length"), width as u32)
                    .u32(&format!("{architecture}.attention.head_count"), 12)
                    .u32(&format!("{architecture}.attention.head_count_kv"), 4)
                    .edit(|b| b.tensors.clear())
                    .tensor(
                        &format!("blk.0.{part}.weight"),
                        &[width as u64, rows as u64],
                        format.id,
                        Vec::clone(&data),
                    )
                    .tensor(&format!("blk.0.{part}.bias"), &[rows as u64], 0, bias.clone())
                    .open()
                    .unwrap();
                gguf.tensors().unwrap()
            };
            let what = format!("{} {part}", format.name);
            let tensors = open("llama");
            let (_, parts) = read(&tensors[0].widened());
            assert_same(&what, &parts.values(), &format.values(&outside));
            let (_, parts) = read(&tensors[1]);
            assert_same(&what, &parts.values(), &(0..rows).map(|r| r as f32).collect::<Vec<_>>());
            // Others are stored as they are.
            let (_, parts) = read(&open("qwen2")[0].widened());
            assert_same(&what, &parts.values(), &format.values(&data));
        }
    }
}

#[test]
fn outputs_of_another_size_or_kind() {
    let t = tensor(&FORMATS[3], &[64], vec![0; 36]);
    let (weight, scales, biases) = (&mut [0; 32], &mut [0; 4], &mut [0; 2]);
    for output in [Output::Dense(&mut [0; 32]), Output::Affine { weight, scales, biases }] {
        let message = t.read_into(output).unwrap_err().to_string();
        assert!(message.contains("tensor `x`: the output is not of Affine { bits: 4"), "{message}");
    }
}
