//! Encodings of other toolkits: values against their definitions, value by value, and refusals of what does not belong together.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "common/folder.rs"]
mod folder;

use folder::{
    Entry, bytes, checkpoint, count, f32s, matrix, message, open, try_open, u8s, values, weights, words,
};
use half::{bf16, f16};
use mlx_lm_common::weights::{Kept, header::DType};
use mlx_rs::Dtype;
use proptest::prelude::*;
use serde_json::{Value, json};

/// A float with a sign, 4 bits of exponent (bias 7) and 3 of mantissa.
fn e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let magnitude = match exponent {
        0 => mantissa / 8.0 * 2f32.powi(-6),
        e => (1.0 + mantissa / 8.0) * 2f32.powi(e - 7),
    };
    if code & 128 == 0 { magnitude } else { -magnitude }
}

/// Every finite code in turn, starting somewhere.
fn codes(start: usize, count: usize) -> Vec<u8> {
    let finite: Vec<u8> = (0..=255).filter(|c| c & 127 != 127).collect();
    (start..start + count).map(|i| finite[i * 37 % finite.len()]).collect()
}

fn fp8(name: &str, shape: &[usize], values: &[u8]) -> Entry {
    u8s(name, DType::F8_E4M3, shape, values)
}

fn words_of(nibbles: &[u8], per_word: usize) -> Vec<u32> {
    let bits = 32 / per_word;
    let word = |w: &[u8]| w.iter().enumerate().map(|(i, &q)| u32::from(q) << (bits * i)).sum();
    nibbles.chunks(per_word).map(word).collect()
}

#[test]
fn every_code_of_an_8_bit_float() {
    let all: Vec<u8> = (0..=255).filter(|c| c & 127 != 127).collect();
    let c = checkpoint(&[fp8("w.weight", &[2, 127], &all), f32s("w.weight_scale_inv", &[], &[0.3])]);
    let wanted: Vec<f32> = all.iter().map(|q| e4m3(*q) * 0.3).collect();
    assert_eq!(values(&weights(c), "w.weight", &[2, 127]).unwrap(), wanted);
}

#[test]
fn scales_of_whole_axes() {
    let q = codes(0, 24);
    let two: &[f32] = &[0.5, 3.0];
    let four: &[f32] = &[1.0, 0.25, 3.0, -1.5];
    // Names of tensor and scale, shapes, and which scale each value has.
    type Case<'a> = (&'a str, &'a str, &'a [usize], &'a [usize], &'a [f32], fn(usize) -> usize);
    let cases: [Case; 8] = [
        ("a.weight", "a.weight_scale", &[4, 6], &[], &[0.7], |_| 0),
        ("a.weight", "a.weight_scale", &[4, 6], &[1], &[0.7], |_| 0),
        ("a.weight", "a.weight_scale", &[4, 6], &[4, 1], four, |i| i / 6),
        ("a.weight", "a.weight_scale", &[4, 6], &[4], four, |i| i / 6),
        ("a.weight", "a.weight_scale_inv", &[6, 4], &[1, 4], four, |i| i % 4),
        ("experts.gate_up_proj", "experts.gate_up_proj_scale_inv", &[2, 3, 4], &[2, 1, 1], two, |i| i / 12),
        ("experts.gate_up_proj", "experts.gate_up_proj_scale", &[2, 3, 4], &[2], two, |i| i / 12),
        ("experts.down_proj", "experts.down_proj_scale", &[3, 2, 4], &[1, 1, 4], four, |i| i % 4),
    ];
    for (name, scale, shape, scale_shape, scales, of) in cases {
        let others =
            [f32s(&format!("{name}_activation_scale"), &[], &[2.0]), f32s("a.input_scale", &[], &[2.0])];
        let c =
            checkpoint(&[&[fp8(name, shape, &q), f32s(scale, scale_shape, scales)][..], &others].concat());
        let wanted: Vec<f32> = q.iter().enumerate().map(|(i, q)| e4m3(*q) * scales[of(i)]).collect();
        let w = weights(c);
        let shape: Vec<i32> = shape.iter().map(|n| *n as i32).collect();
        assert_eq!(values(&w, name, &shape).unwrap(), wanted, "{name} {scale_shape:?}");
        w.finish().unwrap();
    }
}

/// `w` [rows, columns] with one scale for each block.
fn in_blocks(config: Value, [rows, columns]: [usize; 2], [down, across]: [usize; 2], block: [usize; 2]) {
    let q = codes(rows, rows * columns);
    let scales: Vec<f32> = (0..down * across).map(|i| 0.125 * (i + 1) as f32).collect();
    let c = open(&[fp8("w", &[rows, columns], &q), f32s("w_scale_inv", &[down, across], &scales)], config).1;
    let scale = |i: usize| scales[i / columns / block[0] * across + i % columns / block[1]];
    let wanted: Vec<f32> = q.iter().enumerate().map(|(i, q)| e4m3(*q) * scale(i)).collect();
    assert_eq!(values(&weights(c), "w", &[rows as i32, columns as i32]).unwrap(), wanted, "{rows} {columns}");
}

#[test]
fn scales_of_blocks() {
    let said = |rows: i32, columns: i32| json!({"quantization_config": {"quant_method": "fp8", "weight_block_size": [rows, columns]}});
    in_blocks(json!({}), [130, 300], [2, 3], [128, 128]);
    in_blocks(said(128, 128), [130, 300], [2, 3], [128, 128]);
    // Padded further than the weight reaches.
    in_blocks(said(128, 128), [130, 140], [4, 2], [128, 128]);
    in_blocks(said(2, 4), [5, 9], [3, 3], [2, 4]);
    in_blocks(said(32, 64), [64, 64], [2, 1], [32, 64]);
    // Blocks of which nobody says how large they are.
    in_blocks(json!({}), [6, 8], [2, 4], [3, 2]);
}

#[test]
fn blocks_of_fused_experts_and_of_single_ones() {
    let (q, scales) = (codes(5, 2 * 4 * 6), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    let config = json!({"quantization_config": {"quant_method": "fp8", "weight_block_size": [2, 3]}});
    let at = |e: usize, o: usize, i: usize| e4m3(q[e * 24 + o * 6 + i]) * scales[e * 4 + o / 2 * 2 + i / 3];
    let all = |rows: [usize; 2]| -> Vec<f32> {
        (0..2)
            .flat_map(|e| rows.into_iter().flat_map(move |o| (0..6).map(move |i| (e, o, i))))
            .map(|(e, o, i)| at(e, o, i))
            .collect()
    };
    let entries =
        [fp8("e.gate_up_proj", &[2, 4, 6], &q), f32s("e.gate_up_proj_scale_inv", &[2, 2, 2], &scales)];
    let mut c = open(&entries, config.clone()).1;
    let file = c.bytes();
    c.split("gate_up_proj", -2, &[("gate", 1), ("up", 1)]).unwrap();
    assert_eq!((file, c.bytes()), (48 + 32, 48 + 32));
    let w = weights(c);
    assert_eq!(values(&w, "e.gate.weight", &[2, 2, 6]).unwrap(), all([0, 2]));
    assert_eq!(values(&w, "e.up.weight", &[2, 2, 6]).unwrap(), all([1, 3]));

    let entries: Vec<Entry> = (0..2)
        .flat_map(|e| {
            let weight = fp8(&format!("l.experts.{e}.up.weight"), &[4, 6], &q[e * 24..][..24]);
            [weight, f32s(&format!("l.experts.{e}.up.weight_scale_inv"), &[2, 2], &scales[e * 4..][..4])]
        })
        .collect();
    let mut c = open(&entries, config).1;
    c.stack("experts", "s").unwrap();
    let wanted: Vec<f32> = (0..48).map(|i| at(i / 24, i / 6 % 4, i % 6)).collect();
    assert_eq!(values(&weights(c), "l.s.up.weight", &[2, 4, 6]).unwrap(), wanted);
}

#[test]
fn scales_that_are_exponents_or_short_floats() {
    let q = codes(9, 4);
    let short = |v: f32| bytes(&[bf16::from_f32(v)], bf16::to_le_bytes);
    let scales = [
        (u8s("w_scale", DType::F8_E8M0, &[1], &[130]), 8.0),
        (u8s("w_scale", DType::U8, &[1], &[120]), 2f32.powi(-7)),
        (("w_scale".into(), DType::BF16, vec![], short(0.34)), bf16::from_f32(0.34).to_f32()),
    ];
    for (scale, factor) in scales {
        // The rest of the checkpoint says what it computes in.
        let rest = ("norm".to_string(), DType::F16, vec![2], bytes(&[f16::ONE; 2], f16::to_le_bytes));
        let c = checkpoint(&[fp8("w", &[2, 2], &q), scale, rest]);
        assert_eq!(c.float_type(), Some(Dtype::Float16));
        let wanted: Vec<f32> = q.iter().map(|q| e4m3(*q) * factor).collect();
        assert_eq!(values(&weights(c), "w", &[2, 2]).unwrap(), wanted);
    }
    // Bytes that nobody calls floats, but that have a scale as only they have.
    let c = checkpoint(&[u8s("w", DType::U8, &[2, 2], &q), f32s("w_scale_inv", &[], &[1.0])]);
    let wanted: Vec<f32> = q.iter().map(|q| e4m3(*q)).collect();
    assert_eq!(values(&weights(c), "w", &[2, 2]).unwrap(), wanted);
}

#[test]
fn short_8_bit_floats() {
    // A sign, 5 bits of exponent (bias 15), 2 of mantissa.
    let value = |code: u8| {
        let (exponent, mantissa) = (i32::from(code >> 2 & 31), f32::from(code & 3));
        let magnitude = match exponent {
            0 => mantissa / 4.0 * 2f32.powi(-14),
            e => (1.0 + mantissa / 4.0) * 2f32.powi(e - 15),
        };
        if code & 128 == 0 { magnitude } else { -magnitude }
    };
    let all: Vec<u8> = (0..=255).filter(|c| c & 127 < 0x7c).collect();
    let c = checkpoint(&[u8s("w", DType::F8_E5M2, &[2, 124], &all), f32s("w_scale", &[], &[0.3])]);
    let wanted: Vec<f32> = all.iter().map(|q| value(*q) * 0.3).collect();
    assert_eq!(values(&weights(c), "w", &[2, 124]).unwrap(), wanted);
}

#[test]
fn numbers_that_are_none() {
    let q = [127, 255, 0x38, 0xb8];
    let c = checkpoint(&[fp8("w", &[2, 2], &q), f32s("w_scale", &[2, 1], &[1.0, f32::NAN])]);
    let found = values(&weights(c), "w", &[2, 2]).unwrap();
    assert!(found.iter().all(|v| v.is_nan()), "{found:?}");
}

#[test]
fn blocks_of_modelopt() {
    let (q, scales) = (codes(3, 256 * 128), [0.5, 3.0]);
    let c = checkpoint(&[fp8("w", &[256, 128], &q), f32s("w_scale", &[2, 1, 1, 1], &scales)]);
    let wanted: Vec<f32> = q.iter().enumerate().map(|(i, q)| e4m3(*q) * scales[i / (128 * 128)]).collect();
    assert_eq!(values(&weights(c), "w", &[256, 128]).unwrap(), wanted);
}

/// 8-bit floats whose scales are powers of two are a code of MLX.
#[test]
fn powers_of_two_stay_packed() {
    let exponents: Vec<u8> = (0..24).map(|i| 120 + i as u8).collect();
    // Shapes of weight and scales, and which scale a value has.
    type Case<'a> = (&'a [usize], &'a [usize], fn(usize) -> usize);
    let cases: [Case; 4] = [
        (&[4, 96], &[4, 3], |i| i / 32),
        (&[6, 64], &[2, 2], |i| i / 64 / 3 * 2 + i % 64 / 32),
        (&[4, 64], &[4, 1], |i| i / 64),
        (&[2, 3, 64], &[2, 3, 2], |i| i / 32),
    ];
    for (shape, grid, of) in cases {
        let (q, rows) = (codes(7, shape.iter().product()), &exponents[..grid.iter().product()]);
        for name in ["m.weight", "m"] {
            let scale = u8s(&format!("{name}_scale"), DType::F8_E8M0, grid, rows);
            let c = checkpoint(&[fp8(name, shape, &q), scale]);
            let kept: Vec<_> = c.encodings().map(|(name, e)| (name, &e.kept)).collect();
            assert_eq!(kept, [("m", &Kept::Packed("mxfp8".into()))]);
            let wanted: Vec<f32> = q
                .iter()
                .enumerate()
                .map(|(i, q)| e4m3(*q) * 2f32.powi(i32::from(rows[of(i)]) - 127))
                .collect();
            let shape: Vec<i32> = shape.iter().map(|n| *n as i32).collect();
            let w = weights(c);
            assert_eq!(matrix(&w, "m", &shape).unwrap(), wanted, "{grid:?}");
            w.finish().unwrap();
        }
    }
}

#[test]
fn bad_8_bit_floats() {
    let w = || fp8("m.w", &[4, 6], &[0; 24]);
    let scale = |shape: &[usize]| count("m.w_scale_inv", shape);
    let config = |block: Value| json!({"quantization_config": {"weight_block_size": block}});
    let blocks = "tensor `m.w_scale_inv`: scales";
    let cases = [
        (vec![w()], json!({}), "tensor `m.w_scale` is not in the checkpoint"),
        (vec![w(), scale(&[3, 2])], json!({}), blocks),
        (vec![w(), scale(&[6, 4])], json!({}), blocks),
        (vec![w(), scale(&[0, 1])], json!({}), blocks),
        (vec![w(), scale(&[2])], json!({}), blocks),
        (vec![w(), scale(&[2, 2, 1])], json!({}), blocks),
        (vec![w(), scale(&[2, 2])], config(json!([1, 3])), blocks),
        (vec![w(), scale(&[2, 2])], config(json!([0, 3])), "quantization_config.weight_block_size"),
        (vec![w(), scale(&[2, 2])], config(json!([2])), "quantization_config.weight_block_size"),
        (vec![w(), scale(&[2, 2])], config(json!("2")), "quantization_config.weight_block_size"),
        (vec![fp8("m.w", &[0, 6], &[]), scale(&[2, 2])], json!({}), blocks),
        (
            vec![w(), ("m.w_scale".into(), DType::I32, vec![], vec![0; 4])],
            json!({}),
            "tensor `m.w_scale`: holds",
        ),
        (vec![w(), fp8("m.w_scale", &[], &[1])], json!({}), "tensor `m.w_scale`: scales"),
    ];
    for (entries, config, wanted) in cases {
        let why = message(try_open(&entries, config));
        assert!(why.contains(wanted), "{why}, not {wanted}");
    }
}

/// Codes as AutoAWQ packs them: the word of eight columns has the codes of columns 0, 2, 4, 6, 1, 3, 5, 7.
fn awq_words(codes: &[u8]) -> Vec<u32> {
    let order = [0, 2, 4, 6, 1, 3, 5, 7];
    codes.chunks(8).map(|c| (0..8).map(|i| u32::from(c[order[i]]) << (4 * i)).sum()).collect()
}

#[test]
fn activation_aware_quantization() {
    for (input, output, group, zeros) in
        [(64, 16, 32, true), (128, 8, 128, true), (512, 8, 256, true), (96, 24, 96, false)]
    {
        let groups = input / group;
        let q: Vec<u8> = (0..input * output).map(|i| (i * 7 % 16) as u8).collect();
        let z: Vec<u8> = (0..groups * output).map(|i| (i * 5 % 16) as u8).collect();
        let s: Vec<f16> = (0..groups * output).map(|i| f16::from_f32(0.01 + i as f32 * 0.003)).collect();
        let mut entries = vec![
            words("m.qweight", DType::I32, &[input, output / 8], &awq_words(&q)),
            ("m.scales".into(), DType::F16, vec![groups, output], bytes(&s, f16::to_le_bytes)),
            count("m.bias", &[output]),
        ];
        if zeros {
            entries.push(words("m.qzeros", DType::I32, &[groups, output / 8], &awq_words(&z)));
        }
        let config = json!({"quantization_config": {"quant_method": "awq", "bits": 4, "version": "GEMM"}});
        let c = open(&entries, config).1;
        // A float16 and a code of four bits make no more than 15 bits: float32 holds every product and difference.
        let value = |o: usize, i: usize| {
            let at = i / group * output + o;
            let zero = if zeros { f32::from(z[at]) } else { 8.0 };
            (f32::from(q[i * output + o]) - zero) * s[at].to_f32()
        };
        let wanted: Vec<f32> = (0..output).flat_map(|o| (0..input).map(move |i| value(o, i))).collect();
        let shape = [output as i32, input as i32];
        assert_eq!(matrix(&weights(c), "m", &shape).unwrap(), wanted);
    }
}

#[test]
fn rows_and_experts_of_awq() {
    let q: Vec<u8> = (0..32 * 16).map(|i| (i % 16) as u8).collect();
    let expert = |e: usize| {
        let scale = f32s(&format!("l.experts.{e}.gu.scales"), &[1, 16], &[(e + 1) as f32; 16]);
        let zeros = words(&format!("l.experts.{e}.gu.qzeros"), DType::I32, &[1, 2], &[0; 2]);
        [words(&format!("l.experts.{e}.gu.qweight"), DType::I32, &[32, 2], &awq_words(&q)), scale, zeros]
    };
    let mut c = checkpoint(&[expert(0), expert(1)].concat());
    c.stack("experts", "s").unwrap();
    c.split("s.gu", -2, &[("s.gate", 8), ("s.up", 8)]).unwrap();
    let w = weights(c);
    let wanted = |from: usize| -> Vec<f32> {
        let at = |e: usize, o: usize, i: usize| f32::from(q[i * 16 + o]) * (e + 1) as f32;
        (0..2).flat_map(|e| (from..from + 8).flat_map(move |o| (0..32).map(move |i| at(e, o, i)))).collect()
    };
    let shape = [2, 8, 32];
    assert_eq!(matrix(&w, "l.s.gate", &shape).unwrap(), wanted(0));
    assert_eq!(matrix(&w, "l.s.up", &shape).unwrap(), wanted(8));
    w.finish().unwrap();
}

#[test]
fn bad_awq() {
    let weight = |shape: &[usize]| words("m.qweight", DType::I32, shape, &vec![0; shape.iter().product()]);
    let scales = |shape: &[usize]| count("m.scales", shape);
    let zeros = |shape: &[usize]| words("m.qzeros", DType::I32, shape, &vec![0; shape.iter().product()]);
    let cases: Vec<(Vec<Entry>, &str)> = vec![
        (vec![weight(&[32, 1])], "tensor `m.scales` is not in the checkpoint"),
        (vec![weight(&[32]), scales(&[1, 8])], "tensor `m.qweight`"),
        (vec![weight(&[32, 1]), scales(&[8])], "tensor `m.qweight`"),
        (vec![weight(&[32, 1]), scales(&[1, 16])], "tensor `m.qweight`: 1 words hold no 16 columns"),
        (vec![weight(&[36, 1]), scales(&[1, 8])], "tensor `m.qweight`"),
        (vec![weight(&[32, 1]), scales(&[3, 8])], "tensor `m.scales`: 3 scales for 32 columns"),
        (vec![weight(&[32, 1]), scales(&[0, 8])], "tensor `m.scales`: 0 scales for 32 columns"),
        (vec![weight(&[0, 1]), scales(&[1, 8])], "tensor `m.scales`: 1 scales for 0 columns"),
        (vec![weight(&[32, 1]), scales(&[1, 8]), zeros(&[1, 2])], "tensor `m.qzeros`: found shape [1, 2]"),
        (vec![weight(&[32, 1]), scales(&[1, 8]), count("m.qzeros", &[1, 1])], "tensor `m.qzeros`: holds"),
        (vec![count("m.qweight", &[32, 1]), scales(&[1, 8])], "tensor `m.qweight`: holds"),
        (vec![weight(&[32, 1]), scales(&[1, 8]), count("m.weight", &[1])], "tensor `m.weight`"),
    ];
    for (entries, wanted) in cases {
        let why = message(try_open(&entries, json!({})));
        assert!(why.contains(wanted), "{why}, not {wanted}");
    }
}

#[test]
fn packed_symmetric_integers() {
    for (columns, groups) in [(64, 2), (256, 1), (512, 4)] {
        let rows = 3;
        let q: Vec<u8> = (0..rows * columns).map(|i| (i * 11 % 16) as u8).collect();
        let s: Vec<bf16> = (0..rows * groups).map(|i| bf16::from_f32(0.02 * (i + 1) as f32)).collect();
        let c = checkpoint(&[
            words("m.weight_packed", DType::I32, &[rows, columns / 8], &words_of(&q, 8)),
            ("m.weight_scale".into(), DType::BF16, vec![rows, groups], bytes(&s, bf16::to_le_bytes)),
            ("m.weight_shape".into(), DType::I64, vec![2], vec![0; 16]),
        ]);
        assert_eq!(c.float_type(), Some(Dtype::Bfloat16));
        let scale = |i: usize| s[i / columns * groups + i % columns / (columns / groups)];
        let wanted: Vec<f32> =
            q.iter().enumerate().map(|(i, q)| (f32::from(*q) - 8.0) * scale(i).to_f32()).collect();
        let w = weights(c);
        assert_eq!(matrix(&w, "m", &[rows as i32, columns as i32]).unwrap(), wanted);
        w.finish().unwrap();
    }
}

#[test]
fn bad_compressed_tensors() {
    let packed =
        |shape: &[usize]| words("m.weight_packed", DType::I32, shape, &vec![0; shape.iter().product()]);
    let scale = |shape: &[usize]| count("m.weight_scale", shape);
    let cases: Vec<(Vec<Entry>, &str)> = vec![
        (vec![packed(&[2, 8])], "tensor `m.weight_scale` is not in the checkpoint"),
        (vec![packed(&[2, 8]), scale(&[1, 2])], "tensor `m.weight_scale`: found shape [1, 2], wanted [2, 2]"),
        (vec![packed(&[2, 8]), scale(&[3])], "tensor `m.weight_scale`"),
        (vec![packed(&[16]), scale(&[2, 2])], "tensor `m.weight_packed`"),
        (vec![packed(&[2, 8]), scale(&[2, 3])], "tensor `m.weight_scale`: 3 scales for 64 columns"),
        (vec![packed(&[2, 0]), scale(&[2, 3])], "tensor `m.weight_scale`: 3 scales for 0 columns"),
        (vec![packed(&[2, 8]), scale(&[2, 0])], "tensor `m.weight_scale`: 0 scales for 64 columns"),
        (
            vec![packed(&[2, 8]), scale(&[2, 2]), count("m.weight_zero_point", &[1])],
            "tensor `m.weight_zero_point`",
        ),
        (
            vec![u8s("m.weight_packed", DType::U8, &[2, 32], &[0; 64]), scale(&[2, 2])],
            "tensor `m.weight_scale`: holds",
        ),
    ];
    for (entries, wanted) in cases {
        let why = message(try_open(&entries, json!({})));
        assert!(why.contains(wanted), "{why}, not {wanted}");
    }
}

#[test]
fn four_bit_floats_of_experts() {
    let magnitudes = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let (experts, rows, groups) = (2, 4, 2);
    let q: Vec<u8> = (0..experts * rows * groups * 32).map(|i| (i * 13 % 16) as u8).collect();
    let blocks: Vec<u8> = q.chunks(2).map(|p| p[0] + 16 * p[1]).collect();
    let exponents: Vec<u8> = (0..experts * rows * groups).map(|i| 125 + i as u8 % 6).collect();
    let mut c = checkpoint(&[
        u8s("e.gate_up_proj_blocks", DType::U8, &[experts, rows, groups, 16], &blocks),
        u8s("e.gate_up_proj_scales", DType::U8, &[experts, rows, groups], &exponents),
        count("e.gate_up_proj_bias", &[experts, rows]),
    ]);
    c.split("e.gate_up_proj", -2, &[("e.gate_proj", 1), ("e.up_proj", 1)]).unwrap();
    let w = weights(c);
    let value = |i: usize| {
        let magnitude = magnitudes[usize::from(q[i] % 8)] * 2f32.powi(i32::from(exponents[i / 32]) - 127);
        if q[i] < 8 { magnitude } else { -magnitude }
    };
    let half = |first: usize| -> Vec<f32> {
        (0..experts * rows)
            .filter(|r| r % 2 == first)
            .flat_map(|r| (r * 64..r * 64 + 64).map(value))
            .collect()
    };
    let packed = w.pp("e.gate_proj").matrix(&[2, 2, 64], None).unwrap();
    assert_eq!(packed.bits_per_weight(), 4.25);
    assert_eq!(matrix(&w, "e.up_proj", &[2, 2, 64]).unwrap(), half(1));
    assert_eq!(values(&w, "e.gate_proj.bias", &[2, 2]).unwrap(), [0., 2., 4., 6.]);
    let mlx_lm_common::weights::Matrix::Packed(p) = packed else { panic!("not packed") };
    let gate = mlx_lm_common::raw::dequantize(&p.weight, &p.scales, None, p.format()).unwrap();
    assert_eq!(folder::floats(&gate), half(0));
}

#[test]
fn bad_blocks() {
    let blocks = |shape: &[usize]| u8s("e_blocks", DType::U8, shape, &vec![0; shape.iter().product()]);
    let scales = |shape: &[usize]| u8s("e_scales", DType::U8, shape, &vec![0; shape.iter().product()]);
    for (entries, wanted) in [
        (vec![blocks(&[2, 2, 16])], "tensor `e_scales` is not in the checkpoint"),
        (vec![blocks(&[2, 2, 16]), scales(&[2, 1])], "tensor `e_scales`: found shape [2, 1], wanted [2, 2]"),
        (vec![blocks(&[2, 2, 8]), scales(&[2, 2])], "tensor `e_blocks`: has shape [2, 2, 8]"),
        (vec![blocks(&[16]), scales(&[1])], "tensor `e_blocks`: has shape [16]"),
        (vec![count("e_blocks", &[2, 16]), scales(&[2])], "tensor `e_blocks`: holds"),
        (vec![blocks(&[2, 2, 16]), count("e_scales", &[2, 2])], "tensor `e_scales`: holds"),
    ] {
        let why = message(try_open(&entries, json!({})));
        assert!(why.contains(wanted), "{why}, not {wanted}");
    }
}

fn bitnet(class: &str) -> Value {
    json!({"quantization_config": {"quant_method": "bitnet", "linear_class": class, "quantization_mode": "offline"}})
}

#[test]
fn ternary_weights() {
    for (rows, columns) in [(8, 128), (12, 96), (4, 64)] {
        let ternary: Vec<i32> = (0..rows * columns).map(|i| (i * 5 % 7 % 3) as i32 - 1).collect();
        // Each byte holds four rows that lie a quarter apart.
        let quarter = rows / 4;
        let byte = |i: usize| -> u8 {
            (0..4).map(|k| ((ternary[k * quarter * columns + i] + 1) as u8) << (2 * k)).sum()
        };
        let packed: Vec<u8> = (0..quarter * columns).map(byte).collect();
        let scale = bf16::from_f32(1.7);
        for (class, factor) in [("autobitlinear", scale.to_f32()), ("bitlinear", 1.0 / scale.to_f32())] {
            let entries = [
                u8s("m.weight", DType::U8, &[quarter, columns], &packed),
                ("m.weight_scale".into(), DType::BF16, vec![1], bytes(&[scale], bf16::to_le_bytes)),
            ];
            let w = weights(open(&entries, bitnet(class)).1);
            let wanted: Vec<f32> = ternary.iter().map(|t| *t as f32 * factor).collect();
            assert_eq!(matrix(&w, "m", &[rows as i32, columns as i32]).unwrap(), wanted, "{class}");
            w.finish().unwrap();
        }
    }
}

#[test]
fn bad_ternary_weights() {
    let weight = |shape: &[usize]| u8s("m.weight", DType::U8, shape, &vec![0; shape.iter().product()]);
    for (entries, wanted) in [
        (vec![weight(&[1, 64])], "tensor `m.weight_scale` is not in the checkpoint"),
        (vec![weight(&[1, 64]), count("m.weight_scale", &[4])], "tensor `m.weight_scale`: found shape [4]"),
        (vec![weight(&[1, 65]), count("m.weight_scale", &[1])], "tensor `m.weight`: 1 scales for 65 columns"),
        (vec![weight(&[1, 0]), count("m.weight_scale", &[1])], "tensor `m.weight`: 1 scales for 0 columns"),
        (vec![weight(&[64]), count("m.weight_scale", &[1])], "tensor `m.weight`: [64] is no shape"),
    ] {
        let why = message(try_open(&entries, bitnet("autobitlinear")));
        assert!(why.contains(wanted), "{why}, not {wanted}");
    }
    let online = json!({"quantization_config": {"quant_method": "bitnet", "quantization_mode": "online"}});
    assert!(message(try_open(&[], online)).contains("quantization_config.quantization_mode"));
}

#[test]
fn encodings_that_are_not_known() {
    let compressed = |format: &str, weights: Value| json!({"quant_method": "compressed-tensors", "format": format, "config_groups": {"g": {"weights": weights}}});
    for (config, key) in [
        (json!({"quant_method": "hqq", "bits": 4}), "quant_method`: found hqq, wanted fp8, mxfp4"),
        (json!({"quant_method": "gptq", "bits": 5}), "bits`: found 5"),
        (json!({"quant_method": "gptq", "checkpoint_format": "marlin"}), "checkpoint_format`: found marlin"),
        (json!({"quant_method": "gptq", "pack_dtype": "int8"}), "pack_dtype`: found int8"),
        (json!({"quant_method": 3}), "quant_method"),
        (json!({"quant_method": "awq", "bits": 8}), "bits`: found 8"),
        (json!({"quant_method": "awq", "version": "gemv"}), "version`: found gemv"),
        (json!({"quant_method": "modelopt", "quant_algo": "W4A16_AWQ"}), "quant_algo`: found W4A16_AWQ"),
        (json!({"quantization": {"quant_algo": "INT4_AWQ"}}), "quant_algo`: found INT4_AWQ"),
        (compressed("marlin-24", json!({})), "format`: found marlin-24"),
        (compressed("pack-quantized", json!({"num_bits": 3})), "config_groups.g.weights.num_bits`: found 3"),
        (compressed("nvfp4-pack-quantized", json!({"type": "int"})), "config_groups.g.weights.type"),
        (
            compressed("float-quantized", json!({"num_bits": 8, "type": "int"})),
            "config_groups.g.weights.type",
        ),
    ] {
        let why = message(try_open(&[], json!({"quantization_config": config})));
        assert!(why.contains("`quantization_config.") && why.contains(key), "{why}, not {key}");
    }
    // MLX's tools leave the key behind.
    open(
        &[],
        json!({"quantization": {"group_size": 64, "bits": 4}, "quantization_config": {"quant_method": "gptq"}}),
    );
    open(&[], json!({"quantization_config": {"group_size": 64, "bits": 4, "mode": "affine"}}));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Tensors of any shape and type under the names that encodings look for: an error or values, never a panic.
    #[test]
    fn any_tensors(
        names in prop::sample::subsequence(
            vec!["m.weight", "m.weight_scale", "m.weight_scale_inv", "m.weight_scale_2", "m.qweight", "m.qzeros", "m.scales",
                 "m.g_idx", "m.weight_packed", "m.weight_zero_point", "m.weight_global_scale", "m_blocks", "m_scales"], 0..8),
        shapes in prop::collection::vec(prop::collection::vec(prop::sample::select(vec![0, 1, 2, 4, 8, 32, 64]), 0..4), 8),
        types in prop::collection::vec(prop::sample::select(
            vec![DType::U8, DType::I8, DType::F8_E4M3, DType::F8_E5M2, DType::F8_E8M0, DType::I32, DType::U32, DType::F32,
                 DType::BF16]), 8),
        config in prop::sample::select(vec![json!({}), bitnet("x"), json!({"quantization_config": {"weight_block_size": [2, 4]}})]),
    ) {
        let entries: Vec<Entry> = names.iter().zip(shapes).zip(types).map(|((name, shape), dtype)| {
            let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
            (name.to_string(), dtype, shape, vec![0x11; bytes])
        }).collect();
        if let Ok((_, mut c)) = try_open(&entries, config) {
            let _ = c.split("m", -2, &[("a", 1), ("b", 1)]);
            let _ = c.transpose(|n| n.ends_with("a.weight"));
            let all: Vec<(String, Vec<i32>)> = c.iter().map(|(n, t)| (n.to_string(), t.shape().to_vec())).collect();
            let w = weights(c);
            for (name, shape) in all {
                let _ = w.tensor(&name, &shape);
            }
        }
    }
}
