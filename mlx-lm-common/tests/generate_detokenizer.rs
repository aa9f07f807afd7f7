//! The detokenizer against decoding everything at once, with tokenizers of every kind made by hand.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use mlx_lm_common::{Error, Result, Tokenizer, generate::Detokenizer};
use proptest::prelude::*;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// How a tokenizer makes text of its tokens.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Tokens are bytes; what is not UTF-8 becomes U+FFFD.
    Bytes,
    /// As `Bytes`, then spaces before punctuation go.
    CleansUp,
    /// Tokens are text with ▁ for a space, or `<0x..>` for a byte. A run of bytes that is not UTF-8 becomes one U+FFFD a byte.
    /// One space at the very beginning goes.
    SentencePiece,
}

struct HandMade {
    kind: Kind,
    tokens: Vec<Vec<u8>>,
    /// Ids from here on are special.
    special: u32,
    decoded: AtomicUsize,
}

const SPECIAL: &str = "<|s|>";

fn tokenizer(kind: Kind, tokens: &[&[u8]]) -> Arc<HandMade> {
    let special = tokens.len() as u32;
    let tokens = tokens.iter().map(|t| t.to_vec()).collect();
    Arc::new(HandMade { kind, tokens, special, decoded: AtomicUsize::new(0) })
}

fn is_byte(token: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(token).ok()?;
    u8::from_str_radix(text.strip_prefix("<0x")?.strip_suffix('>')?, 16).ok()
}

impl HandMade {
    fn sentence_piece(&self, ids: &[u32]) -> String {
        let (mut text, mut run) = (String::new(), Vec::new());
        let end_run = |run: &mut Vec<u8>, text: &mut String| {
            let n = run.len();
            *text += &String::from_utf8(std::mem::take(run)).unwrap_or_else(|_| "\u{FFFD}".repeat(n));
        };
        for &id in ids {
            match self.tokens.get(id as usize) {
                Some(token) if is_byte(token).is_some() => run.extend(is_byte(token)),
                token => {
                    end_run(&mut run, &mut text);
                    let token = token.map_or(SPECIAL, |t| std::str::from_utf8(t).unwrap());
                    text += &token.replace('▁', " ");
                }
            }
        }
        end_run(&mut run, &mut text);
        text.strip_prefix(' ').map(str::to_string).unwrap_or(text)
    }
}

impl Tokenizer for HandMade {
    /// The longest token that fits, from the left; what no token fits is left out.
    fn encode(&self, text: &str, _: bool) -> Result<Vec<u32>> {
        let text = if self.kind == Kind::SentencePiece { text.replace(' ', "▁") } else { text.to_string() };
        let (mut rest, mut ids) = (text.as_bytes(), Vec::new());
        while !rest.is_empty() {
            let fits = (0..).zip(&self.tokens).filter(|(_, t)| !t.is_empty() && rest.starts_with(t));
            match fits.max_by_key(|(_, t)| t.len()) {
                Some((id, token)) => {
                    ids.push(id);
                    rest = &rest[token.len()..];
                }
                None => rest = &rest[1..],
            }
        }
        Ok(ids)
    }

    fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.decoded.fetch_add(ids.len(), Ordering::Relaxed);
        let ids: Vec<u32> = ids.iter().copied().filter(|&id| !skip_special || id < self.special).collect();
        if self.kind == Kind::SentencePiece {
            return Ok(self.sentence_piece(&ids));
        }
        let token = |&id: &u32| self.tokens.get(id as usize).map_or(SPECIAL.as_bytes(), Vec::as_slice);
        let bytes: Vec<u8> = ids.iter().flat_map(token).copied().collect();
        let mut text = String::from_utf8_lossy(&bytes).into_owned();
        if self.kind == Kind::CleansUp {
            for (from, to) in
                [(" .", "."), (" ?", "?"), (" ,", ","), (" n't", "n't"), (" 's", "'s"), (" 've", "'ve")]
            {
                text = text.replace(from, to);
            }
        }
        Ok(text)
    }

    fn eos(&self) -> &[u32] {
        &[]
    }
}

fn pieces(tokenizer: &Arc<HandMade>, ids: &[u32], skip_special: bool) -> Vec<String> {
    let mut detokenizer = Detokenizer::new(tokenizer.clone(), skip_special);
    let mut pieces: Vec<String> = ids.iter().map(|&id| detokenizer.push(id).unwrap()).collect();
    pieces.push(detokenizer.flush().unwrap());
    pieces
}

/// Bytes and fragments of characters of every length, a genuine U+FFFD among them.
fn bytes() -> Arc<HandMade> {
    let words: &[&[u8]] =
        &[b"a", b" the", b" ", b"\n", b"  ", "é".as_bytes(), "你好".as_bytes(), "\u{FFFD}".as_bytes()];
    let parts: &[&[u8]] = &[
        b"\xe4",
        b"\xbd",
        b"\xa0",
        b"\xe4\xbd",
        b"\xbd\xa0",
        b"\xf0\x9f",
        b"\x98\x80",
        b"\xf0",
        b"\x9f\x98",
        b"\x80",
        b"\xc3",
        b"\xa9",
        b"\xff",
        b"x\xe4",
        b"\xa0y",
        b"\xef\xbf",
        b"",
    ];
    tokenizer(Kind::Bytes, &[words, parts].concat())
}

/// Ids of whole characters in bytes, and of words; no run of bytes is invalid.
fn sentence_piece() -> (Arc<HandMade>, Vec<Vec<u32>>) {
    let words = ["▁", "▁▁", "a", "▁the", "\n", "é", "▁你", ".", "\u{FFFD}"];
    let characters = ["😀", "ß", "你", "▁", " "];
    let mut tokens: Vec<Vec<u8>> = words.iter().map(|w| w.as_bytes().to_vec()).collect();
    let mut units: Vec<Vec<u32>> = (0..words.len() as u32).map(|id| vec![id]).collect();
    for character in characters {
        let first = tokens.len() as u32;
        tokens.extend(character.bytes().map(|b| format!("<0x{b:02X}>").into_bytes()));
        units.push((first..tokens.len() as u32).collect());
    }
    units.push(vec![tokens.len() as u32]);
    (tokenizer(Kind::SentencePiece, &tokens.iter().map(Vec::as_slice).collect::<Vec<_>>()), units)
}

#[test]
fn text_comes_as_soon_as_it_is_certain() {
    let tokenizer = tokenizer(Kind::Bytes, &[b"Hi", b" \xf0\x9f", b"\x98\x80!", b"\xe4", b"z"]);
    assert_eq!(pieces(&tokenizer, &[0, 1, 2, 3, 4], true), ["Hi", " ", "😀!", "", "\u{FFFD}z", ""]);
    assert_eq!(pieces(&tokenizer, &[0, 3], true), ["Hi", "", "\u{FFFD}"]);
    assert_eq!(pieces(&tokenizer, &[0, 5, 5, 4], true), ["Hi", "", "", "z", ""]);
    assert_eq!(pieces(&tokenizer, &[0, 5, 4], false), ["Hi", "<|s|>", "z", ""]);
}

#[test]
fn a_leading_space_goes_and_later_ones_stay() {
    let tokenizer =
        tokenizer(Kind::SentencePiece, &["▁Hello".as_bytes(), "▁world".as_bytes(), "▁".as_bytes()]);
    assert_eq!(pieces(&tokenizer, &[0, 1, 1], true), ["Hello", " world", " world", ""]);
    assert_eq!(pieces(&tokenizer, &[2, 0], true), ["", " Hello", ""]);
    // However many skipped tokens come between.
    let ids = [&[0][..], &[3; 200], &[1]].concat();
    assert_eq!(pieces(&tokenizer, &ids, true).concat(), "Hello world");
}

#[test]
fn a_byte_run_that_turns_out_invalid_takes_nothing_back() {
    let tokens: Vec<Vec<u8>> = "😀"
        .bytes()
        .chain([0xFF])
        .map(|b| format!("<0x{b:02X}>").into_bytes())
        .chain([b"a".to_vec()])
        .collect();
    let tokenizer = tokenizer(Kind::SentencePiece, &tokens.iter().map(Vec::as_slice).collect::<Vec<_>>());
    assert_eq!(pieces(&tokenizer, &[0, 1, 2, 3, 4, 5], true), ["", "", "", "😀", "", "\u{FFFD}a", ""]);
    assert_eq!(pieces(&tokenizer, &[0, 1, 2, 3, 4], true), ["", "", "", "😀", "", "\u{FFFD}"]);
}

#[test]
fn long_runs_of_invalid_bytes_are_given_out() {
    for (kind, token) in
        [(Kind::Bytes, &b"\xff"[..]), (Kind::SentencePiece, b"<0xFF>"), (Kind::Bytes, b"\xf0\x9f")]
    {
        let tokenizer = tokenizer(kind, &[token, b"a"]);
        let ids = [vec![0; 1000], vec![1]].concat();
        let pieces = pieces(&tokenizer, &ids, true);
        assert_eq!(pieces.concat(), tokenizer.decode(&ids, true).unwrap());
        // At most sixteen tokens wait.
        assert!(pieces.chunks(17).take(50).all(|some| !some.concat().is_empty()));
    }
}

#[test]
fn spaces_that_are_cleaned_up_are_not_given_out() {
    let words: &[&[u8]] = &[b"a", b" .", b" ", b"do", b" n", b"'t", b" it", b" 's", b" '", b"ve", b"."];
    let tokenizer = tokenizer(Kind::CleansUp, words);
    assert_eq!(pieces(&tokenizer, &[3, 4, 5, 1], true).concat(), "don't.");
    assert_eq!(pieces(&tokenizer, &[0, 2, 10, 6, 8, 9], true).concat(), "a. it've");
    assert_eq!(pieces(&tokenizer, &[0, 6], true), ["a", "", " it"]);
}

#[test]
fn the_work_for_each_token_is_bounded() {
    let (bytes, (pieces_of, units)) = (bytes(), sentence_piece());
    let sequences: [(&Arc<HandMade>, Vec<u32>); 5] = [
        (&bytes, vec![1; 4000]),
        (&bytes, vec![3; 4000]),
        (&bytes, [8, 9, 10].repeat(1500)),
        (&bytes, vec![20; 4000]),
        (&pieces_of, units[9].repeat(1000)),
    ];
    for (tokenizer, ids) in sequences {
        let mut detokenizer = Detokenizer::new(tokenizer.clone(), true);
        tokenizer.decoded.store(0, Ordering::Relaxed);
        ids.iter().for_each(|&id| drop(detokenizer.push(id).unwrap()));
        let each = tokenizer.decoded.load(Ordering::Relaxed) / ids.len();
        assert!(each <= 100, "{each} tokens decoded for each token");
    }
}

#[test]
fn flush_starts_a_new_text() {
    let tokenizer = tokenizer(Kind::SentencePiece, &["▁Hello".as_bytes()]);
    let mut detokenizer = Detokenizer::new(tokenizer, true);
    for _ in 0..3 {
        assert_eq!(detokenizer.push(0).unwrap() + &detokenizer.flush().unwrap(), "Hello");
    }
}

#[test]
fn errors_of_the_tokenizer_come_back() {
    struct Broken;
    impl Tokenizer for Broken {
        fn encode(&self, _: &str, _: bool) -> Result<Vec<u32>> {
            Err(Error::Tokenizer("no".into()))
        }
        fn decode(&self, _: &[u32], _: bool) -> Result<String> {
            Err(Error::Tokenizer("no".into()))
        }
        fn eos(&self) -> &[u32] {
            &[]
        }
    }
    let mut detokenizer = Detokenizer::new(Arc::new(Broken), true);
    assert!(matches!(detokenizer.push(0), Err(Error::Tokenizer(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_give_the_text_of_all_at_once(
        ids in prop::collection::vec(0u32..26, 0..200),
        skip in any::<bool>(),
    ) {
        let tokenizer = bytes();
        prop_assert_eq!(pieces(&tokenizer, &ids, skip).concat(), tokenizer.decode(&ids, skip).unwrap());
    }

    #[test]
    fn long_runs_of_one_kind_give_the_text_of_all_at_once(
        runs in prop::collection::vec((0u32..26, 1usize..120), 0..6),
    ) {
        let tokenizer = bytes();
        let ids: Vec<u32> = runs.into_iter().flat_map(|(id, n)| vec![id; n]).collect();
        prop_assert_eq!(pieces(&tokenizer, &ids, true).concat(), tokenizer.decode(&ids, true).unwrap());
    }

    #[test]
    fn pieces_and_bytes_give_the_text_of_all_at_once(
        runs in prop::collection::vec((0usize..15, prop_oneof![9 => 1usize..3, 1 => 1usize..40]), 0..60),
        skip in any::<bool>(),
    ) {
        let (tokenizer, units) = sentence_piece();
        let ids: Vec<u32> = runs.into_iter().flat_map(|(unit, n)| units[unit].repeat(n)).collect();
        prop_assert_eq!(pieces(&tokenizer, &ids, skip).concat(), tokenizer.decode(&ids, skip).unwrap());
    }

    #[test]
    fn cleaned_up_text_is_the_text_of_all_at_once(ids in prop::collection::vec(0u32..14, 0..120)) {
        let words: &[&[u8]] =
            &[b"a", b" .", b" ", b"do", b" n", b"'t", b" it", b" 's", b"'", b"ve", b".", "é".as_bytes(), b" ?", b"n"];
        let tokenizer = tokenizer(Kind::CleansUp, words);
        prop_assert_eq!(pieces(&tokenizer, &ids, true).concat(), tokenizer.decode(&ids, true).unwrap());
    }
}
