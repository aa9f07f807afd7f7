//! Any text as what a model writes, in any pieces: no panic, and the same events as in one piece.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mlx_lm_common::tool::{CallFormat, OutputEvent, OutputParser};

/// The events with neighbouring texts as one.
fn events(format: &'static CallFormat, pieces: &[&str]) -> Vec<OutputEvent> {
    let mut parser = OutputParser::new(Some(format), Vec::new());
    let mut all: Vec<OutputEvent> = Vec::new();
    let mut found: Vec<_> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    found.extend(parser.finish());
    for event in found {
        match (all.last_mut(), event) {
            (Some(OutputEvent::Text(text)), OutputEvent::Text(more))
            | (Some(OutputEvent::Reasoning(text)), OutputEvent::Reasoning(more)) => text.push_str(&more),
            (_, event) => all.push(event),
        }
    }
    all
}

fuzz_target!(|input: (u8, &str)| {
    let (seed, text) = input;
    let format = CallFormat::all().nth(usize::from(seed) % CallFormat::all().count()).unwrap();
    let mut characters = [0; 4];
    let pieces: Vec<String> = text.chars().map(|c| c.encode_utf8(&mut characters).to_string()).collect();
    let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
    assert_eq!(events(format, &pieces), events(format, &[text]), "{format:?}");
});
