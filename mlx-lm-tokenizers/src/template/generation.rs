//! `{% generation %} … {% endgeneration %}` marks the assistant's words for training. Here it is a block like any other.

/// The template with `generation` blocks turned into `with` blocks, which have a scope of their own too, print what is inside, and
/// keep the whitespace control of the tag. Text, strings, comments and raw blocks that happen to hold the word stay as they are.
pub(super) fn without_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
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
        match word(tag) {
            Some("raw") => {
                let end = end_of_raw(rest);
                out.push_str(tag);
                out.push_str(&rest[..end]);
                rest = &rest[end..];
            }
            Some("generation") => out.push_str(&tag.replacen("generation", "with", 1)),
            Some("endgeneration") => out.push_str(&tag.replacen("endgeneration", "endwith", 1)),
            _ => out.push_str(tag),
        }
    }
    out + rest
}

/// Where the code that starts at 0 with its opening delimiter ends, strings in it skipped.
fn end_of_code(tag: &str, close: &str) -> usize {
    let bytes = tag.as_bytes();
    let (mut i, mut quote) = (2, None);
    while i < bytes.len() {
        match (quote, bytes[i]) {
            (Some(_), b'\\') => i += 1,
            (Some(q), b) if q == b => quote = None,
            (None, b @ (b'"' | b'\'')) => quote = Some(b),
            (None, _) if bytes[i..].starts_with(close.as_bytes()) => return i + close.len(),
            _ => {}
        }
        i += 1;
    }
    tag.len()
}

/// The single word of a block tag that holds nothing else.
fn word(tag: &str) -> Option<&str> {
    let inside = tag.strip_prefix("{%")?.strip_suffix("%}")?;
    let inside = inside.strip_prefix(['-', '+']).unwrap_or(inside);
    Some(inside.strip_suffix(['-', '+']).unwrap_or(inside).trim())
}

/// Where the text of a raw block ends.
fn end_of_raw(text: &str) -> usize {
    let tags = text.match_indices("{%").map(|(start, _)| start);
    let is_end = |start: &usize| {
        let tag = &text[*start..];
        tag.find("%}").is_some_and(|n| word(&tag[..n + 2]) == Some("endraw"))
    };
    tags.into_iter().find(is_end).unwrap_or(text.len())
}
