//! `groundlink run`: runs the gateway in the foreground, as the systemd unit does.

use clap::{Args, ValueEnum};

use super::common::{Exit, Failure, GlobalArgs};
use crate::daemon::{self, LogFormat, Options};

/// Run the gateway in the foreground
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sudo groundlink run --config /etc/groundlink/groundlink.toml")]
pub(crate) struct Run {
    /// Format of log lines [default: text on a terminal, journal fields under systemd]
    #[arg(long, value_name = "FORMAT")]
    log: Option<Log>,
    /// Log level or filter: error, warn, info, debug, trace [default: $GROUNDLINK_LOG, else info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

/// Format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Log {
    /// Text
    Text,
    /// One JSON object per line
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
                    format!("the configuration {} is not valid", global.config.display()),
                    "correct the errors above; `groundlink check` validates it without starting the gateway",
                ))
            }
            Err(daemon::StartError::Usage { what, advice }) => Err(Failure::usage(what, advice)),
            Err(daemon::StartError::Start { what, advice }) => Err(Failure::failed(what, advice)),
        }
    }
}
