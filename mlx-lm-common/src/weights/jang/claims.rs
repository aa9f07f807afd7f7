//! What configuration files claim about the widths of matrices. The tensors decide; a claim that they contradict is reported.

use crate::{
    Config,
    raw::Mode,
    weights::{Checkpoint, JangConfig, Packing, Tensor},
};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Claims by the place in its file of what they are about: a tensor may get another name, but does not move.
#[derive(Clone, Debug, Default)]
pub(in crate::weights) struct Claims {
    places: BTreeMap<Place, Vec<Claim>>,
}

/// A file and where in it a tensor begins.
pub(crate) type Place = (usize, u64);

#[derive(Clone, Debug)]
struct Claim {
    /// Who claims it.
    file: &'static str,
    module: String,
    bits: Option<u64>,
    group: Option<u64>,
    mode: Option<String>,
}

/// Widths are keyed by module, among keys that are about all of them.
const GENERAL: [&str; 3] = ["bits", "group_size", "mode"];

impl Claims {
    /// Collects what is claimed about the matrices of `checkpoint`, and remarks on what its headers contradict.
    pub(in crate::weights) fn read(
        checkpoint: &mut Checkpoint,
        config: &Config,
        jang: Option<&JangConfig>,
    ) -> Claims {
        let (mut claims, mut remarks) = (Claims::default(), Vec::new());
        let manifest = jang.map(|jang| &jang.value["quantization"]["tensor_quantization_manifest"]);
        let files = [("config.json", Some(&config.value["quantization"])), ("jang_config.json", manifest)];
        for (file, listed) in files {
            let Some(listed) = listed.and_then(Value::as_object) else { continue };
            for (module, entry) in listed.iter().filter(|(module, _)| !GENERAL.contains(&module.as_str())) {
                if let Some(entry) = entry.as_object() {
                    let module = located(checkpoint, module);
                    claims.add(checkpoint, file, module, entry, &mut remarks);
                } else if entry == &Value::Bool(false)
                    && let Some(module) = located(checkpoint, module)
                    && checkpoint.contains(&format!("{module}.scales"))
                {
                    remarks.push(format!("{file} claims that `{module}` is not quantized, but it is"));
                }
            }
        }
        remarks.into_iter().for_each(|remark| checkpoint.remark(remark));
        claims
    }

    fn add(
        &mut self,
        checkpoint: &Checkpoint,
        file: &'static str,
        module: Option<String>,
        entry: &Map<String, Value>,
        remarks: &mut Vec<String>,
    ) {
        let number = |keys: &[&str]| keys.iter().find_map(|key| entry.get(*key)?.as_u64());
        let (bits, group) = (number(&["storage_bits", "bits"]), number(&["group_size"]));
        if bits.is_none() && group.is_none() {
            return;
        }
        // What codes of turned rows are is said by `tq_bits`, which cannot contradict them.
        let module = module.filter(|module| !checkpoint.contains(&format!("{module}.tq_bits")));
        let Some(module) = module else { return };
        let claim = Claim {
            file,
            bits,
            group,
            mode: entry.get("mode").and_then(Value::as_str).map(str::to_string),
            module,
        };
        let scales = checkpoint.get(&format!("{}.scales", claim.module));
        match scales {
            None => remarks.push(format!("{file} claims {claim}, but the tensors are not quantized")),
            Some(scales) => {
                if let Some(place) = scales.place() {
                    self.places.entry(place).or_default().push(claim);
                }
            }
        }
    }

    /// What is claimed wrongly about the matrix whose scales lie at `place`, of which its tensors say `packing`.
    pub(in crate::weights) fn lies(&mut self, place: Place, packing: Packing) -> Vec<String> {
        let Packing { bits, group, mode } = packing;
        // Of a matrix that was split, the parts after the first begin further on.
        let Some((start, claims)) = self.places.range(..=place).next_back() else { return Vec::new() };
        if start.0 != place.0 {
            return Vec::new();
        }
        let start = *start;
        let wrong = |claim: &&Claim| {
            claim.bits.is_some_and(|b| b != bits as u64)
                || claim.group.is_some_and(|g| g != group as u64)
                || claim.mode.as_deref().is_some_and(|m| Mode::named(m).is_some_and(|m| m != mode))
        };
        let lies = claims.iter().filter(wrong);
        let lies: Vec<String> = lies
            .map(|claim| {
                let mode = mode.name();
                format!(
                    "{} claims {claim}, but the tensors hold {bits} bits in groups of {group} ({mode})",
                    claim.file
                )
            })
            .collect();
        // Each is told once.
        if !lies.is_empty() {
            self.places.remove(&start);
        }
        lies
    }
}

impl std::fmt::Display for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let number = |n: Option<u64>| n.map_or("?".into(), |n| n.to_string());
        write!(f, "{} bits in groups of {} ", number(self.bits), number(self.group))?;
        if let Some(mode) = &self.mode {
            write!(f, "({}) ", mode.escape_debug().take(20).collect::<String>())?;
        }
        write!(f, "of `{}`", self.module)
    }
}

/// The name that a module has in the checkpoint, which may differ by the prefix of a text part.
fn located(checkpoint: &Checkpoint, module: &str) -> Option<String> {
    const TEXT: &str = "language_model.";
    let stripped = module.strip_prefix(TEXT).map(str::to_string);
    let inner = module.strip_prefix("model.").map(|rest| format!("model.{TEXT}{rest}"));
    let names = [Some(module.to_string()), stripped, Some(format!("{TEXT}{module}")), inner];
    names.into_iter().flatten().find(|name| checkpoint.contains(&format!("{name}.weight")))
}

impl Tensor {
    /// Where it lies, or what it is computed from first.
    pub(crate) fn place(&self) -> Option<Place> {
        match self {
            Tensor::Plain(t) => {
                t.parts.first().map(|(file, offset)| (std::sync::Arc::as_ptr(file) as usize, *offset))
            }
            Tensor::Derived(t) => t.first().and_then(Tensor::place),
            Tensor::Gguf(_) => None,
        }
    }
}
