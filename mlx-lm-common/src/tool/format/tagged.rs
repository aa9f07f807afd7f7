//! Calls whose parts are between tags.

use super::{Found, json};
use crate::tool::{
    ToolCall, ToolSpec,
    arguments::{schema, typed},
    cursor::{Cursor, Fault, Read, malformed, tool_name},
};
use serde_json::{Map, Value};

/// A name, and the bracket behind it.
fn name(cursor: &mut Cursor<'_>) -> Read<String> {
    let name = cursor.until(">")?.trim().trim_matches('"');
    match name.is_empty() || name.contains(['<', '>', '\n']) {
        true => malformed("it has no name"),
        false => Ok(name.to_string()),
    }
}

fn add(map: &mut Map<String, Value>, tools: &[ToolSpec], tool: &str, key: &str, text: &str) {
    map.insert(key.to_string(), typed(text, schema(tools, tool, key)));
}

/// JSON, or `<function=NAME><parameter=KEY>\nVALUE\n</parameter></function>`: some models write either.
pub(super) fn function(cursor: &mut Cursor<'_>, tools: &[ToolSpec]) -> Read<Found> {
    cursor.skip_space();
    if cursor.rest.starts_with(['{', '[']) {
        return json::list(cursor, tools);
    }
    cursor.expect("<function=")?;
    let tool = name(cursor)?;
    let arguments = parameters(cursor, tools, &tool, "<parameter=", "</function>")?;
    Ok(Found::Calls(vec![ToolCall { id: None, name: tool, arguments }]))
}

/// `<invoke name="NAME"><parameter name="KEY">VALUE</parameter></invoke>`, any number of them.
pub(super) fn invoke(cursor: &mut Cursor<'_>, tools: &[ToolSpec]) -> Read<Found> {
    let mut calls = Vec::new();
    loop {
        cursor.skip_space();
        if !calls.is_empty() && !comes_next(cursor, "<invoke")? {
            return Ok(Found::Calls(calls));
        }
        cursor.expect("<invoke name=")?;
        let tool = name(cursor)?;
        let arguments = parameters(cursor, tools, &tool, "<parameter name=", "</invoke>")?;
        calls.push(ToolCall { id: None, name: tool, arguments });
    }
}

/// Parameters, and the tag behind them.
fn parameters(
    cursor: &mut Cursor<'_>,
    tools: &[ToolSpec],
    tool: &str,
    open: &str,
    end: &str,
) -> Read<Map<String, Value>> {
    let mut arguments = Map::new();
    loop {
        cursor.skip_space();
        if comes_next(cursor, end)? {
            cursor.expect(end)?;
            return Ok(arguments);
        }
        cursor.expect(open)?;
        let key = name(cursor)?;
        let text = content(cursor, "</parameter>", &[open, end])?;
        // One line break on either side belongs to the tags.
        let text = text.strip_prefix('\n').unwrap_or(text);
        add(&mut arguments, tools, tool, &key, text.strip_suffix('\n').unwrap_or(text));
    }
}

/// What is before that `close` which one of these follows: others are part of it.
fn content<'a>(cursor: &mut Cursor<'a>, close: &str, followers: &[&str]) -> Read<&'a str> {
    let whole = cursor.rest;
    loop {
        cursor.until(close)?;
        let text = &whole[..whole.len() - cursor.rest.len() - close.len()];
        let mut after = cursor.clone();
        after.skip_space();
        if followers.iter().any(|f| after.rest.starts_with(f)) {
            return Ok(text);
        }
        if followers.iter().any(|f| f.starts_with(after.rest)) {
            return Err(Fault::Unfinished);
        }
    }
}

/// Whether `tag` comes next, once that is certain.
fn comes_next(cursor: &Cursor<'_>, tag: &str) -> Read<bool> {
    match cursor.rest.starts_with(tag) {
        false if tag.starts_with(cursor.rest) => Err(Fault::Unfinished),
        found => Ok(found),
    }
}

/// `NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>`, or JSON.
pub(super) fn glm(cursor: &mut Cursor<'_>, tools: &[ToolSpec]) -> Read<Found> {
    cursor.skip_space();
    if cursor.rest.starts_with('{') {
        return Ok(Found::Calls(vec![json::one(cursor)?]));
    }
    let tool = cursor.take_while(|c| c != '<');
    if cursor.rest.is_empty() {
        return Err(Fault::Unfinished);
    }
    let tool = tool_name(tool)?;
    let mut arguments = Map::new();
    loop {
        cursor.skip_space();
        if !comes_next(cursor, "<arg_key>")? {
            return Ok(Found::Calls(vec![ToolCall { id: None, name: tool, arguments }]));
        }
        cursor.expect("<arg_key>")?;
        let key = cursor.until("</arg_key>")?.trim().to_string();
        cursor.skip_space();
        cursor.expect("<arg_value>")?;
        let text = content(cursor, "</arg_value>", &["<arg_key>", "</tool_call>"])?;
        add(&mut arguments, tools, &tool, &key, text);
    }
}

/// `functions.NAME:0<|tool_call_argument_begin|>{…}`.
pub(super) fn kimi(cursor: &mut Cursor<'_>, _: &[ToolSpec]) -> Read<Found> {
    let id = cursor.until("<|tool_call_argument_begin|>")?.trim().to_string();
    let name = id.strip_prefix("functions.").unwrap_or(&id);
    let name = tool_name(name.rsplit_once(':').map_or(name, |(name, _)| name))?;
    Ok(Found::Calls(vec![ToolCall { arguments: json::object(cursor)?, id: Some(id), name }]))
}

/// `NAME<｜tool▁sep｜>{…}`, or `function<｜tool▁sep｜>NAME` and JSON in a fence.
pub(super) fn deepseek(cursor: &mut Cursor<'_>, _: &[ToolSpec]) -> Read<Found> {
    let first = cursor.until("<｜tool▁sep｜>")?;
    cursor.skip_space();
    if cursor.rest.is_empty() {
        return Err(Fault::Unfinished);
    }
    let (name, is_fenced) = match cursor.rest.starts_with('{') {
        true => (first, false),
        false => (cursor.until("```json")?, true),
    };
    let name = tool_name(name)?;
    let arguments = json::object(cursor)?;
    if is_fenced {
        cursor.skip_space();
        cursor.expect("```")?;
    }
    Ok(Found::Calls(vec![ToolCall { id: None, name, arguments }]))
}
