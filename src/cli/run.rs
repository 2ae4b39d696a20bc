//! `groundlink run`: the gateway in the foreground, what systemd starts.

use clap::{Args, ValueEnum};

use super::Place;
use super::outcome::{Exit, Failure};

/// The gateway, in the foreground
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sudo groundlink run --config /etc/groundlink/groundlink.toml")]
pub(crate) struct Run {
    /// How log lines are written [default: text on a terminal, journal fields under systemd]
    #[arg(long, value_name = "FORMAT")]
    log: Option<Log>,
}

/// A way to write log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Log {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Run {
    pub fn execute(self, _place: &Place) -> Result<Exit, Failure> {
        let Run { log: _ } = self;
        Err(Failure::failed(
            "the daemon is not part of this build yet",
            "",
        ))
    }
}
