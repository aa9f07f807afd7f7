//! The verbs that bring published layouts into the one that architectures read: values, names and refusals.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "common/folder.rs"]
mod folder;

use folder::{Entry, bytes, checkpoint, count, f32s, floats, matrix, message, numbers, values, weights};
use half::bf16;
use mlx_lm_common::weights::{Checkpoint, Tensor, header::DType};
use mlx_rs::{Array, Dtype, ops};

fn names(c: &Checkpoint) -> Vec<&str> {
    c.iter().map(|(name, _)| name).collect()
}

/// Whether a tensor is a place in a file, not computed.
fn in_file(c: &Checkpoint, name: &str) -> bool {
    matches!(c.get(name), Some(Tensor::Plain(_)))
}

/// An array as a tensor of a file.
fn written(name: &str, a: &Array) -> Entry {
    let shape = a.shape().iter().map(|n| *n as usize).collect();
    match a.dtype() {
        Dtype::Uint32 => (name.into(), DType::U32, shape, bytes(a.as_slice::<u32>(), u32::to_le_bytes)),
        _ => (name.into(), DType::F32, shape, bytes(a.as_slice::<f32>(), f32::to_le_bytes)),
    }
}

/// A packed matrix of any values, as a checkpoint has it, and its exact values.
fn packed(module: &str, shape: &[i32], group: i32, bits: i32) -> (Vec<Entry>, Vec<f32>) {
    let n = shape.iter().product::<i32>() as usize;
    let dense = Array::from_slice(&numbers(n as u32, n), shape);
    let (w, s, b) = ops::quantize(&dense, group, bits).unwrap();
    let exact = ops::dequantize(&w, &s, &b, group, bits).unwrap();
    let parts = [("weight", &w), ("scales", &s), ("biases", &b)];
    (parts.iter().map(|(part, a)| written(&format!("{module}.{part}"), a)).collect(), floats(&exact))
}

/// Rows `rows` of a matrix with so many columns.
fn rows(all: &[f32], columns: usize, rows: impl IntoIterator<Item = usize>) -> Vec<f32> {
    rows.into_iter().flat_map(|r| all[r * columns..][..columns].to_vec()).collect()
}

#[test]
fn renaming() {
    let mut c = checkpoint(&[
        count("a.x.weight", &[1]),
        count("b", &[2]),
        count("m.w1_bias", &[3]),
        count("w1", &[4]),
    ]);
    c.rename(|n| (n == "b").then(|| "c".into())).unwrap();
    c.rename_prefix("a.", "aa.").unwrap();
    c.rename_module("w1", "gate_proj").unwrap();
    assert_eq!(names(&c), ["aa.x.weight", "c", "gate_proj.weight", "m.gate_proj.bias"]);
    // Two may change places.
    c.rename(|n| match n {
        "c" => Some("gate_proj.weight".into()),
        "gate_proj.weight" => Some("c".into()),
        _ => None,
    })
    .unwrap();
    let w = weights(c.clone());
    assert_eq!(values(&w, "c", &[4]).unwrap(), [0., 1., 2., 3.]);
    let clash = message(c.rename(|n| (n == "m.gate_proj.bias").then(|| "c".into())));
    assert!(clash.contains("`m.gate_proj.bias`") && clash.contains("`c`"), "{clash}");
}

#[test]
fn modules_are_whole_path_segments() {
    let mut c = checkpoint(&[
        count("xq.weight", &[2, 2]),
        count("q.weight.extra", &[2]),
        count("a.q.weight", &[2, 2]),
    ]);
    c.split("q", -2, &[("l", 1), ("r", 1)]).unwrap();
    assert_eq!(names(&c), ["a.l.weight", "a.r.weight", "q.weight.extra", "xq.weight"]);
}

#[test]
fn the_text_part_of_a_wrapper() {
    let all = [
        "language_model.lm_head.weight",
        "language_model.model.norm.weight",
        "model.language_model.layers.0.w",
        "model.visual.blocks.0.w",
        "multi_modal_projector.w",
        "vision_tower.w",
        "model.embed_audio.w",
        "model.layers.1.visual",
    ];
    let mut c = checkpoint(&all.map(|n| count(n, &[1])));
    c.keep_text().unwrap();
    assert_eq!(
        names(&c),
        ["lm_head.weight", "model.layers.0.w", "model.layers.1.visual", "model.norm.weight"]
    );
}

#[test]
fn fused_rows_one_after_the_other() {
    let mut c = checkpoint(&[count("a.qkv.weight", &[6, 2]), count("a.qkv.bias", &[6])]);
    c.split("qkv", -2, &[("q", 3), ("k", 1), ("v", 2)]).unwrap();
    assert_eq!(names(&c), ["a.k.bias", "a.k.weight", "a.q.bias", "a.q.weight", "a.v.bias", "a.v.weight"]);
    assert!(names(&c).iter().all(|n| in_file(&c, n)));
    assert_eq!(c.bytes(), 72);
    let w = weights(c);
    assert_eq!(values(&w, "a.q.weight", &[3, 2]).unwrap(), [0., 1., 2., 3., 4., 5.]);
    assert_eq!(values(&w, "a.k.weight", &[1, 2]).unwrap(), [6., 7.]);
    assert_eq!(values(&w, "a.v.weight", &[2, 2]).unwrap(), [8., 9., 10., 11.]);
    assert_eq!(values(&w, "a.v.bias", &[2]).unwrap(), [4., 5.]);
}

#[test]
fn fused_rows_in_groups_and_interleaved() {
    let all: Vec<f32> = (0..24).map(|i| i as f32).collect();
    let grouped = |parts: &[(&str, i32)]| {
        let mut c = checkpoint(&[count("x", &[12, 2])]);
        c.split("x", -2, parts).unwrap();
        assert!(names(&c).iter().all(|n| in_file(&c, n)));
        weights(c)
    };
    let w = grouped(&[("a", 1), ("b", 3)]);
    assert_eq!(values(&w, "a.weight", &[3, 2]).unwrap(), rows(&all, 2, [0, 4, 8]));
    assert_eq!(values(&w, "b.weight", &[9, 2]).unwrap(), rows(&all, 2, [1, 2, 3, 5, 6, 7, 9, 10, 11]));
    let w = grouped(&[("gate", 1), ("up", 1)]);
    assert_eq!(values(&w, "gate.weight", &[6, 2]).unwrap(), rows(&all, 2, (0..12).step_by(2)));
    assert_eq!(values(&w, "up.weight", &[6, 2]).unwrap(), rows(&all, 2, (1..12).step_by(2)));
}

#[test]
fn fused_experts() {
    // Two experts of four outputs and three inputs, as published.
    let mut c = checkpoint(&[count("e.gate_up_proj", &[2, 4, 3]), count("e.gate_up_proj_bias", &[2, 4])]);
    c.split("e.gate_up_proj", -2, &[("s.gate_proj", 2), ("s.up_proj", 2)]).unwrap();
    let all: Vec<f32> = (0..24).map(|i| i as f32).collect();
    let w = weights(c);
    assert_eq!(values(&w, "s.gate_proj.weight", &[2, 2, 3]).unwrap(), rows(&all, 3, [0, 1, 4, 5]));
    assert_eq!(values(&w, "s.up_proj.weight", &[2, 2, 3]).unwrap(), rows(&all, 3, [2, 3, 6, 7]));
    assert_eq!(values(&w, "s.gate_proj.bias", &[2, 2]).unwrap(), [0., 1., 4., 5.]);
    assert_eq!(values(&w, "s.up_proj.bias", &[2, 2]).unwrap(), [2., 3., 6., 7.]);
    w.finish().unwrap();
}

#[test]
fn fused_columns_and_transposed_experts() {
    // [experts, in, gate and up].
    let mut c = checkpoint(&[count("gate_up_proj", &[2, 3, 4])]);
    c.split("gate_up_proj", -1, &[("gate", 2), ("up", 2)]).unwrap();
    c.transpose(|n| n.ends_with(".weight")).unwrap();
    let w = weights(c);
    let wanted = |shift: usize| {
        let at = |e: usize, o: usize, i: usize| (e * 12 + i * 4 + o + shift) as f32;
        (0..2).flat_map(|e| (0..2).flat_map(move |o| (0..3).map(move |i| at(e, o, i)))).collect::<Vec<_>>()
    };
    assert_eq!(values(&w, "gate.weight", &[2, 2, 3]).unwrap(), wanted(0));
    assert_eq!(values(&w, "up.weight", &[2, 2, 3]).unwrap(), wanted(2));
    // Interleaved, after the axes are swapped: what is computed is cut too.
    let mut c = checkpoint(&[count("gate_up_proj", &[2, 3, 4])]);
    c.rename_module("gate_up_proj", "x").unwrap();
    c.transpose(|n| n == "x.weight").unwrap();
    c.split("x", -2, &[("gate", 1), ("up", 1)]).unwrap();
    assert!(!in_file(&c, "gate.weight"));
    let both = c.bytes();
    let w = weights(c);
    assert_eq!(both, 96);
    assert_eq!(
        values(&w, "up.weight", &[2, 2, 3]).unwrap(),
        [1., 5., 9., 3., 7., 11., 13., 17., 21., 15., 19., 23.]
    );
    assert_eq!(
        values(&w, "gate.weight", &[2, 2, 3]).unwrap(),
        [0., 4., 8., 2., 6., 10., 12., 16., 20., 14., 18., 22.]
    );
}

#[test]
fn packed_rows_are_cut_as_they_are() {
    let (mut entries, exact) = packed("m.qkv", &[8, 64], 32, 4);
    entries.push(count("m.qkv.bias", &[8]));
    let mut c = checkpoint(&entries);
    c.split("m.qkv", -2, &[("m.q", 3), ("m.k", 1)]).unwrap();
    assert!(names(&c).iter().all(|n| in_file(&c, n)));
    let w = weights(c);
    assert_eq!(matrix(&w, "m.q", &[6, 64]).unwrap(), rows(&exact, 64, [0, 1, 2, 4, 5, 6]));
    assert_eq!(matrix(&w, "m.k", &[2, 64]).unwrap(), rows(&exact, 64, [3, 7]));
    assert_eq!(values(&w, "m.k.bias", &[2]).unwrap(), [3., 7.]);
    let mut c = checkpoint(&packed("m.qkv", &[8, 64], 32, 4).0);
    let why = message(c.split("m.qkv", -1, &[("m.q", 4), ("m.k", 4)]));
    assert!(why.contains("m.qkv.") && why.contains("packed"), "{why}");
}

#[test]
fn cuts_of_cuts_and_stacks() {
    // Rows of a group, then every other of them; a cut of a stack, a stack of cuts.
    let all: Vec<f32> = (0..48).map(|i| i as f32).collect();
    let mut c = checkpoint(&[count("x", &[12, 4])]);
    c.split("x", -2, &[("a", 4), ("b", 2)]).unwrap();
    c.split("a", -2, &[("c", 1), ("d", 1)]).unwrap();
    c.split("b", -2, &[("e", 2)]).unwrap();
    c.split("e", -1, &[("f", 1), ("g", 3)]).unwrap();
    let w = weights(c);
    assert_eq!(values(&w, "c.weight", &[4, 4]).unwrap(), rows(&all, 4, [0, 2, 6, 8]));
    assert_eq!(values(&w, "d.weight", &[4, 4]).unwrap(), rows(&all, 4, [1, 3, 7, 9]));
    assert_eq!(values(&w, "f.weight", &[4, 1]).unwrap(), [16., 20., 40., 44.]);
    assert_eq!(
        values(&w, "g.weight", &[4, 3]).unwrap(),
        [17., 18., 19., 21., 22., 23., 41., 42., 43., 45., 46., 47.]
    );

    let experts: Vec<Entry> = (0..2).map(|e| count(&format!("l.experts.{e}.gu.weight"), &[4, 2])).collect();
    let mut c = checkpoint(&experts);
    c.split("gu", -2, &[("gate", 2), ("up", 2)]).unwrap();
    c.stack("experts", "all").unwrap();
    c.split("all.gate", -2, &[("g0", 1), ("g1", 1)]).unwrap();
    let w = weights(c);
    assert_eq!(values(&w, "l.all.up.weight", &[2, 2, 2]).unwrap(), [4., 5., 6., 7., 4., 5., 6., 7.]);
    assert_eq!(values(&w, "l.g1.weight", &[2, 1, 2]).unwrap(), [2., 3., 2., 3.]);
}

#[test]
fn long_runs_and_many_short_ones() {
    // More than is read at a time, in bfloat16, which becomes float32 on the way.
    let (n, columns) = (3 * 700, 1024);
    let data: Vec<bf16> = (0..n * columns).map(|i| bf16::from_f32((i % 251) as f32 - 17.0)).collect();
    let entry = || ("x".to_string(), DType::BF16, vec![n, columns], bytes(&data, bf16::to_le_bytes));
    let row = |r: usize| data[r * columns..][..columns].iter().map(|v| v.to_f32()).collect::<Vec<_>>();
    for group in [3, 1050] {
        let mut c = checkpoint(&[entry()]);
        c.split("x", -2, &[("a", group - 1), ("b", 1)]).unwrap();
        let w = weights(c);
        let group = group as usize;
        let (last, other): (Vec<usize>, Vec<usize>) = (0..n).partition(|r| r % group == group - 1);
        let wanted = |rows: &[usize]| rows.iter().flat_map(|r| row(*r)).collect::<Vec<f32>>();
        let shape = |rows: &[usize]| [rows.len() as i32, columns as i32];
        assert!(values(&w, "a.weight", &shape(&other)).unwrap() == wanted(&other), "{group}");
        assert!(values(&w, "b.weight", &shape(&last)).unwrap() == wanted(&last), "{group}");
    }
    let mut c = checkpoint(&[entry()]);
    c.split("x", -1, &[("a", 1), ("b", 1023)]).unwrap();
    let wanted: Vec<f32> = (0..n).map(|r| row(r)[0]).collect();
    assert!(values(&weights(c), "a.weight", &[n as i32, 1]).unwrap() == wanted);
}

#[test]
fn stacks_of_packed_and_of_computed_parts() {
    let experts = [packed("l.experts.0.up", &[4, 64], 64, 4), packed("l.experts.1.up", &[4, 64], 64, 4)];
    let mut c = checkpoint(&experts.iter().flat_map(|(e, _)| e.clone()).collect::<Vec<_>>());
    c.stack("experts", "switch").unwrap();
    let wanted = [experts[0].1.clone(), experts[1].1.clone()].concat();
    assert_eq!(matrix(&weights(c), "l.switch.up", &[2, 4, 64]).unwrap(), wanted);

    let mut c =
        checkpoint(&[count("l.experts.0.up.w", &[1, 2]), f32s("l.experts.1.up.w", &[1, 2], &[5., 6.])]);
    c.transpose(|_| true).unwrap();
    c.stack("experts", "s").unwrap();
    assert_eq!(values(&weights(c), "l.s.up.w", &[2, 2, 1]).unwrap(), [0., 1., 5., 6.]);
    let mut c = checkpoint(&[count("l.e.0.w.a", &[2]), count("l.e.2.w.a", &[2])]);
    assert!(message(c.stack("e", "s")).contains("`l.e.1.w.a`"));
    let mut c = checkpoint(&[count("l.e.0.w.a", &[2]), count("l.e.1.w.a", &[3])]);
    assert!(message(c.stack("e", "s")).contains("`l.s.w.a`"));
}

#[test]
fn convolutions_and_shapes() {
    let mut c = checkpoint(&[
        count("a.conv", &[3, 1, 4]),
        count("b.conv", &[3, 4, 1]),
        count("c", &[1, 1, 5, 1]),
        count("d", &[2, 2, 3]),
    ]);
    for _ in 0..2 {
        c.conv_to_mlx(|n| n.ends_with("conv")).unwrap();
    }
    c.reshape(|n| n == "c", |_| Some(vec![5])).unwrap();
    c.transpose(|n| n == "d").unwrap();
    assert!(in_file(&c, "a.conv") && in_file(&c, "c"));
    assert!(message(c.clone().conv_to_mlx(|n| n == "d")).contains("tensor `d`"));
    assert!(message(c.clone().conv_to_mlx(|n| n == "c")).contains("tensor `c`: shape [5]"));
    assert!(message(c.clone().transpose(|n| n == "c")).contains("tensor `c`: has the axes [5]"));
    assert!(message(c.clone().reshape(|n| n == "c", |_| Some(vec![-5, -1]))).contains("tensor `c`"));
    assert!(message(c.clone().reshape(|n| n == "c", |_| Some(vec![i32::MAX; 9]))).contains("tensor `c`"));
    let w = weights(c);
    let twelve: Vec<f32> = (0..12).map(|i| i as f32).collect();
    assert_eq!(values(&w, "a.conv", &[3, 4, 1]).unwrap(), twelve);
    assert_eq!(values(&w, "b.conv", &[3, 4, 1]).unwrap(), twelve);
    assert_eq!(values(&w, "d", &[2, 3, 2]).unwrap(), [0., 3., 1., 4., 2., 5., 6., 9., 7., 10., 8., 11.]);
    assert_eq!(values(&w, "c", &[5]).unwrap(), [0., 1., 2., 3., 4.]);
}

#[test]
fn constants_in_float32() {
    let norm: Vec<bf16> = [0.0078125f32, -0.5, 1.0].map(bf16::from_f32).to_vec();
    let mut c = checkpoint(&[
        ("norm".into(), DType::BF16, vec![3], bytes(&norm, bf16::to_le_bytes)),
        count("m.weight", &[2, 3]),
        count("codes", &[3]),
    ]);
    assert_eq!(c.float_type(), Some(Dtype::Float32));
    c.add(|n| n == "norm", 1.0).unwrap();
    c.multiply(|n| (n == "m.weight").then(|| vec![2.0, -1.0])).unwrap();
    c.map(|n| n == "codes", |x| Ok(x.multiply(x)?)).unwrap();
    c.multiply(|n| (n == "codes").then(|| vec![0.5])).unwrap();
    let mut wrong = c.clone();
    assert!(message(wrong.multiply(|n| (n == "codes").then(|| vec![1.0; 2]))).contains("`codes`"));
    let w = weights(c);
    assert_eq!(values(&w, "norm", &[3]).unwrap(), [1.0078125, 0.5, 2.0]);
    assert_eq!(values(&w, "m.weight", &[2, 3]).unwrap(), [0., 2., 4., -3., -4., -5.]);
    assert_eq!(values(&w, "codes", &[3]).unwrap(), [0., 0.5, 2.]);
    let mut c = checkpoint(&[("ids".into(), DType::I32, vec![1], vec![0; 4])]);
    assert!(message(c.add(|_| true, 1.0)).contains("`ids`: holds no floats"));
    // What changes a shape is found when it is read.
    let mut c = checkpoint(&[count("a", &[2])]);
    c.map(|_| true, |x| Ok(x.sum(None)?)).unwrap();
    assert!(message(values(&weights(c), "a", &[2])).contains("[2]"));
}

#[test]
fn the_compute_type_is_that_of_the_inputs() {
    let data = vec![0; 64];
    let mut c = checkpoint(&[("a".into(), DType::BF16, vec![4, 8], data), count("b", &[2])]);
    c.multiply(|n| (n == "a").then(|| vec![2.0])).unwrap();
    c.split("a", -2, &[("x", 2), ("y", 2)]).unwrap();
    assert_eq!(c.float_type(), Some(Dtype::Bfloat16));
    assert_eq!(c.bytes(), 64 + 8);
}

#[test]
fn packed_weights_times_constants() {
    let (entries, exact) = packed("lm_head", &[4, 64], 32, 4);
    let mut c = checkpoint(&entries);
    c.multiply(|n| (n == "lm_head.weight").then(|| vec![0.5, 2.0, 4.0, 1.0])).unwrap();
    let wanted: Vec<f32> = exact
        .chunks(64)
        .zip([0.5, 2.0, 4.0, 1.0])
        .flat_map(|(row, f)| row.iter().map(move |v| v * f))
        .collect();
    assert_eq!(matrix(&weights(c), "lm_head", &[4, 64]).unwrap(), wanted);
    let mut c = checkpoint(&entries);
    c.ignore(|n| n.ends_with("biases"));
    assert!(message(c.multiply(|n| (n == "lm_head.weight").then(|| vec![2.0]))).contains("`lm_head.weight`"));
}

#[test]
fn latent_attention_stays_packed() {
    // Keys and values of two heads take turns in the rows.
    let (entries, exact) = packed("l.kv_b_proj", &[10, 64], 64, 8);
    let mut c = checkpoint(&entries);
    c.split("kv_b_proj", -2, &[("k_b_proj", 3), ("v_b_proj", 2)]).unwrap();
    let w = weights(c);
    assert_eq!(matrix(&w, "l.k_b_proj", &[6, 64]).unwrap(), rows(&exact, 64, [0, 1, 2, 5, 6, 7]));
    assert_eq!(matrix(&w, "l.v_b_proj", &[4, 64]).unwrap(), rows(&exact, 64, [3, 4, 8, 9]));
    w.finish().unwrap();
}

#[test]
fn what_cannot_be_split() {
    let mut c = checkpoint(&[count("a.weight", &[5, 2]), count("s.weight", &[]), count("z.weight", &[0, 2])]);
    for parts in [
        &[("x", 2), ("y", 2)][..],
        &[("x", 0), ("y", 5)],
        &[("x", -5), ("y", 10)],
        &[],
        &[("x", i32::MAX), ("y", i32::MAX)],
    ] {
        let why = message(c.clone().split("a", -2, parts));
        assert!(why.starts_with("tensor `a.weight`: has 5 entries"), "{why}");
    }
    for axis in [-3, 0, 1, i32::MIN, i32::MAX] {
        let why = message(c.clone().split("a", axis, &[("x", 5)]));
        assert!(why.contains("`a.weight`: has no axis"), "{why}");
    }
    assert!(message(c.clone().split("s", -2, &[("x", 1)])).contains("`s.weight`: has no axis"));
    let why = message(c.clone().split("a", -2, &[("z", 5)]));
    assert!(why.contains("`z.weight`"), "{why}");
    c.split("z", -2, &[("x", 2), ("y", 2)]).unwrap();
    weights(c).tensor("x.weight", &[0, 2]).unwrap();
}
