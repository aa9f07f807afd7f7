//! One error type for the crate. Every variant says what a person needs to mend the cause: file, tensor or key, what was
//! found and what was wanted.

use std::path::{Path, PathBuf};

/// What can go wrong between a folder on disk and a generated token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is damaged, or not of the kind that its name claims.
    #[error("{}: {what}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where.
        what: String,
    },
    /// A configuration value is missing, of the wrong type or out of range.
    #[error("config key `{key}`: found {found}, wanted {wanted}")]
    Config {
        /// Dotted path of the key.
        key: String,
        /// The value that is there, or "nothing".
        found: String,
        /// What would be accepted.
        wanted: String,
    },
    /// No architecture is registered under this `model_type`.
    #[error("model type `{found}` is not supported{}", did_you_mean(.near))]
    UnknownModel {
        /// The `model_type` of the config.
        found: String,
        /// Supported names that look alike.
        near: Vec<String>,
    },
    /// The checkpoint lacks a tensor that the architecture needs.
    #[error("tensor `{0}` is not in the checkpoint")]
    MissingTensor(String),
    /// The checkpoint holds tensors that the architecture does not know.
    #[error("{} tensors of the checkpoint belong to nothing in this architecture: {}", .0.len(), list(.0))]
    SurplusTensors(Vec<String>),
    /// A tensor has another shape than the configuration implies.
    #[error("tensor `{name}`: found shape {found:?}, wanted {wanted:?}")]
    Shape {
        /// The tensor's full name.
        name: String,
        /// Its shape in the file.
        found: Vec<i32>,
        /// The shape that the configuration implies.
        wanted: Vec<i32>,
    },
    /// A tensor cannot be used as it is stored: an unknown element type, or packed values that do not fit.
    #[error("tensor `{name}`: {why}")]
    Tensor {
        /// The tensor's full name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// MLX reported an error.
    #[error("{at}{}{what}", if .at.is_empty() { "" } else { ": " })]
    Mlx {
        /// Where in the model, as a dotted path.
        at: String,
        /// MLX's message.
        what: String,
    },
    /// An argument or a generation parameter is out of range.
    #[error("{name}: found {found}, wanted {wanted}")]
    Parameter {
        /// The parameter's name.
        name: &'static str,
        /// The value given.
        found: String,
        /// What would be accepted.
        wanted: String,
    },
    /// The prompt (and what is cached before it) leaves no room in the model's context.
    #[error("the prompt has {tokens} tokens, but the model's context ends at {limit}")]
    PromptTooLong {
        /// Tokens in the prompt.
        tokens: usize,
        /// Positions that the model has.
        limit: usize,
    },
    /// There is nothing to generate from.
    #[error("the prompt is empty: give at least one token")]
    EmptyPrompt,
    /// A tokenizer adapter failed.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A chat template could not be compiled or rendered, or refused its input.
    #[error("chat template: {0}")]
    Template(String),
    /// A downloader adapter failed.
    #[error("download: {0}")]
    Download(String),
    /// A saved cache does not belong to this model, or is damaged.
    #[error("prompt cache: {0}")]
    Cache(String),
    /// The operation does not exist for this model, cache or device.
    #[error("{0}")]
    Unsupported(String),
    /// Whoever asked for the work is gone or called it off.
    #[error("cancelled")]
    Cancelled,
}

/// Results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An I/O error at `path`.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Error {
        Error::Io { path: path.as_ref().into(), source }
    }

    /// A damaged or unexpected file.
    pub fn file(path: impl AsRef<Path>, what: impl Into<String>) -> Error {
        Error::File { path: path.as_ref().into(), what: what.into() }
    }

    /// A bad configuration value.
    pub fn config(key: impl Into<String>, found: impl ToString, wanted: impl Into<String>) -> Error {
        Error::Config { key: key.into(), found: found.to_string(), wanted: wanted.into() }
    }

    /// An unusable tensor.
    pub fn tensor(name: impl Into<String>, why: impl Into<String>) -> Error {
        Error::Tensor { name: name.into(), why: why.into() }
    }
}

impl From<mlx_rs::error::Exception> for Error {
    fn from(e: mlx_rs::error::Exception) -> Error {
        // mlx-c appends " at /its/build/path/file.cpp:31", which helps nobody.
        let what = e.what();
        let end = what.rfind(" at /").unwrap_or(what.len());
        Error::Mlx { at: String::new(), what: what[..end].to_string() }
    }
}

/// Says where an error happened: `layer.forward(x).at("layers.3")`. Segments are relative; outer ones are put before inner.
pub trait At<T> {
    /// Adds a path segment to an MLX error; others name their place already.
    fn at(self, segment: impl std::fmt::Display) -> Result<T>;
}

impl<T, E: Into<Error>> At<T> for std::result::Result<T, E> {
    fn at(self, segment: impl std::fmt::Display) -> Result<T> {
        self.map_err(|e| match e.into() {
            Error::Mlx { at, what } if at.is_empty() => Error::Mlx { at: segment.to_string(), what },
            Error::Mlx { at, what } => Error::Mlx { at: format!("{segment}.{at}"), what },
            other => other,
        })
    }
}

fn did_you_mean(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!("; did you mean {}?", names.join(" or ")) }
}

fn list(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut text = names.iter().take(SHOWN).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} more", names.len() - SHOWN);
    }
    text
}
