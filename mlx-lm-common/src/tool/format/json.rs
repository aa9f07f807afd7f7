//! Calls that are JSON.

use super::Found;
use crate::tool::{
    ToolCall, ToolSpec,
    cursor::{Cursor, Fault, Read, malformed, tool_name},
};
use serde_json::{Deserializer, Map, Value};

/// The next JSON value.
pub(super) fn value(cursor: &mut Cursor<'_>) -> Read<Value> {
    cursor.skip_space();
    if cursor.rest.is_empty() {
        return Err(Fault::Unfinished);
    }
    let mut values = Deserializer::from_str(cursor.rest).into_iter::<Value>();
    match values.next() {
        Some(Ok(value)) => {
            cursor.rest = &cursor.rest[values.byte_offset()..];
            Ok(value)
        }
        Some(Err(e)) if !e.is_eof() => malformed(format!("no JSON: {e}")),
        _ => Err(Fault::Unfinished),
    }
}

/// The next JSON object: arguments.
pub(super) fn object(cursor: &mut Cursor<'_>) -> Read<Map<String, Value>> {
    match value(cursor)? {
        Value::Object(map) => Ok(map),
        other => malformed(format!("arguments are an object, not {other}")),
    }
}

/// `{"name": …, "arguments": {…}}`, with the words that families have for these.
fn call(value: Value) -> Read<ToolCall> {
    let Value::Object(mut map) = value else { return malformed(format!("a call is an object, not {value}")) };
    if let Some(Value::Object(inner)) = map.get_mut("function") {
        let inner = std::mem::take(inner);
        let id = map.remove("id");
        map = inner;
        map.extend(id.map(|id| ("id".to_string(), id)));
    }
    let mut first = |names: &[&str]| names.iter().find_map(|name| map.remove(*name));
    let name = match first(&["name", "tool_name", "function"]) {
        Some(Value::String(name)) if !name.is_empty() => name,
        _ => return malformed("it has no `name`"),
    };
    let id = first(&["id", "tool_call_id"]).and_then(|id| match id {
        Value::String(id) => Some(id),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    });
    let arguments = match first(&["arguments", "parameters"]) {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(map)) => map,
        // JSON within JSON, as OpenAI has it.
        Some(Value::String(text)) => match serde_json::from_str(&text) {
            Ok(map) => map,
            Err(e) => return malformed(format!("its arguments are no JSON object: {e}")),
        },
        Some(other) => return malformed(format!("its arguments are an object, not {other}")),
    };
    Ok(ToolCall { id, name, arguments })
}

/// One call.
pub(super) fn one(cursor: &mut Cursor<'_>) -> Read<ToolCall> {
    call(value(cursor)?)
}

/// A list of calls, or one alone.
pub(super) fn list(cursor: &mut Cursor<'_>, _: &[ToolSpec]) -> Read<Found> {
    let calls = match value(cursor)? {
        Value::Array(all) => all.into_iter().map(call).collect::<Read<Vec<_>>>()?,
        one => vec![call(one)?],
    };
    Ok(Found::Calls(calls))
}

/// A call in Llama 3's words, perhaps behind another and a semicolon; any other JSON is none.
pub(super) fn bare(cursor: &mut Cursor<'_>, _: &[ToolSpec]) -> Read<Found> {
    cursor.skip_space();
    cursor.eat(";");
    cursor.skip_space();
    if !cursor.rest.is_empty() && !cursor.rest.starts_with('{') {
        return malformed("it is no JSON object");
    }
    Ok(Found::Calls(vec![one(cursor)?]))
}

/// A list, or `name[CALL_ID]id[ARGS]{…}`, of which the id may be left out.
pub(super) fn mistral(cursor: &mut Cursor<'_>, tools: &[ToolSpec]) -> Read<Found> {
    cursor.skip_space();
    if cursor.rest.is_empty() {
        return Err(Fault::Unfinished);
    }
    if cursor.rest.starts_with(['[', '{']) {
        return list(cursor, tools);
    }
    let head = match cursor.rest.find('{') {
        Some(at) => &cursor.rest[..at],
        None => return Err(Fault::Unfinished),
    };
    cursor.rest = &cursor.rest[head.len()..];
    let head = head.trim();
    let head = head.strip_suffix("[ARGS]").unwrap_or(head);
    let (name, id) = match head.split_once("[CALL_ID]") {
        Some((name, id)) => (name, Some(id.trim().to_string())),
        None => (head, None),
    };
    Ok(Found::Calls(vec![ToolCall { id, name: tool_name(name)?, arguments: object(cursor)? }]))
}
