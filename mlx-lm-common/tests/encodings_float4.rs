//! 4-bit floats of other toolkits: values against their definitions, and refusals; and what is wrong with whole checkpoints.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "common/folder.rs"]
mod folder;

use folder::{Entry, checkpoint, count, f32s, matrix, message, open, try_open, u8s, weights, words};
use mlx_lm_common::weights::{Kept, header::DType};
use serde_json::{Value, json};

const E2M1: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

fn e2m1(code: u8) -> f32 {
    if code < 8 { E2M1[usize::from(code)] } else { -E2M1[usize::from(code) - 8] }
}

/// A positive float with 4 bits of exponent (bias 7) and 3 of mantissa, of codes whose exponent is not 0.
fn e4m3(code: u8) -> f32 {
    (1.0 + f32::from(code & 7) / 8.0) * 2f32.powi(i32::from(code >> 3) - 7)
}

fn zeros(name: &str, dtype: DType, shape: &[usize]) -> Entry {
    u8s(name, dtype, shape, &vec![0; shape.iter().product()])
}

/// Codes, two in a byte, and scales that are no subnormals.
fn parts(values: usize, group: usize) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let codes: Vec<u8> = (0..values).map(|i| (i * 11 % 16) as u8).collect();
    let bytes = codes.chunks(2).map(|c| c[0] | c[1] << 4).collect();
    (codes, bytes, (0..values / group).map(|i| 40 + (i * 5 % 40) as u8).collect())
}

#[test]
fn nvfp4_of_all_writers() {
    let (rows, columns) = (3, 64);
    let (codes, bytes, scales) = parts(rows * columns, 16);
    // Names of weight and scale, the scale of scales, and what it multiplies with.
    type Case<'a> = (&'a str, &'a str, Option<(&'a str, &'a [usize], f32)>, f32);
    let cases: [Case; 6] = [
        ("m.weight", "m.weight_scale", None, 1.0),
        ("m.weight", "m.weight_scale", Some(("m.weight_scale_2", &[], 0.25)), 0.25),
        ("m", "m_weight_scale", Some(("m_weight_scale_2", &[1], 0.3)), 0.3),
        ("m.weight_packed", "m.weight_scale", None, 1.0),
        ("m.weight_packed", "m.weight_scale", Some(("m.weight_global_scale", &[1], 8.0)), 0.125),
        ("m.weight_packed", "m.weight_scale", Some(("m.weight_global_scale", &[], 3.0)), 1.0 / 3.0),
    ];
    for (weight, scale, global, factor) in cases {
        let mut entries = vec![
            u8s(weight, DType::U8, &[rows, columns / 2], &bytes),
            u8s(scale, DType::F8_E4M3, &[rows, columns / 16], &scales),
        ];
        entries.extend(global.map(|(name, shape, value)| f32s(name, shape, &[value])));
        let c = checkpoint(&entries);
        let kept = if global.is_some() { "nvfp4 with a global scale" } else { "nvfp4" };
        let found: Vec<_> = c.encodings().map(|(name, e)| (name, e.stored.as_str(), &e.kept)).collect();
        assert_eq!(found, [("m", "NVFP4", &Kept::Packed(kept.into()))]);
        let w = weights(c);
        let values = matrix(&w, "m", &[rows as i32, columns as i32]).unwrap();
        for (i, found) in values.into_iter().enumerate() {
            let wanted = e2m1(codes[i]) * e4m3(scales[i / 16]) * factor;
            assert!((found - wanted).abs() <= 1e-6 * wanted.abs(), "{weight} {i}: {found}, not {wanted}");
        }
        w.finish().unwrap();
    }
}

#[test]
fn scales_of_fused_experts() {
    let (experts, rows, columns) = (2, 4, 32);
    let (codes, bytes, scales) = parts(experts * rows * columns, 16);
    let over = [0.5, 2.0, 4.0, 0.25];
    let mut c = checkpoint(&[
        u8s("e.gate_up_proj", DType::U8, &[experts, rows, columns / 2], &bytes),
        u8s("e.gate_up_proj_weight_scale", DType::F8_E4M3, &[experts, rows, columns / 16], &scales),
        f32s("e.gate_up_proj_weight_scale_2", &[experts, 2], &over),
    ]);
    c.split("e.gate_up_proj", -2, &[("e.gate_proj", 2), ("e.up_proj", 2)]).unwrap();
    let w = weights(c);
    for (part, name) in ["e.gate_proj", "e.up_proj"].into_iter().enumerate() {
        let found = matrix(&w, name, &[2, 2, 32]).unwrap();
        for (i, found) in found.into_iter().enumerate() {
            let (expert, row, column) = (i / 64, i / 32 % 2, i % 32);
            let at = (expert * rows + part * 2 + row) * columns + column;
            let wanted = e2m1(codes[at]) * e4m3(scales[at / 16]) * over[expert * 2 + part];
            assert!((found - wanted).abs() <= 1e-6 * wanted.abs(), "{name} {i}: {found}, not {wanted}");
        }
    }
    w.finish().unwrap();
}

#[test]
fn mxfp4_of_compressed_tensors() {
    let (codes, bytes, exponents) = parts(2 * 64, 32);
    for kind in [DType::U8, DType::F8_E8M0] {
        let c = checkpoint(&[
            u8s("m.weight_packed", DType::U8, &[2, 32], &bytes),
            u8s("m.weight_scale", kind, &[2, 2], &exponents),
        ]);
        let value = |i: usize| e2m1(codes[i]) * 2f32.powi(i32::from(exponents[i / 32]) - 127);
        let wanted: Vec<f32> = (0..128).map(value).collect();
        assert_eq!(matrix(&weights(c), "m", &[2, 64]).unwrap(), wanted);
    }
}

#[test]
fn bad_float4() {
    let weight = |shape: &[usize]| zeros("m.weight", DType::U8, shape);
    let packed = |shape: &[usize]| zeros("m.weight_packed", DType::U8, shape);
    let scale = |shape: &[usize]| zeros("m.weight_scale", DType::F8_E4M3, shape);
    let powers = |shape: &[usize]| zeros("m.weight_scale", DType::F8_E8M0, shape);
    let global = |shape: &[usize]| count("m.weight_scale_2", shape);
    for (entries, wanted) in [
        (vec![packed(&[2, 32])], "tensor `m.weight_scale` is not in the checkpoint"),
        (vec![packed(&[2, 32]), count("m.weight_scale", &[2, 4])], "tensor `m.weight_scale`: holds"),
        (vec![weight(&[2, 32]), scale(&[2, 3])], "tensor `m.weight_scale`: scales [2, 3] fit no groups"),
        (vec![weight(&[2, 32]), scale(&[2, 2])], "tensor `m.weight_scale`: scales [2, 2] fit no groups"),
        (vec![weight(&[2, 32]), powers(&[2, 4])], "tensor `m.weight_scale`: scales [2, 4] fit no groups"),
        (vec![weight(&[2, 32]), scale(&[2, 0])], "tensor `m.weight_scale`: scales [2, 0] fit no groups"),
        (vec![weight(&[2, 32]), scale(&[3, 4])], "tensor `m.weight_scale`: scales [3, 4] fit no groups"),
        (vec![weight(&[0, 32]), scale(&[0, 4])], "tensor `m.weight`: has shape [0, 32], without values"),
        (vec![weight(&[]), scale(&[1])], "tensor `m.weight`: [] is no shape of a matrix"),
        (
            vec![weight(&[2, 32]), scale(&[2, 4]), global(&[2])],
            "tensor `m.weight_scale_2`: found shape [2], wanted []",
        ),
        (
            vec![weight(&[2, 32]), scale(&[2, 4]), words("m.weight_scale_2", DType::I32, &[], &[1])],
            "tensor `m.weight_scale_2`: holds",
        ),
        (vec![weight(&[2, 32]), powers(&[2, 2]), global(&[])], "tensor `m.weight_scale_2`: is a scale of"),
        (vec![weight(&[2, 32]), scale(&[2, 4]), count("m.scales", &[1])], "tensor `m.scales`"),
        (
            vec![weight(&[2, 32]), scale(&[2, 4]), count("m.pre_quant_scale", &[64])],
            "tensor `m.pre_quant_scale`: inputs",
        ),
    ] {
        let why = message(try_open(&entries, json!({})));
        assert!(why.contains(wanted), "{why}, not {wanted}");
    }
}

/// One number that all values of a matrix are multiplied with, or divided by.
#[test]
fn scales_of_matrices_that_are_no_numbers() {
    let nvfp4 = |weight: &str, global: &str, value: f32| {
        let scale = zeros("m.weight_scale", DType::F8_E4M3, &[2, 4]);
        vec![zeros(weight, DType::U8, &[2, 32]), scale, f32s(global, &[1], &[value])]
    };
    let bitnet =
        |value: f32| vec![zeros("m.weight", DType::U8, &[1, 64]), f32s("m.weight_scale", &[1], &[value])];
    let own = |value: f32| {
        let scales = zeros("m.scales", DType::U8, &[2, 4]);
        vec![words("m.weight", DType::U32, &[2, 8], &[0; 16]), scales, f32s("m.global_scale", &[], &[value])]
    };
    let divides = json!({"quantization_config": {"quant_method": "bitnet", "linear_class": "bitlinear"}});
    for (entries, shape, config, name) in [
        (nvfp4("m.weight", "m.weight_scale_2", f32::NAN), [2, 64], json!({}), "m.weight_scale_2"),
        (nvfp4("m.weight", "m.weight_scale_2", f32::INFINITY), [2, 64], json!({}), "m.weight_scale_2"),
        (nvfp4("m.weight_packed", "m.weight_global_scale", 0.0), [2, 64], json!({}), "m.weight_global_scale"),
        (
            nvfp4("m.weight_packed", "m.weight_global_scale", f32::NAN),
            [2, 64],
            json!({}),
            "m.weight_global_scale",
        ),
        (bitnet(0.0), [4, 64], divides.clone(), "m.weight_scale"),
        (bitnet(f32::NAN), [4, 64], divides, "m.weight_scale"),
        (own(f32::NAN), [2, 64], json!({}), "m.global_scale"),
    ] {
        let why = message(matrix(&weights(open(&entries, config).1), "m", &shape));
        assert!(why.contains(&format!("tensor `{name}`: holds a scale of a whole matrix")), "{why}");
    }
    // Of affine codes, which have none.
    let affine = [
        words("m.weight", DType::U32, &[2, 8], &[0; 16]),
        count("m.scales", &[2, 2]),
        count("m.biases", &[2, 2]),
        count("m.global_scale", &[]),
    ];
    let why = message(matrix(&weights(checkpoint(&affine)), "m", &[2, 64]));
    assert!(why.contains("tensor `m.global_scale`"), "{why}");
}

/// Widths that tensors contradict.
#[test]
fn lies_of_configurations() {
    let gptq = |module: &str| {
        [
            words(&format!("{module}.qweight"), DType::I32, &[8, 8], &[0; 64]),
            words(&format!("{module}.qzeros"), DType::I32, &[2, 1], &[0; 2]),
            count(&format!("{module}.scales"), &[2, 8]),
        ]
    };
    let packed = [
        words("a.weight_packed", DType::I32, &[2, 8], &[0; 16]),
        count("a.weight_scale", &[2, 2]),
        ("a.weight_shape".into(), DType::I64, vec![2], [2i64, 64].map(i64::to_le_bytes).concat()),
    ];
    let two = [gptq("a"), gptq("b")].concat();
    let config = |keys: Value| json!({ "quantization_config": keys });
    let compressed = |weights: Value| {
        config(json!({"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": weights}}}))
    };
    let right = "; the tensors are right";
    for (entries, config, remarks) in [
        (&two[..], config(json!({"quant_method": "gptq", "bits": 4, "group_size": 32})), vec![]),
        (
            &two,
            config(json!({"quant_method": "gptq", "bits": 8, "group_size": 128})),
            vec![
                format!("`quantization_config` says bits 8, but `a.qweight` has 4{right}"),
                format!("`quantization_config` says group_size 128, but `a.qweight` has 32{right}"),
            ],
        ),
        (&two, config(json!({"quant_method": "gptq", "bits": 8, "dynamic": {"+:b": {"bits": 4}}})), vec![]),
        (&packed, compressed(json!({"num_bits": 4, "group_size": 32})), vec![]),
        (
            &packed,
            compressed(json!({"num_bits": 8, "group_size": -1})),
            vec![
                format!("`quantization_config` says bits 8, but `a.weight_packed` has 4{right}"),
                format!("`quantization_config` says group_size -1, but `a.weight_packed` has 32{right}"),
            ],
        ),
    ] {
        assert_eq!(open(entries, config.clone()).1.remarks(), remarks, "{config}");
    }
}
