//! Every order of routing, against the same in float64, written from its definition.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod nn;

use mlx_lm_common::{
    Error,
    nn::{GroupScore, Groups, Normalize, Router, RouterConfig, Score},
};
use mlx_rs::Array;
use nn::{Random, Row, Tensors, product, rows, sigmoid};

const DIM: i32 = 24;
const TOKENS: i32 = 40;

struct Case {
    config: RouterConfig,
    weight: Vec<Row>,
    bias: Option<Row>,
    correction: Option<Row>,
    expert_scale: Option<Row>,
    router: Router,
}

fn wide(values: &[f32]) -> Row {
    values.iter().map(|&v| v.into()).collect()
}

impl Case {
    /// Corrections lie around `middle`.
    fn new(config: RouterConfig, middle: f32, random: &Random) -> Case {
        let experts = config.experts;
        let mut tensors = Tensors::default();
        let mut vector = |name: &str, add: f32| {
            let values: Vec<f32> = random.numbers(experts as usize).iter().map(|v| v + add).collect();
            tensors.floats(name, &[experts], &values);
            wide(&values)
        };
        let bias = config.bias.then(|| vector(&format!("{}.bias", config.name), 0.0));
        let correction = config.correction.map(|name| vector(name, middle));
        let expert_scale = config.expert_scale.map(|name| vector(name, 1.5));
        let weight = random.numbers((experts * DIM) as usize);
        tensors.floats(&format!("{}.weight", config.name), &[experts, DIM], &weight);
        let weights = tensors.weights(false);
        let router = Router::load(&weights, &config).unwrap();
        weights.finish().unwrap();
        let weight = weight.chunks(DIM as usize).map(wide).collect();
        Case { config, weight, bias, correction, expert_scale, router }
    }

    /// The experts of a token and their weights; nothing if two choices are too close to call in float32.
    fn expected(&self, x: &[f64]) -> Option<Vec<(usize, f64)>> {
        let c = &self.config;
        let mut logits = product(&self.weight, x);
        if let Some(bias) = &self.bias {
            logits.iter_mut().zip(bias).for_each(|(l, b)| *l += b);
        }
        let scores: Row = match c.score {
            Score::Softmax => softmax(&logits),
            Score::TopKSoftmax => logits,
            Score::Sigmoid => logits.iter().map(|&l| sigmoid(l)).collect(),
        };
        let mut selection = scores.clone();
        if let Some(correction) = &self.correction {
            selection.iter_mut().zip(correction).for_each(|(s, b)| *s += b);
        }
        if let Some(g) = c.groups {
            let size = (c.experts / g.count) as usize;
            let values: Row = selection
                .chunks(size)
                .map(|group| {
                    let mut sorted = group.to_vec();
                    sorted.sort_by(|a, b| b.total_cmp(a));
                    sorted[..if g.score == GroupScore::Best { 1 } else { 2 }].iter().sum()
                })
                .collect();
            let kept = best(&values, g.kept as usize)?;
            for (i, s) in selection.iter_mut().enumerate() {
                if !kept.contains(&(i / size)) {
                    *s = f64::NEG_INFINITY;
                }
            }
        }
        let ids = best(&selection, c.k as usize)?;
        let mut weights: Row = ids.iter().map(|&i| scores[i]).collect();
        if c.score == Score::TopKSoftmax {
            weights = softmax(&weights);
        }
        let sum: f64 = weights.iter().sum();
        let by = match c.normalize {
            Normalize::No => 1.0,
            Normalize::Sum(epsilon) => sum + f64::from(epsilon),
            Normalize::AtLeast(least) => sum.max(least.into()),
        };
        let weigh = |(i, w): (usize, f64)| {
            (i, w / by * f64::from(c.scale) * self.expert_scale.as_ref().map_or(1.0, |s| s[i]))
        };
        let mut chosen: Vec<_> = ids.into_iter().zip(weights).map(weigh).collect();
        chosen.sort_by_key(|(i, _)| *i);
        Some(chosen)
    }

    fn check(&self, name: &str, random: &Random) {
        let values = random.numbers((TOKENS * DIM) as usize);
        let x = Array::from_slice(&values, &[2, TOKENS / 2, DIM]);
        let (ids, weights) = self.router.forward(&x).unwrap();
        let shape = [2, TOKENS / 2, self.config.k];
        assert_eq!((ids.shape(), weights.shape(), weights.dtype()), (&shape[..], &shape[..], x.dtype()));
        let ids = rows(&ids.as_dtype(x.dtype()).unwrap());
        let mut compared = 0;
        for ((x, ids), weights) in rows(&x).iter().zip(ids).zip(rows(&weights)) {
            let Some(expected) = self.expected(x) else { continue };
            let mut found: Vec<_> = ids.iter().map(|&i| i as usize).zip(weights).collect();
            found.sort_by_key(|(i, _)| *i);
            for ((i, a), (j, b)) in found.iter().zip(&expected) {
                assert!(i == j && (a - b).abs() < 1e-5, "{name}: {found:?}, not {expected:?}");
            }
            compared += 1;
        }
        assert!(compared > TOKENS / 2, "{name}: only {compared} tokens are clear");
    }
}

fn softmax(x: &[f64]) -> Row {
    let sum: f64 = x.iter().map(|x| x.exp()).sum();
    x.iter().map(|x| x.exp() / sum).collect()
}

/// The `n` largest, if the next one is clearly less.
fn best(values: &[f64], n: usize) -> Option<Vec<usize>> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    let clear = n == values.len() || values[order[n - 1]] - values[order[n]] > 1e-4;
    clear.then(|| order[..n].to_vec())
}

fn groups(count: i32, kept: i32, score: GroupScore) -> Option<Groups> {
    Some(Groups { count, kept, score })
}

#[test]
fn routers_agree_with_their_definitions() {
    let base = |experts, k| RouterConfig::new(DIM, experts, k);
    let correction = Some("gate.e_score_correction_bias");
    let sigmoid = |experts, k| RouterConfig { score: Score::Sigmoid, correction, ..base(experts, k) };
    let cases = [
        ("softmax", base(12, 3)),
        ("softmax, normalized", RouterConfig { normalize: Normalize::Sum(0.0), ..base(12, 4) }),
        ("one of many", RouterConfig { normalize: Normalize::Sum(0.0), scale: 3.0, ..base(64, 1) }),
        ("all", RouterConfig { scale: 0.5, ..base(5, 5) }),
        (
            "softmax of the best",
            RouterConfig { score: Score::TopKSoftmax, bias: true, name: "router", ..base(16, 4) },
        ),
        (
            "softmax of the best, scaled by expert",
            RouterConfig { score: Score::TopKSoftmax, expert_scale: Some("per_expert_scale"), ..base(16, 4) },
        ),
        ("sigmoid", RouterConfig { correction: None, ..sigmoid(16, 2) }),
        (
            "sigmoid, at least",
            RouterConfig { correction: None, normalize: Normalize::AtLeast(1.5), ..sigmoid(16, 3) },
        ),
        ("corrected", RouterConfig { normalize: Normalize::Sum(1e-20), scale: 2.5, ..sigmoid(16, 4) }),
        (
            "corrected with a large epsilon",
            RouterConfig { normalize: Normalize::Sum(0.25), ..sigmoid(16, 4) },
        ),
        (
            "two best of a group",
            RouterConfig {
                groups: groups(4, 2, GroupScore::BestTwo),
                normalize: Normalize::Sum(1e-20),
                scale: 1.5,
                ..sigmoid(16, 5)
            },
        ),
        ("one group of many", RouterConfig { groups: groups(8, 1, GroupScore::BestTwo), ..sigmoid(32, 4) }),
        ("all groups", RouterConfig { groups: groups(4, 4, GroupScore::BestTwo), ..sigmoid(16, 5) }),
        (
            "best of a group",
            RouterConfig { groups: groups(5, 2, GroupScore::Best), scale: 16.0, ..base(20, 4) },
        ),
        (
            "corrected softmax in groups, in float32",
            RouterConfig {
                groups: groups(4, 3, GroupScore::BestTwo),
                float32: true,
                correction,
                ..base(16, 4)
            },
        ),
    ];
    for seed in 1..6 {
        let random = Random::new(seed);
        for (name, config) in cases {
            Case::new(config, 0.0, &random).check(name, &random);
            // Scores below zero: a group that is left out must not be chosen for a zero.
            Case::new(config, -3.0, &random).check(&format!("{name}, below zero"), &random);
        }
    }
}

#[test]
fn numbers_that_do_not_go_together_are_errors() {
    let base = RouterConfig::new(DIM, 16, 4);
    let grouped = |k, count, kept, score| RouterConfig { k, groups: groups(count, kept, score), ..base };
    let cases = [
        ("num_experts_per_tok", RouterConfig { k: 17, ..base }),
        ("num_experts_per_tok", RouterConfig { k: 0, ..base }),
        ("moe_k", RouterConfig { k: -1, k_key: "moe_k", ..base }),
        ("n_group", grouped(4, 0, 1, GroupScore::Best)),
        ("n_group", grouped(4, 3, 1, GroupScore::Best)),
        ("n_group", grouped(4, 16, 8, GroupScore::BestTwo)),
        ("topk_group", grouped(4, 4, 0, GroupScore::Best)),
        ("topk_group", grouped(4, 4, 5, GroupScore::Best)),
        ("num_experts_per_tok", grouped(5, 4, 1, GroupScore::Best)),
    ];
    let weights = Tensors::default().weights(false);
    for (wanted, config) in cases {
        match Router::load(&weights, &config) {
            Err(Error::Config { key, .. }) => assert_eq!(key, wanted, "{config:?}"),
            other => panic!("{config:?}: {other:?}"),
        }
    }
}
