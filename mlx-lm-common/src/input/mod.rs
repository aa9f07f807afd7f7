//! What goes into a model: chat messages and the values that a template sees.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Who speaks in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Role {
    /// Instructions from the application.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call.
    Tool,
}

/// One message of a conversation, as chat templates see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    #[serde(default)]
    pub content: String,
    /// Further keys that templates may read: `tool_calls`, `tool_call_id`, `reasoning_content` …
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Message {
    /// A message of text alone.
    pub fn new(role: Role, content: impl Into<String>) -> Message {
        Message { role, content: content.into(), extra: Map::new() }
    }

    /// Instructions from the application.
    pub fn system(content: impl Into<String>) -> Message {
        Message::new(Role::System, content)
    }

    /// The person's words.
    pub fn user(content: impl Into<String>) -> Message {
        Message::new(Role::User, content)
    }

    /// The model's words.
    pub fn assistant(content: impl Into<String>) -> Message {
        Message::new(Role::Assistant, content)
    }
}

/// Everything that a chat template is rendered with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChatInput {
    /// The messages, in order, as JSON objects: templates read keys that no fixed type foresees.
    pub messages: Vec<Value>,
    /// JSON schemas of the tools that the model may call.
    pub tools: Option<Vec<Value>>,
    /// Further template variables (`enable_thinking`, `documents` …).
    pub context: Map<String, Value>,
    /// Ends the text with the opening of the assistant's next message.
    pub add_generation_prompt: bool,
}

impl ChatInput {
    /// A conversation that the model is to continue.
    pub fn new(messages: &[Message]) -> ChatInput {
        let messages = messages.iter().map(|m| serde_json::to_value(m).unwrap_or_default()).collect();
        ChatInput { messages, add_generation_prompt: true, ..Default::default() }
    }
}
