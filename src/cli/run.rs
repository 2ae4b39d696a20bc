//! `groundlink run`: the gateway in the foreground, what systemd starts.

use clap::{Args, ValueEnum};

use super::GlobalArgs;
use super::outcome::{Exit, Failure};
use crate::daemon::{self, LogFormat, Options};

/// The gateway, in the foreground
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sudo groundlink run --config /etc/groundlink/groundlink.toml")]
pub(crate) struct Run {
    /// How log lines are written [default: text on a terminal, journal fields under systemd]
    #[arg(long, value_name = "FORMAT")]
    log: Option<Log>,
    /// What is logged: error, warn, info, debug, trace, or a filter [default: $GROUNDLINK_LOG, else info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
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
    pub fn execute(self, global: &GlobalArgs) -> Result<Exit, Failure> {
        let options = Options {
            config: global.config.clone(),
            socket: global.socket.clone(),
            format: self.log.map(|log| match log {
                Log::Text => LogFormat::Text,
                Log::Json => LogFormat::Json,
            }),
            level: self.log_level,
        };
        match daemon::run(&options) {
            Ok(()) => Ok(Exit::Done),
            Err(daemon::StartError::Configuration(report)) => {
                eprint!("{report}");
                Err(Failure::usage(
                    format!(
                        "the configuration {} cannot be run",
                        global.config.display()
                    ),
                    "correct what is said above; `groundlink check` tries again without starting anything",
                ))
            }
            Err(daemon::StartError::Usage { what, advice }) => Err(Failure::usage(what, advice)),
            Err(daemon::StartError::Start { what, advice }) => Err(Failure::failed(what, advice)),
        }
    }
}
