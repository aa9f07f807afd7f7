//! `quantization_config`, as far as tensors do not say it themselves.

use crate::{Config, Error, Result};
use serde::Deserialize;
use std::collections::BTreeMap;

const KEY: &str = "quantization_config";

const SUPPORTED: &str = "fp8, mxfp4, mxfp8, awq (4 bits, gemm), compressed-tensors (symmetric 4-bit integers, 8-bit floats), \
                         modelopt (FP8), bitnet, or MLX's own quantization";

/// What architectures need not know.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Settings {
    quant_method: Option<String>,
    bits: Option<i64>,
    version: Option<String>,
    format: Option<String>,
    config_groups: Option<BTreeMap<String, Group>>,
    quant_algo: Option<String>,
    quantization: Option<ModelOpt>,
    linear_class: Option<String>,
    quantization_mode: Option<String>,
    weight_block_size: Option<Vec<i32>>,
}

/// A group of layers of compressed-tensors.
#[derive(Deserialize)]
struct Group {
    weights: Option<GroupWeights>,
}

#[derive(Deserialize)]
struct GroupWeights {
    num_bits: Option<i64>,
    symmetric: Option<bool>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// What ModelOpt's own file nests.
#[derive(Deserialize)]
struct ModelOpt {
    quant_algo: Option<String>,
}

impl Settings {
    /// Reads them.
    ///
    /// # Errors
    /// [`Error::Config`] for an encoding that is not known.
    pub(super) fn read(config: &Config) -> Result<Settings> {
        // MLX's tools leave the key of the checkpoint that they converted, beside their own.
        let mlx: Option<serde_json::Value> = config.get("quantization")?;
        let settings: Option<Settings> = if mlx.is_some() { None } else { config.get(KEY)? };
        let settings = settings.unwrap_or_default();
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<()> {
        let bad = |key: &str, found: &dyn ToString, wanted: &str| {
            Err(Error::config(format!("{KEY}.{key}"), found.to_string(), wanted))
        };
        let nested = self.quantization.as_ref().and_then(|q| q.quant_algo.as_ref());
        if let Some(algo) = self.quant_algo.as_ref().or(nested).filter(|a| *a != "FP8") {
            return bad("quant_algo", algo, "FP8");
        }
        match self.quant_method.as_deref() {
            None | Some("fp8" | "fbgemm_fp8" | "mxfp4" | "mxfp8" | "modelopt") => Ok(()),
            Some("awq") => match (self.bits, self.version.as_deref()) {
                (Some(bits), _) if bits != 4 => bad("bits", &bits, "4"),
                (_, Some(version)) if !version.eq_ignore_ascii_case("gemm") => {
                    bad("version", &version, "gemm")
                }
                _ => Ok(()),
            },
            Some("compressed-tensors") => self.check_compressed(),
            Some("bitnet") => match self.quantization_mode.as_deref() {
                None | Some("offline") => Ok(()),
                Some(mode) => bad("quantization_mode", &mode, "offline"),
            },
            Some(other) => bad("quant_method", &other, SUPPORTED),
        }
    }

    fn check_compressed(&self) -> Result<()> {
        let bad = |key: String, found: String, wanted: &str| {
            Err(Error::config(format!("{KEY}.{key}"), found, wanted))
        };
        const FORMATS: &str = "pack-quantized, float-quantized or naive-quantized";
        let integers = match self.format.as_deref() {
            None | Some("pack-quantized") => true,
            Some("float-quantized" | "naive-quantized") => false,
            Some(other) => return bad("format".into(), other.into(), FORMATS),
        };
        for (name, group) in self.config_groups.iter().flatten() {
            let Some(weights) = &group.weights else { continue };
            let key = |key: &str| format!("config_groups.{name}.weights.{key}");
            match (weights.kind.as_deref(), weights.num_bits, weights.symmetric) {
                (_, Some(bits), _) if bits != if integers { 4 } else { 8 } => {
                    return bad(key("num_bits"), bits.to_string(), if integers { "4" } else { "8" });
                }
                (Some(kind), ..) if kind != if integers { "int" } else { "float" } => {
                    return bad(key("type"), kind.into(), if integers { "int" } else { "float" });
                }
                (_, _, Some(false)) => return bad(key("symmetric"), "false".into(), "true"),
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether bytes with a scale are said to be ternary codes.
    pub(super) fn is_bitnet(&self) -> bool {
        self.quant_method.as_deref() == Some("bitnet")
    }

    /// Whether ternary codes are divided by their scale, as one of the two layers that know them does.
    pub(super) fn divides(&self) -> bool {
        self.is_bitnet() && self.linear_class.as_deref() != Some("autobitlinear")
    }

    /// Rows and columns of the blocks of 8-bit floats, if they are given.
    ///
    /// # Errors
    /// [`Error::Config`] for anything but two sizes.
    pub(super) fn block(&self) -> Result<Option<[i32; 2]>> {
        match self.weight_block_size.as_deref() {
            None => Ok(None),
            Some(&[rows, columns]) if rows > 0 && columns > 0 => Ok(Some([rows, columns])),
            Some(other) => Err(Error::config(
                format!("{KEY}.weight_block_size"),
                format!("{other:?}"),
                "two sizes from 1 on",
            )),
        }
    }
}
