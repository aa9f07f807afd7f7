//! The ways in which families of models write calls.

mod code;
mod harmony;
mod json;
mod tagged;

use super::{
    ToolCall, ToolSpec,
    cursor::{Cursor, Read},
    output::Close,
};

/// What a part of an output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Text,
    Reasoning,
}

/// What a reader finds.
pub(super) enum Found {
    Calls(Vec<ToolCall>),
    Section(Section),
}

/// Reads what follows a marker.
pub(super) type Reader = fn(&mut Cursor<'_>, &[ToolSpec]) -> Read<Found>;

/// What a marker does.
#[derive(Clone)]
pub(super) enum Act {
    /// It is left out.
    Silent,
    /// What follows is of this kind.
    Enter(Section),
    /// What follows is read.
    Call { read: Reader, close: Close },
}

/// A text that is not content.
#[derive(Clone)]
pub(super) struct Marker<'a> {
    pub(super) tag: &'a str,
    pub(super) act: Act,
}

/// How a family of models writes calls of tools.
pub struct CallFormat {
    name: &'static str,
    pub(super) markers: &'static [Marker<'static>],
    /// Reads calls at the start of an output that no marker begins.
    pub(super) bare: Option<Reader>,
    /// Texts in chat templates that tell of it.
    signs: &'static [&'static str],
    /// Beginnings of model types that have it.
    models: &'static [&'static str],
}

impl std::fmt::Debug for CallFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("CallFormat").field(&self.name).finish()
    }
}

const fn silent(tag: &'static str) -> Marker<'static> {
    Marker { tag, act: Act::Silent }
}

const fn call(tag: &'static str, read: Reader, close: Close) -> Marker<'static> {
    Marker { tag, act: Act::Call { read, close } }
}

const fn format(name: &'static str, markers: &'static [Marker<'static>]) -> CallFormat {
    CallFormat { name, markers, bare: None, signs: &[], models: &[] }
}

/// Every format, those first whose signs are found in fewer templates.
const FORMATS: &[CallFormat] = &[
    CallFormat {
        signs: &["<|channel|>"],
        models: &["gpt_oss"],
        ..format(
            "harmony",
            &[
                call("<|start|>", harmony::message, Close::Itself),
                call("<|channel|>", harmony::message, Close::Itself),
                Marker { tag: "<|end|>", act: Act::Enter(Section::Text) },
                Marker { tag: "<|return|>", act: Act::Enter(Section::Text) },
                Marker { tag: "<|call|>", act: Act::Enter(Section::Text) },
            ],
        )
    },
    CallFormat {
        signs: &["<|tool_calls_section_begin|>"],
        models: &["kimi"],
        ..format(
            "kimi_k2",
            &[
                silent("<|tool_calls_section_begin|>"),
                call("<|tool_call_begin|>", tagged::kimi, Close::Perhaps("<|tool_call_end|>")),
                silent("<|tool_calls_section_end|>"),
            ],
        )
    },
    CallFormat {
        signs: &["<｜tool▁calls▁begin｜>"],
        models: &["deepseek_v3"],
        ..format(
            "deepseek_v3",
            &[
                silent("<｜tool▁calls▁begin｜>"),
                call("<｜tool▁call▁begin｜>", tagged::deepseek, Close::Perhaps("<｜tool▁call▁end｜>")),
                silent("<｜tool▁calls▁end｜>"),
            ],
        )
    },
    CallFormat {
        signs: &["<minimax:tool_call>"],
        models: &["minimax"],
        ..format(
            "minimax_m2",
            &[call("<minimax:tool_call>", tagged::invoke, Close::Perhaps("</minimax:tool_call>"))],
        )
    },
    CallFormat {
        signs: &["<|tool_call_start|>", "<|tool_list_start|>"],
        models: &["lfm2"],
        ..format("lfm2", &[call("<|tool_call_start|>", code::python, Close::Perhaps("<|tool_call_end|>"))])
    },
    CallFormat {
        signs: &["<|tool_call>"],
        models: &["gemma4"],
        ..format("gemma4", &[call("<|tool_call>", code::gemma4, Close::Perhaps("<tool_call|>"))])
    },
    CallFormat {
        signs: &["<start_function_call>"],
        models: &["gemma3", "gemma"],
        ..format(
            "gemma",
            &[call("<start_function_call>", code::gemma, Close::Perhaps("<end_function_call>"))],
        )
    },
    CallFormat {
        signs: &["[TOOL_CALLS]"],
        models: &["mistral", "ministral", "mixtral"],
        ..format("mistral", &[call("[TOOL_CALLS]", json::mistral, Close::Itself)])
    },
    CallFormat {
        signs: &["<|START_ACTION|>"],
        models: &["cohere2"],
        ..format(
            "command_r7b",
            &[
                call("<|START_ACTION|>", json::list, Close::Perhaps("<|END_ACTION|>")),
                Marker { tag: "<|START_THINKING|>", act: Act::Enter(Section::Reasoning) },
                Marker { tag: "<|END_THINKING|>", act: Act::Enter(Section::Text) },
                silent("<|START_RESPONSE|>"),
                silent("<|END_RESPONSE|>"),
                silent("<|END_OF_TURN_TOKEN|>"),
            ],
        )
    },
    CallFormat {
        signs: &["Action:\\n```json", "Action: ```json"],
        models: &["cohere"],
        ..format(
            "command_r",
            &[
                call("Action: ```json", json::list, Close::Perhaps("```")),
                call("Action:\n```json", json::list, Close::Perhaps("```")),
                call("Action:```json", json::list, Close::Perhaps("```")),
            ],
        )
    },
    CallFormat {
        signs: &["<arg_key>"],
        models: &["glm4", "glm"],
        ..format("glm4", &[call("<tool_call>", tagged::glm, Close::Always("</tool_call>"))])
    },
    CallFormat {
        signs: &["<function="],
        models: &["qwen3_5", "qwen3_next", "nemotron_h", "seed_oss"],
        ..format(
            "xml_function",
            &[
                call("<tool_call>", tagged::function, Close::Perhaps("</tool_call>")),
                call("<seed:tool_call>", tagged::function, Close::Perhaps("</seed:tool_call>")),
            ],
        )
    },
    CallFormat {
        signs: &["<|tool_call|>"],
        models: &["granite"],
        ..format("granite", &[call("<|tool_call|>", json::list, Close::Itself)])
    },
    CallFormat {
        signs: &["<tool_call>", "<TOOLCALL>"],
        models: &["qwen", "smollm3", "internlm"],
        ..format(
            "json",
            &[
                call("<tool_call>", tagged::function, Close::Perhaps("</tool_call>")),
                call("<TOOLCALL>", json::list, Close::Perhaps("</TOOLCALL>")),
            ],
        )
    },
    CallFormat {
        signs: &["<|python_tag|>", "\"parameters\": dictionary"],
        models: &["llama"],
        bare: Some(json::bare),
        ..format("llama3", &[call("<|python_tag|>", json::bare, Close::Itself)])
    },
];

impl CallFormat {
    /// The name, as in mlx-swift-lm where it has the format.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Every format.
    pub fn all() -> impl Iterator<Item = &'static CallFormat> {
        FORMATS.iter()
    }

    /// The format of this name, or of this `tool_parser_type` of a tokenizer's configuration.
    pub fn named(name: &str) -> Option<&'static CallFormat> {
        let name = match name {
            "json_tools" => "json",
            "qwen3_coder" => "xml_function",
            "glm47" => "glm4",
            "pythonic" => "lfm2",
            "function_gemma" => "gemma",
            other => other,
        };
        CallFormat::all().find(|format| format.name == name)
    }

    /// The format that a chat template shows.
    pub fn of_template(template: &str) -> Option<&'static CallFormat> {
        CallFormat::all().find(|format| format.signs.iter().any(|sign| template.contains(sign)))
    }

    /// The format that models of this type have.
    pub fn of_model(model_type: &str) -> Option<&'static CallFormat> {
        let longest = |format: &&CallFormat| {
            let begins = format.models.iter().filter(|start| model_type.starts_with(**start));
            begins.map(|start| start.len()).max().unwrap_or(0)
        };
        CallFormat::all().max_by_key(longest).filter(|format| longest(format) > 0)
    }
}
