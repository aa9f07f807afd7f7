//! Calls in the words of every family, after what their chat templates write: read whole, cut at every character, cut short, broken.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod tool;

use mlx_lm_common::tool::{CallFormat, OutputEvent, OutputParser, ReasoningMarkers, ToolCall, ToolSpec};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tool::{Call, arguments, ways};

/// Calls with these arguments, and the tools that they call.
fn calls(all: &[&Value]) -> (Vec<Call>, Vec<ToolSpec>) {
    let kind = |value: &Value| match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let names = ["get_weather", "search-web", "do_it2"];
    let mut written = Vec::new();
    let mut tools = Vec::new();
    for (arguments, name) in all.iter().zip(names) {
        let arguments = arguments.as_object().unwrap();
        let properties: Map<String, Value> =
            arguments.iter().map(|(k, v)| (k.clone(), json!({ "type": kind(v) }))).collect();
        written.push((name.to_string(), arguments.clone()));
        let parameters = json!({ "type": "object", "properties": properties });
        tools.push(ToolSpec { name: name.into(), parameters, ..Default::default() });
    }
    (written, tools)
}

/// The events with neighbouring texts as one.
fn joined(events: Vec<OutputEvent>) -> Vec<OutputEvent> {
    let mut all: Vec<OutputEvent> = Vec::new();
    for event in events {
        match (all.last_mut(), event) {
            (Some(OutputEvent::Text(text)), OutputEvent::Text(more)) => *text += &more,
            (Some(OutputEvent::Reasoning(text)), OutputEvent::Reasoning(more)) => *text += &more,
            (_, event) => all.push(event),
        }
    }
    all
}

fn parse(parser: &mut OutputParser, pieces: &[&str]) -> Vec<OutputEvent> {
    let mut events: Vec<_> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    events.extend(parser.finish());
    joined(events)
}

/// The same events however the text is cut.
fn checked(text: &str, new: &dyn Fn() -> OutputParser) -> Vec<OutputEvent> {
    let whole = parse(&mut new(), &[text]);
    for (at, _) in text.char_indices() {
        let (a, b) = text.split_at(at);
        assert_eq!(parse(&mut new(), &[a, b]), whole, "{a:?} then {b:?}");
    }
    let characters: Vec<String> = text.chars().map(String::from).collect();
    let characters: Vec<&str> = characters.iter().map(String::as_str).collect();
    assert_eq!(parse(&mut new(), &characters), whole, "character by character: {text:?}");
    whole
}

fn named(format: &str) -> Option<&'static CallFormat> {
    Some(CallFormat::named(format).unwrap_or_else(|| panic!("no format {format}")))
}

/// The calls among events, without ids.
fn found(events: &[OutputEvent]) -> Vec<Call> {
    let call = |event: &OutputEvent| match event {
        OutputEvent::ToolCall(ToolCall { name, arguments, .. }) => Some((name.clone(), arguments.clone())),
        _ => None,
    };
    events.iter().filter_map(call).collect()
}

#[test]
fn calls_are_read_wherever_the_text_is_cut() {
    let all = arguments();
    for way in ways() {
        for (i, one) in all.iter().enumerate() {
            let other = &all[(i * 7 + 3) % all.len()];
            for arguments in [vec![one], vec![one, other]] {
                let (wanted, tools) = calls(&arguments);
                let block = (way.write)(&wanted);
                if way.never.iter().any(|text| json!(arguments).to_string().contains(text)) {
                    continue;
                }
                let before = if way.before { "I shall look. 1 < 2.\n" } else { "" };
                let text = format!("{before}{block}");
                let events = checked(&text, &|| OutputParser::new(named(way.format), tools.clone()));
                assert_eq!(found(&events), wanted, "{}: {text:?}: {events:?}", way.format);
                let texts = events.iter().filter(|event| matches!(event, OutputEvent::Text(_)));
                let texts: Vec<_> =
                    texts.filter(|e| **e != OutputEvent::Text("\n".into())).cloned().collect();
                let expected: Vec<_> =
                    way.before.then(|| OutputEvent::Text(before.into())).into_iter().collect();
                assert_eq!(texts, expected, "{}: {text:?}", way.format);
            }
        }
    }
}

#[test]
fn what_is_cut_short_is_rejected_and_never_half_a_call() {
    let all = arguments();
    for way in ways() {
        for one in &all {
            let (wanted, tools) = calls(&[one, &all[1]]);
            let block = (way.write)(&wanted);
            for (at, _) in block.char_indices() {
                let events = parse(&mut OutputParser::new(named(way.format), tools.clone()), &[&block[..at]]);
                let calls = found(&events);
                assert!(wanted.starts_with(&calls), "{} read {calls:?} of {:?}", way.format, &block[..at]);
            }
        }
    }
}

#[test]
fn text_between_and_after_calls_keeps_its_place() {
    let call = |city: &str| {
        format!("<tool_call>{}</tool_call>", json!({ "name": "f", "arguments": { "city": city } }))
    };
    let text = format!("a{}b{}c <tool_c d", call("x"), call("y"));
    let events = checked(&text, &|| OutputParser::new(named("json"), Vec::new()));
    let is_text = |event: &OutputEvent, wanted: &str| *event == OutputEvent::Text(wanted.into());
    assert_eq!(events.len(), 5, "{events:?}");
    assert!(is_text(&events[0], "a") && is_text(&events[2], "b") && is_text(&events[4], "c <tool_c d"));
}

#[test]
fn broken_calls_are_rejected_and_what_follows_is_read() {
    let good = "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";
    for bad in [
        "<tool_call>no call</tool_call>",
        "<tool_call></tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}</tool_call>",
        "<tool_call>{\"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": 7}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": \"{oops\"}</tool_call>",
        "<tool_call>{name: \"f\"}</tool_call>",
        "<tool_call><function=></function></tool_call>",
        "<tool_call><function=f><parameter=a>1</function></tool_call>x</parameter>?</tool_call>",
        "<tool_call><function=f>stray</function></tool_call>",
    ] {
        let events = checked(&format!("{bad}{good}"), &|| OutputParser::new(named("json"), Vec::new()));
        let raw: String = events
            .iter()
            .map(|event| match event {
                OutputEvent::Rejected { raw, .. } => raw.as_str(),
                OutputEvent::Text(text) => text,
                _ => "",
            })
            .collect();
        assert!(
            matches!(&events[0], OutputEvent::Rejected { why, .. } if !why.is_empty()),
            "{bad}: {events:?}"
        );
        // Nothing is lost: what is no call is there.
        let all = format!("{bad}{good}");
        assert!(raw == bad || raw == all, "{bad}: {events:?}");
    }
    for (format, bad) in [
        ("kimi_k2", "<|tool_call_begin|>functions.f:0{}<|tool_call_end|>"),
        ("deepseek_v3", "<｜tool▁call▁begin｜>f{}<｜tool▁call▁end｜>"),
        ("lfm2", "<|tool_call_start|>[f(a=)]<|tool_call_end|>"),
        ("lfm2", "<|tool_call_start|>[f(a='x]<|tool_call_end|>"),
        ("gemma4", "<|tool_call>call:f{a:oops}<tool_call|>"),
        ("gemma", "<start_function_call>f{}<end_function_call>"),
        ("minimax_m2", "<minimax:tool_call>hello</minimax:tool_call>"),
        ("glm4", "<tool_call>two words<arg_key>a</arg_key></tool_call>"),
        ("command_r7b", "<|START_ACTION|>[{\"tool\": 1}]<|END_ACTION|>"),
    ] {
        let events = checked(&format!("{bad}after"), &|| OutputParser::new(named(format), Vec::new()));
        let [OutputEvent::Rejected { raw, .. }, OutputEvent::Text(after)] = &events[..] else {
            panic!("{format}: {events:?}")
        };
        assert_eq!((raw.as_str(), after.as_str()), (bad, "after"), "{format}");
    }
}

#[test]
fn reasoning_is_apart_from_text() {
    let new = |is_open| {
        let markers = ReasoningMarkers { open: "<think>".into(), close: "</think>".into(), is_open };
        OutputParser::new(named("json"), Vec::new()).with_reasoning(markers)
    };
    let call = "<tool_call>{\"name\": \"f\"}</tool_call>";
    let reasoning = || OutputEvent::Reasoning("a <tool_call> b".into());
    for (text, is_open) in [
        (format!("<think>a <tool_call> b</think>so{call}"), false),
        (format!("a <tool_call> b</think>so{call}"), true),
    ] {
        let events = checked(&text, &|| new(is_open));
        assert_eq!(events[..2], [reasoning(), OutputEvent::Text("so".into())]);
        assert_eq!(found(&events), [("f".to_string(), Map::new())]);
    }
    let events = checked("<think>never ends", &|| new(false));
    assert_eq!(events, [OutputEvent::Reasoning("never ends".into())]);
}

#[test]
fn channels_of_harmony_are_told_apart() {
    let text = "<|channel|>analysis<|message|>The user wants it.<|end|><|start|>assistant<|channel|>commentary<|message|>Let me \
                look.<|end|><|start|>assistant to=functions.f<|channel|>commentary <|constrain|>json<|message|>{\"a\":1}<|call|>\
                <|start|>assistant<|channel|>final<|message|>Done.<|return|>";
    let events = checked(text, &|| OutputParser::new(named("harmony"), Vec::new()));
    let wanted = [
        OutputEvent::Reasoning("The user wants it.".into()),
        OutputEvent::Text("Let me look.".into()),
        OutputEvent::ToolCall(ToolCall {
            id: None,
            name: "f".into(),
            arguments: json!({ "a": 1 }).as_object().unwrap().clone(),
        }),
        OutputEvent::Text("Done.".into()),
    ];
    assert_eq!(events, wanted);
}

#[test]
fn ids_are_kept() {
    let id = |format: &str, text: &str| {
        let events = parse(&mut OutputParser::new(named(format), Vec::new()), &[text]);
        let [OutputEvent::ToolCall(call)] = &events[..] else { panic!("{events:?}") };
        call.id.clone()
    };
    assert_eq!(id("mistral", "[TOOL_CALLS]f[CALL_ID]abc123[ARGS]{}"), Some("abc123".into()));
    assert_eq!(
        id("mistral", "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {}, \"id\": \"x\"}]"),
        Some("x".into())
    );
    let kimi = "<|tool_call_begin|>functions.f:3<|tool_call_argument_begin|>{}<|tool_call_end|>";
    assert_eq!(id("kimi_k2", kimi), Some("functions.f:3".into()));
}

#[test]
fn json_that_is_no_call_is_text_in_llama() {
    for text in ["{\"answer\": 42}", "{hello}", "[1, 2]", "plain", "{\"name\": \"f\"", "  "] {
        let events = checked(text, &|| OutputParser::new(named("llama3"), Vec::new()));
        let is_kept = match &events[..] {
            [OutputEvent::Text(kept)] | [OutputEvent::Rejected { raw: kept, .. }] => kept == text,
            _ => false,
        };
        assert!(is_kept, "{text}: {events:?}");
    }
}

#[test]
fn formats_are_found_by_templates_and_types() {
    let of_model = |name| CallFormat::of_model(name).map(CallFormat::name);
    for (model, wanted) in [
        ("qwen3", Some("json")),
        ("qwen3_next", Some("xml_function")),
        ("qwen3_5_moe", Some("xml_function")),
        ("gemma4_text", Some("gemma4")),
        ("gemma3_text", Some("gemma")),
        ("kimi_k2", Some("kimi_k2")),
        ("glm4_moe", Some("glm4")),
        ("gpt_oss", Some("harmony")),
        ("cohere2", Some("command_r7b")),
        ("phi3", None),
    ] {
        assert_eq!(of_model(model), wanted, "{model}");
    }
    let names: Vec<_> = CallFormat::all().map(CallFormat::name).collect();
    assert!(names.iter().all(|name| CallFormat::named(name).is_some_and(|format| format.name() == *name)));
    assert_eq!(CallFormat::of_template("{{ '<tool_call>' }}").map(CallFormat::name), Some("json"));
    assert_eq!(
        CallFormat::of_template("<tool_call><function=x>").map(CallFormat::name),
        Some("xml_function")
    );
    assert!(CallFormat::of_template("{{ messages }}").is_none());
}

/// Pieces of everything that any format looks for.
const PIECES: [&str; 48] = [
    "<tool_call>",
    "</tool_call>",
    "<function=f>",
    "</function>",
    "<parameter=a>",
    "</parameter>",
    "{",
    "}",
    "[",
    "]",
    "\"name\"",
    "\"f\"",
    ":",
    ",",
    "\"arguments\"",
    "\"",
    "'",
    "\\",
    "<|tool_call_begin|>",
    "<|tool_call_end|>",
    "<|tool_call_argument_begin|>",
    "functions.f:0",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁sep｜>",
    "```json",
    "```",
    "<|tool_call>",
    "<tool_call|>",
    "call:f",
    "<|\"|>",
    "<escape>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "<|channel|>",
    "<|message|>",
    "commentary",
    "to=functions.f",
    "<|call|>",
    "<|start|>",
    "<|end|>",
    "<arg_key>",
    "</arg_key>",
    "<arg_value>",
    "</arg_value>",
    "f(a=1)",
    " ",
    "é",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn any_text_in_any_pieces_gives_the_same(
        picks in prop::collection::vec(0..PIECES.len(), 0..24),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let text: String = picks.iter().map(|i| PIECES[*i]).collect();
        let borders: Vec<usize> = text.char_indices().map(|(i, _)| i).collect();
        let mut cuts: Vec<usize> =
            cuts.iter().filter(|_| !borders.is_empty()).map(|cut| borders[cut.index(borders.len())]).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&str> = cuts.windows(2).map(|w| &text[w[0]..w[1]]).collect();
        for format in CallFormat::all() {
            let new = || OutputParser::new(Some(format), Vec::new());
            let whole = parse(&mut new(), &[&text]);
            prop_assert_eq!(&parse(&mut new(), &pieces), &whole, "{:?} {:?}", format, pieces);
        }
    }
}
