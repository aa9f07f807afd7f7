#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::{
    super::scan::testing::{distance, floats, random},
    *,
};

/// Batch, heads of keys and of values, widths of both.
type Sizes = [usize; 5];

struct Case {
    sizes: Sizes,
    len: usize,
    inputs: [Array; 4],
}

impl Case {
    /// Keys are alike as far as `alike` is near 1; positions keep about exp(-`forget`) of the state.
    fn new(sizes: Sizes, len: usize, alike: f32, forget: f32) -> Case {
        let [b, hk, hv, dk, dv] = sizes.map(|n| n as i32);
        let l = len as i32;
        let one = random(&[b, 1, 2, hk, dk], 1).multiply(Array::from_f32(alike)).unwrap();
        let each = random(&[b, l, 2, hk, dk], 2).multiply(Array::from_f32(1.0 - alike)).unwrap();
        let qk = one.add(each).unwrap();
        let length = qk.square().unwrap().sum_axis(-1, true).unwrap().sqrt().unwrap();
        let decay = ops::abs(random(&[b, l, hv], 4)).unwrap().multiply(Array::from_f32(-forget)).unwrap();
        let rate = ops::sigmoid(random(&[b, l, hv], 5).add(Array::from_f32(alike * 5.0)).unwrap()).unwrap();
        let inputs = [qk.divide(length).unwrap(), random(&[b, l, hv * dv], 3), decay, rate];
        Case { sizes, len, inputs }
    }

    /// The rule, position by position, in float64: outputs and the state.
    fn naive(&self, start: Option<&Array>) -> (Vec<f64>, Vec<f64>) {
        let [b, hk, hv, dk, dv] = self.sizes;
        let [qk, v, decay, rate] = self.inputs.each_ref().map(floats);
        let mut state = start.map_or(vec![0.0; b * hv * dv * dk], floats);
        let mut y = Vec::new();
        for i in 0..b * self.len {
            for h in 0..hv {
                let (row, head) = (i / self.len, i * hv + h);
                let key_head = h * hk / hv;
                let q = &qk[((i * 2) * hk + key_head) * dk..][..dk];
                let k = &qk[((i * 2 + 1) * hk + key_head) * dk..][..dk];
                let s = &mut state[(row * hv + h) * dv * dk..][..dv * dk];
                s.iter_mut().for_each(|s| *s *= decay[head].exp());
                for (d, s) in s.chunks_mut(dk).enumerate() {
                    let known: f64 = s.iter().zip(k).map(|(s, k)| s * k).sum();
                    let new = (v[head * dv + d] - known) * rate[head];
                    s.iter_mut().zip(k).for_each(|(s, k)| *s += new * k);
                    y.push(s.iter().zip(q).map(|(s, q)| s * q).sum());
                }
            }
        }
        (y, state)
    }

    fn part(&self, from: usize, to: usize) -> Vec<Array> {
        self.inputs.iter().map(|x| raw::slice(x, 1, from as i32, to as i32).unwrap()).collect()
    }
}

const SIZES: [Sizes; 4] = [[1, 2, 2, 16, 16], [2, 2, 6, 32, 16], [1, 1, 4, 8, 24], [3, 4, 4, 8, 8]];

#[test]
fn chunks_equal_the_rule_position_by_position() {
    for sizes in SIZES {
        for len in [2, 3, 31, 64, 65, 200] {
            for (alike, forget) in [(0.0, 0.1), (0.0, 5.0), (0.0, 300.0), (0.95, 0.0), (1.0, 0.01)] {
                let case = Case::new(sizes, len, alike, forget);
                let [b, _, hv, dk, dv] = sizes.map(|n| n as i32);
                let start = random(&[b, hv, dv, dk], 6);
                for start in [None, Some(&start)] {
                    let (wanted, last) = case.naive(start);
                    let (y, state) = gated_delta::<false>(start, &case.inputs, &[]).unwrap();
                    assert_eq!(y.shape(), [b, len as i32, hv, dv]);
                    let far = distance(&y, &wanted).max(distance(&state, &last));
                    assert!(far < 1e-5, "{sizes:?}, {len} positions, {alike}, {forget}: {far:.1e}");
                }
            }
        }
    }
}

#[test]
fn steps_equal_the_rule() {
    for sizes in SIZES {
        let case = Case::new(sizes, 20, 0.5, 0.5);
        let (wanted, last) = case.naive(None);
        let mut state = None;
        let mut outputs = Vec::new();
        for i in 0..20 {
            let (y, next) = gated_delta::<false>(state.as_ref(), &case.part(i, i + 1), &[]).unwrap();
            outputs.push(y);
            state = Some(next);
        }
        let y = ops::concatenate(&outputs, 1).unwrap();
        let far = distance(&y, &wanted).max(distance(&state.unwrap(), &last));
        assert!(far < 1e-5, "{sizes:?}: {far:.1e}");
    }
}

#[test]
fn without_decay_and_rate_the_state_stays() {
    let mut case = Case::new(SIZES[1], 70, 0.0, 0.0);
    case.inputs[3] = ops::zeros_like(&case.inputs[3]).unwrap();
    let start = random(&[2, 6, 16, 32], 6);
    for len in [1, 5, 70] {
        let (_, state) = gated_delta::<false>(Some(&start), &case.part(0, len), &[]).unwrap();
        assert!(distance(&state, &floats(&start)) < 1e-6, "{len} positions");
    }
}

#[test]
fn a_state_of_another_shape_is_refused() {
    let case = Case::new(SIZES[1], 2, 0.0, 1.0);
    let state = random(&[2, 6, 16, 1], 6);
    assert!(matches!(gated_delta::<false>(Some(&state), &case.inputs, &[]), Err(Error::Cache(_))));
}
