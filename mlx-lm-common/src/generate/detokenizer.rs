//! Text from tokens, one token at a time.

use crate::{Result, Tokenizer};
use std::sync::Arc;

/// What a decoder writes for bytes that are not (yet) a character.
const REPLACEMENT: char = '\u{FFFD}';
/// Ids kept so that the next ones decode as they would in the whole text. A character has at most four bytes, so four ids.
const CONTEXT: usize = 6;
/// A window this long is cut back to about `CONTEXT` ids.
const WINDOW: usize = 24;
/// Places at which to try a cut; a window that cannot be cut yet is tried again after as many ids.
const TRIES: usize = 8;
/// A window this long is cut even where the context is poor.
const LIMIT: usize = 64;
/// Ids that wait for a character to become complete; after that their replacement characters are given out.
const PATIENCE: usize = 16;
/// The longest text that a clean-up joins to the word before it (`'ve`, `n't`).
const JOINED: usize = 3;

/// Decodes ids as they come and gives out text as soon as it is certain.
///
/// The pieces together are what [`Tokenizer::decode`] makes of all ids at once, and no piece ends within a character. Only a
/// short window of ids is decoded each time, so the time is linear. One exception: a decoder may take back characters that were
/// complete (byte fallback does when the bytes after them are invalid); what was given out stays, and the text goes on after it.
pub struct Detokenizer {
    tokenizer: Arc<dyn Tokenizer>,
    skip_special: bool,
    /// The tokenizer removes spaces before punctuation, so a space is certain only once the next word is known.
    cleans_up: bool,
    window: Vec<u32>,
    /// The beginning of the window's text that was given out.
    given: String,
    /// The window's last ids, whose text is not given out in full.
    pending: usize,
    /// How many bytes at the end of `given` are from pending ids.
    partial: usize,
    /// Ids since text was last given out.
    waiting: usize,
}

impl Detokenizer {
    /// A detokenizer at the start of a text. With `skip_special`, special tokens leave nothing.
    pub fn new(tokenizer: Arc<dyn Tokenizer>, skip_special: bool) -> Detokenizer {
        let again = |text| tokenizer.encode(text, false).and_then(|ids| tokenizer.decode(&ids, false));
        let ends = |text, end| again(text).is_ok_and(|text: String| text.ends_with(end));
        let cleans_up = ends("a .", "a.") && ends("a a", "a a");
        let (window, given) = (Vec::new(), String::new());
        Detokenizer { tokenizer, skip_special, cleans_up, window, given, pending: 0, partial: 0, waiting: 0 }
    }

    /// Takes the next id; returns the text that became certain, often that of this token, at times none.
    ///
    /// # Errors
    /// What the tokenizer reports.
    pub fn push(&mut self, id: u32) -> Result<String> {
        // A special token that is skipped would only push the context out of the window.
        if self.decode(&[id, id])?.is_empty() {
            return Ok(String::new());
        }
        self.window.push(id);
        self.pending += 1;
        self.waiting += 1;
        let mut text = self.decode(&self.window)?;
        if !text.starts_with(&self.given) {
            if text.ends_with(REPLACEMENT) && self.waiting < PATIENCE {
                return Ok(String::new());
            }
            text = self.let_pending_stand_alone()?;
        }
        let rest = &text[self.given.len()..];
        let piece = rest[..self.certain(rest)].to_string();
        self.given.push_str(&piece);
        self.partial += piece.len();
        if !piece.is_empty() {
            self.waiting = 0;
        }
        if self.given.len() == text.len() {
            self.all_is_given();
        }
        if self.window.len() >= WINDOW && self.window.len().is_multiple_of(TRIES) {
            return Ok(piece + &self.cut(&text)?);
        }
        Ok(piece)
    }

    /// The text still held back, when no more ids will come. Then the detokenizer is at the start of a new text.
    ///
    /// # Errors
    /// What the tokenizer reports.
    pub fn flush(&mut self) -> Result<String> {
        let mut text = self.decode(&self.window)?;
        if !text.starts_with(&self.given) {
            text = self.let_pending_stand_alone()?;
        }
        let piece = text.split_off(self.given.len());
        self.window.clear();
        self.given.clear();
        self.all_is_given();
        Ok(piece)
    }

    fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer.decode(ids, self.skip_special)
    }

    fn all_is_given(&mut self) {
        (self.pending, self.partial, self.waiting) = (0, 0, 0);
    }

    /// Gives up the context, because the decoder changed text that was given out. Returns the text of the pending ids.
    fn let_pending_stand_alone(&mut self) -> Result<String> {
        self.window.drain(..self.window.len() - self.pending);
        let text = self.decode(&self.window)?;
        let partial = self.given.get(self.given.len() - self.partial..).unwrap_or_default();
        let same = common(text.chars(), partial.chars());
        self.given = text[..same].to_string();
        self.partial = same;
        Ok(text)
    }

    /// How much of `rest` no later id can change.
    fn certain(&self, rest: &str) -> usize {
        let patient = self.waiting < PATIENCE;
        if rest.ends_with(REPLACEMENT) {
            // A decoder writes one for the bytes of an unfinished character, or one for each of at most three.
            let run = rest.trim_end_matches(REPLACEMENT).len();
            let unfinished = rest.len().saturating_sub(3 * REPLACEMENT.len_utf8());
            return if patient { run } else { run.max(unfinished) };
        }
        match rest.rfind(' ') {
            Some(space) if self.cleans_up && patient && rest[space + 1..].chars().count() < JOINED => space,
            _ => rest.len(),
        }
    }

    /// Drops ids from the front of the window, whose text is `text`, where the rest still decodes as before. Returns text that
    /// had to be given out for it.
    fn cut(&mut self, text: &str) -> Result<String> {
        let held = &text[self.given.len()..];
        let shortest = CONTEXT.max(self.pending + 1);
        for keep in shortest..self.window.len().min(shortest + TRIES) {
            let short = self.decode(&self.window[self.window.len() - keep..])?;
            let same = common(text.chars().rev(), short.chars().rev());
            if same >= held.len() && is_context(&short[short.len() - same..short.len() - held.len()]) {
                self.restart(keep, short, held.len());
                return Ok(String::new());
            }
        }
        if self.window.len() < LIMIT {
            return Ok(String::new());
        }
        // More ids than may wait, so that what is held is in their text.
        let keep = LIMIT / 2;
        let short = self.decode(&self.window[self.window.len() - keep..])?;
        if short.ends_with(held) {
            self.restart(keep, short, held.len());
            return Ok(String::new());
        }
        self.restart(keep, short, 0);
        self.all_is_given();
        Ok(held.to_string())
    }

    /// Goes on with the window's last `keep` ids, whose text is `text`, the last `held` bytes of it not given out.
    fn restart(&mut self, keep: usize, mut text: String, held: usize) {
        self.window.drain(..self.window.len() - keep);
        text.truncate(text.len() - held);
        self.given = text;
        self.pending = self.pending.min(keep);
        self.partial = self.partial.min(self.given.len());
    }
}

/// Whether text after `text` decodes as it would after any text: there is something that is neither space nor half a character.
fn is_context(text: &str) -> bool {
    text.chars().any(|c| !c.is_whitespace() && c != REPLACEMENT)
}

/// The length in bytes of what two texts have in common before they differ.
fn common(a: impl Iterator<Item = char>, b: impl Iterator<Item = char>) -> usize {
    a.zip(b).take_while(|(x, y)| x == y).map(|(x, _)| x.len_utf8()).sum()
}
