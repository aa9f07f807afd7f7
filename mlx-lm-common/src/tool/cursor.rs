//! A place in a text, for the readers of calls.

/// Why a call could not be read.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Fault {
    /// The text ends within it, so that what follows may complete it.
    Unfinished,
    /// It is wrong, whatever follows.
    Malformed(String),
}

pub(super) type Read<T> = Result<T, Fault>;

/// A fault with these words.
pub(super) fn malformed<T>(why: impl Into<String>) -> Read<T> {
    Err(Fault::Malformed(why.into()))
}

/// How deep values may be nested.
pub(super) const MAX_DEPTH: usize = 64;

/// What is left of a text.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    pub(super) rest: &'a str,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Cursor<'a> {
        Cursor { rest: text }
    }

    pub(super) fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Goes past `text` if it comes next.
    pub(super) fn eat(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Goes past `text`, which must come next.
    pub(super) fn expect(&mut self, text: &str) -> Read<()> {
        if self.eat(text) {
            return Ok(());
        }
        if text.starts_with(self.rest) {
            return Err(Fault::Unfinished);
        }
        malformed(format!("`{}` instead of `{text}`", self.ahead()))
    }

    /// The beginning of what is left, for messages.
    pub(super) fn ahead(&self) -> String {
        self.rest.chars().take(12).collect()
    }

    /// The next character.
    pub(super) fn peek(&self) -> Read<char> {
        self.rest.chars().next().ok_or(Fault::Unfinished)
    }

    /// Goes past the next character if it is this one.
    pub(super) fn eat_char(&mut self, c: char) -> Read<bool> {
        let found = self.peek()? == c;
        if found {
            self.rest = &self.rest[c.len_utf8()..];
        }
        Ok(found)
    }

    /// What is before `end`, past which it goes.
    pub(super) fn until(&mut self, end: &str) -> Read<&'a str> {
        let (before, after) = self.rest.split_once(end).ok_or(Fault::Unfinished)?;
        self.rest = after;
        Ok(before)
    }

    /// The longest beginning of such characters.
    pub(super) fn take_while(&mut self, which: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !which(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    /// Nothing but space may follow.
    pub(super) fn end(&mut self) -> Read<()> {
        self.skip_space();
        if self.rest.is_empty() {
            return Ok(());
        }
        malformed(format!("`{}` after the call", self.ahead()))
    }
}

/// The name of a tool, which is one word.
pub(super) fn tool_name(text: &str) -> Read<String> {
    match text.trim() {
        name if name.is_empty() || name.contains(char::is_whitespace) => malformed("it has no name"),
        name => Ok(name.to_string()),
    }
}
