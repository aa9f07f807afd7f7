//! What a caller can ask of a generation.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A token that ends a generation besides those that the model and its tokenizer name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ExtraEos {
    /// By id.
    Id(u32),
    /// By its exact text in the vocabulary.
    Token(String),
}

/// How to generate. The defaults are greedy decoding without penalties, as in mlx-lm.
///
/// In JSON every field may be left out; a name that does not exist is an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateParameters {
    /// Tokens to generate at most; `None` goes on until the model ends or its context is full.
    pub max_tokens: Option<usize>,
    /// Divides the log-probabilities, after the filters below. 0, and anything below 1e-6, always takes the likeliest token.
    pub temperature: f32,
    /// Keeps the likeliest tokens that together reach this probability. 0 and 1 keep all.
    pub top_p: f32,
    /// Keeps this many of the likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps tokens at least this fraction as likely as the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Tokens that `min_p` never removes, the likeliest first.
    pub min_tokens_to_keep: usize,
    /// How often, per token, all but the least likely of the tokens above `xtc_threshold` are excluded.
    pub xtc_probability: f32,
    /// The probability above which XTC counts a token as a top choice: 0 to 0.5.
    pub xtc_threshold: f32,
    /// Divides positive and multiplies negative logits of tokens seen lately; 0 and 1 change nothing.
    pub repetition_penalty: Option<f32>,
    /// How many of the latest tokens, the prompt's included, `repetition_penalty` looks at.
    pub repetition_context_size: usize,
    /// Subtracted once from the logits of tokens seen lately.
    pub presence_penalty: Option<f32>,
    /// How many of the latest tokens `presence_penalty` looks at.
    pub presence_context_size: usize,
    /// Subtracted from the logits of tokens seen lately, as often as they were seen.
    pub frequency_penalty: Option<f32>,
    /// How many of the latest tokens `frequency_penalty` looks at.
    pub frequency_context_size: usize,
    /// Added to the logits of these token ids; negative infinity forbids one.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Makes sampling repeatable; `None` draws a seed.
    pub seed: Option<u64>,
    /// Texts that end the generation. They are not part of the result.
    pub stop: Vec<String>,
    /// Further tokens that end the generation.
    pub extra_eos: Vec<ExtraEos>,
    /// Goes on past the tokens that end a generation.
    pub ignore_eos: bool,
    /// Prompt tokens that go through the model at once. More is faster up to a point, and needs more memory.
    pub prefill_step_size: usize,
    /// Positions that the key-value cache keeps at most, by dropping the oldest; `None` keeps all.
    pub max_kv_size: Option<i32>,
    /// Reports log-probabilities: of the chosen token and of this many of the likeliest.
    pub logprobs: Option<usize>,
}

impl Default for GenerateParameters {
    fn default() -> Self {
        GenerateParameters {
            max_tokens: None,
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            min_tokens_to_keep: 1,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            repetition_penalty: None,
            repetition_context_size: 20,
            presence_penalty: None,
            presence_context_size: 20,
            frequency_penalty: None,
            frequency_context_size: 20,
            logit_bias: BTreeMap::new(),
            seed: None,
            stop: Vec::new(),
            extra_eos: Vec::new(),
            ignore_eos: false,
            prefill_step_size: 512,
            max_kv_size: None,
            logprobs: None,
        }
    }
}

impl GenerateParameters {
    /// Checks every value.
    ///
    /// # Errors
    /// [`Error::Parameter`] naming the first one that is not a number or out of range.
    pub fn validate(&self) -> Result<()> {
        within("temperature", self.temperature, 0.0, f32::MAX, "a number from 0 on")?;
        within("top_p", self.top_p, 0.0, 1.0, "a number from 0 to 1")?;
        within("min_p", self.min_p, 0.0, 1.0, "a number from 0 to 1")?;
        within("xtc_probability", self.xtc_probability, 0.0, 1.0, "a number from 0 to 1")?;
        within("xtc_threshold", self.xtc_threshold, 0.0, 0.5, "a number from 0 to 0.5")?;
        if let Some(penalty) = self.repetition_penalty {
            within("repetition_penalty", penalty, 0.0, f32::MAX, "a number from 0 on")?;
        }
        let any = |name, penalty: Option<f32>| {
            within(name, penalty.unwrap_or(0.0), f32::MIN, f32::MAX, "a finite number")
        };
        any("presence_penalty", self.presence_penalty)?;
        any("frequency_penalty", self.frequency_penalty)?;
        for (id, &bias) in &self.logit_bias {
            if bias.is_nan() || bias == f32::INFINITY {
                return Err(wrong("logit_bias", format!("{bias} for token {id}"), "finite numbers or -inf"));
            }
        }
        at_least_one("max_tokens", self.max_tokens.unwrap_or(1))?;
        at_least_one("min_tokens_to_keep", self.min_tokens_to_keep)?;
        at_least_one("repetition_context_size", self.repetition_context_size)?;
        at_least_one("presence_context_size", self.presence_context_size)?;
        at_least_one("frequency_context_size", self.frequency_context_size)?;
        at_least_one("prefill_step_size", self.prefill_step_size)?;
        if let Some(size) = self.max_kv_size.filter(|&size| size < 1) {
            return Err(wrong("max_kv_size", size, "1 or more"));
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(wrong("stop", "an empty text", "texts of at least one character"));
        }
        if self.extra_eos.contains(&ExtraEos::Token(String::new())) {
            return Err(wrong("extra_eos", "an empty text", "token ids or the texts of tokens"));
        }
        Ok(())
    }

    /// Whether every token is simply the likeliest one.
    pub fn is_greedy(&self) -> bool {
        self.temperature < 1e-6
    }
}

fn within(name: &'static str, value: f32, low: f32, high: f32, wanted: &str) -> Result<()> {
    if (low..=high).contains(&value) { Ok(()) } else { Err(wrong(name, value, wanted)) }
}

fn at_least_one(name: &'static str, value: usize) -> Result<()> {
    if value >= 1 { Ok(()) } else { Err(wrong(name, value, "1 or more")) }
}

fn wrong(name: &'static str, found: impl ToString, wanted: &str) -> Error {
    Error::Parameter { name, found: found.to_string(), wanted: wanted.into() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn changed(change: impl FnOnce(&mut GenerateParameters)) -> Result<()> {
        let mut params = GenerateParameters::default();
        change(&mut params);
        params.validate()
    }

    #[test]
    fn the_defaults_and_the_limits_are_valid() {
        GenerateParameters::default().validate().unwrap();
        changed(|p| (p.top_p, p.min_p, p.xtc_probability, p.xtc_threshold) = (0.0, 0.0, 0.0, 0.0)).unwrap();
        changed(|p| (p.top_p, p.min_p, p.xtc_probability, p.xtc_threshold) = (1.0, 1.0, 1.0, 0.5)).unwrap();
        changed(|p| (p.presence_penalty, p.frequency_penalty) = (Some(-2.0), Some(2.0))).unwrap();
        changed(|p| p.logit_bias = [(3, f32::NEG_INFINITY)].into()).unwrap();
    }

    #[test]
    fn every_bad_value_is_named() {
        type Change = fn(&mut GenerateParameters);
        let cases: &[(&str, Change)] = &[
            ("temperature", |p| p.temperature = -0.1),
            ("temperature", |p| p.temperature = f32::NAN),
            ("temperature", |p| p.temperature = f32::INFINITY),
            ("top_p", |p| p.top_p = 1.01),
            ("top_p", |p| p.top_p = f32::NAN),
            ("min_p", |p| p.min_p = -1.0),
            ("min_tokens_to_keep", |p| p.min_tokens_to_keep = 0),
            ("xtc_probability", |p| p.xtc_probability = 1.5),
            ("xtc_threshold", |p| p.xtc_threshold = 0.6),
            ("repetition_penalty", |p| p.repetition_penalty = Some(-1.0)),
            ("repetition_penalty", |p| p.repetition_penalty = Some(f32::NAN)),
            ("repetition_context_size", |p| p.repetition_context_size = 0),
            ("presence_penalty", |p| p.presence_penalty = Some(f32::INFINITY)),
            ("presence_context_size", |p| p.presence_context_size = 0),
            ("frequency_penalty", |p| p.frequency_penalty = Some(f32::NAN)),
            ("frequency_context_size", |p| p.frequency_context_size = 0),
            ("logit_bias", |p| p.logit_bias = [(7, f32::NAN)].into()),
            ("logit_bias", |p| p.logit_bias = [(7, f32::INFINITY)].into()),
            ("max_tokens", |p| p.max_tokens = Some(0)),
            ("prefill_step_size", |p| p.prefill_step_size = 0),
            ("max_kv_size", |p| p.max_kv_size = Some(-4)),
            ("stop", |p| p.stop = vec!["end".into(), String::new()]),
            ("extra_eos", |p| p.extra_eos = vec![ExtraEos::Token(String::new())]),
        ];
        for (wanted, change) in cases {
            match changed(change) {
                Err(Error::Parameter { name, .. }) => assert_eq!(name, *wanted),
                other => panic!("{wanted}: {other:?}"),
            }
        }
    }

    #[test]
    fn json_fills_in_defaults_and_refuses_unknown_names() {
        let json = r#"{"temperature": 0.7, "logit_bias": {"42": -1.5}, "extra_eos": [2, "<|end|>"], "seed": 18446744073709551615}"#;
        let params: GenerateParameters = serde_json::from_str(json).unwrap();
        let wanted = GenerateParameters {
            temperature: 0.7,
            logit_bias: [(42, -1.5)].into(),
            extra_eos: vec![ExtraEos::Id(2), ExtraEos::Token("<|end|>".into())],
            seed: Some(u64::MAX),
            ..Default::default()
        };
        assert_eq!(params, wanted);
        let again: GenerateParameters =
            serde_json::from_value(serde_json::to_value(&params).unwrap()).unwrap();
        assert_eq!(again, params);
        assert!(serde_json::from_str::<GenerateParameters>(r#"{"temprature": 1}"#).is_err());
    }
}
