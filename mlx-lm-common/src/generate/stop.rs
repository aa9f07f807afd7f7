//! Texts that end a generation, wherever the borders of tokens fall.

use crate::text::begun;

/// Finds stop texts in a text that arrives in pieces.
///
/// The match that *ends* first wins, since generation stops there; of those that end together, the longest. How the text was
/// cut into pieces makes no difference.
#[derive(Debug, Clone, Default)]
pub struct StopMatcher {
    stops: Vec<String>,
    /// Text that may be the beginning of a stop.
    held: String,
    stopped: Option<usize>,
}

impl StopMatcher {
    /// A matcher for `stops`; empty ones match nothing.
    pub fn new(stops: &[String]) -> StopMatcher {
        StopMatcher { stops: stops.to_vec(), held: String::new(), stopped: None }
    }

    /// Takes the next piece of text. Returns the text that is certain not to belong to a stop, and the index of the stop once
    /// one is complete; from then on there is no more text.
    pub fn push(&mut self, text: &str) -> (String, Option<usize>) {
        if self.stopped.is_some() {
            return (String::new(), self.stopped);
        }
        self.held.push_str(text);
        let matches =
            self.stops.iter().enumerate().filter(|(_, stop)| !stop.is_empty()).filter_map(|(i, stop)| {
                let start = self.held.find(stop.as_str())?;
                Some((start + stop.len(), start, i))
            });
        if let Some((_, start, index)) = matches.min() {
            let mut emit = std::mem::take(&mut self.held);
            emit.truncate(start);
            self.stopped = Some(index);
            return (emit, self.stopped);
        }
        let keep = self.held.len() - self.undecided();
        let rest = self.held.split_off(keep);
        (std::mem::replace(&mut self.held, rest), None)
    }

    /// The text held back, when no more will come.
    pub fn flush(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// The length of the longest end of the held text that begins a stop.
    fn undecided(&self) -> usize {
        self.stops.iter().map(|stop| begun(&self.held, stop)).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use proptest::prelude::*;

    fn matcher(stops: &[&str]) -> StopMatcher {
        StopMatcher::new(&stops.iter().map(|s| s.to_string()).collect::<Vec<_>>())
    }

    /// What is before the stop, and which, by looking at every prefix of the whole text.
    fn naive(stops: &[String], text: &str) -> (String, Option<usize>) {
        for (end, _) in text.char_indices().skip(1).chain([(text.len(), ' ')]) {
            let ending = stops.iter().enumerate().filter(|(_, s)| text[..end].ends_with(s.as_str()));
            if let Some((i, stop)) = ending.max_by_key(|(i, s)| (s.len(), std::cmp::Reverse(*i))) {
                return (text[..end - stop.len()].to_string(), Some(i));
            }
        }
        (text.to_string(), None)
    }

    #[test]
    fn text_is_held_back_only_while_it_may_become_a_stop() {
        let mut stop = matcher(&["<|end|>", "\n\n"]);
        assert_eq!(stop.push("Hello"), ("Hello".into(), None));
        assert_eq!(stop.push(" <|e"), (" ".into(), None));
        assert_eq!(stop.push("x"), ("<|ex".into(), None));
        assert_eq!(stop.push("a\n"), ("a".into(), None));
        assert_eq!(stop.push("<|end"), ("\n".into(), None));
        assert_eq!(stop.push("|>tail"), (String::new(), Some(0)));
        assert_eq!(stop.push("more"), (String::new(), Some(0)));
        assert_eq!(stop.flush(), "");
    }

    #[test]
    fn a_stop_across_two_tokens_stops() {
        let mut stop = matcher(&["bc"]);
        assert_eq!(stop.push("ab"), ("a".into(), None));
        assert_eq!(stop.push("c"), (String::new(), Some(0)));
    }

    #[test]
    fn an_unfinished_stop_comes_out_at_the_end() {
        let mut stop = matcher(&["ß→end"]);
        assert_eq!(stop.push("straß→"), ("stra".into(), None));
        assert_eq!(stop.flush(), "ß→");
    }

    #[test]
    fn the_first_to_end_wins_and_then_the_longest() {
        assert_eq!(matcher(&["abcd", "bc"]).push("xabcd"), ("xa".into(), Some(1)));
        assert_eq!(matcher(&["c", "abc", "bc"]).push("xabc"), ("x".into(), Some(1)));
        assert_eq!(matcher(&["aa", "aa"]).push("aaa"), (String::new(), Some(0)));
        assert_eq!(matcher(&["aab"]).push("aaab"), ("a".into(), Some(0)));
        assert_eq!(matcher(&[]).push("abc"), ("abc".into(), None));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn any_cut_gives_what_the_whole_text_gives(
            stops in prop::collection::vec("[abé→]{1,4}", 0..4),
            text in "[abé→]{0,12}",
            cuts in any::<u16>(),
        ) {
            let mut stop = StopMatcher::new(&stops);
            let (mut out, mut stopped, mut piece) = (String::new(), None, String::new());
            for (i, c) in text.chars().enumerate() {
                piece.push(c);
                if cuts >> i & 1 == 1 {
                    let (emit, s) = stop.push(&std::mem::take(&mut piece));
                    out += &emit;
                    stopped = s;
                    if s.is_none() {
                        // Nothing is held that cannot become a stop.
                        let held = &stop.held;
                        prop_assert!(held.is_empty() || stops.iter().any(|s| s.starts_with(held.as_str()) && s != held));
                    }
                }
            }
            let (emit, last) = stop.push(&piece);
            out += &emit;
            prop_assert!(stopped.is_none() || stopped == last);
            out += &stop.flush();
            prop_assert_eq!((out, last), naive(&stops, &text));
        }
    }
}
