//! Which tokens end a text: every file of a checkpoint may name some.

use super::{de, json, normalize::TEXT_PARTS};
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// Adds an id that is not there yet.
pub(super) fn push(eos: &mut Vec<u32>, id: u32) {
    if !eos.contains(&id) {
        eos.push(id);
    }
}

/// The ids of a config and of its text parts.
pub(super) fn of_config(config: &Map<String, Value>) -> Result<Vec<u32>> {
    let mut eos = Vec::new();
    let mut levels = vec![config];
    while let Some(level) = levels.pop() {
        add(&mut eos, level.get("eos_token_id"))?;
        levels.extend(TEXT_PARTS.iter().filter_map(|part| level.get(*part)?.as_object()));
    }
    Ok(eos)
}

/// The ids that the other files of a checkpoint folder name.
pub(super) fn of_folder(folder: &Path) -> Result<Vec<u32>> {
    let mut eos = Vec::new();
    let read = |name: &str| match json::read_optional(&folder.join(name)) {
        // Only hints are lost, and whoever needs more of the file will say what is wrong with it.
        Err(Error::File { path, what }) => {
            tracing::warn!("ignoring {}: {what}", path.display());
            Ok(Value::Null)
        }
        other => other.map(Option::unwrap_or_default),
    };
    add(&mut eos, read("generation_config.json")?.get("eos_token_id"))?;
    let tokenizer = read("tokenizer_config.json")?;
    add(&mut eos, tokenizer.get("eos_token_id"))?;
    let special =
        if tokenizer.get("eos_token").is_none() { read("special_tokens_map.json")? } else { Value::Null };
    if let Some(text) = tokenizer.get("eos_token").or(special.get("eos_token")).and_then(content)
        && let Some(added) = tokenizer.get("added_tokens_decoder").and_then(Value::as_object)
        && let Some(id) =
            added.iter().find_map(|(id, token)| (content(token)? == text).then(|| id.parse().ok())?)
    {
        push(&mut eos, id);
    }
    Ok(eos)
}

/// The text of a token, written as a string or as an object with settings.
fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// Adds an id or a list of ids. Null and negative ids mean that there is none.
fn add(eos: &mut Vec<u32>, ids: Option<&Value>) -> Result<()> {
    let ids = match ids {
        None => &[],
        Some(Value::Array(ids)) => &ids[..],
        Some(id) => std::slice::from_ref(id),
    };
    for id in ids {
        let read: Option<i64> = de::from_value(id, "eos_token_id")?;
        match read.map(u32::try_from) {
            None => {}
            Some(Ok(id)) => push(eos, id),
            Some(Err(_)) if read < Some(0) => {}
            Some(Err(_)) => return Err(Error::config("eos_token_id", de::render(id), "token ids")),
        }
    }
    Ok(())
}
