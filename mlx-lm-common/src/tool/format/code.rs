//! Calls that look like code.

use super::{Found, json};
use crate::tool::{
    ToolCall, ToolSpec,
    cursor::{Cursor, Fault, MAX_DEPTH, Read, malformed},
};
use serde_json::{Number, Value};

/// A name of letters, digits and what names of tools have besides; it ends where something else begins.
fn word<'a>(cursor: &mut Cursor<'a>, more: &[char]) -> Read<&'a str> {
    let name = cursor.take_while(|c| c.is_alphanumeric() || c == '_' || more.contains(&c));
    match (name, cursor.rest) {
        (_, "") => Err(Fault::Unfinished),
        ("", _) => malformed(format!("a name is missing before `{}`", cursor.ahead())),
        _ => Ok(name),
    }
}

/// `[f(a='x', b=1), g()]` in Python's words, or calls in JSON.
pub(super) fn python(cursor: &mut Cursor<'_>, _: &[ToolSpec]) -> Read<Found> {
    cursor.skip_space();
    let calls = match cursor.eat("[") {
        true => items(cursor, ']', expression)?,
        false => vec![expression(cursor)?],
    };
    Ok(Found::Calls(calls))
}

/// A call.
fn expression(cursor: &mut Cursor<'_>) -> Read<ToolCall> {
    if cursor.peek()? == '{' {
        return json::one(cursor);
    }
    let name = word(cursor, &['.', '-'])?.to_string();
    cursor.skip_space();
    cursor.expect("(")?;
    let arguments = items(cursor, ')', |cursor| {
        let key = word(cursor, &[])?.to_string();
        cursor.skip_space();
        cursor.expect("=")?;
        Ok((key, literal(cursor, MAX_DEPTH)?))
    })?;
    Ok(ToolCall { id: None, name, arguments: arguments.into_iter().collect() })
}

/// Items up to `end`, past which it goes. A comma may come before that.
fn items<'a, T>(
    cursor: &mut Cursor<'a>,
    end: char,
    mut item: impl FnMut(&mut Cursor<'a>) -> Read<T>,
) -> Read<Vec<T>> {
    let mut all = Vec::new();
    loop {
        cursor.skip_space();
        if cursor.eat_char(end)? {
            return Ok(all);
        }
        all.push(item(cursor)?);
        cursor.skip_space();
        if !cursor.eat(",") && cursor.peek()? != end {
            return malformed(format!("`{}` instead of `,` or `{end}`", cursor.peek()?));
        }
    }
}

/// A literal of Python.
fn literal(cursor: &mut Cursor<'_>, depth: usize) -> Read<Value> {
    cursor.skip_space();
    let Some(depth) = depth.checked_sub(1) else { return malformed("values are nested too deeply") };
    match cursor.peek()? {
        quote @ ('\'' | '"') => {
            let mut text = quoted(cursor, quote)?;
            // Strings that follow one another are one.
            loop {
                let mut after = cursor.clone();
                after.skip_space();
                match after.rest.chars().next() {
                    Some(quote @ ('\'' | '"')) => {
                        *cursor = after;
                        text += &quoted(cursor, quote)?;
                    }
                    _ => return Ok(text.into()),
                }
            }
        }
        open @ ('[' | '(') => {
            cursor.eat_char(open)?;
            let end = if open == '[' { ']' } else { ')' };
            Ok(items(cursor, end, |cursor| literal(cursor, depth))?.into())
        }
        '{' => {
            cursor.eat_char('{')?;
            let entries = items(cursor, '}', |cursor| {
                let key = match literal(cursor, depth)? {
                    Value::String(key) => key,
                    other => other.to_string(),
                };
                cursor.skip_space();
                cursor.expect(":")?;
                Ok((key, literal(cursor, depth)?))
            })?;
            Ok(Value::Object(entries.into_iter().collect()))
        }
        _ => bare(cursor),
    }
}

/// A number or one of the words that are values.
fn bare(cursor: &mut Cursor<'_>) -> Read<Value> {
    let text = cursor.take_while(|c| c.is_alphanumeric() || ['_', '.', '+', '-'].contains(&c));
    if cursor.rest.is_empty() {
        return Err(Fault::Unfinished);
    }
    let integer = |text: &str| text.parse::<i64>().ok().map(Value::from);
    let float = |text: &str| text.parse::<f64>().ok().and_then(Number::from_f64).map(Value::Number);
    match text {
        "True" | "true" => Ok(true.into()),
        "False" | "false" => Ok(false.into()),
        "None" | "null" => Ok(Value::Null),
        _ if text.starts_with(|c: char| c.is_ascii_digit() || ['+', '-', '.'].contains(&c)) => {
            let digits = text.replace('_', "");
            integer(&digits)
                .or_else(|| float(&digits))
                .ok_or(Fault::Malformed(format!("`{text}` is no number")))
        }
        "" => malformed(format!("`{}` is no value", cursor.peek()?)),
        _ => malformed(format!("`{text}` is no value")),
    }
}

/// A string with Python's escapes.
fn quoted(cursor: &mut Cursor<'_>, quote: char) -> Read<String> {
    let mut text = String::new();
    let mut chars = cursor.rest.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == quote {
            cursor.rest = &cursor.rest[at + 1..];
            return Ok(text);
        }
        if c != '\\' {
            text.push(c);
            continue;
        }
        let (_, escaped) = chars.next().ok_or(Fault::Unfinished)?;
        let digits = match escaped {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => 0,
        };
        if digits > 0 {
            let code: String = chars.by_ref().take(digits).map(|(_, c)| c).collect();
            if code.chars().count() < digits {
                return Err(Fault::Unfinished);
            }
            match u32::from_str_radix(&code, 16).ok().and_then(char::from_u32) {
                Some(c) => text.push(c),
                None => return malformed(format!("`\\{escaped}{code}` is no character")),
            }
            continue;
        }
        match escaped {
            'n' => text.push('\n'),
            't' => text.push('\t'),
            'r' => text.push('\r'),
            'b' => text.push('\u{8}'),
            'f' => text.push('\u{c}'),
            '0' => text.push('\0'),
            '\n' => {}
            '\\' | '\'' | '"' | '/' => text.push(escaped),
            other => text.extend(['\\', other]),
        }
    }
    Err(Fault::Unfinished)
}

/// Gemma 4's `call:NAME{KEY:<|"|>TEXT<|"|>,KEY:12}`.
pub(super) fn gemma4(cursor: &mut Cursor<'_>, _: &[ToolSpec]) -> Read<Found> {
    braces(cursor, "<|\"|>")
}

/// The same with `<escape>` around strings.
pub(super) fn gemma(cursor: &mut Cursor<'_>, _: &[ToolSpec]) -> Read<Found> {
    braces(cursor, "<escape>")
}

fn braces(cursor: &mut Cursor<'_>, mark: &str) -> Read<Found> {
    cursor.skip_space();
    cursor.expect("call:")?;
    let name = word(cursor, &['.', '-'])?.to_string();
    match marked(cursor, mark, MAX_DEPTH)? {
        Value::Object(arguments) => Ok(Found::Calls(vec![ToolCall { id: None, name, arguments }])),
        other => malformed(format!("arguments are an object, not {other}")),
    }
}

/// A value whose strings stand between marks.
fn marked(cursor: &mut Cursor<'_>, mark: &str, depth: usize) -> Read<Value> {
    cursor.skip_space();
    let Some(depth) = depth.checked_sub(1) else { return malformed("values are nested too deeply") };
    if cursor.eat(mark) {
        return Ok(cursor.until(mark)?.into());
    }
    if mark.starts_with(cursor.rest) {
        return Err(Fault::Unfinished);
    }
    match cursor.peek()? {
        '[' => {
            cursor.eat_char('[')?;
            Ok(items(cursor, ']', |cursor| marked(cursor, mark, depth))?.into())
        }
        '{' => {
            cursor.eat_char('{')?;
            let entries = items(cursor, '}', |cursor| {
                let key = match cursor.eat(mark) {
                    true => cursor.until(mark)?,
                    false if mark.starts_with(cursor.rest) => return Err(Fault::Unfinished),
                    false => cursor.until(":")?.trim(),
                };
                cursor.skip_space();
                cursor.eat(":");
                Ok((key.to_string(), marked(cursor, mark, depth)?))
            })?;
            Ok(Value::Object(entries.into_iter().collect()))
        }
        '"' => json::value(cursor),
        _ => bare(cursor),
    }
}
