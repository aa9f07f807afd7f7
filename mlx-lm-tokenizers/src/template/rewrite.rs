//! What is changed in a template's source before it is compiled. No line is added, so that errors name the right one.
//!
//! `{% generation %} … {% endgeneration %}` marks the assistant's words for training; here it becomes a `with` block, which has a scope
//! of its own too and prints what is inside. Wherever names are bound, the filter [`BOUNDED`] looks at their values; and factors have
//! to be numbers or text, since a list of lists a thousand times a thousand times would take no step. The whitespace control of tags is
//! kept. Text, strings, comments and raw blocks stay as they are.

/// The filter that refuses values which are too large or nested too deeply.
pub(super) const BOUNDED: &str = "__bounded";

/// The filter that refuses lists as factors.
pub(super) const FACTOR: &str = "__factor";

/// The template as we compile it.
pub(super) fn rewrite(source: &str) -> String {
    let mut out = String::with_capacity(source.len() * 2);
    let mut rest = source;
    while let Some(start) = ["{#", "{{", "{%"].iter().filter_map(|open| rest.find(open)).min() {
        let (text, tag) = rest.split_at(start);
        out.push_str(text);
        let end = match &tag[..2] {
            "{#" => tag.find("#}").map_or(tag.len(), |n| n + 2),
            "{{" => end_of_code(tag, "}}"),
            _ => end_of_code(tag, "%}"),
        };
        let (tag, after) = tag.split_at(end);
        rest = after;
        if tag.starts_with("{#") {
            out.push_str(tag);
            continue;
        }
        let tokens = tokens(code(tag));
        let tag = with_factors(tag);
        match tokens[..] {
            [Token::Name("raw")] => {
                let end = end_of_raw(rest);
                out.push_str(&tag);
                out.push_str(&rest[..end]);
                rest = &rest[end..];
            }
            [Token::Name("generation")] => out.push_str(&tag.replacen("generation", "with", 1)),
            [Token::Name("endgeneration")] => out.push_str(&tag.replacen("endgeneration", "endwith", 1)),
            _ => match bound(&tokens)[..] {
                [] => out.push_str(&tag),
                ref names => {
                    // The tag's own end goes to the last of the new tags, with its effect on the text that follows.
                    let close = if tag.ends_with("-%}") || tag.ends_with("+%}") { 3 } else { 2 };
                    let (tag, close) = tag.split_at(tag.len() - close);
                    out += &format!("{tag}%}}{{% if [{}]|{BOUNDED} %}}{{% endif {close}", names.join(", "));
                }
            },
        }
    }
    out + rest
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Token<'a> {
    Name(&'a str),
    /// Anything else: one character, or the quote for a whole string.
    Sign(char),
}

/// What is inside a complete block tag.
fn code(tag: &str) -> &str {
    let inside = tag.strip_prefix("{%").and_then(|t| t.strip_suffix("%}")).unwrap_or_default();
    let inside = inside.strip_prefix(['-', '+']).unwrap_or(inside);
    inside.strip_suffix(['-', '+']).unwrap_or(inside)
}

fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(c) = rest.chars().next() {
        let len = match c {
            '"' | '\'' => end_of_string(rest, c),
            c if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        let word = &rest[..len];
        tokens.push(if is_word(c) && !c.is_ascii_digit() { Token::Name(word) } else { Token::Sign(c) });
        rest = rest[len..].trim_start();
    }
    tokens
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The code with every `a * b` as `a|__factor * - -b`: only numbers have a negative. Text is repeated with the text on the left, or
/// written out on the right.
fn with_factors(code: &str) -> String {
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    let mut ends_operand = false;
    while let Some(c) = rest.chars().next() {
        let len = match c {
            '"' | '\'' => end_of_string(rest, c),
            '*' if rest.starts_with("**") => 2,
            c => c.len_utf8(),
        };
        let (token, after) = rest.split_at(len);
        rest = after;
        if token != "*" || !ends_operand {
            out.push_str(token);
        } else if rest.trim_start().starts_with(['"', '\'']) {
            out += &format!("|{FACTOR}*");
        } else {
            out += &format!("|{FACTOR}*- -");
        }
        if !c.is_whitespace() {
            ends_operand = is_word(c) || matches!(c, '"' | '\'' | ')' | ']' | '}');
        }
    }
    out
}

/// The names that a tag binds to new values.
fn bound<'a>(tokens: &[Token<'a>]) -> Vec<&'a str> {
    use Token::{Name, Sign};
    let Some((Name(tag), rest)) = tokens.split_first() else { return Vec::new() };
    let mut depth = 0;
    let mut names = Vec::new();
    for (i, token) in rest.iter().enumerate() {
        let before = i.checked_sub(1).map(|i| rest[i]);
        match (*tag, *token) {
            ("set", Sign('=')) if depth == 0 => return names,
            ("for", Name("in")) if depth == 0 => return names,
            (_, Sign('(' | '[' | '{')) => depth += 1,
            (_, Sign(')' | ']' | '}')) => depth -= 1,
            ("set" | "for", Name(name)) if before != Some(Sign('.')) => names.push(name),
            ("with", Name(name))
                if depth == 0
                    && rest.get(i + 1) == Some(&Sign('='))
                    && rest.get(i + 2) != Some(&Sign('=')) =>
            {
                names.push(name);
            }
            ("macro" | "call", Name(name)) if depth == 1 && matches!(before, Some(Sign('(' | ','))) => {
                names.push(name)
            }
            _ => {}
        }
        let is_end = depth == 0 && *token == Sign(')');
        if is_end && matches!(*tag, "macro" | "call") {
            return names;
        }
        if *tag == "call" && i == 0 && *token != Sign('(') {
            return names;
        }
    }
    // A block such as `{% set name %}` binds text, which costs its length in steps.
    if *tag == "with" { names } else { Vec::new() }
}

/// Where the code that starts at 0 with its opening delimiter ends, strings in it skipped.
fn end_of_code(tag: &str, close: &str) -> usize {
    let mut i = 2;
    while let Some(c) = tag[i..].chars().next() {
        match c {
            '"' | '\'' => i += end_of_string(&tag[i..], c),
            _ if tag[i..].starts_with(close) => return i + close.len(),
            _ => i += c.len_utf8(),
        }
    }
    tag.len()
}

/// The length of the string that `text` begins with, its quotes included.
fn end_of_string(text: &str, quote: char) -> usize {
    let mut chars = text.char_indices().skip(1);
    while let Some((i, c)) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            c if c == quote => return i + 1,
            _ => {}
        }
    }
    text.len()
}

/// Where the text of a raw block ends.
fn end_of_raw(text: &str) -> usize {
    let tags = text.match_indices("{%").map(|(start, _)| start);
    let is_end = |start: &usize| {
        let tag = &text[*start..];
        tag.find("%}").is_some_and(|n| code(&tag[..n + 2]).trim() == "endraw")
    };
    tags.into_iter().find(is_end).unwrap_or(text.len())
}
