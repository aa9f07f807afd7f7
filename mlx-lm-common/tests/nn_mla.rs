//! Latent attention against the same in float64 that makes keys and values of every head, with every way to store what makes them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod nn;

use mlx_lm_common::{
    Error,
    cache::{Cache, CachePolicy, CacheSpec, PositionScale},
    config::RopeConfig,
    nn::{Mla, MlaConfig, Norm, Rope},
    raw,
};
use mlx_rs::{Array, ops};
use nn::{Random, Row, Tensors, distance, dot, product, rows};
use std::collections::HashMap;

const DIM: usize = 48;
const HEADS: usize = 3;
const RANK: usize = 64;
const NOPE: usize = 32;
const ROTATED: usize = 8;
const VALUE: usize = 16;
const EPS: f32 = 1e-6;
/// More positions at once than this are attended to by head, not by latent.
const ABSORBED: usize = 34;

/// How the matrices that make keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stored {
    /// As mlx-lm does: keys transposed.
    Transposed { packed: bool },
    /// As published.
    Rows { packed: bool },
}

/// What varies.
#[derive(Clone, Copy, Debug)]
struct Options {
    stored: Stored,
    query_rank: Option<usize>,
    bias: bool,
    neighbours: bool,
    grows: bool,
    kernels: bool,
}

const PLAIN: Options = Options {
    stored: Stored::Transposed { packed: false },
    query_rank: Some(24),
    bias: false,
    neighbours: true,
    grows: false,
    kernels: false,
};

/// A layer, and its numbers.
struct Case {
    options: Options,
    norm: Norm,
    mla: Mla,
    norms: [Row; 3],
    /// Queries (two, if they are squeezed), entries, output, each with its bias.
    linears: Vec<(Vec<Row>, Row)>,
    /// For each head, [NOPE] and [VALUE] rows of RANK.
    keys: Vec<Vec<Row>>,
    values: Vec<Vec<Row>>,
}

fn wide(values: &[f32]) -> Row {
    values.iter().map(|&v| v.into()).collect()
}

/// Writes a matrix [.., rows, columns], packed or not, and returns the numbers that it then stands for, as rows.
fn matrix(tensors: &mut Tensors, name: &str, shape: &[i32], values: &[f32], packed: bool) -> Vec<Row> {
    let dense = Array::from_slice(values, shape);
    if !packed {
        tensors.array(&format!("{name}.weight"), &dense);
        return rows(&dense);
    }
    let (weight, scales, biases) = ops::quantize(&dense, 32, 8).unwrap();
    for (part, array) in [("weight", &weight), ("scales", &scales), ("biases", &biases)] {
        tensors.array(&format!("{name}.{part}"), array);
    }
    rows(&raw::dequantize(&weight, &scales, Some(&biases), (32, 8, raw::Mode::Affine)).unwrap())
}

impl Case {
    fn new(options: Options) -> Case {
        raw::init();
        raw::set_default_device(raw::Device::Cpu);
        let (random, mut tensors) = (Random::new(7), Tensors::default());
        let scaled = |n: usize, by: f32| random.numbers(n).iter().map(|v| v * by).collect::<Vec<f32>>();
        let mut norm = |name: &str, n: usize| {
            let values: Vec<f32> = random.numbers(n).iter().map(|v| v + 1.5).collect();
            tensors.floats(&format!("{name}.weight"), &[n as i32], &values);
            wide(&values)
        };
        let norms = [
            norm("norm", DIM),
            norm("kv_a_layernorm", RANK),
            options.query_rank.map_or(Row::new(), |n| norm("q_a_layernorm", n)),
        ];
        let width = HEADS * (NOPE + ROTATED);
        let mut shapes = match options.query_rank {
            Some(rank) => vec![("q_a_proj", DIM, rank, options.bias), ("q_b_proj", rank, width, false)],
            None => vec![("q_proj", DIM, width, false)],
        };
        shapes.push(("kv_a_proj_with_mqa", DIM, RANK + ROTATED, options.bias));
        shapes.push(("o_proj", HEADS * VALUE, DIM, options.bias));
        let mut linears = Vec::new();
        for (name, input, output, bias) in shapes {
            let values = scaled(input * output, 0.3);
            let shape = [output as i32, input as i32];
            let weight = matrix(&mut tensors, name, &shape, &values, false);
            let bias = if bias { random.numbers(output) } else { vec![0.0; output] };
            if options.bias && name != "q_b_proj" && name != "q_proj" {
                tensors.floats(&format!("{name}.bias"), &[output as i32], &bias);
            }
            linears.push((weight, wide(&bias)));
        }
        let [h, r, n, v] = [HEADS, RANK, NOPE, VALUE].map(|n| n as i32);
        let (k, u) = (scaled(HEADS * NOPE * RANK, 0.3), scaled(HEADS * VALUE * RANK, 0.3));
        let by_head = |rows: Vec<Row>, n: usize| rows.chunks(n).map(<[Row]>::to_vec).collect::<Vec<_>>();
        let (keys, values) = match options.stored {
            Stored::Rows { packed } => (
                by_head(matrix(&mut tensors, "k_b_proj", &[h * n, r], &k, packed), NOPE),
                by_head(matrix(&mut tensors, "v_b_proj", &[h * v, r], &u, packed), VALUE),
            ),
            Stored::Transposed { packed } => {
                let stored = by_head(matrix(&mut tensors, "embed_q", &[h, r, n], &k, packed), RANK);
                let turned = |rows: &Vec<Row>| {
                    (0..NOPE).map(|i| rows.iter().map(|row| row[i]).collect()).collect::<Vec<Row>>()
                };
                let values = matrix(&mut tensors, "unembed_out", &[h, v, r], &u, packed);
                (stored.iter().map(turned).collect(), by_head(values, VALUE))
            }
        };
        let weights = tensors.weights(options.kernels);
        let norm = Norm::rms(&weights.pp("norm"), DIM as i32, EPS).unwrap();
        let mla = Mla::load(&weights, &config(&options)).unwrap();
        weights.finish().unwrap();
        Case { options, norm, mla, norms, linears, keys, values }
    }

    fn cache(&self, policy: &CachePolicy) -> Cache {
        Cache::new(&[CacheSpec::Latent], policy).unwrap()
    }

    fn forward(&self, x: &Array, cache: &mut Cache) -> Array {
        self.mla.forward_add(&self.norm, x, cache.layer(0).unwrap()).unwrap()
    }

    /// x + attention(norm(x)) of a text, whose position i sees position j if `sees(i, j)`.
    fn expected(&self, text: &[Row], sees: impl Fn(usize, usize) -> bool) -> Vec<Row> {
        let linear = |i: usize, x: &Row| -> Row {
            let (weight, bias) = &self.linears[i];
            product(weight, x).iter().zip(bias).map(|(y, b)| y + b).collect()
        };
        let last = self.linears.len() - 1;
        let (mut queries, mut keys, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for (p, x) in text.iter().enumerate() {
            let x = rms(x, &self.norms[0]);
            let mut q = linear(0, &x);
            if self.options.query_rank.is_some() {
                q = linear(1, &rms(&q, &self.norms[2]));
            }
            let grown = if self.options.grows { 1.0 + 0.3 * (1.0 + (p / 4) as f64).ln() } else { 1.0 };
            queries.push(
                q.chunks(NOPE + ROTATED)
                    .map(|q| {
                        let q = [&q[..NOPE], &self.rotated(&q[NOPE..], p)].concat();
                        q.iter().map(|v| v * grown).collect()
                    })
                    .collect::<Vec<Row>>(),
            );
            let entry = linear(last - 1, &x);
            let (latent, key) = (rms(&entry[..RANK], &self.norms[1]), self.rotated(&entry[RANK..], p));
            let key_of = |m: &Vec<Row>| [product(m, &latent), key.clone()].concat();
            keys.push(self.keys.iter().map(key_of).collect::<Vec<Row>>());
            values.push(self.values.iter().map(|m| product(m, &latent)).collect::<Vec<Row>>());
        }
        let attend = |i: usize, head: usize| -> Row {
            let seen: Vec<usize> = (0..text.len()).filter(|&j| j <= i && sees(i, j)).collect();
            let scores: Row = seen.iter().map(|&j| 0.2 * dot(&queries[i][head], &keys[j][head])).collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Row = scores.iter().map(|s| (s - most).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let channel =
                |c: usize| seen.iter().zip(&weights).map(|(&j, w)| w * values[j][head][c]).sum::<f64>() / sum;
            (0..VALUE).map(channel).collect()
        };
        text.iter()
            .enumerate()
            .map(|(i, x)| {
                let heads: Row = (0..HEADS).flat_map(|head| attend(i, head)).collect();
                linear(last, &heads).iter().zip(x).map(|(y, x)| y + x).collect()
            })
            .collect()
    }

    fn rotated(&self, x: &[f64], position: usize) -> Row {
        let mut y = x.to_vec();
        for pair in 0..ROTATED / 2 {
            let (a, b) =
                if self.options.neighbours { (2 * pair, 2 * pair + 1) } else { (pair, pair + ROTATED / 2) };
            let angle = position as f64 / 10000f64.powf(2.0 * pair as f64 / ROTATED as f64);
            y[a] = x[a] * angle.cos() - x[b] * angle.sin();
            y[b] = x[a] * angle.sin() + x[b] * angle.cos();
        }
        y
    }
}

fn config(options: &Options) -> MlaConfig {
    let rope = RopeConfig::new(ROTATED as i32, 10000.0).unwrap();
    MlaConfig {
        dim: DIM as i32,
        heads: HEADS as i32,
        query_rank: options.query_rank.map(|n| n as i32),
        rank: RANK as i32,
        nope_dim: NOPE as i32,
        rope_dim: ROTATED as i32,
        value_dim: VALUE as i32,
        bias: options.bias,
        eps: EPS,
        scale: 0.2,
        rope: Some(Rope::new(rope, options.neighbours).unwrap()),
        q_scale: options.grows.then_some(PositionScale { every: 4, factor: 0.3, from: 0 }),
    }
}

fn rms(x: &[f64], weight: &[f64]) -> Row {
    let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
    x.iter().zip(weight).map(|(v, w)| v / (mean + f64::from(EPS)).sqrt() * w).collect()
}

/// A text of so many positions: numbers, and the same as rows.
fn text(len: usize, seed: u64) -> (Vec<f32>, Vec<Row>) {
    let values = Random::new(seed).numbers(len * DIM);
    let rows = values.chunks(DIM).map(wide).collect();
    (values, rows)
}

/// The outputs of a text that comes in pieces of these sizes.
fn in_pieces(case: &Case, values: &[f32], sizes: &[usize], cache: &mut Cache) -> Vec<Row> {
    let (mut from, mut outputs) = (0, Vec::new());
    for &size in sizes {
        let piece =
            Array::from_slice(&values[from * DIM..(from + size) * DIM], &[1, size as i32, DIM as i32]);
        outputs.extend(rows(&case.forward(&piece, cache)));
        from += size;
    }
    outputs
}

fn assert_near(found: &[Row], wanted: &[Row], what: &str) {
    let most = wanted.iter().flatten().fold(1.0, |most: f64, v| most.max(v.abs()));
    let d = distance(found, wanted) / most;
    assert!(d < 1e-5, "{what} differs by {d:.1e} of the largest number");
}

#[test]
fn every_layout_and_option_gives_what_keys_and_values_of_all_heads_give() {
    let mut all = vec![
        PLAIN,
        Options { kernels: true, ..PLAIN },
        Options { query_rank: None, ..PLAIN },
        Options { query_rank: None, bias: true, kernels: true, ..PLAIN },
        Options { bias: true, ..PLAIN },
        Options { neighbours: false, ..PLAIN },
        Options { grows: true, ..PLAIN },
    ];
    for packed in [false, true] {
        for stored in [Stored::Transposed { packed }, Stored::Rows { packed }] {
            all.push(Options { stored, ..PLAIN });
            all.push(Options { stored, kernels: true, grows: true, ..PLAIN });
        }
    }
    let (values, text) = text(48, 3);
    for options in all {
        let case = Case::new(options);
        let wanted = case.expected(&text, |_, _| true);
        let pieces = [
            &[1; 48][..],
            &[48],
            &[ABSORBED, 48 - ABSORBED],
            &[ABSORBED + 1, 47 - ABSORBED],
            &[47 - ABSORBED, ABSORBED + 1],
            &[12, 1, 35],
        ];
        for sizes in pieces {
            let found = in_pieces(&case, &values, sizes, &mut case.cache(&CachePolicy::default()));
            assert_near(&found, &wanted, &format!("{options:?} in pieces of {sizes:?}"));
        }
    }
}

#[test]
fn a_bounded_cache_keeps_the_first_and_the_latest() {
    let (values, text) = text(400, 5);
    let case = Case::new(Options { grows: true, ..PLAIN });
    let policy = CachePolicy { max_size: Some(12), ..Default::default() };
    let wanted = case.expected(&text, |i, j| j < 4 || j + 8 > i);
    for sizes in [vec![1; 400], vec![40, 360], vec![7; 57].into_iter().chain([1]).collect()] {
        let mut cache = case.cache(&policy);
        let found = in_pieces(&case, &values, &sizes, &mut cache);
        assert_near(&found, &wanted, &format!("pieces of {} and so on", sizes[0]));
    }
}

#[test]
fn padded_rows_are_as_alone() {
    let (long, short) = (text(44, 8), text(41, 9));
    let case = Case::new(Options { grows: true, ..PLAIN });
    let policy = CachePolicy { left_padding: Some([0, 3].into()), ..Default::default() };
    let padded = [vec![0.0; 3 * DIM], short.0].concat();
    for sizes in [&[44][..], &[5, 39], &[40, 1, 1, 1, 1]] {
        let (mut cache, mut from, mut found) = (case.cache(&policy), 0, [Vec::new(), Vec::new()]);
        for &size in sizes {
            let part = |values: &[f32]| values[from * DIM..(from + size) * DIM].to_vec();
            let both = [part(&long.0), part(&padded)].concat();
            let y = rows(&case.forward(&Array::from_slice(&both, &[2, size as i32, DIM as i32]), &mut cache));
            found[0].extend_from_slice(&y[..size]);
            found[1].extend_from_slice(&y[size..]);
            from += size;
        }
        assert_near(&found[0], &case.expected(&long.1, |_, _| true), &format!("no padding, {sizes:?}"));
        assert_near(&found[1][3..], &case.expected(&short.1, |_, _| true), &format!("padding, {sizes:?}"));
    }
}

#[test]
fn a_file_has_latents_and_shared_keys_as_mlx_lm_keeps_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.safetensors");
    let (values, text) = text(30, 4);
    let case = Case::new(PLAIN);
    let mut cache = case.cache(&CachePolicy::default());
    in_pieces(&case, &values[..20 * DIM], &[20], &mut cache);
    cache.save(&path, &[]).unwrap();
    let saved = Array::load_safetensors(&path).unwrap();
    saved.values().for_each(|a| a.eval().unwrap());
    assert_eq!(saved["0.0"].shape(), [1, 1, 20, RANK as i32]);
    assert_eq!(saved["0.1"].shape(), [1, 1, 20, ROTATED as i32]);
    let (mut loaded, _) = Cache::load(&path, &[CacheSpec::Latent], &CachePolicy::default()).unwrap();
    let found = in_pieces(&case, &values[20 * DIM..], &[1; 10], &mut loaded);
    assert_near(&found, &case.expected(&text, |_, _| true)[20..], "after loading");

    // Keys and values of all heads, and latents of another width.
    let other = |shapes: [[i32; 4]; 2]| {
        let mut arrays = saved.clone();
        for (name, shape) in ["0.0", "0.1"].into_iter().zip(shapes) {
            arrays.insert(name.into(), ops::zeros::<f32>(&shape).unwrap());
        }
        let metadata = HashMap::from(
            [("1.0", "KVCache"), ("2.0", "20"), ("2.1.0", "0.2"), ("2.1.1", "scalar")]
                .map(|(key, value)| (key.to_string(), value.to_string())),
        );
        Array::save_safetensors(&arrays, &metadata, &path).unwrap();
        let mut cache = Cache::load(&path, &[CacheSpec::Latent], &CachePolicy::default())?.0;
        let x = Array::from_slice(&values[..DIM], &[1, 1, DIM as i32]);
        case.mla.forward_add(&case.norm, &x, cache.layer(0)?)
    };
    let error = other([[1, 3, 20, 40], [1, 3, 20, 16]]).err().unwrap().to_string();
    assert!(error.contains("[1, 3, 20, 40]"), "{error}");
    let error = other([[1, 1, 20, 40], [1, 1, 20, 32]]).err().unwrap().to_string();
    assert!(error.contains("latents are 40 wide"), "{error}");

    // An empty one, and one that holds something else.
    case.cache(&CachePolicy::default()).save(&path, &[]).unwrap();
    let (mut empty, _) = Cache::load(&path, &[CacheSpec::Latent], &CachePolicy::default()).unwrap();
    let found = in_pieces(&case, &values, &[30], &mut empty);
    assert_near(&found, &case.expected(&text, |_, _| true), "from an empty file");
    let error = Cache::load(&path, &[CacheSpec::Window(4)], &CachePolicy::default()).err().unwrap();
    assert!(matches!(error, Error::Cache(_)), "{error}");
}

#[test]
fn entries_are_as_wide_as_a_latent_and_a_rotated_key() {
    let (values, _) = text(40, 2);
    let case = Case::new(PLAIN);
    let mut cache = case.cache(&CachePolicy::default());
    in_pieces(&case, &values, &[40], &mut cache);
    // Room for 256 positions of float32.
    assert_eq!(cache.nbytes(), 256 * 4 * (RANK + ROTATED));
}

#[test]
fn sizes_that_overflow_are_errors() {
    let weights = Tensors::default().weights(false);
    let big = |change: fn(&mut MlaConfig)| {
        let mut c = config(&PLAIN);
        change(&mut c);
        Mla::load(&weights, &c).err().unwrap().to_string()
    };
    assert!(big(|c| c.heads = i32::MAX).contains("num_attention_heads"));
    assert!(big(|c| c.nope_dim = i32::MAX).contains("qk_nope_head_dim"));
    assert!(big(|c| c.rank = i32::MAX).contains("kv_lora_rank"));
    assert!(big(|c| c.value_dim = i32::MAX).contains("num_attention_heads"));
    assert!(big(|_| ()).contains("q_a_proj.weight"));
}
