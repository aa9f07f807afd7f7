//! The parser of outputs.

use super::{
    CallFormat, ToolCall, ToolSpec,
    cursor::{Cursor, Fault, Read},
    format::{Act, Found, Marker, Reader, Section},
};
use crate::text::begun;

/// A part of an output.
#[derive(Clone, Debug, PartialEq)]
pub enum OutputEvent {
    /// What is meant to be read.
    Text(String),
    /// What the model thinks before.
    Reasoning(String),
    /// A tool to call.
    ToolCall(ToolCall),
    /// What began as a call and could not be read as one.
    Rejected {
        /// All of it.
        raw: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Texts around reasoning, such as `<think>` and `</think>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReasoningMarkers {
    /// Begins it.
    pub open: String,
    /// Ends it.
    pub close: String,
    /// Whether the prompt has begun it already.
    pub is_open: bool,
}

/// Takes an output apart as it arrives. How it is cut into pieces changes nothing but how text is cut.
pub struct OutputParser {
    format: Option<&'static CallFormat>,
    tools: Vec<ToolSpec>,
    reasoning: Option<ReasoningMarkers>,
    section: Section,
    /// Whether nothing but space has come yet, where some formats have calls without a marker.
    is_start: bool,
    /// What is not decided yet.
    held: String,
}

/// What the held text says.
enum Next {
    /// Not enough.
    Wait,
    /// So many bytes are of the section.
    Content(usize),
    /// So many bytes are a marker that says no more than this.
    Marker(usize, Section),
    Calls(usize, Vec<ToolCall>),
    Rejected(usize, String),
}

impl OutputParser {
    /// For a model with this format, or without tools. The schemas of `tools` give arguments their types where a format has none.
    pub fn new(format: Option<&'static CallFormat>, tools: Vec<ToolSpec>) -> OutputParser {
        OutputParser {
            format,
            tools,
            reasoning: None,
            section: Section::Text,
            is_start: true,
            held: String::new(),
        }
    }

    /// The same, with reasoning apart.
    pub fn with_reasoning(mut self, markers: ReasoningMarkers) -> OutputParser {
        if markers.is_open {
            self.section = Section::Reasoning;
        }
        self.reasoning = Some(markers);
        self
    }

    /// Takes the next piece.
    pub fn push(&mut self, text: &str) -> Vec<OutputEvent> {
        self.held.push_str(text);
        self.advance(false)
    }

    /// What is left when no more will come. Unfinished calls are rejected.
    pub fn finish(&mut self) -> Vec<OutputEvent> {
        self.advance(true)
    }

    fn advance(&mut self, ended: bool) -> Vec<OutputEvent> {
        let mut events = Vec::new();
        while !self.held.is_empty() {
            match self.next(ended) {
                Next::Wait => break,
                Next::Content(length) => {
                    let text: String = self.held.drain(..length).collect();
                    self.is_start &= text.trim().is_empty();
                    events.push(match self.section {
                        Section::Text => OutputEvent::Text(text),
                        Section::Reasoning => OutputEvent::Reasoning(text),
                    });
                }
                Next::Marker(length, section) => {
                    self.held.drain(..length);
                    self.section = section;
                }
                Next::Calls(length, calls) => {
                    self.held.drain(..length);
                    events.extend(calls.into_iter().map(OutputEvent::ToolCall));
                }
                Next::Rejected(length, why) => {
                    self.is_start = false;
                    events.push(OutputEvent::Rejected { raw: self.held.drain(..length).collect(), why });
                }
            }
        }
        events
    }

    fn next(&self, ended: bool) -> Next {
        if let Some(next) = self.bare(ended) {
            return next;
        }
        let markers = self.markers();
        let found = markers.iter().filter_map(|marker| Some((self.held.find(marker.tag)?, marker)));
        // The first; of those that begin together, the longest.
        match found.min_by_key(|(at, marker)| (*at, std::cmp::Reverse(marker.tag.len()))) {
            Some((0, marker)) => self.at_marker(marker, ended),
            Some((at, _)) => Next::Content(at),
            None if ended => Next::Content(self.held.len()),
            None => {
                let undecided = markers.iter().map(|m| begun(&self.held, m.tag)).max().unwrap_or(0);
                match self.held.len() - undecided {
                    0 => Next::Wait,
                    certain => Next::Content(certain),
                }
            }
        }
    }

    /// The markers that mean something now.
    fn markers(&self) -> Vec<Marker<'_>> {
        let format = self.format.iter().flat_map(|format| format.markers.iter().cloned());
        match (self.section, &self.reasoning) {
            (Section::Text, Some(r)) => {
                let open = Marker { tag: &r.open, act: Act::Enter(Section::Reasoning) };
                format.chain([open]).collect()
            }
            (Section::Reasoning, Some(r)) => vec![Marker { tag: &r.close, act: Act::Enter(Section::Text) }],
            // Reasoning that the format itself tells of.
            (_, None) => format.collect(),
        }
    }

    fn at_marker(&self, marker: &Marker<'_>, ended: bool) -> Next {
        let after = marker.tag.len();
        let (read, close) = match &marker.act {
            Act::Silent => return Next::Marker(after, self.section),
            Act::Enter(section) => return Next::Marker(after, *section),
            Act::Call { read, close } => (read, *close),
        };
        let all = self.held.len();
        let body = &self.held[after..];
        let mut cursor = Cursor::new(body);
        match read(&mut cursor, &self.tools).and_then(|found| closed(found, &mut cursor, close, ended)) {
            Ok(Found::Calls(calls)) => return Next::Calls(all - cursor.rest.len(), calls),
            Ok(Found::Section(section)) => return Next::Marker(all - cursor.rest.len(), section),
            Err(Fault::Unfinished) if !ended && !close.is_certain_in(body) => return Next::Wait,
            Err(_) => {}
        }
        // What cannot be read ends where it is closed, or else with the text.
        let Some((at, tag)) = close.tag().and_then(|tag| Some((body.find(tag)?, tag))) else {
            return if ended { Next::Rejected(all, self.why(read, body)) } else { Next::Wait };
        };
        Next::Rejected(after + at + tag.len(), self.why(read, &body[..at]))
    }

    /// What is wrong with a call, which depends on nothing that follows it.
    fn why(&self, read: &Reader, body: &str) -> String {
        let mut cursor = Cursor::new(body);
        match read(&mut cursor, &self.tools).and_then(|_| cursor.end()) {
            Err(Fault::Malformed(why)) => why,
            _ => "it is not finished".into(),
        }
    }

    /// A call without a marker at the start of the output; what is none is text.
    fn bare(&self, ended: bool) -> Option<Next> {
        let bare = self.format?.bare.filter(|_| self.is_start && self.section == Section::Text)?;
        let mut cursor = Cursor::new(&self.held);
        cursor.skip_space();
        if cursor.rest.is_empty() {
            return (!ended).then_some(Next::Wait);
        }
        match bare(&mut cursor, &self.tools) {
            Ok(Found::Calls(calls)) => Some(Next::Calls(self.held.len() - cursor.rest.len(), calls)),
            Err(Fault::Unfinished) if !ended => Some(Next::Wait),
            Err(Fault::Unfinished) => Some(Next::Rejected(self.held.len(), "it is not finished".into())),
            Ok(Found::Section(_)) | Err(Fault::Malformed(_)) => None,
        }
    }
}

/// How a call ends.
#[derive(Clone, Copy)]
pub(super) enum Close {
    /// By what it consists of.
    Itself,
    /// With this, or with the text, if it is whole by then.
    Perhaps(&'static str),
    /// With this.
    Always(&'static str),
}

impl Close {
    fn tag(self) -> Option<&'static str> {
        match self {
            Close::Itself => None,
            Close::Perhaps(tag) | Close::Always(tag) => Some(tag),
        }
    }

    /// Whether it is in the text for certain: a tag with a bar is a token of its own, which no argument contains.
    fn is_certain_in(self, text: &str) -> bool {
        self.tag().is_some_and(|tag| tag.contains(['|', '｜']) && text.contains(tag))
    }
}

fn closed(found: Found, cursor: &mut Cursor<'_>, close: Close, ended: bool) -> Read<Found> {
    let Some(tag) = close.tag() else { return Ok(found) };
    let mut after = cursor.clone();
    after.skip_space();
    match after.expect(tag) {
        // A model's last token may be the one that closes, which is not text.
        Err(Fault::Unfinished) if ended && after.rest.is_empty() && matches!(close, Close::Perhaps(_)) => {}
        outcome => outcome?,
    }
    *cursor = after;
    Ok(found)
}
