//! Where the user's lines come from.

use crate::paths;
use mlx_llm::{Error, Result};
use rustyline::{Behavior, Config, DefaultEditor, error::ReadlineError};
use std::{
    fs,
    io::{self, BufRead, IsTerminal},
    path::PathBuf,
};

/// A terminal with line editing, or any other standard input.
pub(super) enum Input {
    Terminal { editor: Box<DefaultEditor>, history: Option<PathBuf> },
    Lines,
}

const PROMPT: &str = ">>> ";

impl Input {
    /// Standard input. A history that cannot be read or written is gone without: it is no reason not to talk.
    pub(super) fn open() -> Result<Input> {
        if !io::stdin().is_terminal() {
            return Ok(Input::Lines);
        }
        // The prompt goes to the terminal, wherever standard output goes.
        let config = Config::builder().behavior(Behavior::PreferTerm).auto_add_history(true).build();
        let mut editor = DefaultEditor::with_config(config).map_err(failed)?;
        let history = paths::cache().ok().filter(|folder| fs::create_dir_all(folder).is_ok());
        let history = history.map(|folder| folder.join("chat_history.txt"));
        if let Some(file) = &history {
            let _ = editor.load_history(file);
        }
        Ok(Input::Terminal { editor: Box::new(editor), history })
    }

    /// The next line; none at the end. Ctrl-C throws away what was typed.
    pub(super) fn line(&mut self) -> Result<Option<String>> {
        match self {
            Input::Terminal { editor, history } => loop {
                match editor.readline(PROMPT) {
                    Ok(line) => {
                        if let Some(file) = history {
                            let _ = editor.append_history(file);
                        }
                        return Ok(Some(line));
                    }
                    Err(ReadlineError::Interrupted) => eprintln!("/quit or Ctrl-D ends."),
                    Err(ReadlineError::Eof) => return Ok(None),
                    Err(e) => return Err(failed(e)),
                }
            },
            Input::Lines => {
                io::stdin().lock().lines().next().transpose().map_err(|e| Error::io("standard input", e))
            }
        }
    }
}

fn failed(e: ReadlineError) -> Error {
    Error::io("the terminal", io::Error::other(e))
}
