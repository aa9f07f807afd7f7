//! Integer codes of other toolkits, value by value against their definitions: GPTQ, AWQ and compressed-tensors.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "common/folder.rs"]
mod folder;

use folder::{Entry, bytes, checkpoint, count, f32s, matrix, message, open, try_open, u8s, weights, words};
use half::f16;
use mlx_lm_common::weights::{Checkpoint, Kept, header::DType};
use serde_json::{Value, json};

/// Codes one after the other, lowest bits first, in 32-bit words.
fn stream(codes: &[u32], bits: usize) -> Vec<u32> {
    let mut words = vec![0; (codes.len() * bits).div_ceil(32)];
    for (i, code) in codes.iter().enumerate() {
        for bit in (0..bits).filter(|bit| code >> bit & 1 == 1) {
            words[(i * bits + bit) / 32] |= 1 << ((i * bits + bit) % 32);
        }
    }
    words
}

/// Rows of `columns` numbers, turned.
fn turned<T: Copy>(values: &[T], columns: usize) -> Vec<T> {
    (0..columns).flat_map(|c| values.iter().skip(c).step_by(columns).copied()).collect()
}

fn halves(name: &str, shape: &[usize], values: &[f16]) -> Entry {
    (name.into(), DType::F16, shape.to_vec(), bytes(values, f16::to_le_bytes))
}

fn ints(name: &str, values: &[i32]) -> Entry {
    (name.into(), DType::I32, vec![values.len()], bytes(values, i32::to_le_bytes))
}

/// A matrix [output, input] of GPTQ: codes by output and input, zero points and scales by group and output.
struct Gptq {
    bits: usize,
    input: usize,
    output: usize,
    q: Vec<u32>,
    z: Vec<u32>,
    s: Vec<f16>,
    /// Of each input.
    groups: Vec<usize>,
}

impl Gptq {
    fn new(bits: usize, [output, input]: [usize; 2], groups: Vec<usize>) -> Gptq {
        let (mask, count) = ((1 << bits) - 1, groups.iter().max().unwrap() + 1);
        Gptq {
            bits,
            input,
            output,
            q: (0..output * input).map(|i| (i * 7 + i / 5) as u32 & mask).collect(),
            z: (0..count * output).map(|i| (i * 5 + 1) as u32 & mask).collect(),
            s: (0..count * output).map(|i| f16::from_f32(0.01 + i as f32 * 0.003)).collect(),
            groups,
        }
    }

    fn count(&self) -> usize {
        self.z.len() / self.output
    }

    /// `offset` is what zero points are stored without.
    fn entries(&self, module: &str, offset: u32) -> Vec<Entry> {
        let packed: Vec<u32> = self.q.chunks(self.input).flat_map(|row| stream(row, self.bits)).collect();
        let rows = self.input * self.bits / 32;
        let zeros: Vec<u32> =
            self.z.iter().map(|z| z.wrapping_sub(offset) & ((1 << self.bits) - 1)).collect();
        let zeros: Vec<u32> = zeros.chunks(self.output).flat_map(|row| stream(row, self.bits)).collect();
        let name = |part: &str| format!("{module}.{part}");
        vec![
            words(&name("qweight"), DType::I32, &[rows, self.output], &turned(&packed, rows)),
            words(&name("qzeros"), DType::I32, &[self.count(), self.output * self.bits / 32], &zeros),
            halves(&name("scales"), &[self.count(), self.output], &self.s),
        ]
    }

    fn g_idx(&self, module: &str) -> Entry {
        let groups: Vec<i32> = self.groups.iter().map(|g| *g as i32).collect();
        ints(&format!("{module}.g_idx"), &groups)
    }

    /// w = (q - z) · s; no more than 20 bits, which float32 holds.
    fn values(&self, zero: impl Fn(u32) -> u32) -> Vec<f32> {
        let value = |i: usize| {
            let at = self.groups[i % self.input] * self.output + i / self.input;
            (self.q[i] as f32 - zero(self.z[at]) as f32) * self.s[at].to_f32()
        };
        (0..self.q.len()).map(value).collect()
    }

    fn shape(&self) -> [i32; 2] {
        [self.output as i32, self.input as i32]
    }
}

fn gptq(version: &str) -> Value {
    json!({"quantization_config": {"quant_method": "gptq", "bits": 4, "checkpoint_format": version, "group_size": 32}})
}

fn kept(c: &Checkpoint) -> String {
    let all = c.encodings().map(|(name, e)| match &e.kept {
        Kept::Packed(code) => format!("{name} is {}: {code}", e.stored),
        Kept::Widened(why) => format!("{name} is {}: widened, {why}", e.stored),
    });
    all.collect::<Vec<_>>().join("; ")
}

/// Zero points of 0 less one are the largest code, which means one more than that.
fn stored_less_one(bits: usize) -> impl Fn(u32) -> u32 {
    move |z| if z == 0 { 1 << bits } else { z }
}

#[test]
fn gptq_of_all_widths() {
    for bits in [2, 3, 4, 8] {
        for (input, group) in [(64, 32), (128, 64), (256, 128), (96, 96), (512, 256)] {
            let g = Gptq::new(bits, [32, input], (0..input).map(|i| i / group).collect());
            let groups =
                if input == group { "a scale for each row".into() } else { format!("groups of {group}") };
            let wanted = format!("m is GPTQ {bits}-bit, {groups}: affine {bits}-bit");
            for version in ["gptq", "gptq_v2"] {
                let v1 = version == "gptq";
                let values = if v1 { g.values(stored_less_one(bits)) } else { g.values(|z| z) };
                for index in [false, true] {
                    let mut entries = g.entries("m", u32::from(v1));
                    entries.extend(index.then(|| g.g_idx("m")));
                    let c = open(&entries, gptq(version)).1;
                    assert_eq!(kept(&c), wanted);
                    let w = weights(c);
                    assert_eq!(matrix(&w, "m", &g.shape()).unwrap(), values, "{wanted} {version}");
                    w.finish().unwrap();
                }
            }
        }
    }
}

#[test]
fn gptq_in_other_orders() {
    for bits in [2, 3, 4, 8] {
        let wide = "MLX has no groups of columns that lie apart";
        let cases: [(Vec<usize>, String); 4] = [
            // As activations order them.
            ((0..128).map(|i| i * 37 % 128 / 32).collect(), format!("listed groups: widened, {wide}")),
            // Whole groups in another order.
            ((0..128).map(|i| 3 - i / 32).collect(), format!("listed groups: affine {bits}-bit")),
            ((0..128).map(|i| [1, 0, 0, 2][i / 32]).collect(), format!("listed groups: affine {bits}-bit")),
            ((0..96).map(|i| i / 16).collect(), "groups of 16: widened, MLX has no groups of 16".into()),
        ];
        for (groups, how) in cases {
            let g = Gptq::new(bits, [32, groups.len()], groups);
            let c = open(&[g.entries("m", 1), vec![g.g_idx("m")]].concat(), gptq("gptq")).1;
            assert_eq!(kept(&c), format!("m is GPTQ {bits}-bit, {how}"));
            let w = weights(c);
            assert_eq!(matrix(&w, "m", &g.shape()).unwrap(), g.values(stored_less_one(bits)), "{how}");
            w.finish().unwrap();
        }
    }
    // Groups of 32 of which the last one is short; without an index, the configuration tells.
    let g = Gptq::new(4, [8, 80], (0..80).map(|i| i / 32).collect());
    let c = open(&g.entries("m", 0), gptq("gptq_v2")).1;
    assert_eq!(matrix(&weights(c), "m", &g.shape()).unwrap(), g.values(|z| z));
}

#[test]
fn experts_and_fused_rows_of_gptq() {
    let g = [Gptq::new(4, [16, 64], (0..64).map(|i| i / 32).collect()), Gptq::new(4, [16, 64], vec![0; 64])];
    // The second one has its groups in another order.
    let second =
        Gptq { groups: (0..64).map(|i| 1 - i / 32).collect(), ..Gptq::new(4, [16, 64], g[0].groups.clone()) };
    let [first, _] = g;
    let mut entries = Vec::new();
    for (e, g) in [&first, &second].into_iter().enumerate() {
        let module = format!("l.experts.{e}.gu");
        entries.extend(g.entries(&module, 1));
        entries.push(g.g_idx(&module));
    }
    let mut c = checkpoint(&entries);
    c.stack("experts", "s").unwrap();
    c.split("s.gu", -2, &[("s.gate", 8), ("s.up", 8)]).unwrap();
    let w = weights(c);
    let half = |half: usize| -> Vec<f32> {
        let rows = |g: &Gptq| g.values(stored_less_one(4))[half * 512..][..512].to_vec();
        [rows(&first), rows(&second)].concat()
    };
    assert_eq!(matrix(&w, "l.s.gate", &[2, 8, 64]).unwrap(), half(0));
    assert_eq!(matrix(&w, "l.s.up", &[2, 8, 64]).unwrap(), half(1));
    w.finish().unwrap();
}

#[test]
fn scales_that_are_no_numbers_stay_so() {
    for group in [32, 16] {
        let mut g = Gptq::new(4, [8, 64], (0..64).map(|i| i / group).collect());
        g.s[3] = f16::NAN;
        let c = open(&g.entries("m", 0), gptq("gptq_v2")).1;
        let found = matrix(&weights(c), "m", &[8, 64]).unwrap();
        for (i, (found, wanted)) in found.iter().zip(g.values(|z| z)).enumerate() {
            assert_eq!(found.is_nan(), i / 64 == 3 && i % 64 < group, "{i}");
            assert!(found.is_nan() || *found == wanted, "{i}");
        }
    }
}

#[test]
fn bad_gptq() {
    let weight = |shape: &[usize]| words("m.qweight", DType::I32, shape, &vec![0; shape.iter().product()]);
    let zeros = |shape: &[usize]| words("m.qzeros", DType::I32, shape, &vec![0; shape.iter().product()]);
    let scales = |shape: &[usize]| count("m.scales", shape);
    let index = |group: i32| ints("m.g_idx", &[&[0; 63][..], &[group]].concat());
    let all = |last: Entry| vec![weight(&[8, 8]), zeros(&[2, 1]), scales(&[2, 8]), last];
    let cases: Vec<(Vec<Entry>, &str)> = vec![
        (vec![weight(&[8, 8]), zeros(&[2, 1])], "tensor `m.scales` is not in the checkpoint"),
        (vec![weight(&[8, 8]), scales(&[8])], "tensor `m.qweight`"),
        (vec![weight(&[8, 8]), zeros(&[1, 1]), scales(&[2, 8])], "tensor `m.qzeros`: has shape [1, 1]"),
        (vec![weight(&[8, 8]), zeros(&[2, 0]), scales(&[2, 8])], "tensor `m.qweight`: holds codes of 0 bits"),
        (
            vec![weight(&[8, 32]), zeros(&[2, 5]), scales(&[2, 32])],
            "tensor `m.qweight`: holds codes of 5 bits",
        ),
        (vec![weight(&[7, 32]), zeros(&[2, 3]), scales(&[2, 32])], "tensor `m.qweight`: 7 words"),
        (vec![weight(&[8, 8]), count("m.qzeros", &[2, 1]), scales(&[2, 8])], "tensor `m.qzeros`: holds"),
        (
            vec![weight(&[8, 8]), zeros(&[2, 1]), words("m.scales", DType::I32, &[2, 8], &[0; 16])],
            "tensor `m.scales`: holds",
        ),
        (
            vec![weight(&[8, 8]), zeros(&[3, 1]), scales(&[3, 8])],
            "tensor `m.scales`: 3 scales for 64 columns",
        ),
        (
            vec![weight(&[8, 8]), zeros(&[0, 1]), scales(&[0, 8])],
            "tensor `m.scales`: 0 scales for 64 columns",
        ),
        (vec![weight(&[0, 8]), zeros(&[1, 1]), scales(&[1, 8])], "tensor `m.scales`: 1 scales for 0 columns"),
        (vec![weight(&[8, 0]), scales(&[1, 0])], "tensor `m.qweight`: 0 rows"),
        (vec![weight(&[1 << 30, 0]), scales(&[1, 0])], "tensor `m.qweight`: has too many inputs"),
        (all(index(2)), "tensor `m.g_idx`: names group 2 of 2"),
        (all(index(-1)), "tensor `m.g_idx`: names group -1 of 2"),
        (all(ints("m.g_idx", &[0; 32])), "tensor `m.g_idx`: found shape [32], wanted [64]"),
        (all(count("m.g_idx", &[64])), "tensor `m.g_idx`: holds"),
        (all(count("m.weight", &[1])), "tensor `m.weight`"),
    ];
    for (entries, wanted) in cases {
        let why = message(try_open(&entries, json!({})));
        assert!(why.contains(wanted), "{why}, not {wanted}");
    }
}

#[test]
fn short_groups_of_awq_are_widened() {
    let order = [0, 2, 4, 6, 1, 3, 5, 7];
    let packed = |codes: &[u32]| -> Vec<u32> {
        codes.chunks(8).map(|c| (0..8).map(|i| c[order[i]] << (4 * i)).sum()).collect()
    };
    let (input, output, group) = (48, 8, 16);
    let q: Vec<u32> = (0..input * output).map(|i| (i * 7 % 16) as u32).collect();
    let z: Vec<u32> = (0..3 * output).map(|i| (i * 5 % 16) as u32).collect();
    let s: Vec<f16> = (0..3 * output).map(|i| f16::from_f32(0.01 + i as f32 * 0.003)).collect();
    let c = checkpoint(&[
        words("m.qweight", DType::I32, &[input, 1], &packed(&q)),
        words("m.qzeros", DType::I32, &[3, 1], &packed(&z)),
        halves("m.scales", &[3, output], &s),
    ]);
    assert_eq!(kept(&c), "m is AWQ 4-bit, groups of 16: widened, MLX has no groups of 16");
    let value = |o: usize, i: usize| {
        let at = i / group * output + o;
        (q[i * output + o] as f32 - z[at] as f32) * s[at].to_f32()
    };
    let wanted: Vec<f32> =
        (0..output).flat_map(|o| (0..input).map(move |i| (o, i))).map(|(o, i)| value(o, i)).collect();
    assert_eq!(matrix(&weights(c), "m", &[8, 48]).unwrap(), wanted);
}

/// What compressed-tensors is told of a matrix.
#[derive(Clone, Copy)]
struct Case {
    bits: usize,
    columns: usize,
    groups: usize,
    zeros: bool,
    /// The group of a column.
    index: Option<fn(usize) -> usize>,
    how: &'static str,
}

#[test]
fn packed_integers_of_compressed_tensors() {
    let plain = Case {
        bits: 4,
        columns: 64,
        groups: 2,
        zeros: false,
        index: None,
        how: "groups of 32: affine 4-bit",
    };
    let wide = "groups of 12: widened, MLX has no groups of 12";
    let apart = "listed groups: widened, MLX has no groups of columns that lie apart";
    let cases = [
        plain,
        Case { zeros: true, ..plain },
        Case { bits: 8, how: "groups of 32: affine 8-bit", ..plain },
        Case { bits: 8, zeros: true, groups: 1, how: "a scale for each row: affine 8-bit", ..plain },
        Case { bits: 2, zeros: true, how: "groups of 32: affine 2-bit", ..plain },
        Case { groups: 1, zeros: true, how: "a scale for each row: affine 4-bit", ..plain },
        // The last word has room for more.
        Case { columns: 36, groups: 3, zeros: true, how: wide, ..plain },
        Case { bits: 8, columns: 36, groups: 3, zeros: true, how: wide, ..plain },
        Case { zeros: true, index: Some(|i| i * 5 % 64 / 32), how: apart, ..plain },
        Case { index: Some(|i| 1 - i / 32), how: "listed groups: affine 4-bit", ..plain },
    ];
    for c in cases {
        let (rows, per_word) = (11, 32 / c.bits);
        let mask = (1 << c.bits) - 1;
        let q: Vec<u32> = (0..rows * c.columns).map(|i| (i * 11 + i / 7) as u32 & mask).collect();
        let z: Vec<u32> = (0..rows * c.groups).map(|i| (i * 3 + 1) as u32 & mask).collect();
        let s: Vec<f16> = (0..rows * c.groups).map(|i| f16::from_f32(0.02 * (i + 1) as f32)).collect();
        let row_words = c.columns.div_ceil(per_word);
        let packed: Vec<u32> = q.chunks(c.columns).flat_map(|row| stream(row, c.bits)).collect();
        let zero_words = rows.div_ceil(per_word);
        let zeros: Vec<u32> = turned(&z, c.groups).chunks(rows).flat_map(|g| stream(g, c.bits)).collect();
        let shape = bytes(&[rows as i64, c.columns as i64], i64::to_le_bytes);
        let mut entries = vec![
            words("m.weight_packed", DType::I32, &[rows, row_words], &packed),
            halves("m.weight_scale", &[rows, c.groups], &s),
            ("m.weight_shape".into(), DType::I64, vec![2], shape),
        ];
        if c.zeros {
            entries.push(words(
                "m.weight_zero_point",
                DType::I32,
                &[zero_words, c.groups],
                &turned(&zeros, zero_words),
            ));
        }
        let group = |i: usize| c.index.map_or(i / (c.columns / c.groups), |of| of(i));
        if c.index.is_some() {
            entries
                .push(ints("m.weight_g_idx", &(0..c.columns).map(|i| group(i) as i32).collect::<Vec<_>>()));
        } else if c.groups > 1 {
            entries.push(ints("m.weight_g_idx", &vec![-1; c.columns]));
        }
        let config = json!({"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized",
            "config_groups": {"group_0": {"weights": {"num_bits": c.bits, "type": "int", "symmetric": !c.zeros}}}}});
        let checkpoint = open(&entries, config).1;
        assert_eq!(kept(&checkpoint), format!("m is compressed-tensors {}-bit, {}", c.bits, c.how));
        let value = |i: usize| {
            let at = i / c.columns * c.groups + group(i % c.columns);
            let zero = if c.zeros { z[at] as f32 } else { (1 << (c.bits - 1)) as f32 };
            (q[i] as f32 - zero) * s[at].to_f32()
        };
        let wanted: Vec<f32> = (0..q.len()).map(value).collect();
        let w = weights(checkpoint);
        assert_eq!(
            matrix(&w, "m", &[rows as i32, c.columns as i32]).unwrap(),
            wanted,
            "{} {}",
            c.bits,
            c.how
        );
        w.finish().unwrap();
    }
}

#[test]
fn signed_bytes() {
    let (rows, q): (usize, fn(usize) -> i8) = (3, |i| (i * 37 % 256) as u8 as i8);
    for (columns, groups, zeros, how) in [
        (64, 1, false, "a scale for each row: affine 8-bit"),
        (64, 1, true, "a scale for each row: affine 8-bit"),
        (128, 2, true, "groups of 64: affine 8-bit"),
        (40, 1, true, "a scale for each row: widened, MLX has no groups of 40"),
    ] {
        let all: Vec<u8> = (0..rows * columns).map(|i| q(i) as u8).collect();
        let s: Vec<f32> = (0..rows * groups).map(|i| 0.25 * (i + 1) as f32).collect();
        let z: Vec<i8> = (0..rows * groups).map(|i| (i as i8 - 2) * 40).collect();
        let mut entries = vec![
            u8s("m.weight", DType::I8, &[rows, columns], &all),
            f32s("m.weight_scale", &[rows, groups], &s),
        ];
        if zeros {
            let bytes: Vec<u8> = z.iter().map(|z| *z as u8).collect();
            entries.push(u8s("m.weight_zero_point", DType::I8, &[rows, groups], &bytes));
        }
        let config =
            json!({"quantization_config": {"quant_method": "compressed-tensors", "format": "int-quantized"}});
        let c = open(&entries, config).1;
        assert_eq!(kept(&c), format!("m is signed 8-bit, {how}"));
        let value = |i: usize| {
            let at = i / columns * groups + i % columns / (columns / groups);
            (f32::from(q(i)) - if zeros { f32::from(z[at]) } else { 0.0 }) * s[at]
        };
        let wanted: Vec<f32> = (0..rows * columns).map(value).collect();
        let w = weights(c);
        assert_eq!(matrix(&w, "m", &[rows as i32, columns as i32]).unwrap(), wanted, "{how}");
        w.finish().unwrap();
    }
    // One scale for all, and one zero point.
    let entries = [
        u8s("m.weight", DType::I8, &[2, 32], &[7; 64]),
        f32s("m.weight_scale", &[1], &[0.5]),
        u8s("m.weight_zero_point", DType::I8, &[1], &[3]),
    ];
    assert_eq!(matrix(&weights(checkpoint(&entries)), "m", &[2, 32]).unwrap(), [2.0; 64]);
}

#[test]
fn bad_integers_of_compressed_tensors() {
    let packed =
        |shape: &[usize]| words("m.weight_packed", DType::I32, shape, &vec![0; shape.iter().product()]);
    let zeros =
        |shape: &[usize]| words("m.weight_zero_point", DType::I32, shape, &vec![0; shape.iter().product()]);
    let signed = |shape: &[usize]| u8s("m.weight", DType::I8, shape, &vec![0; shape.iter().product()]);
    let scale = |shape: &[usize]| count("m.weight_scale", shape);
    let index = |group: i32| ints("m.weight_g_idx", &[&[0; 63][..], &[group]].concat());
    for (entries, wanted) in [
        (
            vec![packed(&[9, 8]), scale(&[9, 2]), zeros(&[1, 2])],
            "tensor `m.weight_zero_point`: found shape [1, 2]",
        ),
        (
            vec![packed(&[9, 8]), scale(&[9, 2]), zeros(&[2, 1])],
            "tensor `m.weight_zero_point`: found shape [2, 1]",
        ),
        (vec![packed(&[2, 8]), scale(&[2, 2]), index(2)], "tensor `m.weight_g_idx`: names group 2 of 2"),
        (vec![packed(&[2, 8]), scale(&[2, 2]), index(-1)], "tensor `m.weight_g_idx`: names group -1 of 2"),
        (vec![packed(&[0, 8]), scale(&[0, 2])], "tensor `m.weight_packed`: 0 rows"),
        (vec![packed(&[0, 1 << 30]), scale(&[0, 2])], "tensor `m.weight_packed`: has too many columns"),
        (
            vec![signed(&[2, 64]), scale(&[3, 1])],
            "tensor `m.weight_scale`: found shape [3, 1], wanted [2, 1]",
        ),
        (vec![signed(&[2, 64]), scale(&[2, 3])], "tensor `m.weight_scale`: 3 scales for 64 columns"),
        (vec![signed(&[2, 2, 64]), scale(&[2, 1])], "tensor `m.weight`: [2, 2, 64] is no shape of a matrix"),
        (
            vec![signed(&[2, 64]), scale(&[2, 1]), u8s("m.weight_zero_point", DType::I8, &[3, 1], &[0; 3])],
            "tensor `m.weight_zero_point`: found shape [3, 1]",
        ),
        (
            vec![signed(&[2, 64]), u8s("m.weight_scale", DType::I8, &[2, 1], &[0; 2])],
            "tensor `m.weight_scale`: holds",
        ),
    ] {
        let why = message(try_open(&entries, json!({})));
        assert!(why.contains(wanted), "{why}, not {wanted}");
    }
}
