//! The options of a generation, named as mlx-lm's.

use crate::kv::KvSpec;
use clap::{Args, CommandFactory, error::ErrorKind};
use mlx_llm::{GenerateParameters, common::generate::ExtraEos};
use serde_json::{Map, Value};

/// How to generate.
#[derive(Args)]
#[command(next_help_heading = "Generation")]
pub(crate) struct GenerationArgs {
    /// Tokens to generate at most
    #[arg(long, short, value_name = "N")]
    max_tokens: Option<usize>,
    /// Sampling temperature; 0 always takes the likeliest token
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temp: f32,
    /// Keep the likeliest tokens that together reach this probability
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f32,
    /// Keep so many of the likeliest tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Keep tokens at least this fraction as likely as the likeliest
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    min_p: f32,
    /// Tokens that --min-p never removes
    #[arg(long, value_name = "N", default_value_t = 1)]
    min_tokens_to_keep: usize,
    /// How often the likeliest tokens are excluded (XTC sampling)
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    xtc_probability: f32,
    /// Above which probability XTC may exclude a token
    #[arg(long, value_name = "P", default_value_t = 0.1)]
    xtc_threshold: f32,
    /// Make tokens seen lately less likely, by this factor
    #[arg(long, value_name = "F")]
    repetition_penalty: Option<f32>,
    /// How many of the latest tokens --repetition-penalty looks at
    #[arg(long, value_name = "N", default_value_t = 20)]
    repetition_context_size: usize,
    /// Subtract this once from the logits of tokens seen lately
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    presence_penalty: Option<f32>,
    /// How many of the latest tokens --presence-penalty looks at
    #[arg(long, value_name = "N", default_value_t = 20)]
    presence_context_size: usize,
    /// Subtract this from the logits of tokens seen lately, as often as they were seen
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,
    /// How many of the latest tokens --frequency-penalty looks at
    #[arg(long, value_name = "N", default_value_t = 20)]
    frequency_context_size: usize,
    /// Add to the logit of a token: 42=-1.5, or 42=-inf to forbid it (repeatable)
    #[arg(long, value_name = "ID=BIAS", value_parser = bias)]
    logit_bias: Vec<(u32, f32)>,
    /// Make sampling repeatable
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// End the answer before this text (repeatable)
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// A further token, or its id, that ends the answer (repeatable)
    #[arg(long, value_name = "TOKEN")]
    extra_eos_token: Vec<String>,
    /// Report the log-probabilities of the tokens and of so many of the likeliest
    #[arg(long, value_name = "N")]
    logprobs: Option<usize>,
    /// Tokens of the prompt that go through the model at once
    #[arg(long, value_name = "N", default_value_t = 512)]
    prefill_step_size: usize,
    /// Positions that the key-value cache keeps at most; the same as --kv max:N
    #[arg(long, value_name = "N", conflicts_with = "kv")]
    max_kv_size: Option<i32>,
    /// How to store keys and values: `float` or `max:N`
    #[arg(long, value_name = "SPEC", default_value = "float")]
    kv: KvSpec,
    /// Instructions to the model that come before the conversation
    #[arg(long, value_name = "TEXT")]
    pub(crate) system_prompt: Option<String>,
    /// Send the text as it is
    #[arg(long)]
    pub(crate) ignore_chat_template: bool,
    /// Further variables of the chat template: '{"enable_thinking": false}'
    #[arg(long, value_name = "JSON", value_parser = object)]
    pub(crate) chat_template_config: Option<Map<String, Value>>,
    /// Print events instead of text, a JSON object in each line
    #[arg(long)]
    pub(crate) json: bool,
}

impl GenerationArgs {
    /// The parameters; ends the program if one is out of range.
    pub(crate) fn parameters(&self, default_max_tokens: Option<usize>) -> GenerateParameters {
        let extra = |t: &String| t.parse().map_or_else(|_| ExtraEos::Token(t.clone()), ExtraEos::Id);
        let parameters = GenerateParameters {
            max_tokens: self.max_tokens.or(default_max_tokens),
            temperature: self.temp,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            min_tokens_to_keep: self.min_tokens_to_keep,
            xtc_probability: self.xtc_probability,
            xtc_threshold: self.xtc_threshold,
            repetition_penalty: self.repetition_penalty,
            repetition_context_size: self.repetition_context_size,
            presence_penalty: self.presence_penalty,
            presence_context_size: self.presence_context_size,
            frequency_penalty: self.frequency_penalty,
            frequency_context_size: self.frequency_context_size,
            logit_bias: self.logit_bias.iter().copied().collect(),
            seed: self.seed,
            stop: self.stop.clone(),
            extra_eos: self.extra_eos_token.iter().map(extra).collect(),
            logprobs: self.logprobs,
            prefill_step_size: self.prefill_step_size,
            max_kv_size: self.max_kv_size.or(self.kv.max_size()),
            ..Default::default()
        };
        if let Err(e) = parameters.validate() {
            crate::Cli::command().error(ErrorKind::ValueValidation, e).exit();
        }
        parameters
    }
}

fn bias(text: &str) -> Result<(u32, f32), String> {
    let parts = text
        .split_once('=')
        .and_then(|(id, bias)| Some((id.trim().parse().ok()?, bias.trim().parse().ok()?)));
    parts.ok_or_else(|| "wanted a token id and a number, such as 42=-1.5".into())
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|e| format!("wanted a JSON object: {e}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn biases() {
        assert_eq!(bias("42=-1.5"), Ok((42, -1.5)));
        assert_eq!(bias("7=-inf"), Ok((7, f32::NEG_INFINITY)));
        for text in ["", "42", "=1", "x=1", "42=", "-1=2"] {
            assert!(bias(text).is_err(), "{text}");
        }
    }
}
