//! The two rewrites that bring every published layout into one: see [`Config::from_json`](super::Config::from_json).

use super::{
    de::{from_value, render},
    json::tagged_float,
    present,
};
use crate::{Error, Result};
use serde_json::{Map, Value, json};

/// Keys that hold the text part of a larger model. Of several, the last wins.
pub(super) const TEXT_PARTS: [&str; 3] = ["language_config", "llm_config", "text_config"];

/// Where the `model_type` of the larger model is kept.
pub(super) const WRAPPER: &str = "wrapper_model_type";

/// The base of layers that see a window only, as Gemma 3 has it beside `rope_theta`.
const LOCAL_BASE: &str = "rope_local_base_freq";

/// Lifts the text part to the top, however deep it lies.
pub(super) fn lift_text(config: &mut Map<String, Value>) -> Result<()> {
    while TEXT_PARTS.iter().any(|part| config.contains_key(*part)) {
        let outer = config.get("model_type").cloned();
        let parts: Vec<_> =
            TEXT_PARTS.iter().filter_map(|key| Some((*key, config.shift_remove(*key)?))).collect();
        for (key, part) in parts {
            for (key, value) in object(key, part)? {
                if !value.is_null() {
                    config.insert(key, value);
                }
            }
        }
        let model_type = config.get("model_type");
        if let Some(outer) = outer.filter(|o| !o.is_null() && Some(o) != model_type)
            && !present(config, WRAPPER)
        {
            config.insert(WRAPPER.into(), outer);
        }
    }
    Ok(())
}

/// Makes `rope_scaling`, `rope_parameters`, `rope_theta` and `rope_local_base_freq` one.
pub(super) fn unify_rope(config: &mut Map<String, Value>) -> Result<()> {
    let mut take =
        |key: &str| config.shift_remove(key).map_or(Ok(Map::new()), |v| object(key, v)).map(name_types);
    let (scaling, parameters) = (take("rope_scaling")?, take("rope_parameters")?);
    // transformers 5 lets the older key win; the newer one may still hold the base.
    let mut rope = match (is_keyed(&scaling), is_keyed(&parameters)) {
        (false, false) => overlay(parameters, scaling),
        (false, true) => parameters,
        (true, _) => scaling,
    };
    if !is_keyed(&rope) {
        if let Some(theta) = rope.shift_remove("rope_theta").filter(|t| !t.is_null()) {
            config.insert("rope_theta".into(), theta);
        }
        if let Some(local) = config.get(LOCAL_BASE).filter(|f| !f.is_null()) {
            let _: f64 = from_value(local, LOCAL_BASE)?;
            let local = json!({ "rope_type": "default", "rope_theta": local });
            rope = Map::from_iter([
                ("full_attention".into(), Value::Object(rope)),
                ("sliding_attention".into(), local),
            ]);
        }
    }
    config.shift_remove(LOCAL_BASE);
    if !rope.is_empty() {
        config.insert("rope_parameters".into(), Value::Object(rope));
    }
    Ok(())
}

/// Whether RoPE parameters are given per layer type.
pub(super) fn is_keyed(rope: &Map<String, Value>) -> bool {
    rope.values().filter_map(Value::as_object).any(|inner| tagged_float(inner).is_none())
}

/// Calls the kind `rope_type`, in each layer type if there are several. An old `type` wins, as in mlx-lm.
fn name_types(mut rope: Map<String, Value>) -> Map<String, Value> {
    name_type(&mut rope);
    rope.values_mut().filter_map(Value::as_object_mut).for_each(name_type);
    rope
}

fn name_type(flat: &mut Map<String, Value>) {
    if let Some(old) = flat.shift_remove("type").filter(|t| !t.is_null()) {
        flat.insert("rope_type".into(), old);
    }
    flat.retain(|_, v| !v.is_null());
}

fn overlay(mut below: Map<String, Value>, above: Map<String, Value>) -> Map<String, Value> {
    below.extend(above);
    below
}

fn object(key: &str, value: Value) -> Result<Map<String, Value>> {
    match value {
        Value::Object(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        other => Err(Error::config(key, render(&other), "an object")),
    }
}
