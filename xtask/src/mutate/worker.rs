//! The process that loads mutants, and what becomes of it.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::process;

/// What a process may map at most, with MLX's library, its threads' stacks and heaps.
const ADDRESS_SPACE_KIB: u64 = 6 << 20;
/// Far more than any mutant takes on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);
/// Mutants of one process, so that what one leaves behind does not add up.
const SHIFT: usize = 250;

/// What became of a mutant.
pub(super) enum Outcome {
    /// It ran: all that was changed may be so.
    Ran { memory: u64 },
    /// It was refused.
    Refused { memory: u64 },
    /// It was neither.
    Bad(String),
}

/// A process that answers one mutant after another.
pub(super) struct Worker {
    program: PathBuf,
    stderr: PathBuf,
    running: Option<Running>,
}

struct Running {
    child: Child,
    paths: ChildStdin,
    answers: Receiver<String>,
    done: usize,
}

impl Worker {
    /// One that writes what the program says to the file `stderr`.
    pub(super) fn new(program: &Path, stderr: PathBuf) -> Worker {
        Worker { program: program.into(), stderr, running: None }
    }

    /// Has a mutant loaded and run.
    pub(super) fn attempt(&mut self, path: &Path) -> Result<Outcome> {
        if self.running.as_ref().is_some_and(|r| r.done >= SHIFT) {
            self.stop();
        }
        if self.running.is_none() {
            self.running = Some(self.start()?);
        }
        let running = self.running.as_mut().context("it was started")?;
        running.done += 1;
        // If it is gone, its answer will not come either.
        let _ = writeln!(running.paths, "{}", path.display());
        let answer = running.answers.recv_timeout(PATIENCE);
        Ok(match answer {
            Ok(line) => outcome(&line),
            Err(RecvTimeoutError::Timeout) => {
                self.stop();
                Outcome::Bad(format!("no answer within {} seconds", PATIENCE.as_secs()))
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = running.child.wait()?;
                self.running = None;
                let said = fs::read(&self.stderr).unwrap_or_default();
                let said = String::from_utf8_lossy(&said[said.len().saturating_sub(1000)..]).into_owned();
                Outcome::Bad(format!("the process ended: {status}; {}", said.trim()))
            }
        })
    }

    fn start(&self) -> Result<Running> {
        // The limit is the shell's to set; where there is none (macOS), memory that is in use is still measured.
        let script = format!("ulimit -v {ADDRESS_SPACE_KIB} 2>/dev/null; exec \"$0\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).arg(&self.program).env("RUST_BACKTRACE", "0");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&self.stderr)?);
        let mut child = process::spawn(&mut command)?;
        let (paths, lines) = (child.stdin.take().context("stdin")?, child.stdout.take().context("stdout")?);
        let (sender, answers) = mpsc::channel();
        thread::spawn(move || {
            BufReader::new(lines).lines().map_while(|l| l.ok()).try_for_each(|l| sender.send(l))
        });
        Ok(Running { child, paths, answers, done: 0 })
    }

    fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop();
    }
}

fn outcome(line: &str) -> Outcome {
    let mut words = line.splitn(3, ' ');
    match (words.next(), words.next().and_then(|n| n.parse().ok())) {
        (Some("ok"), Some(memory)) => Outcome::Ran { memory },
        (Some("error"), Some(memory)) => Outcome::Refused { memory },
        _ => Outcome::Bad(line.into()),
    }
}
