//! Figures of models against the formulas, spelt out in double precision.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use mlx_lm_common::{
    Backend, Error, Result,
    cache::{Cache, CacheSpec},
    evaluate::{EvaluateParameters, compare, divergence, perplexity},
    model::{Embedded, LanguageModel},
    raw::Device,
};
use mlx_rs::{Array, Dtype};

const VOCAB: usize = 11;

/// Logits are a row of a table, by the token before.
struct Bigrams(Vec<f32>);

impl Bigrams {
    fn drawn(seed: u64) -> Bigrams {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u32 << 22) as f32 - 2.0
        };
        Bigrams((0..VOCAB * VOCAB).map(|_| next()).collect())
    }

    /// Log-probabilities of what follows a token.
    fn after(&self, token: u32) -> Vec<f64> {
        let row = &self.0[token as usize * VOCAB..][..VOCAB];
        let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
        row.iter().map(|x| f64::from(*x) - sum.ln()).collect()
    }
}

impl LanguageModel for Bigrams {
    fn cache_specs(&self) -> Vec<CacheSpec> {
        Vec::new()
    }

    fn vocab_size(&self) -> i32 {
        VOCAB as i32
    }

    fn backend(&self) -> Backend {
        Backend::new(Some(Device::Cpu), None, Dtype::Float32, false)
    }

    fn embed(&self, tokens: &Array) -> Result<Embedded> {
        let table = Array::from_slice(&self.0, &[VOCAB as i32, VOCAB as i32]);
        Ok(table.take_axis(tokens, 0)?.into())
    }

    fn hidden(&self, input: Embedded, _: &mut Cache) -> Result<Array> {
        Ok(input.x)
    }

    fn logits(&self, hidden: &Array) -> Result<Array> {
        Ok(hidden.clone())
    }
}

/// Mean and standard error, in two passes.
fn mean(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, (variance / n).sqrt())
}

fn near(found: f64, wanted: f64, what: &str) {
    assert!((found - wanted).abs() <= 1e-5 * wanted.abs().max(1e-2), "{what}: {found}, wanted {wanted}");
}

fn text() -> Vec<u32> {
    (0..70u32).map(|i| i * i * 31 % 97 % VOCAB as u32).collect()
}

#[test]
fn figures_follow_the_formulas_however_the_text_is_cut() {
    let model = Bigrams::drawn(1);
    let apart = Bigrams::drawn(2).0;
    let reference = Bigrams(model.0.iter().zip(&apart).map(|(a, b)| a + 0.5 * b).collect());
    let text = text();
    let samples: Vec<&[u32]> = text.chunks(10).collect();
    let pairs: Vec<(u32, u32)> = samples.iter().flat_map(|s| s.windows(2)).map(|w| (w[0], w[1])).collect();
    let losses = |m: &Bigrams| {
        let (loss, error) = mean(&pairs.iter().map(|(a, b)| -m.after(*a)[*b as usize]).collect::<Vec<_>>());
        (loss.exp(), loss.exp() * error)
    };
    let kl = |a: u32| -> f64 {
        let (p, q) = (reference.after(a), model.after(a));
        p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
    };
    let best = |row: Vec<f64>| (0..VOCAB).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
    let agree = |a: u32| f64::from(best(model.after(a)) == best(reference.after(a)));
    let divergences = mean(&pairs.iter().map(|(a, _)| kl(*a)).collect::<Vec<_>>());
    let agreements = mean(&pairs.iter().map(|(a, _)| agree(*a)).collect::<Vec<_>>());
    assert!(agreements.0 > 0.0 && agreements.0 < 1.0, "the texts must tell models apart");

    for (batch_size, step) in [(1, 512), (2, 4), (3, 1), (8, 9), (0, 0)] {
        let parameters = EvaluateParameters { batch_size, step };
        let mut told = Vec::new();
        let mut on_tokens = |done| {
            told.push(done);
            true
        };
        let found = compare(&model, &reference, &samples, &parameters, &mut on_tokens).unwrap();
        assert_eq!(told.last(), Some(&63));
        assert!(told.is_sorted());
        assert_eq!(found.model.loss.count(), 63);
        for (name, found, (value, error)) in [
            ("perplexity", found.model, losses(&model)),
            ("perplexity of the reference", found.reference, losses(&reference)),
            (
                "perplexity alone",
                perplexity(&model, &samples, &parameters, &mut |_| true).unwrap(),
                losses(&model),
            ),
        ] {
            near(found.value(), value, name);
            near(found.standard_error(), error, name);
        }
        for (name, found, (value, error)) in
            [("divergence", found.divergence, divergences), ("agreement", found.agreement, agreements)]
        {
            near(found.value(), value, name);
            near(found.standard_error(), error, name);
        }
    }
}

#[test]
fn a_model_does_not_diverge_from_itself() {
    let text = text();
    let samples: Vec<&[u32]> = text.chunks(10).collect();
    let model = Bigrams::drawn(3);
    let found = compare(&model, &model, &samples, &Default::default(), &mut |_| true).unwrap();
    assert_eq!((found.divergence.value(), found.agreement.value()), (0.0, 1.0));
    assert_eq!(found.model, found.reference);
}

#[test]
fn what_the_reference_excludes_counts_for_nothing() {
    let reference = Array::from_slice(&[0.0, f32::NEG_INFINITY, 0.0], &[1, 1, 3]);
    let half = Array::from_slice(&[0.0, 0.0, 0.0], &[1, 1, 3]);
    let found = divergence(&reference, &half).unwrap().item_exact::<f32>();
    near(found.into(), 1.5_f64.ln(), "ln(1/2) - ln(1/3)");
    let excluded = divergence(&half, &reference).unwrap().item_exact::<f32>();
    assert_eq!(excluded, f32::INFINITY);
}

#[test]
fn samples_that_cannot_be_scored_are_refused() {
    let model = Bigrams::drawn(4);
    let all: [&[&[u32]]; 4] = [&[], &[&[1]], &[&[1, 2], &[1, 2, 3]], &[&[1, VOCAB as u32]]];
    for samples in all {
        let found = perplexity(&model, samples, &Default::default(), &mut |_| true);
        assert!(matches!(found, Err(Error::Parameter { name: "samples", .. })), "{samples:?}: {found:?}");
    }
    let stopped = perplexity(&model, &[&[1, 2]], &Default::default(), &mut |_| false);
    assert!(matches!(stopped, Err(Error::Cancelled)));
}
