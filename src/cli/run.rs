//! `groundlink run`: the gateway in the foreground, what systemd starts.

use std::env;

use clap::{Args, ValueEnum};

use super::Place;
use super::outcome::{Exit, Failure};
use crate::config::{self, Environment, Secrets, Settings};

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
    pub fn execute(self, place: &Place) -> Result<Exit, Failure> {
        let Run { log: _ } = self;
        let _settings = settings(place)?;
        Err(Failure::failed(
            "the daemon is not part of this build yet",
            "",
        ))
    }
}

/// The configuration, if it may be run; everything there is to say about it goes to stderr.
fn settings(place: &Place) -> Result<Settings, Failure> {
    let environment = Environment {
        credentials: env::var_os("CREDENTIALS_DIRECTORY").map(Into::into),
        secrets: Secrets::Required,
    };
    let loaded = config::load(&place.config, &environment);
    eprint!("{}", loaded.report);
    match loaded.settings {
        Some(mut settings) if loaded.report.is_sound() => {
            settings.gateway.control = place.socket.clone().unwrap_or(settings.gateway.control);
            Ok(settings)
        }
        Some(_) | None => Err(Failure::usage(
            format!("the configuration {} cannot be run", place.config.display()),
            "correct what is said above; `groundlink check` tries again without starting anything",
        )),
    }
}
