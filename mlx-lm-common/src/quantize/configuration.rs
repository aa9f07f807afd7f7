//! `config.json` as mlx-lm writes it.

use super::{Choice, Format, Module, Plan, Source, plan::ends_in_one};
use crate::config::json::read_optional;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// How a matrix was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packing {
    pub(super) format: Format,
    /// Whether there is a scale for each expert besides.
    pub(super) has_global_scale: bool,
}

/// The configuration of what was written: the source's, without what is of no use to mlx-lm, and with how its matrices are packed.
pub(super) fn write(
    source: &Source,
    plan: Plan,
    choices: &[Choice],
    packings: &BTreeMap<String, Packing>,
) -> Map<String, Value> {
    let mut config = source.json.clone();
    for key in ["_name_or_path", "vision_config", "quantization", "quantization_config"] {
        config.shift_remove(key);
    }
    // mlx-lm looks there when it finds nothing else.
    if let Some(text) = config.get_mut("text_config").and_then(Value::as_object_mut) {
        text.shift_remove("quantization_config");
    }
    if let Some(eos) = eos(source) {
        config.insert("eos_token_id".into(), eos);
    }
    if source.is_gguf() {
        spell_scaling(&mut config);
    }
    if let Some(settings) = quantization(source, plan, choices, packings) {
        config.insert("quantization".into(), settings.clone());
        config.insert("quantization_config".into(), settings);
    }
    config.sort_keys();
    config
}

/// The tokens that end a text, where files beside the configuration know better: as in mlx-lm those of `generation_config.json`, and
/// all of a GGUF file and of a JANG bundle, whose configurations may lack some.
fn eos(source: &Source) -> Option<Value> {
    if source.is_gguf() || source.checkpoint().jang().is_some() {
        return source.config.value.get("eos_token_id").cloned();
    }
    // What is no JSON says nothing there.
    let generation = read_optional(&source.path.join("generation_config.json")).ok()??;
    generation.get("eos_token_id").filter(|eos| !eos.is_null() && **eos != 0).cloned()
}

/// What GGUF files have of scaled rotations, in words that mlx-lm has, too. Divisors of frequencies, which stand for Llama 3's scaling,
/// are factors for long texts and short ones, which are the same.
fn spell_scaling(config: &mut Map<String, Value>) {
    let length = config.get("max_position_embeddings").cloned().unwrap_or(Value::Null);
    // Some of its architectures want the key, and be it null.
    let rope = config.entry("rope_scaling").or_insert(Value::Null);
    let Value::Object(rope) = rope else { return };
    if let Some(factors) = rope.shift_remove("factors") {
        rope.insert("rope_type".into(), "longrope".into());
        rope.insert("original_max_position_embeddings".into(), length);
        rope.insert("short_factor".into(), factors.clone());
        rope.insert("long_factor".into(), factors);
    }
    // The older name of the key, which some of its architectures insist on.
    if let Some(kind) = rope.get("rope_type").cloned() {
        rope.insert("type".into(), kind);
    }
}

/// The format of most matrices, and for each of another its own: as mlx-lm has it, an entry also for each that a rule chose, and for
/// each that was packed beside others that were packed before.
fn quantization(
    source: &Source,
    plan: Plan,
    choices: &[Choice],
    packings: &BTreeMap<String, Packing>,
) -> Option<Value> {
    if packings.is_empty() {
        return None;
    }
    let chosen = |(m, c): (&'_ Module, &Choice)| matches!(c, Choice::Pack(_)).then(|| m.path.clone());
    let new: BTreeSet<String> = source.modules().iter().zip(choices).filter_map(chosen).collect();
    let (own, recipe) = match plan {
        Plan::Quantize { format, recipe } => (Some(format), recipe),
        _ => (None, None),
    };
    let named = source.json.get("quantization").and_then(Value::as_object);
    let named_base = source.json.get("quantization").and_then(Format::from_json);
    let kept = most_common(packings.iter().filter(|(path, _)| !new.contains(*path)).map(|(_, p)| p.format));
    let base = kept.map(|kept| named_base.unwrap_or(kept)).or(own)?;
    let mut settings = match base.json() {
        Value::Object(base) => base,
        _ => Map::new(),
    };
    for (path, packing) in packings {
        let is_new = new.contains(path);
        let by_rule = is_new && recipe.is_none() && ends_in_one(path, source.written.eight_bits);
        // An entry that is right stays as it is.
        let known = named.and_then(|named| named.get(path)).filter(|_| !is_new);
        let known = known.filter(|entry| Format::from_json(entry) == Some(packing.format));
        let is_other = packing.format != base || packing.has_global_scale;
        if known.is_none() && !is_other && !(is_new && (by_rule || recipe.is_some() || kept.is_some())) {
            continue;
        }
        let mut entry = match known {
            Some(known) => known.clone(),
            // Rules for routers name no mode.
            None if by_rule => json!({ "group_size": 64, "bits": 8 }),
            None => packing.format.json(),
        };
        if packing.has_global_scale {
            entry["global_scale"] = true.into();
        }
        settings.insert(path.clone(), entry);
    }
    Some(settings.into())
}

/// The format that most have.
fn most_common(formats: impl Iterator<Item = Format>) -> Option<Format> {
    let mut counts: Vec<(Format, usize)> = Vec::new();
    for format in formats {
        match counts.iter_mut().find(|(known, _)| *known == format) {
            Some((_, count)) => *count += 1,
            None => counts.push((format, 1)),
        }
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(format, _)| format)
}
