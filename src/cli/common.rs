//! What all commands share: global options, exit statuses, errors with advice, and output.

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::config;
use crate::lab;

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct GlobalArgs {
    /// The configuration file
    #[arg(long, global = true, value_name = "FILE", default_value = config::DEFAULT_FILE)]
    pub config: PathBuf,
    /// The daemon's control socket [default: `control` in the configuration, else /run/groundlink/control.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

impl GlobalArgs {
    /// The control socket: from the command line, else from the configuration, else the default.
    pub fn control_socket(&self) -> PathBuf {
        let configured = || config::control_socket(&self.config);
        let socket = self.socket.clone().or_else(configured);
        socket.unwrap_or_else(|| config::DEFAULT_CONTROL.into())
    }
}

/// Exit statuses, a stable interface for scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// The daemon is not reachable.
    Unreachable = 3,
    /// Done, but a check failed.
    Unhealthy = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// The error of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Exit status.
    pub exit: Exit,
    /// What happened, and where.
    pub what: String,
    /// What to do; may be empty.
    pub advice: String,
}

impl Failure {
    /// The command failed.
    pub fn failed(what: impl Into<String>, advice: impl Into<String>) -> Failure {
        Failure::new(Exit::Failed, what, advice)
    }

    /// The command line or the configuration is wrong.
    pub fn usage(what: impl Into<String>, advice: impl Into<String>) -> Failure {
        Failure::new(Exit::Usage, what, advice)
    }

    /// The daemon is not reachable.
    pub fn unreachable(what: impl Into<String>, advice: impl Into<String>) -> Failure {
        Failure::new(Exit::Unreachable, what, advice)
    }

    fn new(exit: Exit, what: impl Into<String>, advice: impl Into<String>) -> Failure {
        Failure {
            exit,
            what: what.into(),
            advice: advice.into(),
        }
    }
}

impl From<lab::LabError> for Failure {
    fn from(error: lab::LabError) -> Failure {
        let advice = error.advice().unwrap_or_default();
        match error {
            lab::LabError::Options(error) => Failure::usage(error.to_string(), advice),
            other => Failure::failed(other.to_string(), advice),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.what)?;
        if self.advice.is_empty() {
            Ok(())
        } else {
            writeln!(f, " help: {}", self.advice)
        }
    }
}

/// Writes to stdout. A closed pipe (`groundlink status | head -1`) is not an error.
pub(crate) fn print(bytes: &[u8]) -> Result<Exit, Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    written.map_or_else(on_write_error, |()| Ok(Exit::Done))
}

/// The outcome of a failed write to stdout: success if the reader has closed the pipe.
pub(crate) fn on_write_error(error: io::Error) -> Result<Exit, Failure> {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Ok(Exit::Done);
    }
    Err(Failure::failed(
        format!("cannot write to stdout: {error}"),
        "",
    ))
}

/// A report as text, or as one JSON object on a line.
pub(crate) fn render<T: serde::Serialize + fmt::Display>(
    report: &T,
    json: bool,
) -> Result<String, Failure> {
    if !json {
        return Ok(report.to_string());
    }
    let text = serde_json::to_string(report);
    let text = text.map_err(|error| Failure::failed(format!("cannot write JSON: {error}"), ""))?;
    Ok(text + "\n")
}

/// Path of the running program, which stays valid if the file is replaced.
pub(crate) fn own_program() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|error| {
        Failure::failed(format!("cannot find the program's own file: {error}"), "")
    })
}
