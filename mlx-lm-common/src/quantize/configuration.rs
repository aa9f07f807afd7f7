//! `config.json` as mlx-lm writes it.

use super::{Choice, Format, Module, Plan, Source, plan::ends_in_one};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

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
    if let Some(eos) = source.config.value.get("eos_token_id") {
        set_eos(&mut config, eos);
    }
    spell_divisors(&mut config);
    if let Some(settings) = quantization(source, plan, choices, packings) {
        config.insert("quantization".into(), settings.clone());
        config.insert("quantization_config".into(), settings);
    }
    config.sort_keys();
    config
}

/// All tokens that end a text, if files beside the configuration know of more than it does.
fn set_eos(config: &mut Map<String, Value>, eos: &Value) {
    let known = config.get("eos_token_id");
    let same = match (known, eos) {
        (Some(Value::Number(n)), Value::Array(all)) => all[..] == [Value::Number(n.clone())],
        (Some(known), all) => known == all,
        (None, _) => config.get("text_config").is_some_and(|text| text.get("eos_token_id").is_some()),
    };
    if !same {
        config.insert("eos_token_id".into(), eos.clone());
    }
}

/// Divisors of rotary frequencies, which GGUF files have in place of Llama 3's scaling, in words that mlx-lm has, too: factors for long
/// texts and short ones, which are the same.
fn spell_divisors(config: &mut Map<String, Value>) {
    let length = config.get("max_position_embeddings").cloned();
    let Some(Value::Object(rope)) = config.get_mut("rope_scaling") else { return };
    let (Some(length), Some("freq_factors")) = (length, rope.get("rope_type").and_then(Value::as_str)) else {
        return;
    };
    let Some(factors) = rope.get("factors").cloned() else { return };
    *rope = Map::from_iter([
        ("rope_type".to_string(), "longrope".into()),
        ("original_max_position_embeddings".to_string(), length),
        ("short_factor".to_string(), factors.clone()),
        ("long_factor".to_string(), factors),
    ]);
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
    let chosen = |m: &Module, c: &Choice| matches!(c, Choice::Pack(_)).then(|| m.path.clone());
    let new: Vec<String> = source.modules().iter().zip(choices).filter_map(|(m, c)| chosen(m, c)).collect();
    let kept = packings.iter().filter(|(path, _)| !new.contains(path));
    let kept = most_common(kept.map(|(_, packing)| packing.format));
    let named = source.json.get("quantization").and_then(Format::from_json);
    let (own, recipe) = match plan {
        Plan::Quantize { format, recipe } => (Some(format), recipe),
        _ => (None, None),
    };
    let base = kept.map(|kept| named.unwrap_or(kept)).or(own)?;
    let mut settings = Map::new();
    if let Value::Object(base) = base.json() {
        settings.extend(base);
    }
    for (path, packing) in packings {
        let is_new = new.contains(path);
        let by_rule = is_new && recipe.is_none() && ends_in_one(path, source.written.eight_bits);
        let listed = packing.format != base
            || packing.has_global_scale
            || is_new && (by_rule || recipe.is_some() || kept.is_some());
        if listed {
            // Rules for routers name no mode.
            let mut entry =
                if by_rule { json!({ "group_size": 64, "bits": 8 }) } else { packing.format.json() };
            if packing.has_global_scale {
                entry["global_scale"] = true.into();
            }
            settings.insert(path.clone(), entry);
        }
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
