//! Texts that arrive in pieces.

/// How many bytes at the end of `text` begin `tag`, without being all of it.
pub(crate) fn begun(text: &str, tag: &str) -> usize {
    let longest = text.len().min(tag.len().saturating_sub(1));
    (1..=longest).rev().find(|&n| tag.is_char_boundary(n) && text.ends_with(&tag[..n])).unwrap_or(0)
}
