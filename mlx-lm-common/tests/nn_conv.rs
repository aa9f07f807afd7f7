//! Short convolutions against their formula in float64, in either form, in pieces and behind padding.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod nn;

use mlx_lm_common::{Backend, cache::StateCache, nn::CausalConv, raw::Device};
use mlx_rs::{Array, Dtype, ops::indexing::IndexOp};
use nn::{Random, Row, Tensors, distance, rows};
use std::sync::Arc;

const CHANNELS: usize = 6;
const LEN: usize = 11;

/// A kernel by channel, and a bias.
struct Expected {
    kernel: Vec<f32>,
    bias: Option<Vec<f32>>,
    width: usize,
}

impl Expected {
    /// From `start` on; what is before it counts as zero.
    fn forward(&self, x: &[Row], start: usize) -> Vec<Row> {
        let y = |t: usize, c: usize| {
            let term = |k: usize| {
                let from = (t + k + 1).checked_sub(self.width).filter(|i| *i >= start);
                from.map_or(0.0, |i| f64::from(self.kernel[c * self.width + k]) * x[i][c])
            };
            (0..self.width).map(term).sum::<f64>() + self.bias.as_ref().map_or(0.0, |b| b[c].into())
        };
        (start..x.len()).map(|t| (0..CHANNELS).map(|c| y(t, c)).collect()).collect()
    }
}

#[test]
fn convolutions_agree_with_their_formula() {
    let random = Random::new(5);
    let plain = Backend::new(Some(Device::Cpu), None, Dtype::Float32, false);
    for (width, biased) in [(2, true), (3, false), (4, true)] {
        let mut t = Tensors::default();
        let kernel = random.numbers(CHANNELS * width);
        t.floats("weight", &[CHANNELS as i32, width as i32, 1], &kernel);
        let bias = biased.then(|| random.numbers(CHANNELS));
        if let Some(bias) = &bias {
            t.floats("bias", &[CHANNELS as i32], bias);
        }
        let expected = Expected { kernel, bias, width };
        let x = Array::from_slice(&random.numbers(2 * LEN * CHANNELS), &[2, LEN as i32, CHANNELS as i32]);
        let all = rows(&x);
        for backend in [plain, Backend { compile: true, ..plain }] {
            let w = t.weights_for(backend);
            let conv = CausalConv::load(&w, CHANNELS as i32, width as i32, biased).unwrap();
            w.finish().unwrap();
            for sizes in [vec![LEN], vec![1; LEN], vec![5, 1, 1, 4], vec![2, 9]] {
                let mut cache = StateCache::new(1, 0, Some(Arc::from([0, 4])));
                let mut found = [Vec::new(), Vec::new()];
                let mut at = 0;
                for len in sizes.iter().map(|n| *n as i32) {
                    let y = conv.forward(&x.index((.., at..at + len, ..)), &mut cache, 0).unwrap();
                    cache.advance(len);
                    for (found, row) in found.iter_mut().zip(rows(&y).chunks(len as usize)) {
                        found.extend_from_slice(row);
                    }
                    at += len;
                }
                let what = format!("{sizes:?}, width {width}, compile {}", backend.compile);
                assert!(distance(&found[0], &expected.forward(&all[..LEN], 0)) < 1e-5, "{what}");
                assert!(distance(&found[1][4..], &expected.forward(&all[LEN..], 4)) < 1e-5, "padded, {what}");
            }
        }
    }
}
