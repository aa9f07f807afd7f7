//! What chat templates write of calls.

use serde_json::{Map, Value, json};

/// The name of a tool, and arguments.
pub(crate) type Call = (String, Map<String, Value>);
/// What a template makes of calls.
pub(crate) type Writer = fn(&[Call]) -> String;

/// Arguments that are hard to read, and the simple ones.
pub(crate) fn arguments() -> Vec<Value> {
    vec![
        json!({}),
        json!({ "city": "Paris" }),
        json!({ "city": "São Paulo", "unit": "°C" }),
        json!({ "n": 3 }),
        json!({ "n": -7, "x": 0.25 }),
        json!({ "x": 1e21 }),
        json!({ "n": 9007199254740993i64 }),
        json!({ "yes": true, "no": false }),
        json!({ "nothing": null }),
        json!({ "text": "" }),
        json!({ "text": "  spaces around  " }),
        json!({ "text": "two\nlines" }),
        json!({ "text": "\nlines around\n" }),
        json!({ "text": "a \"quoted\" word" }),
        json!({ "text": "it's" }),
        json!({ "text": "both ' and \"" }),
        json!({ "text": "back\\slash and \\n that is none" }),
        json!({ "text": "{braces} and }{" }),
        json!({ "text": "[brackets], (parentheses)), commas," }),
        json!({ "text": "a < b > c & d" }),
        json!({ "text": "</tool_call> is text here" }),
        json!({ "text": "</parameter> alone" }),
        json!({ "text": "key=value; a: b" }),
        json!({ "text": "日本語 🦀 é" }),
        json!({ "text": "12" }),
        json!({ "text": "true" }),
        json!({ "text": "{\"json\": [1, 2]}" }),
        json!({ "text": "```json\n{}\n```" }),
        json!({ "list": [] }),
        json!({ "list": [1, 2, 3] }),
        json!({ "list": ["a", "b, c", "d]"] }),
        json!({ "list": [[1, [2]], { "deep": [true, null] }] }),
        json!({ "map": {} }),
        json!({ "map": { "a": { "b": { "c": "d}" } } } }),
        json!({ "path": "/tmp/a b.txt", "code": "fn main() {\n    println!(\"{}\", 'x');\n}\n" }),
        json!({ "first": "1", "second": 2, "third": [3], "fourth": { "five": 5 } }),
    ]
}

/// What a template writes of several calls, and whether text may follow them.
pub(crate) struct Way {
    pub(crate) format: &'static str,
    pub(crate) write: Writer,
    /// Whether text may come before.
    pub(crate) before: bool,
    /// What no string may have in it here.
    pub(crate) never: &'static [&'static str],
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}

fn each(calls: &[Call], write: impl Fn(&str, &Map<String, Value>) -> String) -> Vec<String> {
    calls.iter().map(|(name, arguments)| write(name, arguments)).collect()
}

fn python(value: &Value) -> String {
    match value {
        Value::Null => "None".into(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        Value::Number(n) => n.to_string(),
        Value::String(s) => {
            let quote = if s.contains('\'') && !s.contains('"') { '"' } else { '\'' };
            let mut text = s.replace('\\', "\\\\").replace('\n', "\\n");
            if quote == '\'' {
                text = text.replace('\'', "\\'");
            }
            format!("{quote}{text}{quote}")
        }
        Value::Array(all) => format!("[{}]", all.iter().map(python).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let items = map.iter().map(|(k, v)| format!("{}: {}", python(&json!(k)), python(v)));
            format!("{{{}}}", items.collect::<Vec<_>>().join(", "))
        }
    }
}

fn gemma(value: &Value, mark: &str) -> String {
    match value {
        Value::String(s) => format!("{mark}{s}{mark}"),
        Value::Array(all) => {
            format!("[{}]", all.iter().map(|v| gemma(v, mark)).collect::<Vec<_>>().join(","))
        }
        Value::Object(map) => {
            let items = map.iter().map(|(k, v)| format!("{k}:{}", gemma(v, mark)));
            format!("{{{}}}", items.collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

/// Calls as a list of JSON.
fn list(calls: &[Call]) -> Value {
    calls.iter().map(|(name, arguments)| json!({ "name": name, "arguments": arguments })).collect()
}

pub(crate) fn ways() -> Vec<Way> {
    fn way(format: &'static str, write: Writer) -> Way {
        Way { format, write, before: true, never: &[] }
    }
    vec![
        way("json", |calls| {
            each(calls, |name, arguments| {
                format!("<tool_call>\n{}\n</tool_call>", json!({ "name": name, "arguments": arguments }))
            })
            .join("\n")
        }),
        way("json", |calls| format!("<TOOLCALL>{}</TOOLCALL>", list(calls))),
        Way {
            before: false,
            ..way("llama3", |calls| {
                each(calls, |name, arguments| json!({ "name": name, "parameters": arguments }).to_string())
                    .join("; ")
            })
        },
        way("llama3", |calls| {
            each(calls, |name, arguments| {
                format!("<|python_tag|>{}", json!({ "name": name, "parameters": arguments }))
            })
            .concat()
        }),
        way("lfm2", |calls| {
            let calls = each(calls, |name, arguments| {
                let items = arguments.iter().map(|(k, v)| format!("{k}={}", python(v)));
                format!("{name}({})", items.collect::<Vec<_>>().join(", "))
            });
            format!("<|tool_call_start|>[{}]<|tool_call_end|>", calls.join(", "))
        }),
        way("xml_function", |calls| {
            each(calls, |name, arguments| {
                let items =
                    arguments.iter().map(|(k, v)| format!("<parameter={k}>\n{}\n</parameter>\n", text_of(v)));
                format!(
                    "<tool_call>\n<function={name}>\n{}</function>\n</tool_call>",
                    items.collect::<String>()
                )
            })
            .join("\n")
        }),
        way("glm4", |calls| {
            each(calls, |name, arguments| {
                let item = |(k, v): (&String, &Value)| {
                    format!("<arg_key>{k}</arg_key>\n<arg_value>{}</arg_value>\n", text_of(v))
                };
                format!("<tool_call>{name}\n{}</tool_call>", arguments.iter().map(item).collect::<String>())
            })
            .join("\n")
        }),
        way("gemma4", |calls| {
            each(calls, |name, arguments| {
                format!("<|tool_call>call:{name}{}<tool_call|>", gemma(&json!(arguments), "<|\"|>"))
            })
            .concat()
        }),
        way("gemma", |calls| {
            each(calls, |name, arguments| {
                let arguments = gemma(&json!(arguments), "<escape>");
                format!("<start_function_call>call:{name}{arguments}<end_function_call>")
            })
            .concat()
        }),
        way("kimi_k2", |calls| {
            let mut text = "<|tool_calls_section_begin|>".to_string();
            for (n, (name, arguments)) in calls.iter().enumerate() {
                text += &format!(
                    "<|tool_call_begin|>functions.{name}:{n}<|tool_call_argument_begin|>{}<|tool_call_end|>",
                    json!(arguments)
                );
            }
            text + "<|tool_calls_section_end|>"
        }),
        way("minimax_m2", |calls| {
            let calls = each(calls, |name, arguments| {
                let items = arguments
                    .iter()
                    .map(|(k, v)| format!("<parameter name=\"{k}\">{}</parameter>\n", framed(v)));
                format!("<invoke name=\"{name}\">\n{}</invoke>\n", items.collect::<String>())
            });
            format!("<minimax:tool_call>\n{}</minimax:tool_call>", calls.concat())
        }),
        way("mistral", |calls| format!("[TOOL_CALLS]{}", list(calls))),
        way("mistral", |calls| {
            each(calls, |name, arguments| format!("[TOOL_CALLS]{name}[ARGS]{}", json!(arguments))).concat()
        }),
        way("deepseek_v3", |calls| {
            let calls = each(calls, |name, arguments| {
                let arguments = json!(arguments);
                format!(
                    "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{arguments}\n```<｜tool▁call▁end｜>"
                )
            });
            format!("<｜tool▁calls▁begin｜>{}<｜tool▁calls▁end｜>", calls.concat())
        }),
        way("deepseek_v3", |calls| {
            let calls = each(calls, |name, arguments| {
                format!("<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{}<｜tool▁call▁end｜>", json!(arguments))
            });
            format!("<｜tool▁calls▁begin｜>{}<｜tool▁calls▁end｜>", calls.concat())
        }),
        Way {
            before: false,
            ..way("harmony", |calls| {
                each(calls, |name, arguments| {
                    let arguments = json!(arguments);
                    format!("<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{arguments}<|call|>")
                })
                .join("<|start|>assistant")
            })
        },
        way("granite", |calls| format!("<|tool_call|>{}", list(calls))),
        Way {
            never: &["```"],
            ..way("command_r", |calls| {
                let calls: Vec<Value> = calls
                    .iter()
                    .map(|(name, arguments)| json!({ "tool_name": name, "parameters": arguments }))
                    .collect();
                format!("Action: ```json\n{}\n```", serde_json::to_string_pretty(&calls).unwrap())
            })
        },
        way("command_r7b", |calls| {
            let call = |(n, (name, arguments)): (usize, &Call)| json!({ "tool_call_id": n.to_string(), "tool_name": name, "parameters": arguments });
            let calls: Vec<Value> = calls.iter().enumerate().map(call).collect();
            format!("<|START_ACTION|>{}<|END_ACTION|>", json!(calls))
        }),
    ]
}

/// One line break at either end of what is between tags belongs to them: a text that has its own gets another.
fn framed(value: &Value) -> String {
    let text = text_of(value);
    if text.starts_with('\n') || text.ends_with('\n') { format!("\n{text}\n") } else { text }
}
