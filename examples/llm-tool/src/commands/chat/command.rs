//! Slash commands.

use std::path::Path;

/// What a line that begins with a slash asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command<'a> {
    Help,
    Reset,
    /// New instructions to the model; none if empty.
    System(&'a str),
    Save(&'a Path),
    Load(&'a Path),
    Stats,
    Quit,
    /// A command without its argument.
    Incomplete(&'static str),
}

/// What `/help` shows.
pub(super) const HELP: &str = "\
/system TEXT  give the model instructions and start anew; without a text, take them away
/reset        start anew
/save FILE    save the conversation and the model's memory of it
/load FILE    go on with a saved conversation
/stats        figures of the last answer, and what the model remembers
/quit         end (or Ctrl-D)
Ctrl-C stops an answer.";

impl Command<'_> {
    /// The command in a line; none if it is something to say to the model, also if it only looks like a command: `/etc` for one.
    pub(super) fn parse(line: &str) -> Option<Command<'_>> {
        let line = line.trim();
        let (name, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let argument = argument.trim();
        let plain = |command| argument.is_empty().then_some(command);
        match name {
            "/help" => plain(Command::Help),
            "/reset" => plain(Command::Reset),
            "/stats" => plain(Command::Stats),
            "/quit" => plain(Command::Quit),
            "/system" => Some(Command::System(argument)),
            "/save" if argument.is_empty() => Some(Command::Incomplete("/save FILE")),
            "/load" if argument.is_empty() => Some(Command::Incomplete("/load FILE")),
            "/save" => Some(Command::Save(Path::new(argument))),
            "/load" => Some(Command::Load(Path::new(argument))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_what_is_none() {
        for (line, wanted) in [
            ("/help", Some(Command::Help)),
            (" /quit ", Some(Command::Quit)),
            ("/system Be brief.", Some(Command::System("Be brief."))),
            ("/system", Some(Command::System(""))),
            ("/save my file", Some(Command::Save(Path::new("my file")))),
            ("/load", Some(Command::Incomplete("/load FILE"))),
            ("/reset the valve", None),
            ("/etc/passwd is what?", None),
            ("hello", None),
        ] {
            assert_eq!(Command::parse(line), wanted, "{line}");
        }
    }
}
