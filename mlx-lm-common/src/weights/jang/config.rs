//! `jang_config.json`: what its writer noted, read leniently. Most of it is provenance; what tensors say themselves is not read here.

use crate::{Error, Result, config::json};
use serde_json::Value;
use std::path::Path;

/// The names that the file has had, the newest first.
const NAMES: [&str; 4] = ["jang_config.json", "jjqf_config.json", "jang_cfg.json", "mxq_config.json"];

/// Seed of the signs of rotations where the file names none, and of those before affine quantization always.
pub(in crate::weights) const SEED: u64 = 42;

/// The newest major version of the format.
const NEWEST: u64 = 2;

/// What changes how a bundle is loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct JangConfig {
    /// Major version of the format, if the file says it; many bundles do not.
    pub version: Option<u64>,
    /// `affine`, `mxtq`, `mxfp4` … as the file has it.
    pub weight_format: Option<String>,
    /// Seed of the signs of rotations.
    pub mxtq_seed: u64,
    /// Whether weights were rotated before they were quantized.
    pub hadamard_rotation: bool,
    /// Whether zero-centred norms are stored with their one added; if not, as what is added to one.
    pub norms_are_whole: bool,
    /// Whether the multipliers of the configuration are in the weights already.
    pub multipliers_are_folded: bool,
    /// The file itself, always an object.
    pub value: Value,
}

impl JangConfig {
    /// Reads the file of the bundle in `folder`, whose `config.json` is `config`; `None` if it is no JANG bundle.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::File`] for a damaged file, or a format newer than the one that is known.
    pub fn of(folder: &Path, config: &Value) -> Result<Option<JangConfig>> {
        for name in NAMES {
            let path = folder.join(name);
            let Some(value) = json::read_optional(&path)? else { continue };
            if !value.is_object() {
                return Err(Error::file(path, "is not a JSON object"));
            }
            let jang = JangConfig::read(value, config);
            return match jang.version {
                Some(version) if version > NEWEST => Err(Error::file(
                    path,
                    format!("is of version {version} of the JANG format; versions 1 and 2 are known"),
                )),
                _ => Ok(Some(jang)),
            };
        }
        Ok(None)
    }

    /// What the file `value` and the model's configuration say together. Values of other types than they should have count as
    /// missing.
    fn read(value: Value, config: &Value) -> JangConfig {
        let quantization = &value["quantization"];
        let conventions = [&value["norm_convention"], &quantization["norm_convention"]];
        let version = [&value["format_version"], &value["version"]].into_iter().find_map(major);
        JangConfig {
            version,
            weight_format: value["weight_format"].as_str().map(str::to_string),
            mxtq_seed: value["mxtq_seed"].as_u64().unwrap_or(SEED),
            hadamard_rotation: truth(&quantization["hadamard_rotation"]),
            norms_are_whole: truth(&config["jang_norms_pre_shifted"])
                || conventions.into_iter().filter_map(Value::as_str).any(adds_one),
            multipliers_are_folded: truth(&config["jang_mup_folded"]),
            value,
        }
    }
}

/// Whether norms of this convention have their one already.
fn adds_one(convention: &str) -> bool {
    matches!(convention, "runtime_plus1_applied" | "qwen3_5_language_mlx_plus_one")
}

fn truth(value: &Value) -> bool {
    value.as_bool().unwrap_or(false)
}

/// The major version that `"2.0"`, `2` or `2.0` names.
fn major(value: &Value) -> Option<u64> {
    match value {
        Value::String(text) => text.split('.').next()?.trim().parse().ok(),
        number => number.as_f64().filter(|n| *n >= 0.0).map(|n| n as u64),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn versions_are_read_in_every_form() {
        for (written, wanted) in [
            (json!("2.0"), Some(2)),
            (json!("1.1"), Some(1)),
            (json!(2), Some(2)),
            (json!(3.5), Some(3)),
            (json!("two"), None),
            (json!(null), None),
            (json!([2]), None),
            (json!(-1), None),
        ] {
            assert_eq!(major(&written), wanted, "{written}");
        }
    }

    #[test]
    fn wrong_types_count_as_missing() {
        for wrong in [json!(null), json!("x"), json!([1]), json!({"a": 1})] {
            let keys = ["mxtq_seed", "quantization", "norm_convention", "version"];
            let value: Value = keys.iter().map(|k| (k.to_string(), wrong.clone())).collect();
            let config = json!({ "jang_norms_pre_shifted": wrong, "jang_mup_folded": wrong });
            let jang = JangConfig::read(value.clone(), &config);
            let plain = JangConfig::read(json!({}), &json!({}));
            assert_eq!(jang, JangConfig { value, ..plain });
        }
    }

    #[test]
    fn markers_say_which_norms_are_stored() {
        let whole = |value, config| JangConfig::read(value, &config).norms_are_whole;
        assert!(!whole(json!({}), json!({})));
        assert!(whole(json!({}), json!({ "jang_norms_pre_shifted": true })));
        assert!(whole(json!({ "norm_convention": "runtime_plus1_applied" }), json!({})));
        assert!(!whole(json!({ "norm_convention": "llama_rmsnorm_no_plus_one" }), json!({})));
    }
}
