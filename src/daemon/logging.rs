//! Where log lines go: text for people, fields for the journal, JSON for machines. Secrets have no way in: their types print `…`.

use std::env;
use std::io::{self, IsTerminal};

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use super::StartError;
use crate::os::systemd;

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people, on stderr.
    Text,
    /// One JSON object a line, on stderr.
    Json,
}

/// The variable that says what is logged where the command line does not.
const VARIABLE: &str = "GROUNDLINK_LOG";

/// Begins logging: as asked for, else into the journal where stderr leads there, else as text.
pub(super) fn start(format: Option<LogFormat>, level: Option<&str>) -> Result<(), StartError> {
    let registry = tracing_subscriber::registry().with(filter(level)?);
    let journal = || {
        let layer = tracing_journald::layer().ok()?;
        Some(
            layer
                .with_field_prefix(Some("GROUNDLINK".to_owned()))
                .with_syslog_identifier("groundlink".to_owned()),
        )
    };
    let text = || {
        fmt::layer()
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal())
            .with_target(false)
    };
    let layer = match (format, systemd::logs_to_journal()) {
        (Some(LogFormat::Json), _) => fmt::layer().json().with_writer(io::stderr).boxed(),
        (Some(LogFormat::Text), _) | (None, false) => text().boxed(),
        (None, true) => match journal() {
            Some(journal) => journal.boxed(),
            // The journal puts its own time in front.
            None => text().without_time().boxed(),
        },
    };
    // A second start in one process (as in tests) keeps the first one's choice.
    let _ = registry.with(layer).try_init();
    Ok(())
}

fn filter(level: Option<&str>) -> Result<EnvFilter, StartError> {
    let given = level
        .map(|level| ("--log-level", level.to_owned()))
        .or_else(|| {
            env::var(VARIABLE)
                .ok()
                .filter(|value| !value.is_empty())
                .map(|value| (VARIABLE, value))
        });
    let Some((place, words)) = given else {
        return Ok(EnvFilter::new("info"));
    };
    EnvFilter::try_new(&words).map_err(|error| StartError::Usage {
        what: format!("{place} does not understand {words:?}: {error}"),
        advice: "write error, warn, info, debug or trace, or a filter such as info,groundlink::ike=debug".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_filters_are_understood_and_nonsense_is_a_usage_error() {
        for good in ["info", "debug", "info,groundlink::ike=trace"] {
            assert!(filter(Some(good)).is_ok(), "{good}");
        }
        let error = filter(Some("groundlink=loud")).unwrap_err();
        assert!(matches!(&error, StartError::Usage { .. }));
        assert!(error.to_string().contains("groundlink=loud"), "{error}");
    }
}
