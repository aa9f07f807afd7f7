//! Attention through a cache against MLX's own float32 operations.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use mlx_lm_kernels::{Attend, Norm, Rope, attend, attend_supported};
use mlx_rs::{
    Array, Dtype, fast, ops,
    ops::indexing::{IndexOp, IntoStrideBy, TryIndexMutOp},
};
use std::sync::Arc;

const EPS: f32 = 1e-5;

fn spec<'a>(heads: i32, kv_heads: i32, head_dim: i32) -> Attend<'a> {
    Attend {
        heads,
        kv_heads,
        head_dim,
        scale: (head_dim as f32).powf(-0.5),
        q_norm: None,
        k_norm: None,
        rope: None,
        position: 0,
        len: 0,
        window: None,
        keep: 0,
        starts: None,
    }
}

/// What `fast::rope` is asked for, beside a [`Rope`].
#[derive(Clone, Copy)]
struct Stock {
    dims: i32,
    base: f32,
    scale: f32,
    traditional: bool,
    mscale: f32,
}

const STOCK: Stock = Stock { dims: 0, base: 1e4, scale: 1.0, traditional: false, mscale: 1.0 };

impl Stock {
    fn ours(&self) -> Arc<Rope> {
        Arc::new(Rope::new(self.dims, self.base, self.scale, self.traditional).mscale(self.mscale))
    }

    /// Rotates x [B, H, L, D].
    fn apply(&self, x: &Array, spec: &Attend) -> Array {
        let x = &ops::concatenate(
            &[
                &x.index((.., .., .., ..self.dims)) * Array::from_f32(self.mscale),
                x.index((.., .., .., self.dims..)),
            ],
            -1,
        )
        .unwrap();
        let Stock { dims, base, scale, traditional, .. } = *self;
        let turn = |x: &Array, at: i32| fast::rope(x, dims, traditional, base, scale, at, None).unwrap();
        match &spec.starts {
            None => turn(x, spec.position),
            Some(starts) => {
                let row = |(b, s): (i32, &i32)| turn(&x.index((b..b + 1, .., .., ..)), spec.position - s);
                let rows: Vec<Array> = (0..).zip(&**starts).map(row).collect();
                ops::concatenate(&rows, 0).unwrap()
            }
        }
    }
}

/// The caches of both sides.
struct Both {
    ours: Option<[Array; 2]>,
    stock: [Array; 2],
}

impl Both {
    fn new(b: i32, spec: &Attend, capacity: i32, dtype: Dtype) -> Both {
        let make = || zeros(&[b, spec.kv_heads, capacity, spec.head_dim], dtype);
        Both { ours: Some([make(), make()]), stock: [make(), make()] }
    }

    /// Attends with both, compares results and caches.
    fn step(&mut self, q: &Array, k: &Array, v: &Array, spec: &Attend, stock: Option<Stock>, what: &str) {
        let (b, l, d) = (q.dim(0), q.dim(1), spec.head_dim);
        let dtype = self.stock[0].dtype();
        let split = |x: &Array, heads: i32, norm: Option<Norm>| {
            let x = f32s(x).reshape(&[b, l, heads, d]).unwrap().transpose_axes(&[0, 2, 1, 3]).unwrap();
            norm.map_or(x.clone(), |n| fast::rms_norm(&x, Some(n.weight), n.eps).unwrap())
        };
        let turn = |x: Array| stock.map_or(x.clone(), |s| s.apply(&x, spec));
        let queries = turn(split(q, spec.heads, spec.q_norm));
        let new = [turn(split(k, spec.kv_heads, spec.k_norm)), split(v, spec.kv_heads, None)];
        let (from, to) = (spec.len, spec.len + l);
        for (cache, new) in self.stock.iter_mut().zip(&new) {
            cache.try_index_mut((.., .., from..to, ..), new.as_dtype(dtype).unwrap()).unwrap();
        }
        let sees = |row: i32, i: i32, j: i32| {
            let p = from + i;
            let near = spec.window.is_none_or(|w| j > p - w) || j < spec.keep;
            j <= p && near && spec.starts.as_ref().is_none_or(|s| j >= s[row as usize])
        };
        let mut mask = Vec::new();
        let mut any = Vec::new();
        for row in 0..b {
            for i in 0..l {
                mask.extend((0..to).map(|j| sees(row, i, j)));
                any.push((0..to).any(|j| sees(row, i, j)));
            }
        }
        let mask = Array::from_slice(&mask, &[b, 1, l, to]);
        let any = Array::from_slice(&any, &[b, 1, l, 1]);
        let [k0, v0] = [0, 1].map(|c: usize| f32s(&self.stock[c].index((.., .., ..to, ..))));
        let want = fast::scaled_dot_product_attention(&queries, &k0, &v0, spec.scale, &mask, None).unwrap();
        let want = ops::select(&any, &want, Array::from_f32(0.0)).unwrap();
        let want = want.transpose_axes(&[0, 2, 1, 3]).unwrap().reshape(&[b, l, -1]).unwrap();
        let (y, kc, vc) = attend(q, k, v, self.ours.take().unwrap(), spec).unwrap();
        assert_eq!(y.dtype(), q.dtype());
        // What rounding results to their type, and angles at large positions to float32, leaves.
        let rounding = |d: Dtype| match d {
            Dtype::Bfloat16 => 3e-3,
            Dtype::Float16 => 4e-4,
            _ => CLOSE,
        };
        let limit = rounding(dtype).max(rounding(q.dtype()));
        assert_close(&y, &want, limit, &format!("{what}: result"));
        for (name, ours, stock) in [("keys", &kc, &self.stock[0]), ("values", &vc, &self.stock[1])] {
            assert_eq!(ours.dtype(), dtype);
            let part = |a: &Array| a.index((.., .., ..to, ..));
            assert_close(&part(ours), &part(stock), rounding(dtype), &format!("{what}: {name}"));
        }
        self.ours = Some([kc, vc]);
    }
}

/// Random q, k and v of one call.
fn qkv(b: i32, l: i32, spec: &Attend, seed: u64) -> [Array; 3] {
    let (h, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
    [normal(&[b, l, h], seed), normal(&[b, l, kv], seed + 1), normal(&[b, l, kv], seed + 2)]
}

/// Calls of these lengths, one after the other, in one cache.
fn steps(b: i32, lens: &[i32], capacity: i32, spec: &Attend, stock: Option<Stock>, what: &str) {
    let mut both = Both::new(b, spec, capacity, Dtype::Float32);
    let mut spec = spec.clone();
    for (i, &l) in lens.iter().enumerate() {
        let [q, k, v] = qkv(b, l, &spec, 10 * i as u64);
        both.step(&q, &k, &v, &spec, stock, &format!("{what}, step {i}"));
        spec.len += l;
        spec.position += l;
    }
}

#[test]
fn heads_of_all_sizes() {
    for d in [8, 16, 24, 40, 64, 72, 80, 96, 128, 256] {
        for (heads, kv_heads) in [(4, 4), (9, 3), (8, 1)] {
            let what = format!("{heads}/{kv_heads} heads of {d}");
            steps(2, &[1, 5, 1, 33, 90, 1, 2], 200, &spec(heads, kv_heads, d), None, &what);
        }
    }
    assert!(attend_supported(8) && attend_supported(80) && !attend_supported(12) && !attend_supported(0));
}

#[test]
fn long_caches_are_split_over_threads() {
    steps(1, &[1500, 1, 3], 1600, &spec(4, 1, 64), None, "long");
    let windowed = Attend { window: Some(600), keep: 4, ..spec(4, 2, 64) };
    steps(1, &[1300, 1, 1, 40], 1400, &windowed, None, "long with a window");
}

#[test]
fn windows_and_kept_slots() {
    for window in [1, 7, 64, 65, 1000] {
        for keep in [0, 4, 70] {
            let spec = Attend { window: Some(window), keep, ..spec(4, 2, 32) };
            steps(2, &[130, 1, 1, 9], 150, &spec, None, &format!("window {window}, keep {keep}"));
        }
    }
}

#[test]
fn left_padding() {
    let stock = Stock { dims: 32, ..STOCK };
    for starts in [[0, 0, 0], [3, 0, 11], [150, 70, 40]] {
        for (window, keep) in [(None, 0), (Some(20), 0), (Some(20), 45)] {
            let starts: Arc<[i32]> = starts.to_vec().into();
            let what = format!("starts {starts:?}, window {window:?}, keep {keep}");
            let rope = Some(stock.ours());
            let spec = Attend { window, keep, starts: Some(starts), rope, ..spec(4, 2, 32) };
            steps(3, &[60, 1, 1, 100], 170, &spec, Some(stock), &what);
        }
    }
}

#[test]
fn a_query_that_sees_nothing_gives_zeros() {
    let s = Attend { starts: Some(vec![5, 1].into()), ..spec(2, 1, 16) };
    let [q, k, v] = qkv(2, 3, &s, 1);
    let caches = [zeros(&[2, 1, 8, 16], Dtype::Float32), zeros(&[2, 1, 8, 16], Dtype::Float32)];
    let (y, ..) = attend(&q, &k, &v, caches, &s).unwrap();
    assert_same(&y.index((0, .., ..)), &zeros(&[3, 32], Dtype::Float32), "the first sequence");
    assert_same(&y.index((1, 0, ..)), &zeros(&[32], Dtype::Float32), "the second one's padding");
    assert!(y.index((1, 1, ..)).abs().unwrap().max(None).unwrap().item_exact::<f32>() > 0.1);
}

#[test]
fn rotation_and_norms_of_heads() {
    let norms = [normal(&[64], 100), normal(&[64], 101).as_dtype(Dtype::Bfloat16).unwrap()];
    for (dims, traditional, scale, mscale) in [
        (64, false, 1.0, 1.0),
        (64, true, 1.0, 1.0),
        (32, false, 0.25, 1.3),
        (20, true, 1.0, 0.8),
        (6, false, 2.0, 1.0),
    ] {
        let stock = Stock { dims, traditional, scale, mscale, ..STOCK };
        for position in [0, 7, 3000] {
            let spec = Attend { rope: Some(stock.ours()), position, ..spec(4, 2, 64) };
            let what = format!("{dims} of 64, traditional {traditional}, from {position}");
            steps(2, &[9, 1, 70], 80, &spec, Some(stock), &what);
            let norm = |i: usize| Some(Norm { weight: &norms[i], eps: EPS });
            let spec = Attend { q_norm: norm(0), k_norm: norm(1), ..spec };
            steps(2, &[1, 30], 80, &spec, Some(stock), &format!("{what}, with norms"));
        }
    }
}

/// The rotated keys in the cache are those of MLX to float32's rounding, wherever they are.
#[test]
fn rotation_at_large_positions() {
    for (dims, d, base, traditional) in [
        (64, 64, 1e4, false),
        (128, 128, 5e5, true),
        (32, 80, 1e6, false),
        (64, 64, 1e7, false),
        (24, 96, 1e4, true),
    ] {
        for position in [0, 4096, 32_767, 100_000, 131_071] {
            let stock = Stock { dims, base, traditional, ..STOCK };
            let s = Attend { rope: Some(stock.ours()), position, ..spec(1, 1, d) };
            let [q, k, v] = qkv(1, 20, &s, 3);
            let caches = [zeros(&[1, 1, 20, d], Dtype::Float32), zeros(&[1, 1, 20, d], Dtype::Float32)];
            let (_, keys, _) = attend(&q, &k, &v, caches, &s).unwrap();
            let want = stock.apply(&k.reshape(&[1, 1, 20, d]).unwrap(), &s);
            let e = (&keys - &want).abs().unwrap().max(None).unwrap().item_exact::<f32>();
            assert!(e < 2e-6, "{dims} of {d}, base {base}, position {position}: {e:.1e}");
        }
    }
}

#[test]
fn given_frequencies() {
    let freqs: Vec<f32> = (0..16).map(|i| 1.7f32.powi(i) * 0.9).collect();
    let s =
        Attend { rope: Some(Arc::new(Rope::with_freqs(&freqs, 0.5, false))), position: 90, ..spec(1, 1, 40) };
    let [q, k, v] = qkv(1, 4, &s, 3);
    let caches = [zeros(&[1, 1, 4, 40], Dtype::Float32), zeros(&[1, 1, 4, 40], Dtype::Float32)];
    let (_, keys, _) = attend(&q, &k, &v, caches, &s).unwrap();
    let freqs = Array::from_slice(&freqs, &[16]);
    let k = k.reshape(&[1, 1, 4, 40]).unwrap();
    let want = fast::rope(&k, 32, false, None, 0.5, 90, &freqs).unwrap();
    assert_close(&keys, &want, CLOSE, "given frequencies");
}

#[test]
fn caches_and_activations_in_half_precision() {
    for cache in [Dtype::Bfloat16, Dtype::Float16, Dtype::Float32] {
        for x in [Dtype::Float32, Dtype::Bfloat16, Dtype::Float16] {
            for d in [64, 24] {
                let mut s = spec(4, 2, d);
                let mut both = Both::new(2, &s, 80, cache);
                for (i, l) in [3, 1, 66, 1].into_iter().enumerate() {
                    let [q, k, v] = qkv(2, l, &s, i as u64).map(|a| a.as_dtype(x).unwrap());
                    both.step(&q, &k, &v, &s, None, &format!("{x:?} in a cache of {cache:?}"));
                    s.len += l;
                }
            }
        }
    }
}

#[test]
fn inputs_of_any_strides() {
    let s = spec(4, 2, 16);
    let turned = |n: i32, seed| normal(&[2, n, 7], seed).transpose_axes(&[0, 2, 1]).unwrap();
    let wide = normal(&[2, 14, 200], 3);
    let v = wide.index((.., (..).stride_by(2), 10..42));
    Both::new(2, &s, 9, Dtype::Float32).step(&turned(64, 1), &turned(32, 2), &v, &s, None, "strides");
    let backwards = normal(&[2, 7, 32], 4).index((.., (..).stride_by(-1), ..));
    Both::new(2, &s, 9, Dtype::Float32).step(&turned(64, 1), &backwards, &v, &s, None, "backwards");
    let cache = || zeros(&[1, 9, 2, 16], Dtype::Float32).transpose_axes(&[0, 2, 1, 3]).unwrap();
    let [q, k, v] = qkv(1, 3, &s, 5);
    let (y, kc, _) = attend(&q, &k, &v, [cache(), cache()], &s).unwrap();
    let fresh = || zeros(&[1, 2, 9, 16], Dtype::Float32);
    let (want, want_k, _) = attend(&q, &k, &v, [fresh(), fresh()], &s).unwrap();
    assert_same(&y, &want, "a cache of other strides");
    assert_same(&kc, &want_k, "a cache of other strides");
}

/// Where an array's values lie.
fn address(a: &Array) -> usize {
    a.eval().unwrap();
    a.as_slice::<f32>().as_ptr() as usize
}

#[test]
fn appends_in_place_or_into_a_copy() {
    let mut s = spec(4, 2, 64);
    let mut both = Both::new(1, &s, 64, Dtype::Float32);
    let mut held = None;
    for (step, l) in [5, 1, 1, 12, 1].into_iter().enumerate() {
        let before = both.ours.as_ref().unwrap().each_ref().map(address);
        if step == 3 {
            let [k, _] = both.ours.as_ref().unwrap();
            let copy = k + Array::from_f32(0.0);
            copy.eval().unwrap();
            held = Some((k.clone(), copy));
        }
        let [q, k, v] = qkv(1, l, &s, step as u64);
        both.step(&q, &k, &v, &s, None, &format!("step {step}"));
        let after = both.ours.as_ref().unwrap().each_ref().map(address);
        assert_eq!(after[0] == before[0], step != 3, "step {step}: in place unless somebody holds the cache");
        assert_eq!(after[1], before[1], "step {step}");
        s.len += l;
    }
    let (now, then) = held.unwrap();
    assert_same(&now, &then, "a held cache does not change");
}

#[test]
fn a_cache_may_grow() {
    let mut s = spec(4, 2, 32);
    let mut both = Both::new(2, &s, 8, Dtype::Float32);
    for i in 0..10 {
        let [q, k, v] = qkv(2, 5, &s, i);
        if s.len + 5 > both.stock[0].dim(2) {
            let grow =
                |a: &Array| ops::concatenate(&[a, &zeros(&[2, 2, 16, 32], Dtype::Float32)], 2).unwrap();
            both.stock = both.stock.each_ref().map(grow);
            both.ours = both.ours.as_ref().map(|c| c.each_ref().map(grow));
        }
        both.step(&q, &k, &v, &s, None, &format!("step {i}"));
        s.len += 5;
    }
}

#[test]
fn not_a_number_stays_visible() {
    let s = spec(1, 1, 16);
    let [q, k, v] = qkv(1, 2, &s, 1);
    let q = &q * Array::from_f32(f32::NAN);
    let caches = [zeros(&[1, 1, 4, 16], Dtype::Float32), zeros(&[1, 1, 4, 16], Dtype::Float32)];
    let (y, ..) = attend(&q, &k, &v, caches, &s).unwrap();
    y.eval().unwrap();
    assert!(y.as_slice::<f32>().iter().all(|x| x.is_nan()));
}

#[test]
fn other_instruction_sets() {
    again_with_other_isas("other_instruction_sets");
}
