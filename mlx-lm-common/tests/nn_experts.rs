//! Activations, feed-forward blocks, experts and mixtures against their formulas in float64.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod nn;

use mlx_lm_common::{
    Error,
    nn::{
        Activation, Experts, ExpertsConfig, Form, Glu, Mlp, MlpConfig, Moe, MoeConfig, Norm, Normalize,
        RouterConfig, Score, SharedConfig,
    },
    raw::{self, Mode},
    weights::Packed,
};
use mlx_rs::{Array, Dtype, ops};
use nn::{Random, Row, Tensors, distance, dot, product, rows, sigmoid};

const DIM: i32 = 64;
const HIDDEN: i32 = 32;

const ACTIVATIONS: [Activation; 5] =
    [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Relu2];
const CLAMPED: Glu = Glu::Clamped { alpha: 1.702, limit: 0.75 };

fn act(kind: Activation, x: f64) -> f64 {
    match kind {
        Activation::Silu => x * sigmoid(x),
        Activation::Gelu => x * normal(x),
        Activation::GeluTanh => {
            x / 2.0 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
        Activation::Relu => x.max(0.0),
        Activation::Relu2 => x.max(0.0).powi(2),
    }
}

/// The normal distribution: half and its density's integral from 0, by Simpson's rule.
fn normal(x: f64) -> f64 {
    let density = |t: f64| (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let (n, step) = (400, x / 400.0);
    let inner: f64 = (1..n).map(|i| density(f64::from(i) * step) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
    0.5 + step / 3.0 * (density(0.0) + inner + density(x))
}

fn glu(kind: Glu, gate: f64, up: f64) -> f64 {
    match kind {
        Glu::Act(kind) => act(kind, gate) * up,
        Glu::Clamped { alpha, limit } => {
            let (alpha, limit) = (f64::from(alpha), f64::from(limit));
            let (g, u) = (gate.min(limit), up.clamp(-limit, limit));
            g * sigmoid(alpha * g) * (u + 1.0)
        }
    }
}

#[test]
fn activations_are_their_formulas() {
    let values: Vec<f32> = (-400..=400).map(|i| i as f32 / 50.0).collect();
    let gate = Array::from_slice(&values, &[1, values.len() as i32]);
    let up =
        Array::from_slice(&values.iter().map(|v| (v * 3.1).sin() * 2.0).collect::<Vec<_>>(), gate.shape());
    let (x, u) = (&rows(&gate)[0], &rows(&up)[0]);
    let close = |y: &Array, expected: Row| distance(&rows(y), &[expected]) < 1e-5;
    for kind in ACTIVATIONS {
        let expected = x.iter().map(|&x| act(kind, x)).collect();
        assert!(close(&kind.forward(&gate, false).unwrap(), expected), "{kind:?}");
    }
    for kind in ACTIVATIONS.map(Glu::Act).into_iter().chain([CLAMPED]) {
        let expected = x.iter().zip(u).map(|(&x, &u)| glu(kind, x, u)).collect();
        assert!(close(&kind.forward(&gate, &up, false).unwrap(), expected), "{kind:?}");
    }
}

#[test]
fn activations_keep_the_type() {
    let x = Array::from_slice(&[0.5f32, -1.0], &[1, 2]).as_dtype(Dtype::Bfloat16).unwrap();
    for kind in ACTIVATIONS {
        assert_eq!(kind.forward(&x, false).unwrap().dtype(), Dtype::Bfloat16, "{kind:?}");
    }
    assert_eq!(CLAMPED.forward(&x, &x, false).unwrap().dtype(), Dtype::Bfloat16);
}

#[test]
fn names_of_activations() {
    for (name, wanted) in [("silu", Activation::Silu), ("gelu_pytorch_tanh", Activation::GeluTanh)] {
        assert_eq!(Activation::from_config("hidden_act", name).unwrap(), wanted);
    }
    let error = Activation::from_config("hidden_act", "mish").unwrap_err();
    assert!(matches!(error, Error::Config { key, found, .. } if key == "hidden_act" && found == "mish"));
}

/// How matrices are stored.
#[derive(Clone, Copy, Debug)]
enum Storage {
    Dense,
    Affine,
    Float4(Mode),
}

const STORAGES: [Storage; 4] =
    [Storage::Dense, Storage::Affine, Storage::Float4(Mode::Mxfp4), Storage::Float4(Mode::Nvfp4)];

/// Adds a matrix [.., out, in] and returns its rows.
fn matrix(t: &mut Tensors, name: &str, shape: &[i32], storage: Storage, random: &Random) -> Vec<Row> {
    let (rows_shape, columns) = (&shape[..shape.len() - 1], shape[shape.len() - 1]);
    let with = |n: i32| [rows_shape, &[n]].concat();
    let count = |shape: &[i32]| shape.iter().product::<i32>() as usize;
    let floats = |shape: &[i32], factor: f32| {
        Array::from_slice(&random.numbers(count(shape)).iter().map(|v| v * factor).collect::<Vec<_>>(), shape)
    };
    if let Storage::Dense = storage {
        let weight = floats(shape, 0.3);
        t.array(&format!("{name}.weight"), &weight);
        return rows(&weight);
    }
    let words: Vec<u32> = (0..count(&with(columns / 8))).map(|_| (random.word() >> 32) as u32).collect();
    let weight = Array::from_slice(&words, &with(columns / 8));
    let (scales, biases) = match storage {
        Storage::Float4(mode) => {
            let groups = with(columns / if mode == Mode::Mxfp4 { 32 } else { 16 });
            // Powers of two around 2^-5 (biased by 127), or small E4M3 numbers.
            let base = if mode == Mode::Mxfp4 { 121 } else { 24 };
            let codes: Vec<u8> = (0..count(&groups)).map(|_| base + (random.word() >> 62) as u8).collect();
            (Array::from_slice(&codes, &groups), None)
        }
        _ => (floats(&with(columns / 32), 0.02), Some(floats(&with(columns / 32), 0.2))),
    };
    for (part, array) in [("weight", Some(&weight)), ("scales", Some(&scales)), ("biases", biases.as_ref())] {
        if let Some(array) = array {
            t.array(&format!("{name}.{part}"), array);
        }
    }
    let packed = Packed::new(name, shape, weight, scales, biases).unwrap();
    let dense =
        raw::dequantize(&packed.weight, &packed.scales, packed.biases.as_ref(), packed.format()).unwrap();
    rows(&dense.as_dtype(Dtype::Float32).unwrap())
}

fn vector(t: &mut Tensors, name: &str, shape: &[i32], random: &Random) -> Row {
    let values = random.numbers(shape.iter().product::<i32>() as usize);
    t.floats(name, shape, &values);
    values.iter().map(|&v| v.into()).collect()
}

/// A feed-forward block in float64.
struct Block {
    form: Form,
    gate: Vec<Row>,
    up: Vec<Row>,
    down: Vec<Row>,
    /// Of gate, up and down.
    biases: Option<[Row; 3]>,
    inner_norm: Option<Row>,
}

impl Block {
    fn forward(&self, x: &[f64]) -> Row {
        let linear = |w: &[Row], i: usize, x: &[f64]| -> Row {
            let y = product(w, x);
            match &self.biases {
                Some(b) => y.iter().zip(&b[i]).map(|(y, b)| y + b).collect(),
                None => y,
            }
        };
        let up = linear(&self.up, 1, x);
        let mut inner: Row = match self.form {
            Form::Gated(kind) => {
                linear(&self.gate, 0, x).iter().zip(up).map(|(&g, u)| glu(kind, g, u)).collect()
            }
            Form::Plain(kind) => up.iter().map(|&u| act(kind, u)).collect(),
        };
        if let Some(weight) = &self.inner_norm {
            inner = rms(&inner, weight);
        }
        linear(&self.down, 2, &inner)
    }
}

const EPS: f32 = 1e-5;

fn rms(x: &[f64], weight: &[f64]) -> Row {
    let scale = (dot(x, x) / x.len() as f64 + f64::from(EPS)).sqrt();
    x.iter().zip(weight).map(|(x, w)| x / scale * w).collect()
}

/// Adds `count` blocks below `prefix`, stacked if there are several.
fn blocks(
    t: &mut Tensors,
    prefix: &str,
    names: [&str; 3],
    form: Form,
    (count, bias, storage): (i32, bool, Storage),
    random: &Random,
) -> Vec<Block> {
    let stacked = |shape: &[i32]| if count == 1 { shape.to_vec() } else { [&[count], shape].concat() };
    let sizes = [(HIDDEN, DIM), (HIDDEN, DIM), (DIM, HIDDEN)];
    let mut parts = Vec::new();
    for (name, (output, input)) in names.into_iter().zip(sizes) {
        if matches!(form, Form::Plain(_)) && parts.is_empty() {
            parts.push((vec![Row::new(); (count * output) as usize], vec![0.0; (count * output) as usize]));
            continue;
        }
        let name = format!("{prefix}{name}");
        let w = matrix(t, &name, &stacked(&[output, input]), storage, random);
        let b =
            if bias { vector(t, &format!("{name}.bias"), &stacked(&[output]), random) } else { Row::new() };
        parts.push((w, b));
    }
    let part = |i: usize, e: usize| {
        let n = sizes[i].0 as usize;
        (parts[i].0[e * n..][..n].to_vec(), if bias { parts[i].1[e * n..][..n].to_vec() } else { Row::new() })
    };
    (0..count as usize)
        .map(|e| {
            let [(gate, a), (up, b), (down, c)] = [0, 1, 2].map(|i| part(i, e));
            Block { form, gate, up, down, biases: bias.then_some([a, b, c]), inner_norm: None }
        })
        .collect()
}

fn input(tokens: i32, random: &Random) -> Array {
    Array::from_slice(&random.numbers((tokens * DIM) as usize), &[1, tokens, DIM])
}

/// The largest of these, and of 1.
fn size(x: &[Row]) -> f64 {
    x.iter().flatten().fold(1.0, |m, x| x.abs().max(m))
}

#[test]
fn feed_forward_blocks_agree_with_their_formulas() {
    let forms = [
        Form::Gated(Glu::SILU),
        Form::Gated(Glu::Act(Activation::GeluTanh)),
        Form::Gated(CLAMPED),
        Form::Plain(Activation::Relu2),
        Form::Plain(Activation::Gelu),
    ];
    let random = Random::new(1);
    for kernels in [false, true] {
        for form in forms {
            for (bias, normed, storage) in
                [(false, false, Storage::Dense), (true, true, Storage::Dense), (false, true, Storage::Affine)]
            {
                let mut t = Tensors::default();
                let names = ["w1", "w3", "w2"];
                let mut block = blocks(&mut t, "", names, form, (1, bias, storage), &random).remove(0);
                block.inner_norm = normed.then(|| vector(&mut t, "sub.weight", &[HIDDEN], &random));
                let norm = vector(&mut t, "norm.weight", &[DIM], &random);
                let w = t.weights(kernels);
                let inner_norm = normed.then_some(("sub", EPS));
                let config = MlpConfig { bias, form, names, inner_norm, ..MlpConfig::new(DIM, HIDDEN) };
                let mlp = Mlp::load(&w, &config).unwrap();
                let weight = Norm::rms(&w.pp("norm"), DIM, EPS).unwrap();
                w.finish().unwrap();
                for tokens in [1, 5] {
                    let x = input(tokens, &random);
                    let wide = rows(&x);
                    let add = |x: &Row, y: Row| x.iter().zip(y).map(|(x, y)| x + y).collect();
                    let plain: Vec<Row> = wide.iter().map(|x| block.forward(x)).collect();
                    let onto: Vec<Row> = wide.iter().zip(&plain).map(|(x, y)| add(x, y.clone())).collect();
                    let normed: Vec<Row> = wide.iter().map(|x| block.forward(&rms(x, &norm))).collect();
                    let added: Vec<Row> = wide.iter().zip(&normed).map(|(x, y)| add(x, y.clone())).collect();
                    for (what, found, expected) in [
                        ("forward", mlp.forward(None, &x), plain),
                        ("forward_onto", mlp.forward_onto(&x, &x), onto),
                        ("normed", mlp.forward(Some(&weight), &x), normed),
                        ("forward_add", mlp.forward_add(&weight, &x), added),
                    ] {
                        let d = distance(&rows(&found.unwrap()), &expected) / size(&expected);
                        assert!(
                            d < 1e-5,
                            "{what} of {form:?}, {storage:?}, bias {bias}, kernels {kernels}: {d:e}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn experts_agree_with_their_formulas_sorted_or_not() {
    let random = Random::new(2);
    let (count, k) = (8, 3);
    for storage in STORAGES {
        for (form, bias) in [
            (Form::Gated(Glu::SILU), false),
            (Form::Gated(CLAMPED), true),
            (Form::Plain(Activation::Relu2), true),
        ] {
            let mut t = Tensors::default();
            let names = match form {
                Form::Gated(_) => ["gate_proj", "up_proj", "down_proj"],
                Form::Plain(_) => ["", "fc1", "fc2"],
            };
            let experts = blocks(&mut t, "", names, form, (count, bias, storage), &random);
            let w = t.weights(true);
            let config = ExpertsConfig { bias, form, names, ..ExpertsConfig::new(DIM, HIDDEN, count) };
            let block = Experts::load(&w, &config).unwrap();
            w.finish().unwrap();
            // 3 and 60 pairs are not sorted, 66 and 300 are.
            for tokens in [1, 20, 22, 100] {
                let x = input(tokens, &random);
                let ids: Vec<u32> = (0..tokens * k)
                    .map(|i| ((random.word() >> 40) as i32 % 2 + 2 * (i % k)) as u32)
                    .collect();
                let y = block.forward(&x, &Array::from_slice(&ids, &[1, tokens, k])).unwrap();
                assert_eq!(y.shape(), [1, tokens, k, DIM]);
                let expected: Vec<Row> = rows(&x)
                    .iter()
                    .zip(ids.chunks(k as usize))
                    .flat_map(|(x, ids)| ids.iter().map(|&i| experts[i as usize].forward(x)))
                    .collect();
                let d = distance(&rows(&y), &expected) / size(&expected);
                assert!(d < 1e-5, "{form:?}, {storage:?}, {tokens} tokens: {d:e}");
            }
        }
    }
}

#[test]
fn mixtures_add_what_they_should() {
    let random = Random::new(3);
    let shared = |gate| SharedConfig { name: "shared_expert", mlp: MlpConfig::new(DIM, HIDDEN), gate };
    for (weigh_input, shared) in [
        (false, None),
        (false, Some(shared(None))),
        (false, Some(shared(Some("shared_expert_gate")))),
        (true, Some(shared(None))),
    ] {
        let mut t = Tensors::default();
        let (silu, many) = (Form::Gated(Glu::SILU), (8, false, Storage::Dense));
        let names = ["gate_proj", "up_proj", "down_proj"];
        let experts = blocks(&mut t, "switch_mlp.", names, silu, many, &random);
        let gate = matrix(&mut t, "gate", &[8, DIM], Storage::Dense, &random);
        let all = shared.map(|_| {
            blocks(&mut t, "shared_expert.", names, silu, (1, false, Storage::Dense), &random).remove(0)
        });
        let all_gate = shared
            .and_then(|s| s.gate)
            .map(|name| matrix(&mut t, name, &[1, DIM], Storage::Dense, &random).remove(0));
        let norm = vector(&mut t, "norm.weight", &[DIM], &random);
        let w = t.weights(true);
        let k = if weigh_input { 1 } else { 2 };
        let router = RouterConfig {
            score: Score::Sigmoid,
            normalize: if weigh_input { Normalize::No } else { Normalize::Sum(0.0) },
            ..RouterConfig::new(DIM, 8, k)
        };
        let experts_config = ExpertsConfig::new(DIM, HIDDEN, 8);
        let config = MoeConfig { weigh_input, shared, ..MoeConfig::new(router, experts_config) };
        let moe = Moe::load(&w, &config).unwrap();
        let weight = Norm::rms(&w.pp("norm"), DIM, EPS).unwrap();
        w.finish().unwrap();
        let mixture = |x: &[f64]| -> Row {
            let scores = product(&gate, x);
            let mut order: Vec<usize> = (0..8).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            let chosen = &order[..k as usize];
            let sum: f64 = chosen.iter().map(|&e| sigmoid(scores[e])).sum();
            let mut y = vec![0.0; DIM as usize];
            let mut add = |from: Row, w: f64| y.iter_mut().zip(from).for_each(|(y, v)| *y += w * v);
            for &e in chosen {
                let score = sigmoid(scores[e]);
                if weigh_input {
                    add(experts[e].forward(&x.iter().map(|x| x * score).collect::<Row>()), 1.0);
                } else {
                    add(experts[e].forward(x), score / sum);
                }
            }
            if let Some(all) = &all {
                add(all.forward(x), all_gate.as_ref().map_or(1.0, |g| sigmoid(dot(g, x))));
            }
            y
        };
        for tokens in [1, 40] {
            let x = input(tokens, &random);
            let plain: Vec<Row> = rows(&x).iter().map(|x| mixture(x)).collect();
            let added: Vec<Row> = rows(&x)
                .iter()
                .map(|x| x.iter().zip(mixture(&rms(x, &norm))).map(|(x, y)| x + y).collect())
                .collect();
            for (found, expected) in [(moe.forward(&x), plain), (moe.forward_add(&weight, &x), added)] {
                let d = distance(&rows(&found.unwrap()), &expected) / size(&expected);
                assert!(d < 1e-5, "{config:?}, {tokens} tokens: {d:e}");
            }
        }
    }
}

#[test]
fn input_is_weighed_for_one_expert_only() {
    let router = RouterConfig::new(DIM, 8, 2);
    let config =
        MoeConfig { weigh_input: true, ..MoeConfig::new(router, ExpertsConfig::new(DIM, HIDDEN, 8)) };
    let error = Moe::load(&Tensors::default().weights(false), &config).unwrap_err();
    assert!(matches!(error, Error::Config { key, .. } if key == "num_experts_per_tok"));
}

#[test]
fn norms_with_folded_weights() {
    let random = Random::new(4);
    let mut t = Tensors::default();
    let stored = vector(&mut t, "a.weight", &[DIM], &random);
    let scale = vector(&mut t, "b.scale", &[DIM], &random);
    let x = input(3, &random);
    for kernels in [false, true] {
        let w = t.weights(kernels);
        let half = |a: Array| ops::multiply(a, Array::from_f32(0.5));
        let cases = [
            (Norm::rms_plus_one(&w.pp("a"), DIM, EPS), stored.iter().map(|w| w + 1.0).collect::<Row>()),
            (Norm::rms_folded(&w.pp("b"), "scale", DIM, EPS, half), scale.iter().map(|w| w / 2.0).collect()),
            (Norm::rms_unit(w.backend(), DIM, EPS), vec![1.0; DIM as usize]),
        ];
        for (norm, weight) in cases {
            let expected: Vec<Row> = rows(&x).iter().map(|x| rms(x, &weight)).collect();
            assert!(distance(&rows(&norm.unwrap().forward(&x).unwrap()), &expected) < 1e-5);
        }
    }
}
