//! What a model's output is made of: text, reasoning, and calls of tools.
//!
//! Every family of models writes its calls in a way of its own. [`CallFormat`] is a table of them; [`OutputParser`] reads any of them
//! from a text that arrives in pieces.
//!
//! ```
//! use mlx_lm_common::tool::{CallFormat, OutputEvent, OutputParser};
//!
//! let mut parser = OutputParser::new(CallFormat::named("json"), Vec::new());
//! let mut events = parser.push("Let me see. <tool_call>{\"name\": \"clock\", \"argu");
//! events.extend(parser.push("ments\": {\"zone\": \"UTC\"}}</tool_call>"));
//! events.extend(parser.finish());
//! assert_eq!(events[0], OutputEvent::Text("Let me see. ".into()));
//! let OutputEvent::ToolCall(call) = &events[1] else { panic!() };
//! assert_eq!((call.name.as_str(), &call.arguments["zone"]), ("clock", &"UTC".into()));
//! ```

mod arguments;
mod cursor;
mod format;
mod output;

pub use format::CallFormat;
pub use output::{OutputEvent, OutputParser, ReasoningMarkers};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A tool as a model is told of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ToolSpec {
    /// The name by which it is called.
    pub name: String,
    /// What it does, for the model.
    #[serde(default)]
    pub description: String,
    /// A JSON schema of its arguments, an object.
    #[serde(default)]
    pub parameters: Value,
}

/// A call that a model wants to be made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The model's own name for this call, if it gives any.
    pub id: Option<String>,
    /// Which tool; a model may name one that is not there.
    pub name: String,
    /// In the order in which they were written.
    pub arguments: Map<String, Value>,
}
