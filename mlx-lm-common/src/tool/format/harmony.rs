//! The channels of gpt-oss: `<|channel|>analysis<|message|>…<|end|>`, and calls in the channel of commentary, which are addressed:
//! `<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{…}<|call|>`.

use super::{Found, Section, json};
use crate::tool::{
    ToolCall, ToolSpec,
    cursor::{Cursor, Read, malformed},
};

/// Behind `<|start|>` or `<|channel|>`: who speaks, in which channel, and perhaps to whom.
pub(super) fn message(cursor: &mut Cursor<'_>, _: &[ToolSpec]) -> Read<Found> {
    let header = cursor.until("<|message|>")?;
    let words = header.split(|c: char| c.is_whitespace() || c == '<' || c == '>');
    let recipient = words.clone().find_map(|word| word.strip_prefix("to=")).filter(|to| *to != "user");
    match recipient {
        Some(to) => call(to.strip_prefix("functions.").unwrap_or(to), cursor),
        None if words.clone().any(|word| word.trim_start_matches('|') == "analysis") => {
            Ok(Found::Section(Section::Reasoning))
        }
        None => Ok(Found::Section(Section::Text)),
    }
}

fn call(name: &str, cursor: &mut Cursor<'_>) -> Read<Found> {
    if name.is_empty() {
        return malformed("it has no name");
    }
    Ok(Found::Calls(vec![ToolCall { id: None, name: name.into(), arguments: json::object(cursor)? }]))
}
