//! Running other programs.

use std::{
    io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

/// The root folder of the workspace.
pub(crate) fn workspace() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// The cargo that started us, in the workspace.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace());
    cargo
}

/// Builds a program, showing cargo's progress; where it is.
pub(crate) fn built(arguments: &[&str]) -> Result<PathBuf> {
    let mut build = cargo();
    build.arg("build").args(arguments).args(["--message-format", "json-render-diagnostics"]);
    let ran = spawn(build.stdout(Stdio::piped()))?.wait_with_output()?;
    if !ran.status.success() {
        bail!("{} fails; cargo's messages are above", shown(&build));
    }
    let executable = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        Some(PathBuf::from(message.get("executable")?.as_str()?))
    };
    let binary = String::from_utf8_lossy(&ran.stdout).lines().filter_map(executable).next_back();
    binary.with_context(|| format!("{} did not say where", shown(&build)))
}

/// The command-line program of the workspace.
pub(crate) struct LlmTool {
    binary: PathBuf,
}

/// How it is built.
pub(crate) enum Profile {
    /// As tests are: quicker to build, with checks of arithmetic.
    Dev,
    /// As it is used.
    Release,
}

impl LlmTool {
    /// Builds it, showing cargo's progress.
    pub(crate) fn built(profile: Profile) -> Result<LlmTool> {
        let profile = match profile {
            Profile::Dev => "dev",
            Profile::Release => "release",
        };
        let binary = built(&["--profile", profile, "--package", "llm-tool"])?;
        Ok(LlmTool { binary })
    }

    /// The unpacked wheel of MLX that it is linked with.
    pub(crate) fn mlx(&self) -> PathBuf {
        self.binary.with_file_name("mlx").join("mlx")
    }

    /// The program with one of its commands, ready to be given options and run.
    pub(crate) fn command(&self, name: &str) -> Command {
        let mut command = Command::new(&self.binary);
        // The rpath of .cargo/config.toml does this, unless a RUSTFLAGS variable replaces it.
        let path = if cfg!(target_os = "macos") { "DYLD_FALLBACK_LIBRARY_PATH" } else { "LD_LIBRARY_PATH" };
        command.env(path, self.mlx().join("lib")).arg(name);
        command
    }
}

/// Starts a program, and says what to install if there is none.
pub(crate) fn spawn(command: &mut Command) -> Result<Child> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.spawn().map_err(|e| match (e.kind(), program.as_str()) {
        (io::ErrorKind::NotFound, "python3") => anyhow!(
            "there is no python3: install Python 3 with pip (Debian, Ubuntu: apt install python3 python3-pip; Fedora: dnf \
             install python3-pip; macOS: xcode-select --install)"
        ),
        _ => anyhow!("cannot start {program}: {e}"),
    })
}

/// What a program printed. If it fails, the error holds the end of what it had to say.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    const LINES: usize = 12;
    let ran = spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))?
        .wait_with_output()?;
    if !ran.status.success() {
        let said = String::from_utf8_lossy(&ran.stderr);
        let lines: Vec<_> = said.trim_end().lines().collect();
        bail!("{command:?} failed:\n{}", lines[lines.len().saturating_sub(LINES)..].join("\n"));
    }
    String::from_utf8(ran.stdout).with_context(|| format!("{command:?} did not print text"))
}

/// Runs a program with the terminal attached.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = spawn(command)?.wait()?;
    if !status.success() {
        bail!("{} failed ({status})", shown(command));
    }
    Ok(())
}

/// Becomes another program, which alone then answers to Ctrl-C. Returns only if that fails.
pub(crate) fn replace(command: &mut Command) -> Result<()> {
    let error = std::os::unix::process::CommandExt::exec(command);
    Err(error).with_context(|| format!("cannot start {}", shown(command)))
}

/// Program and arguments as one would type them.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
