//! Formats that matrices are packed in.

use crate::{
    Error, Result,
    raw::{self, Mode},
    weights::Packed,
};
use mlx_rs::{Array, Dtype};
use serde_json::{Value, json};

/// How a matrix is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// What codes mean.
    pub mode: Mode,
    /// Bits of a code.
    pub bits: i32,
    /// Values that share a scale.
    pub group: i32,
}

impl Format {
    /// Of 8 bits, in which mlx-lm packs routers whatever the others are.
    pub const ROUTER: Format = Format { mode: Mode::Affine, bits: 8, group: 64 };

    /// A format of `mode`, with mlx-lm's defaults for what is not given: 4 bits in groups of 64, of 32 for mxfp4 and mxfp8, of 16 for
    /// nvfp4; 8 bits for mxfp8.
    ///
    /// # Errors
    /// [`Error::Parameter`] for what MLX does not have.
    pub fn new(mode: Mode, bits: Option<i32>, group: Option<i32>) -> Result<Format> {
        let (all_bits, groups): (&[i32], &[i32]) = match mode {
            Mode::Affine => (&[4, 2, 3, 5, 6, 8], &[64, 32, 128]),
            Mode::Mxfp4 => (&[4], &[32]),
            Mode::Mxfp8 => (&[8], &[32]),
            Mode::Nvfp4 => (&[4], &[16]),
        };
        let pick = |name: &'static str, given: Option<i32>, known: &[i32]| {
            let found = given.unwrap_or(known[0]);
            if known.contains(&found) {
                return Ok(found);
            }
            let mut known = known.to_vec();
            known.sort_unstable();
            let known: Vec<String> = known.iter().map(i32::to_string).collect();
            let wanted = format!("{} for {}", known.join(", "), mode.name());
            Err(Error::Parameter { name, found: found.to_string(), wanted })
        };
        let bits = pick("bits of a quantized value", bits, all_bits)?;
        Ok(Format { mode, bits, group: pick("group size", group, groups)? })
    }

    /// Whether rows of so many values are whole groups.
    pub fn fits(self, columns: i32) -> bool {
        columns > 0 && columns % self.group == 0
    }

    /// Packs a matrix [.., out, in] of floats.
    ///
    /// # Errors
    /// [`Error::Mlx`] for rows that are not whole groups.
    pub fn pack(self, w: &Array) -> Result<Packed> {
        let Format { mode, bits, group } = self;
        let (weight, scales, biases) = raw::quantize(w, (group, bits, mode))?;
        Ok(Packed { weight, scales, biases, group, bits, mode, factor: None })
    }

    /// As configurations have it.
    pub fn json(self) -> Value {
        json!({ "group_size": self.group, "bits": self.bits, "mode": self.mode.name() })
    }

    /// As configurations have it; without a mode it is affine.
    pub fn from_json(value: &Value) -> Option<Format> {
        let number = |key: &str| value.get(key)?.as_i64().and_then(|n| i32::try_from(n).ok());
        let mode = value.get("mode").and_then(Value::as_str).unwrap_or("affine");
        Some(Format { mode: Mode::named(mode)?, bits: number("bits")?, group: number("group_size")? })
    }
}

impl Packed {
    /// Its format.
    pub fn packing(&self) -> Format {
        Format { mode: self.mode, bits: self.bits, group: self.group }
    }

    /// Its values [.., out, in], in the type of its scales, or in bfloat16 where scales are no floats.
    pub fn values(&self) -> Result<Array> {
        let values = raw::dequantize(&self.weight, &self.scales, self.biases.as_ref(), self.format())?;
        let Some(factor) = &self.factor else { return Ok(values) };
        let own = values.dtype();
        let factor = if factor.size() == 1 { factor.reshape(&[])? } else { factor.expand_dims(-1)? };
        Ok(values.as_dtype(Dtype::Float32)?.multiply(factor)?.as_dtype(own)?)
    }
}
