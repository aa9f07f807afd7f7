//! Rotary position embeddings as a configuration describes them. [`RopeConfig::frequencies`] turns them into numbers.

use super::{Config, de, normalize::is_keyed};
use crate::{Error, Result};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Where rope parameters lie, for messages.
const KEY: &str = "rope_parameters";

/// Most channels that a head may rotate: a bound on what a damaged config can make us allocate.
const MAX_DIMS: i32 = 1 << 16;

/// Base where a config names none.
const DEFAULT_BASE: f64 = 10000.0;

/// How positions turn the channels of a head.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// How many channels of a head turn: an even number, the first ones.
    pub dims: i32,
    /// `rope_theta`: channel pair i turns by position / base^(2i / dims).
    pub base: f64,
    /// How long contexts are reached.
    pub kind: RopeKind,
    /// How positions of images split over channels. Text turns as if there were no split.
    pub mrope: Option<Mrope>,
}

/// How the plain frequencies are changed for contexts longer than those of the first training.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeKind {
    /// Not at all.
    Default,
    /// Positions are divided.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// The base grows with the length of the text (NTK-aware scaling).
    Dynamic {
        /// How much it grows.
        factor: f64,
        /// The length up to which nothing changes: `max_position_embeddings`.
        original_max: f64,
    },
    /// The base is larger by alpha^(dims / (dims - 2)): `dynamic` with an `alpha`.
    NtkAlpha {
        /// How much.
        alpha: f64,
    },
    /// Low frequencies are divided, high ones kept, those between interpolated.
    Llama3 {
        /// The divisor.
        factor: f64,
        /// Wavelengths from original_max / this on are divided.
        low_freq_factor: f64,
        /// Wavelengths up to original_max / this are kept.
        high_freq_factor: f64,
        /// Positions of the first training.
        original_max: f64,
    },
    /// As `Llama3` with a ramp over channels, and a factor on queries and keys.
    Yarn {
        /// The divisor.
        factor: f64,
        /// Positions of the first training.
        original_max: f64,
        /// Channels that turn more often than this in `original_max` positions are kept.
        beta_fast: f64,
        /// Channels that turn less often than this are divided.
        beta_slow: f64,
        /// Weight of ln(factor) in the factor on queries and keys.
        mscale: f64,
        /// The same for its divisor; DeepSeek moves that part into the attention scale: see [`RopeConfig::attention_scale`].
        mscale_all_dim: f64,
        /// The factor on queries and keys in transformers' words. Kept as data: mlx-lm uses `mscale`, and so do we.
        attention_factor: Option<f64>,
        /// Whether the ends of the ramp are whole channels, as they always are in mlx-lm.
        truncate: bool,
    },
    /// A divisor for each frequency, and a factor on queries and keys. Also called `su`.
    LongRope {
        /// Divisors for texts up to `original_max`: dims / 2, or one for all. Kept as data: transformers switches to them for
        /// short texts, mlx-lm does not, and neither do we.
        short_factor: Vec<f32>,
        /// Divisors in use: dims / 2, or one for all.
        long_factor: Vec<f32>,
        /// Positions of the first training.
        original_max: f64,
        /// Positions of the model.
        max_positions: f64,
        /// The factor on queries and keys that belongs to `short_factor`. Kept as data.
        short_mscale: Option<f64>,
        /// The factor on queries and keys, if it is not √(1 + ln(max_positions / original_max) / ln(original_max)).
        long_mscale: Option<f64>,
    },
    /// Only the first channels turn, at the frequencies that they would have if all did.
    Proportional {
        /// Divides frequencies.
        factor: f64,
        /// How many channels of `dims` turn.
        rotated: i32,
    },
    /// A divisor for each frequency (dims / 2), as the tensor `rope_freqs` of a GGUF file has them: `freq_factors` with `factors`.
    FreqFactors(Vec<f32>),
}

/// How a position in time, height and width splits over channel pairs.
#[derive(Clone, Debug, PartialEq)]
pub struct Mrope {
    /// Channel pairs for each of time, height and width.
    pub sections: Vec<i32>,
    /// Whether the three alternate rather than follow each other.
    pub interleaved: bool,
}

/// The parameters as written, in normal form.
#[derive(Deserialize)]
struct Parameters {
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    factor: Option<f64>,
    alpha: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
    attention_factor: Option<f64>,
    truncate: Option<bool>,
    short_factor: Option<Factors>,
    long_factor: Option<Factors>,
    factors: Option<Factors>,
    short_mscale: Option<f64>,
    long_mscale: Option<f64>,
    mrope_section: Option<Vec<i32>>,
    mrope_interleaved: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a number or a list of numbers")]
enum Factors {
    One(f32),
    Each(Vec<f32>),
}

impl RopeConfig {
    /// Plain rotation of `dims` channels.
    ///
    /// # Errors
    /// [`Error::Config`] if `dims` is odd or out of range, or `base` not positive.
    pub fn new(dims: i32, base: f64) -> Result<RopeConfig> {
        if dims < 2 || dims % 2 != 0 || dims > MAX_DIMS {
            return Err(Error::config(
                "rotated channels of a head",
                dims,
                format!("an even number from 2 to {MAX_DIMS}"),
            ));
        }
        Ok(RopeConfig { dims, base: positive("rope_theta", base)?, kind: RopeKind::Default, mrope: None })
    }

    /// What `config` says for heads of `head_dim` channels, in layers of `layer_type` (`full_attention`, `sliding_attention` …)
    /// if parameters differ by layer.
    ///
    /// The base is `rope_theta`, or 10000; [`Config::with_defaults`] changes that. How many channels turn follows from
    /// `partial_rotary_factor`, `rotary_pct` or `rotary_dim`. An architecture that knows better calls
    /// [`RopeConfig::from_parameters`].
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown kind, or a parameter that is missing or out of range.
    pub fn from_config(config: &Config, layer_type: Option<&str>, head_dim: i32) -> Result<RopeConfig> {
        let mut parameters = select(&config.value, layer_type)?;
        for outer in ["original_max_position_embeddings", "partial_rotary_factor"] {
            if let Some(value) = config.value.get(outer)
                && !parameters.contains_key(outer)
            {
                parameters.insert(outer.into(), value.clone());
            }
        }
        let parameters = Value::Object(parameters);
        let read: Parameters = de::from_value(&parameters, KEY)?;
        let base = match read.rope_theta {
            Some(theta) => theta,
            None => config.get("rope_theta")?.unwrap_or(DEFAULT_BASE),
        };
        let share = read.partial_rotary_factor.or(config.get("rotary_pct")?);
        let dims = match (read.rope_type.as_deref(), share, config.get::<i32>("rotary_dim")?) {
            (Some("proportional"), ..) => head_dim,
            (_, Some(share), _) => rotated(head_dim, share)?,
            (_, None, Some(dims)) if dims > head_dim => {
                return Err(Error::config(
                    "rotary_dim",
                    dims,
                    format!("at most the {head_dim} channels of a head"),
                ));
            }
            (_, None, dims) => dims.unwrap_or(head_dim),
        };
        RopeConfig::from_parameters(&parameters, dims, base, config.get("max_position_embeddings")?)
    }

    /// Rotation of `dims` channels as one flat object of parameters describes it (`rope_type`, `factor` …). `max_positions` is
    /// the model's `max_position_embeddings`, which some kinds need.
    ///
    /// # Errors
    /// As [`RopeConfig::from_config`].
    pub fn from_parameters(
        parameters: &Value,
        dims: i32,
        base: f64,
        max_positions: Option<i32>,
    ) -> Result<RopeConfig> {
        let plain = RopeConfig::new(dims, base)?;
        let p: Parameters = de::from_value(parameters, KEY)?;
        let mrope = p
            .mrope_section
            .clone()
            .map(|sections| Mrope { sections, interleaved: p.mrope_interleaved == Some(true) });
        if p.rope_type.as_deref() == Some("mrope") && mrope.as_ref().is_none_or(|m| m.sections.len() != 3) {
            let found = parameters.get("mrope_section").map_or("nothing".into(), de::render);
            return Err(Error::config(format!("{KEY}.mrope_section"), found, "three sections"));
        }
        Ok(RopeConfig { kind: p.kind(dims, base, max_positions.map(f64::from))?, mrope, ..plain })
    }
}

impl Parameters {
    fn kind(self, dims: i32, base: f64, max_positions: Option<f64>) -> Result<RopeKind> {
        let need =
            |key: &str, x: Option<f64>| positive(&format!("{KEY}.{key}"), given(&format!("{KEY}.{key}"), x)?);
        let or = |key: &str, x: Option<f64>, default: f64| need(key, x.or(Some(default)));
        let finite = |key: &str, x: f64| number(&format!("{KEY}.{key}"), x, x.is_finite(), "a finite number");
        let optional = |key: &str, x: Option<f64>| x.map(|x| finite(key, x)).transpose();
        let factor = need("factor", self.factor);
        let original_max = self.original_max_position_embeddings;
        let max_positions =
            || positive("max_position_embeddings", given("max_position_embeddings", max_positions)?);
        let wider = |key: &str| number(key, f64::from(dims), dims > 2, "more than 2 rotated channels");
        Ok(match self.rope_type.as_deref().unwrap_or("default") {
            "default" | "mrope" => RopeKind::Default,
            "linear" => RopeKind::Linear { factor: factor? },
            "dynamic" => {
                wider("rotated channels of a head")?;
                match self.alpha {
                    Some(alpha) => RopeKind::NtkAlpha { alpha: need("alpha", Some(alpha))? },
                    None => RopeKind::Dynamic { factor: factor?, original_max: max_positions()? },
                }
            }
            "llama3" => RopeKind::Llama3 {
                factor: factor?,
                low_freq_factor: or("low_freq_factor", self.low_freq_factor, 1.0)?,
                high_freq_factor: or("high_freq_factor", self.high_freq_factor, 4.0)?,
                original_max: or("original_max_position_embeddings", original_max, 8192.0)?,
            },
            "yarn" | "deepseek_yarn" | "telechat3-yarn" => {
                number("rope_theta", base, base > 1.0, "more than 1")?;
                RopeKind::Yarn {
                    factor: factor?,
                    original_max: or("original_max_position_embeddings", original_max, 4096.0)?,
                    beta_fast: or("beta_fast", self.beta_fast, 32.0)?,
                    beta_slow: or("beta_slow", self.beta_slow, 1.0)?,
                    mscale: finite("mscale", self.mscale.unwrap_or(1.0))?,
                    mscale_all_dim: finite("mscale_all_dim", self.mscale_all_dim.unwrap_or(0.0))?,
                    attention_factor: optional("attention_factor", self.attention_factor)?,
                    truncate: self.truncate.unwrap_or(true),
                }
            }
            "longrope" | "su" => {
                let original_max = need("original_max_position_embeddings", original_max)?;
                let key = format!("{KEY}.original_max_position_embeddings");
                RopeKind::LongRope {
                    short_factor: each(
                        &format!("{KEY}.short_factor"),
                        list("short_factor", self.short_factor)?,
                        dims,
                    )?,
                    long_factor: each(
                        &format!("{KEY}.long_factor"),
                        list("long_factor", self.long_factor)?,
                        dims,
                    )?,
                    original_max: number(&key, original_max, original_max > 1.0, "more than 1")?,
                    max_positions: max_positions()?,
                    short_mscale: optional("short_mscale", self.short_mscale)?,
                    long_mscale: optional("long_mscale", self.long_mscale)?,
                }
            }
            "proportional" => RopeKind::Proportional {
                factor: or("factor", self.factor, 1.0)?,
                rotated: rotated(dims, self.partial_rotary_factor.unwrap_or(1.0))?,
            },
            "freq_factors" => {
                RopeKind::FreqFactors(each(&format!("{KEY}.factors"), list("factors", self.factors)?, dims)?)
            }
            other => {
                let known = "default, linear, dynamic, llama3, yarn, deepseek_yarn, telechat3-yarn, longrope, su, proportional, \
                             mrope or freq_factors";
                return Err(Error::config(format!("{KEY}.rope_type"), format!("`{other}`"), known));
            }
        })
    }
}

/// The flat parameters of one layer type.
fn select(config: &Value, layer_type: Option<&str>) -> Result<Map<String, Value>> {
    let Some(all) = config.get(KEY).and_then(Value::as_object) else { return Ok(Map::new()) };
    if !is_keyed(all) {
        return Ok(all.clone());
    }
    let known = || format!("parameters for one of {}", all.keys().cloned().collect::<Vec<_>>().join(", "));
    let layer_type =
        layer_type.ok_or_else(|| Error::config(KEY, "parameters that differ by layer type", known()))?;
    let flat = all.get(layer_type).and_then(Value::as_object);
    flat.cloned().ok_or_else(|| Error::config(format!("{KEY}.{layer_type}"), "nothing", known()))
}

/// A share of `dims` channels, rounded down.
fn rotated(dims: i32, share: f64) -> Result<i32> {
    number("partial_rotary_factor", share, (0.0..=1.0).contains(&share), "a number from 0 to 1")?;
    Ok((f64::from(dims) * share) as i32)
}

fn given<T>(key: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| Error::config(key, "nothing", "a value"))
}

fn positive(key: &str, x: f64) -> Result<f64> {
    number(key, x, x.is_finite() && x > 0.0, "a positive number")
}

fn number(key: &str, x: f64, good: bool, wanted: &str) -> Result<f64> {
    if good { Ok(x) } else { Err(Error::config(key, x, wanted)) }
}

fn list(key: &str, factors: Option<Factors>) -> Result<Vec<f32>> {
    Ok(match given(&format!("{KEY}.{key}"), factors)? {
        Factors::One(x) => vec![x],
        Factors::Each(all) => all,
    })
}

/// Checks divisors: positive, and one for each of dims / 2 frequencies or for all.
fn each(key: &str, factors: Vec<f32>, dims: i32) -> Result<Vec<f32>> {
    let count = dims as usize / 2;
    if factors.len() != count && factors.len() != 1 {
        return Err(Error::config(
            key,
            format!("{} numbers", factors.len()),
            format!("{count}, half the rotated channels"),
        ));
    }
    match factors.iter().find(|x| !(x.is_finite() && **x > 0.0)) {
        Some(bad) => Err(Error::config(key, bad, "positive numbers")),
        None => Ok(factors),
    }
}
