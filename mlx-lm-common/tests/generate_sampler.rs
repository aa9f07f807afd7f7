//! What is drawn: the right tokens, as often as their probabilities say, and the same again for the same seed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use mlx_lm_common::{
    Error,
    generate::{GenerateParameters, Processors, Sampler},
};
use mlx_rs::{Array, Dtype, ops};

/// The statistic that a chi-square variable of 9 degrees of freedom exceeds once in a million times.
const CHI_SQUARE_9: f64 = 44.81;

const LOGITS: [f32; 10] = [0.3, -1.0, 2.0, 0.0, -3.0, 1.5, 1.0, -0.5, -2.0, 0.7];

fn params(change: impl FnOnce(&mut GenerateParameters)) -> GenerateParameters {
    let mut params = GenerateParameters { temperature: 1.0, seed: Some(17), ..Default::default() };
    change(&mut params);
    params
}

fn sampler(change: impl FnOnce(&mut GenerateParameters)) -> Sampler {
    Sampler::new(&params(change), &[]).unwrap()
}

fn ids(array: &Array) -> Vec<u32> {
    array.eval().unwrap();
    array.as_slice::<u32>().to_vec()
}

/// `rows` times the ten logits.
fn batch(rows: i32) -> Array {
    ops::broadcast_to(Array::from_slice(&LOGITS, &[1, 10]), &[rows, 10]).unwrap()
}

fn softmax(logits: impl Iterator<Item = f32>, temperature: f64) -> Vec<f64> {
    let weights: Vec<f64> = logits.map(|x| (f64::from(x) / temperature).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|w| w / total).collect()
}

fn chi_square(counts: &[u32], probabilities: &[f64]) -> f64 {
    let n = f64::from(counts.iter().sum::<u32>());
    let term = |(&count, &p): (&u32, &f64)| (f64::from(count) - n * p).powi(2) / (n * p);
    counts.iter().zip(probabilities).filter(|(_, p)| **p > 0.0).map(term).sum()
}

/// How often each of ten tokens is drawn in `steps` steps of `rows` rows.
fn counts(sampler: &mut Sampler, rows: i32, steps: usize) -> [u32; 10] {
    let mut counts = [0; 10];
    for _ in 0..steps {
        for id in ids(&sampler.sample(&batch(rows)).unwrap()) {
            counts[id as usize] += 1;
        }
    }
    counts
}

#[test]
fn greedy_takes_the_likeliest_whatever_else_is_set() {
    let mut sampler = sampler(|p| (p.temperature, p.top_k, p.xtc_probability) = (0.0, 3, 1.0));
    assert!(sampler.is_greedy());
    let logits = Array::from_slice(&[1.0f32, 3.0, 2.0, f32::NEG_INFINITY, -5.0, -4.0, -9.0, -9.0], &[2, 4]);
    assert_eq!(ids(&sampler.sample(&logits).unwrap()), [1, 1]);
    assert_eq!(ids(&sampler.sample(&logits.as_dtype(Dtype::Bfloat16).unwrap()).unwrap()), [1, 1]);
}

#[test]
fn tokens_come_as_often_as_their_probabilities_say() {
    for (temperature, seed) in [(1.0, 1), (0.7, 2), (1.8, 3)] {
        let wanted = softmax(LOGITS.into_iter(), f64::from(temperature));
        // Rows of one step, and steps of one row: neither may repeat the other's numbers.
        for (rows, steps) in [(4000, 10), (1, 4000)] {
            let mut sampler = sampler(|p| (p.temperature, p.seed) = (temperature, Some(seed)));
            let got = chi_square(&counts(&mut sampler, rows, steps), &wanted);
            assert!(got < CHI_SQUARE_9, "temperature {temperature}, {rows} rows: chi-square {got}");
        }
    }
}

#[test]
fn filtered_tokens_never_come_and_the_others_keep_their_proportions() {
    type Change = fn(&mut GenerateParameters);
    let cases: [(Change, &[usize]); 4] = [
        (|p| p.top_k = 3, &[2, 5, 6]),
        (|p| p.top_p = 0.75, &[2, 5, 6, 9]),
        (|p| p.min_p = 0.25, &[2, 5, 6, 9]),
        (|p| (p.top_p, p.top_k, p.temperature) = (0.95, 5, 0.8), &[0, 2, 5, 6, 9]),
    ];
    for (change, kept) in cases {
        let mut sampler = sampler(change);
        let temperature = f64::from(params(change).temperature);
        let left = (0..10).map(|i| if kept.contains(&i) { LOGITS[i] } else { f32::NEG_INFINITY });
        let wanted = softmax(left, temperature);
        let counts = counts(&mut sampler, 4000, 5);
        assert!((0..10).all(|i| kept.contains(&i) || counts[i] == 0), "{counts:?}");
        // Fewer degrees of freedom than 9 make the bound wider, not narrower.
        assert!(chi_square(&counts, &wanted) < CHI_SQUARE_9, "{counts:?}");
    }
}

#[test]
fn xtc_applies_as_often_as_its_probability_says() {
    let (n, p) = (4000, 0.3);
    let mut sampler = sampler(|params| (params.xtc_probability, params.xtc_threshold) = (p, 0.15));
    let mut applied = 0;
    for _ in 0..n {
        let left = sampler.filter(&batch(1)).unwrap();
        left.eval().unwrap();
        applied += u32::from(left.as_slice::<f32>()[2] == f32::NEG_INFINITY);
        sampler.sample(&batch(1)).unwrap();
    }
    // Five standard deviations of the binomial distribution: once in two million times.
    let (mean, deviation) = (f64::from(n) * f64::from(p), (f64::from(n) * f64::from(p * (1.0 - p))).sqrt());
    assert!((f64::from(applied) - mean).abs() < 5.0 * deviation, "{applied} of {n}");
}

#[test]
fn a_seed_gives_the_same_tokens_on_any_thread() {
    let draw = |seed| {
        move || {
            let mut sampler = sampler(|p| (p.seed, p.xtc_probability, p.top_p) = (Some(seed), 0.5, 0.99));
            (0..50).flat_map(|_| ids(&sampler.sample(&batch(3)).unwrap())).collect::<Vec<_>>()
        }
    };
    let here = draw(5)();
    assert_eq!(std::thread::spawn(draw(5)).join().unwrap(), here);
    assert_ne!(draw(6)(), here);
}

#[test]
fn an_unset_seed_differs_and_can_be_used_again() {
    let mut first = sampler(|p| p.seed = None);
    assert_ne!(first.seed(), sampler(|p| p.seed = None).seed());
    let mut again = sampler(|p| p.seed = Some(first.seed()));
    assert_eq!(counts(&mut first, 20, 5), counts(&mut again, 20, 5));
}

#[test]
fn limits_beyond_the_vocabulary_keep_everything() {
    let everything = batch(2);
    for sampler in [
        sampler(|p| p.top_k = 10),
        sampler(|p| p.top_k = usize::MAX),
        sampler(|p| (p.min_p, p.min_tokens_to_keep) = (0.9, usize::MAX)),
    ] {
        assert!(sampler.filter(&everything).unwrap().eq_exact(&everything).unwrap());
    }
    let special =
        Sampler::new(&params(|p| (p.xtc_probability, p.xtc_threshold) = (1.0, 0.0)), &[4_000_000, 2])
            .unwrap();
    let left = special.filter(&everything).unwrap();
    left.eval().unwrap();
    assert_eq!(left.as_slice::<f32>()[2], LOGITS[2]);
    assert_eq!(left.as_slice::<f32>()[5], f32::NEG_INFINITY);
}

#[test]
fn damaged_logits_give_some_token_and_no_crash() {
    type Change = fn(&mut GenerateParameters);
    let cases: [Change; 6] = [
        |p| p.temperature = 0.0,
        |p| p.temperature = 1e-5,
        |p| p.top_p = 0.9,
        |p| p.top_p = 1e-45,
        |p| (p.min_p, p.min_tokens_to_keep, p.top_k) = (0.1, 3, 40),
        |p| (p.top_p, p.min_p, p.top_k, p.xtc_probability) = (0.5, 0.1, 5, 1.0),
    ];
    let width = 3001;
    let mut one_nan = vec![0.5; width];
    one_nan[1234] = f32::NAN;
    let rows = [vec![f32::NAN; width], vec![f32::NEG_INFINITY; width], vec![f32::INFINITY; width], one_nan];
    let logits = Array::from_slice(&rows.concat(), &[4, width as i32]);
    for change in cases {
        let drawn = ids(&sampler(change).sample(&logits).unwrap());
        assert!(drawn.len() == 4 && drawn.iter().all(|&id| (id as usize) < width), "{drawn:?}");
    }
}

#[test]
fn another_shape_is_an_error() {
    for shape in [&[10][..], &[1, 1, 10]] {
        let logits = Array::from_slice(&LOGITS, shape);
        assert!(matches!(sampler(|_| ()).sample(&logits), Err(Error::Parameter { name: "logprobs", .. })));
    }
    let empty = Array::zeros::<f32>(&[1, 0]).unwrap();
    assert!(matches!(sampler(|_| ()).sample(&empty), Err(Error::Parameter { name: "logprobs", .. })));
    let mut processors = Processors::new(&params(|p| p.presence_penalty = Some(1.0)), 11).unwrap();
    assert!(matches!(processors.process(batch(1)), Err(Error::Parameter { name: "logits", .. })));
}

#[test]
fn processors_take_a_token_that_is_not_computed_yet() {
    let params = params(|p| (p.presence_penalty, p.presence_context_size) = (Some(100.0), 1));
    let mut processors = Processors::new(&params, 10).unwrap();
    processors.prompt(&[5, 6]).unwrap();
    let mut greedy = sampler(|p| p.temperature = 0.0);
    let mut drawn = Vec::new();
    for _ in 0..4 {
        let token = greedy.sample(&processors.process(batch(1)).unwrap()).unwrap();
        processors.push(&token).unwrap();
        drawn.push(token);
    }
    // The likeliest, 2, is forbidden every second time; 5 is next.
    assert_eq!(drawn.iter().flat_map(ids).collect::<Vec<_>>(), [2, 5, 2, 5]);
}

#[test]
fn processors_keep_the_type_of_the_logits() {
    let params = params(|p| {
        p.logit_bias = [(0, 1.0)].into();
        (p.repetition_penalty, p.presence_penalty, p.frequency_penalty) = (Some(2.0), Some(0.5), Some(0.25));
    });
    let mut processors = Processors::new(&params, 10).unwrap();
    processors.prompt(&[2, 2]).unwrap();
    let logits = batch(1).as_dtype(Dtype::Bfloat16).unwrap();
    let out = processors.process(logits).unwrap();
    assert_eq!(out.dtype(), Dtype::Bfloat16);
    let out = out.as_dtype(Dtype::Float32).unwrap();
    out.eval().unwrap();
    // 2.0 / 2 - 0.5 - 2 * 0.25, exact in any type.
    assert_eq!(out.as_slice::<f32>()[2], 0.0);
}

#[test]
fn processors_name_tokens_that_do_not_exist() {
    let biased = params(|p| p.logit_bias = [(10, 1.0)].into());
    assert!(matches!(Processors::new(&biased, 10), Err(Error::Parameter { name: "logit_bias", .. })));
    let mut processors = Processors::new(&params(|p| p.frequency_penalty = Some(1.0)), 10).unwrap();
    assert!(matches!(processors.prompt(&[1, 10]), Err(Error::Parameter { name: "prompt", .. })));
    assert!(processors.prompt(&[]).is_ok());
}

#[test]
fn neutral_values_need_no_processor() {
    let neutral = params(|p| {
        (p.repetition_penalty, p.presence_penalty, p.frequency_penalty) = (Some(1.0), Some(0.0), Some(0.0));
    });
    assert!(Processors::new(&neutral, 10).unwrap().is_empty());
    let biased = params(|p| p.logit_bias = [(1, f32::NEG_INFINITY)].into());
    let mut biased = Processors::new(&biased, 10).unwrap();
    assert!(!biased.is_empty());
    let out = biased.process(batch(1)).unwrap();
    out.eval().unwrap();
    assert_eq!(out.as_slice::<f32>()[1], f32::NEG_INFINITY);
}
