//! Samplers and logits processors against what mlx-lm's do (recorded by `xtask/oracle/samplers.py`).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use mlx_lm_common::generate::{GenerateParameters, Processors, Sampler};
use mlx_rs::Array;
use serde_json::Value;

fn fixture(name: &str) -> Value {
    let path = format!("{}/tests/data/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A sampler with mlx-lm's settings; the temperature makes it sample.
fn sampler(settings: &Value) -> Sampler {
    let mut settings = settings.as_object().unwrap().clone();
    let special: Vec<u32> =
        settings.remove("xtc_special_tokens").map_or(vec![], |ids| serde_json::from_value(ids).unwrap());
    settings.insert("temperature".into(), 1.0.into());
    Sampler::new(&serde_json::from_value(settings.into()).unwrap(), &special).unwrap()
}

fn values(array: &Array) -> Vec<f32> {
    array.reshape(&[-1]).unwrap().try_as_slice::<f32>().map(<[f32]>::to_vec).unwrap_or_else(|_| {
        let flat = array.reshape(&[-1]).unwrap();
        flat.eval().unwrap();
        flat.as_slice::<f32>().to_vec()
    })
}

fn logprobs(logits: &Array) -> Array {
    logits.subtract(logits.logsumexp_axis(-1, true).unwrap()).unwrap()
}

/// The survivors of each row, whose values must be unchanged.
fn kept(sampler: &Sampler, input: &Array) -> Vec<Vec<usize>> {
    let (before, after) = (values(input), values(&sampler.filter(input).unwrap()));
    let width = input.dim(-1) as usize;
    let row = |r: usize| {
        let ids = (0..width).filter(|i| after[r * width + i] != f32::NEG_INFINITY);
        ids.inspect(|i| assert_eq!(after[r * width + i], before[r * width + i])).collect()
    };
    (0..before.len() / width).map(row).collect()
}

#[test]
fn filters_keep_the_tokens_that_mlx_lm_keeps() {
    for row in fixture("samplers")["rows"].as_array().unwrap() {
        let logits: Vec<Vec<f32>> = serde_json::from_value(row["logits"].clone()).unwrap();
        let width = logits[0].len();
        let array = Array::from_slice(&logits.concat(), &[logits.len() as i32, width as i32]);
        for case in row["cases"].as_array().unwrap() {
            let wanted: Vec<Vec<usize>> = serde_json::from_value(case["kept"].clone()).unwrap();
            // Normalized or not: only differences matter.
            for input in [logprobs(&array), array.clone()] {
                let got = kept(&sampler(&case["settings"]), &input);
                let what = format!("{} {}", row["name"], case["settings"]);
                for (r, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
                    let settings = &case["settings"];
                    if settings.get("top_k").is_some() || settings.get("min_tokens_to_keep").is_some() {
                        // Which of several equals fill the last places is up to the device's partition.
                        let sorted = |ids: &[usize]| {
                            let mut kept: Vec<f32> = ids.iter().map(|&i| logits[r][i]).collect();
                            kept.sort_by(f32::total_cmp);
                            kept
                        };
                        assert_eq!(sorted(got), sorted(wanted), "{what}");
                    } else {
                        assert_eq!(got, wanted, "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn long_rows_full_of_ties_keep_the_tokens_that_mlx_lm_keeps() {
    for case in fixture("samplers")["long"].as_array().unwrap() {
        let number = |name: &str| case[name].as_f64().unwrap();
        let (n, multiplier) = (number("n") as u64, number("multiplier") as u64);
        let logit = |i: u64| {
            let integer = (i.wrapping_mul(multiplier) as u32) >> 24;
            (integer as f32 / 256.0 - 0.5) * number("scale") as f32
        };
        let logits: Vec<f32> = (0..n).map(logit).collect();
        let got = kept(&sampler(&case["settings"]), &logprobs(&Array::from_slice(&logits, &[1, n as i32])))
            .remove(0);
        let least = got.iter().map(|&i| logits[i]).fold(f32::INFINITY, f32::min);
        let what = format!("{n} {}", case["settings"]);
        assert_eq!(got.len() as f64, number("count"), "{what}");
        assert_eq!(got.iter().sum::<usize>() as f64, number("sum"), "{what}");
        assert_eq!(f64::from(least), number("least"), "{what}");
    }
}

#[test]
fn processors_give_the_logits_that_mlx_lm_gives() {
    let fixture = fixture("processors");
    let logits: Vec<f32> = serde_json::from_value(fixture["logits"].clone()).unwrap();
    let history: Vec<u32> = serde_json::from_value(fixture["history"].clone()).unwrap();
    let input = Array::from_slice(&logits, &[1, logits.len() as i32]);
    for case in fixture["cases"].as_array().unwrap() {
        let params: GenerateParameters = serde_json::from_value(case["settings"].clone()).unwrap();
        let wanted: Vec<f32> = serde_json::from_value(case["out"].clone()).unwrap();
        let length = case["length"].as_u64().unwrap() as usize;
        // However the tokens are divided into a prompt and tokens that follow it.
        for prompt in [0, 1, length / 2, length].into_iter().filter(|&n| n <= length) {
            let mut processors = Processors::new(&params, logits.len()).unwrap();
            processors.prompt(&history[..prompt]).unwrap();
            for &token in &history[prompt..length] {
                processors.push(&Array::from_slice(&[token], &[1])).unwrap();
            }
            let got = values(&processors.process(input.clone()).unwrap());
            for (i, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
                // One rounding may differ where mlx-lm's scalar arithmetic is fused.
                let allowed = f32::EPSILON * wanted.abs();
                assert!((got - wanted).abs() <= allowed, "{case} token {i}: {got}, wanted {wanted}");
            }
        }
    }
}
