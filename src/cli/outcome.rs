//! How a verb ends: the exit status, and an error as *what, what to do*.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

/// The exit statuses scripts may rely on.
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
    /// Done, but something it checked is not well.
    Unhealthy = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// A verb that could not do its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// With which status to exit.
    pub exit: Exit,
    /// What happened and where.
    pub what: String,
    /// What to do about it; may be empty.
    pub advice: String,
}

impl Failure {
    /// It was tried and did not work.
    pub fn failed(what: impl Into<String>, advice: impl Into<String>) -> Failure {
        Failure {
            exit: Exit::Failed,
            what: what.into(),
            advice: advice.into(),
        }
    }

    /// The command line or the configuration is wrong.
    pub fn usage(what: impl Into<String>, advice: impl Into<String>) -> Failure {
        Failure {
            exit: Exit::Usage,
            what: what.into(),
            advice: advice.into(),
        }
    }

    /// The daemon is not reachable.
    pub fn unreachable(what: impl Into<String>, advice: impl Into<String>) -> Failure {
        Failure {
            exit: Exit::Unreachable,
            what: what.into(),
            advice: advice.into(),
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

/// Writes to stdout. A reader that has gone (`groundlink status | head -1`) is no error.
pub(crate) fn print(bytes: &[u8]) -> Result<Exit, Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(Exit::Done),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Done),
        Err(error) => Err(Failure::failed(
            format!("cannot write to stdout: {error}"),
            "",
        )),
    }
}
