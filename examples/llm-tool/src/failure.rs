//! How errors end the program: one line, advice where there is some, and an exit status.

use crate::terminal::INTERRUPTED;
use mlx_llm::Error;
use std::io;

/// Tells the user and returns the exit status.
pub(crate) fn report(error: &Error) -> u8 {
    if is_closed_pipe(error) {
        // Whoever read the output has seen enough.
        return 0;
    }
    if matches!(error, Error::Cancelled) {
        return INTERRUPTED;
    }
    tell(error);
    1
}

/// Tells the user.
pub(crate) fn tell(error: &Error) {
    eprintln!("error: {}", one_line(error));
    if let Some(advice) = advice(error) {
        eprintln!("{advice}");
    }
}

/// The message, in one line.
pub(crate) fn one_line(error: &Error) -> String {
    error.to_string().lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

/// Whether the reader of standard output went away.
pub(crate) fn is_closed_pipe(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
}

/// What may help.
fn advice(error: &Error) -> Option<&'static str> {
    Some(match error {
        Error::UnknownModel { .. } => "`llm-tool models` lists the model types that are supported.",
        Error::EmptyPrompt => {
            "Give a text with --prompt (- reads it from standard input), or ids with --prompt-tokens."
        }
        Error::PromptTooLong { .. } => "Shorten the prompt; in a chat, /reset starts anew.",
        Error::Template(_) => "`generate` and `chat` do without a template if told --ignore-chat-template.",
        Error::Download(_) => "If a local model was meant: there is no file or folder of that name here.",
        Error::Parameter { name: "repository", .. } => {
            "A model is an existing folder, a .gguf file, owner/name[@revision], or `demo`."
        }
        Error::SurplusTensors(_) | Error::MissingTensor(_) | Error::Shape { .. } => {
            "The checkpoint does not fit its configuration: is it complete, and does its config.json belong to it?"
        }
        _ => return None,
    })
}
