//! `quantization_config`, as far as tensors do not say it themselves.

use super::Groups;
use crate::{Config, Error, Result, weights::Checkpoint};
use serde::{Deserialize, de::IgnoredAny};
use std::collections::BTreeMap;

const KEY: &str = "quantization_config";

const SUPPORTED: &str = "fp8, mxfp4, mxfp8, awq (4 bits, gemm), gptq, compressed-tensors, modelopt (FP8, NVFP4), bitnet, or MLX's \
                         own quantization";

/// Algorithms of ModelOpt whose tensors tell all.
const ALGORITHMS: [&str; 9] = [
    "FP8",
    "FP8_PER_CHANNEL_PER_TOKEN",
    "FP8_PB_WO",
    "NVFP4",
    "NVFP4_AWQ",
    "W4A16_NVFP4",
    "MXFP4",
    "MXFP8",
    "MIXED_PRECISION",
];

/// What architectures need not know.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Settings {
    quant_method: Option<String>,
    bits: Option<i64>,
    group_size: Option<i64>,
    version: Option<String>,
    checkpoint_format: Option<String>,
    pack_dtype: Option<String>,
    format: Option<String>,
    config_groups: Option<BTreeMap<String, Group>>,
    quant_algo: Option<String>,
    quantization: Option<ModelOpt>,
    linear_class: Option<String>,
    quantization_mode: Option<String>,
    weight_block_size: Option<Vec<i32>>,
    /// What is different for some modules.
    dynamic: Option<IgnoredAny>,
}

/// A group of layers of compressed-tensors.
#[derive(Deserialize)]
struct Group {
    weights: Option<GroupWeights>,
    format: Option<String>,
}

#[derive(Deserialize)]
struct GroupWeights {
    num_bits: Option<i64>,
    group_size: Option<i64>,
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
        if let Some(algo) = self.quant_algo.as_ref().or(nested).filter(|a| !ALGORITHMS.contains(&a.as_str()))
        {
            return bad("quant_algo", algo, &ALGORITHMS.join(", "));
        }
        match self.quant_method.as_deref() {
            None | Some("fp8" | "fbgemm_fp8" | "mxfp4" | "mxfp8" | "modelopt" | "modelopt_fp4") => Ok(()),
            Some("awq") => match (self.bits, self.version.as_deref()) {
                (Some(bits), _) if bits != 4 => bad("bits", &bits, "4"),
                (_, Some(version)) if !version.eq_ignore_ascii_case("gemm") => {
                    bad("version", &version, "gemm")
                }
                _ => Ok(()),
            },
            Some("gptq") => match (self.bits, self.gptq_format(), self.pack_dtype.as_deref()) {
                (Some(bits), ..) if ![2, 3, 4, 8].contains(&bits) => bad("bits", &bits, "2, 3, 4 or 8"),
                (_, Some(format), _) if !matches!(format, "gptq" | "gptq_v2") => {
                    bad("checkpoint_format", &format, "gptq or gptq_v2")
                }
                (.., Some(dtype)) if dtype != "int32" => bad("pack_dtype", &dtype, "int32"),
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
        const FORMATS: &str = "pack-quantized, int-quantized, float-quantized, naive-quantized, nvfp4-pack-quantized, \
                               mxfp4-pack-quantized, mxfp8-quantized, mixed-precision or dense";
        let none = String::new();
        let groups = self.config_groups.iter().flatten().map(|(name, group)| (name, Some(group)));
        for (name, group) in groups.chain([(&none, None)]) {
            let own = group.and_then(|group| group.format.as_deref());
            let format = own.or(self.format.as_deref());
            // Bits, and what has them.
            let (sizes, kind): (&[i64], _) = match format {
                None | Some("pack-quantized") => (&[2, 4, 8], "int"),
                Some("int-quantized") => (&[8], "int"),
                Some("float-quantized" | "mxfp8-quantized") => (&[8], "float"),
                Some("nvfp4-pack-quantized" | "mxfp4-pack-quantized") => (&[4], "float"),
                Some("naive-quantized" | "mixed-precision" | "dense") => continue,
                Some(other) => {
                    let key =
                        if own.is_some() { format!("config_groups.{name}.format") } else { "format".into() };
                    return bad(key, other.into(), FORMATS);
                }
            };
            let Some(weights) = group.and_then(|group| group.weights.as_ref()) else { continue };
            let key = |key: &str| format!("config_groups.{name}.weights.{key}");
            match (weights.kind.as_deref(), weights.num_bits) {
                (Some(found), _) if found != kind => return bad(key("type"), found.into(), kind),
                (_, Some(bits)) if !sizes.contains(&bits) => {
                    let wanted: Vec<String> = sizes.iter().map(i64::to_string).collect();
                    return bad(key("num_bits"), bits.to_string(), &wanted.join(" or "));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// How GPTQ's toolkits say what zero points mean.
    fn gptq_format(&self) -> Option<&str> {
        self.checkpoint_format.as_deref().or(self.format.as_deref())
    }

    /// Whether GPTQ's zero points are stored as they are, and not less one.
    pub(super) fn is_gptq_v2(&self) -> bool {
        self.gptq_format() == Some("gptq_v2")
    }

    /// Bits of all codes, where tensors do not tell.
    pub(super) fn bits(&self) -> Option<i64> {
        self.bits.or_else(|| self.alike(|weights| weights.num_bits))
    }

    /// Columns of all groups, where tensors do not tell.
    pub(super) fn group_size(&self) -> Option<i64> {
        self.group_size.or_else(|| self.alike(|weights| weights.group_size))
    }

    /// Remarks, once for all, on bits or columns of a group that the tensor `name` contradicts. The tensors are right.
    pub(super) fn compare(&self, checkpoint: &mut Checkpoint, name: &str, bits: u32, groups: &Groups) {
        let mut found = vec![("bits", self.bits().filter(|b| *b != i64::from(bits)), i64::from(bits))];
        if let Groups::Equal { size, count } = *groups {
            let size = i64::from(size);
            // Groups end with the row, and -1 means rows.
            let wrong = |said: &i64| *said != size && (count > 1 || (1..size).contains(said));
            found.push(("group_size", self.group_size().filter(wrong), size));
        }
        for (key, said, found) in found {
            let Some(said) = said.filter(|_| self.dynamic.is_none()) else { continue };
            let claim = format!("`{KEY}` says {key} {said}, but ");
            if !checkpoint.remarks().iter().any(|remark| remark.starts_with(&claim)) {
                checkpoint.remark(format!("{claim}`{name}` has {found}; the tensors are right"));
            }
        }
    }

    /// What all groups of layers have in common.
    fn alike(&self, of: impl Fn(&GroupWeights) -> Option<i64>) -> Option<i64> {
        let all = self.config_groups.iter().flatten().filter_map(|(_, group)| of(group.weights.as_ref()?));
        let mut all: Vec<i64> = all.collect();
        all.dedup();
        if let [one] = all[..] { Some(one) } else { None }
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
