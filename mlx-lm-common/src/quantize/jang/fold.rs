//! What a model does to activations or norms at every step, done to its weights once.

use crate::{Config, Error, Result};

/// The ends of names of norms that are stored as what is added to one.
const CENTRED: [&str; 5] = [
    ".input_layernorm.weight",
    ".post_attention_layernorm.weight",
    "model.norm.weight",
    ".q_norm.weight",
    ".k_norm.weight",
];

/// Families that have such norms.
const CENTRED_FAMILIES: [&str; 5] =
    ["qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_next"];

/// The family whose configuration has factors of activations.
const SCALED_FAMILY: &str = "falcon_h1";

/// What is folded into the weights of one model.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Folds {
    factors: Option<Factors>,
    adds_one: bool,
}

/// Factors of activations, each of which some matrices can have instead.
#[derive(Clone, Debug, PartialEq)]
struct Factors {
    attention_in: f64,
    attention_out: f64,
    key: f64,
    embedding: f64,
    head: f64,
    state_in: f64,
    state_out: f64,
    gate: f64,
    down: f64,
    /// Of each row of what a state-space mixer projects its input to.
    rows: Option<Vec<f64>>,
}

/// What one tensor is changed by.
pub(super) enum Fold<'a> {
    /// Every value is multiplied.
    Times(f64),
    /// Every value of a row is multiplied with the row's own factor, and all with one more.
    TimesRows(&'a [f64], f64),
    /// One is added.
    PlusOne,
}

impl Folds {
    /// What is to be folded for this configuration. `is_raw` says that the checkpoint has what was published, not what MLX's tools
    /// made of it; `is_wrapped`, that it is of a model around a text model, whose loaders add the one themselves.
    ///
    /// # Errors
    /// [`Error::Config`] for factors of a wrong type or number.
    pub(super) fn new(config: &Config, is_raw: bool, is_wrapped: bool) -> Result<Folds> {
        let is_scaled = config.model_type == SCALED_FAMILY;
        Ok(Folds {
            factors: is_scaled.then(|| Factors::read(config)).transpose()?,
            adds_one: is_raw && !is_wrapped && has_centred_norms(config),
        })
    }

    /// Whether factors were folded.
    pub(super) fn has_factors(&self) -> bool {
        self.factors.is_some()
    }

    /// What the tensor `name` of this shape is changed by.
    ///
    /// # Errors
    /// [`Error::Shape`] for a matrix with other rows than the configuration says.
    pub(super) fn of(&self, name: &str, shape: &[i32]) -> Result<Option<Fold<'_>>> {
        if self.adds_one && shape.len() == 1 && CENTRED.iter().any(|end| name.ends_with(end)) {
            return Ok(Some(Fold::PlusOne));
        }
        match &self.factors {
            Some(factors) => factors.of(name, shape),
            None => Ok(None),
        }
    }
}

/// Whether norms of this model are published as what is added to one.
pub(super) fn has_centred_norms(config: &Config) -> bool {
    CENTRED_FAMILIES.contains(&config.model_type.as_str())
}

impl Factors {
    fn read(config: &Config) -> Result<Factors> {
        let one = |key: &str| config.get::<f64>(key).map(|factor| factor.unwrap_or(1.0));
        let feed: Vec<f64> = config.get("mlp_multipliers")?.unwrap_or_else(|| vec![1.0; 2]);
        let [gate, down] = feed[..] else {
            return Err(Error::config("mlp_multipliers", format!("{} numbers", feed.len()), "two"));
        };
        Ok(Factors {
            attention_in: one("attention_in_multiplier")?,
            attention_out: one("attention_out_multiplier")?,
            key: one("key_multiplier")?,
            embedding: one("embedding_multiplier")?,
            head: one("lm_head_multiplier")?,
            state_in: one("ssm_in_multiplier")?,
            state_out: one("ssm_out_multiplier")?,
            gate,
            down,
            rows: row_factors(config)?,
        })
    }

    fn of(&self, name: &str, shape: &[i32]) -> Result<Option<Fold<'_>>> {
        let Some((stem, kind @ ("weight" | "bias"))) = name.rsplit_once('.') else { return Ok(None) };
        let is_bias = kind == "bias";
        // What multiplies the input of a layer does not multiply its bias.
        let input = |factor: f64| if is_bias { 1.0 } else { factor };
        let factor = match stem.rsplit('.').next().unwrap_or(stem) {
            "embed_tokens" => self.embedding,
            "lm_head" => self.head,
            "q_proj" | "v_proj" => input(self.attention_in),
            "k_proj" => input(self.attention_in) * self.key,
            "o_proj" => self.attention_out,
            "out_proj" => self.state_out,
            "gate_proj" => self.gate,
            "down_proj" => self.down,
            "in_proj" => {
                let Some(rows) = &self.rows else {
                    return Err(Error::config("ssm_multipliers", "nothing", "five numbers"));
                };
                if shape.first().copied().map(|n| n as usize) != Some(rows.len()) {
                    let wanted = [&[rows.len() as i32], shape.get(1..).unwrap_or_default()].concat();
                    return Err(Error::Shape { name: name.into(), found: shape.to_vec(), wanted });
                }
                return Ok(Some(Fold::TimesRows(rows, input(self.state_in))));
            }
            _ => 1.0,
        };
        Ok((factor != 1.0).then_some(Fold::Times(factor)))
    }
}

/// Factors of the rows of `in_proj`: of gate, input, B, C and time step.
fn row_factors(config: &Config) -> Result<Option<Vec<f64>>> {
    let Some(factors) = config.get::<Vec<f64>>("ssm_multipliers")?.filter(|factors| !factors.is_empty())
    else {
        return Ok(None);
    };
    if factors.len() != 5 {
        return Err(Error::config("ssm_multipliers", format!("{} numbers", factors.len()), "five"));
    }
    let inner = match config.get::<i32>("mamba_d_ssm")?.filter(|inner| *inner > 0) {
        Some(inner) => inner,
        None => {
            let expand = config.get::<i32>("mamba_expand")?.unwrap_or(2);
            expand.saturating_mul(config.dim("hidden_size")?)
        }
    };
    let states = config.dim("mamba_n_groups")?.saturating_mul(config.dim("mamba_d_state")?);
    let sizes = [inner, inner, states, states, config.dim("mamba_n_heads")?];
    if sizes.iter().map(|size| i64::from(*size)).sum::<i64>() > MOST_ROWS {
        return Err(Error::config("mamba_d_ssm", format!("{sizes:?}"), "at most 2^24 rows of in_proj"));
    }
    let rows = sizes.iter().zip(factors).flat_map(|(size, factor)| vec![factor; *size as usize]);
    Ok(Some(rows.collect()))
}

/// More rows than any matrix has.
const MOST_ROWS: i64 = 1 << 24;

impl Fold<'_> {
    /// Changes `values`, whose rows have `columns` values and begin with row `first`. Products are rounded once, from float64.
    pub(super) fn apply(&self, values: &mut [f32], columns: usize, first: usize) {
        match self {
            Fold::PlusOne => values.iter_mut().for_each(|value| *value += 1.0),
            Fold::Times(factor) => values.iter_mut().for_each(|value| *value = times(*value, *factor)),
            Fold::TimesRows(factors, more) => {
                for (row, factor) in
                    values.chunks_mut(columns.max(1)).zip(&factors[first.min(factors.len())..])
                {
                    row.iter_mut().for_each(|value| *value = times(*value, more * factor));
                }
            }
        }
    }
}

fn times(value: f32, factor: f64) -> f32 {
    (f64::from(value) * factor) as f32
}
