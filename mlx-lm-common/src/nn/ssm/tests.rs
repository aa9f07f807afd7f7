#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::{
    super::scan::testing::{distance, floats, random},
    *,
};

struct Case {
    sizes: Sizes,
    len: usize,
    inputs: [Array; 4],
    neg_a: Array,
}

impl Case {
    /// Positions keep about exp(-`forget`) of the state.
    fn new(sizes: Sizes, len: usize, forget: f32) -> Case {
        let Sizes { batch, groups, each, head_dim, state } = sizes;
        let (l, heads) = (len as i32, groups * each);
        let inputs = [
            random(&[batch, l, heads * head_dim], 1),
            random(&[batch, l, groups * state], 2),
            random(&[batch, l, groups * state], 3),
            ops::abs(random(&[batch, l, heads], 4)).unwrap(),
        ];
        let neg_a = ops::abs(random(&[heads], 5)).unwrap().multiply(Array::from_f32(-forget)).unwrap();
        let shape = if groups == 1 { vec![1, heads, 1, 1] } else { vec![1, groups, heads / groups, 1, 1] };
        Case { sizes, len, inputs, neg_a: neg_a.reshape(&shape).unwrap() }
    }

    fn start(&self) -> Array {
        let s = self.sizes;
        random(&[s.batch, s.groups * s.each, s.head_dim, s.state], 6)
    }

    /// The recurrence, position by position, in float64: outputs and the state.
    fn naive(&self, start: Option<&Array>) -> (Vec<f64>, Vec<f64>) {
        let Sizes { batch, groups, each, head_dim, state } = self.sizes;
        let [batch, groups, each, p, n] = [batch, groups, each, head_dim, state].map(|n| n as usize);
        let heads = groups * each;
        let [x, b, c, dt] = self.inputs.each_ref().map(floats);
        let a = floats(&self.neg_a);
        let mut state = start.map_or(vec![0.0; batch * heads * p * n], floats);
        let mut y = Vec::new();
        for i in 0..batch * self.len {
            for h in 0..heads {
                let (group, dt) = ((i * groups + h / each) * n, dt[i * heads + h]);
                let s = &mut state[(i / self.len * heads + h) * p * n..][..p * n];
                for (d, s) in s.chunks_mut(n).enumerate() {
                    let x = x[(i * heads + h) * p + d];
                    let mut sum = 0.0;
                    for (j, s) in s.iter_mut().enumerate() {
                        *s = *s * (dt * a[h]).exp() + dt * x * b[group + j];
                        sum += *s * c[group + j];
                    }
                    y.push(sum);
                }
            }
        }
        (y, state)
    }

    fn part(&self, from: usize, to: usize) -> Vec<Array> {
        self.inputs.iter().map(|x| raw::slice(x, 1, from as i32, to as i32).unwrap()).collect()
    }

    fn run(&self, state: Option<&Array>, from: usize, to: usize) -> (Array, Array) {
        ssd::<false>(state, &self.part(from, to), std::slice::from_ref(&self.neg_a)).unwrap()
    }
}

const SIZES: [Sizes; 3] = [
    Sizes { batch: 1, groups: 1, each: 4, head_dim: 8, state: 16 },
    Sizes { batch: 2, groups: 2, each: 3, head_dim: 4, state: 8 },
    Sizes { batch: 3, groups: 4, each: 1, head_dim: 8, state: 8 },
];

#[test]
fn chunks_equal_the_recurrence_position_by_position() {
    for sizes in SIZES {
        for len in [2, 3, 255, 256, 257, 600] {
            for forget in [0.0001, 0.1, 3.0, 300.0] {
                let case = Case::new(sizes, len, forget);
                for start in [None, Some(case.start())] {
                    let (wanted, last) = case.naive(start.as_ref());
                    let (y, state) = case.run(start.as_ref(), 0, len);
                    assert_eq!(y.shape(), case.inputs[0].shape());
                    let far = distance(&y, &wanted).max(distance(&state, &last));
                    assert!(far < 1e-5, "{len} positions, {forget}: {far:.1e}");
                }
            }
        }
    }
}

#[test]
fn steps_equal_the_recurrence() {
    for sizes in SIZES {
        let case = Case::new(sizes, 20, 0.5);
        let (wanted, last) = case.naive(None);
        let (mut state, mut outputs) = (None, Vec::new());
        for i in 0..20 {
            let (y, next) = case.run(state.as_ref(), i, i + 1);
            outputs.push(y);
            state = Some(next);
        }
        let y = ops::concatenate(&outputs, 1).unwrap();
        let far = distance(&y, &wanted).max(distance(&state.unwrap(), &last));
        assert!(far < 1e-5, "{far:.1e}");
    }
}

#[test]
fn in_no_time_the_state_stays() {
    for sizes in SIZES {
        let mut case = Case::new(sizes, 30, 1.0);
        case.inputs[3] = ops::zeros_like(&case.inputs[3]).unwrap();
        let start = case.start();
        for len in [1, 7, 30] {
            let (_, state) = case.run(Some(&start), 0, len);
            assert_eq!(floats(&state), floats(&start), "{len} positions");
        }
    }
}

#[test]
fn a_state_of_another_shape_is_refused() {
    let case = Case::new(SIZES[1], 2, 1.0);
    let state = random(&[2, 6, 4, 1], 6);
    let constants = std::slice::from_ref(&case.neg_a);
    assert!(matches!(ssd::<false>(Some(&state), &case.inputs, constants), Err(Error::Cache(_))));
}
