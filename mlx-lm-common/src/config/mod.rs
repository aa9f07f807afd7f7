//! `config.json`, normalized once: whatever wrote it, an architecture sees one layout.
//!
//! [`Config::from_json`] documents the normal form. Architectures then read it with a serde struct of their own
//! ([`Config::parse`]) or key by key ([`Config::get`], [`Config::dim`]); [`RopeConfig`] reads the positions.

mod de;
mod eos;
mod frequencies;
pub mod json;
mod normalize;
mod rope;

pub use de::{dim, epsilon, optional_dim};
pub use frequencies::{Frequencies, Theta};
pub use rope::{Mrope, RopeConfig, RopeKind};

use crate::{Error, Result};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::path::Path;

/// A model's configuration in normal form.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The architecture of the text part, as `model_type` names it.
    pub model_type: String,
    /// The `model_type` of the model around the text part, if there is one: a vision-language wrapper.
    pub wrapper_model_type: Option<String>,
    /// Tokens that end a text: those of the config and of its text part, then of the generation config, then of the tokenizer,
    /// each once.
    pub eos: Vec<u32>,
    /// Every key, flat: always an object.
    pub value: Value,
}

impl Config {
    /// Reads `config.json` of a checkpoint folder and normalizes it. End-of-text tokens also come from `generation_config.json`
    /// and the tokenizer's configuration, quantization settings from `hf_quant_config.json`; these files may be missing.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::File`] for an unreadable `config.json`, [`Error::Config`] for a key that cannot be used.
    pub fn from_dir(folder: impl AsRef<Path>) -> Result<Config> {
        let folder = folder.as_ref();
        let Value::Object(mut config) = json::read(&folder.join("config.json"))? else {
            return Err(Error::file(folder.join("config.json"), "is not a JSON object"));
        };
        if !present(&config, "quantization_config")
            && let Some(settings) = json::read_optional(&folder.join("hf_quant_config.json"))?
        {
            config.insert("quantization_config".into(), settings);
        }
        Config::normalize(config, eos::of_folder(folder)?)
    }

    /// Normalizes a configuration that is in memory.
    ///
    /// - `text_config`, `llm_config` and `language_config` are lifted to the top. Keys of the text part win; what it lacks
    ///   (`vocab_size`, `tie_word_embeddings`, `quantization` …) stays from the outer level. The outer `model_type` becomes
    ///   `wrapper_model_type`.
    /// - `rope_scaling` (transformers 4) and `rope_parameters` (transformers 5) become one `rope_parameters`: flat, or keyed by
    ///   layer type. Its `type` becomes `rope_type`. `rope_theta` of a flat one moves to the top. A `rope_local_base_freq` makes
    ///   it keyed: `full_attention` with the scaling, `sliding_attention` plain with that base.
    /// - `eos_token_id` becomes a list.
    /// - Infinities and NaN, which JSON lacks, are written `{"__float__": "Infinity"}`; [`Config::parse`] and [`Config::get`]
    ///   read them as numbers.
    ///
    /// Normalizing twice changes nothing.
    ///
    /// # Errors
    /// [`Error::Config`] if there is no `model_type`, or a key that must be normalized has a wrong type.
    pub fn from_json(value: Value) -> Result<Config> {
        Config::normalize(object(value)?, Vec::new())
    }

    fn normalize(mut config: Map<String, Value>, more_eos: Vec<u32>) -> Result<Config> {
        let mut eos = eos::of_config(&config)?;
        more_eos.into_iter().for_each(|id| eos::push(&mut eos, id));
        normalize::lift_text(&mut config)?;
        normalize::unify_rope(&mut config)?;
        if eos.is_empty() {
            config.shift_remove("eos_token_id");
        } else {
            config.insert("eos_token_id".into(), eos.clone().into());
        }
        let value = Value::Object(config);
        let model_type: Option<String> = de::get(&value, "model_type")?;
        Ok(Config {
            model_type: model_type
                .ok_or_else(|| Error::config("model_type", "nothing", "the name of an architecture"))?,
            wrapper_model_type: de::get(&value, normalize::WRAPPER)?,
            eos,
            value,
        })
    }

    /// The same configuration with an architecture's own defaults for keys that are missing or null. They may be written in
    /// any layout: the result is normalized again. `{"rope_theta": 1e6}` is a common one.
    pub fn with_defaults(&self, defaults: Value) -> Result<Config> {
        let (mut config, defaults) = (object(self.value.clone())?, object(defaults)?);
        for (key, value) in defaults {
            if !present(&config, &key) {
                config.insert(key, value);
            }
        }
        Config::normalize(config, Vec::new())
    }

    /// Reads the keys that `T` declares. Whole numbers may be written as floats (`4096.0`); null counts as missing.
    ///
    /// # Errors
    /// [`Error::Config`] with the key, what was found and what was wanted.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        de::from_value(&self.value, "")
    }

    /// One key, or `None` if it is missing or null.
    ///
    /// # Errors
    /// [`Error::Config`] if its value is no `T`.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        de::get(&self.value, key)
    }

    /// A size: a whole number from 1 to 2^31 - 1. Structs for [`Config::parse`] say `#[serde(deserialize_with = "dim")]`.
    ///
    /// # Errors
    /// [`Error::Config`] if it is missing or anything else.
    pub fn dim(&self, key: &str) -> Result<i32> {
        let dim: Option<de::Dim> = self.get(key)?;
        dim.map(|d| d.0).ok_or_else(|| Error::config(key, "nothing", de::DIM))
    }
}

fn object(value: Value) -> Result<Map<String, Value>> {
    match value {
        Value::Object(map) => Ok(map),
        other => Err(Error::config(de::ROOT, de::render(&other), "a JSON object")),
    }
}

/// Whether a key is there and not null.
fn present(map: &Map<String, Value>, key: &str) -> bool {
    map.get(key).is_some_and(|v| !v.is_null())
}
