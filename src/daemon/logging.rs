//! Log output: text, journal fields or JSON. Secrets cannot be logged: their types print `…`.

use std::env;
use std::io::{self, IsTerminal};

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use super::StartError;
use super::journal::{JOURNAL, JournalLayer, JournalSocket};
use super::log_queue::LogQueue;
use crate::os::systemd;

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on stderr.
    Text,
    /// One JSON object a line, on stderr.
    Json,
}

/// Environment variable with the log filter, for a command line without one.
const FILTER_VARIABLE: &str = "GROUNDLINK_LOG";

/// Starts logging in the given format; by default to the journal if stderr is connected to it, else as text. Returns the queue of the lines.
pub(super) fn start(
    format: Option<LogFormat>,
    level: Option<&str>,
) -> Result<LogQueue, StartError> {
    let filter = filter(level)?;
    let journal = match (format, systemd::logs_to_journal()) {
        (None, true) => JournalSocket::open(JOURNAL).ok(),
        (Some(_), _) | (None, false) => None,
    };
    let to_journal = journal.is_some();
    let queue = match journal {
        Some(journal) => LogQueue::start(journal),
        None => LogQueue::start(io::stderr()),
    }
    .map_err(|error| StartError::start(format!("cannot start the log thread: {error}"), ""))?;
    let writer = {
        let queue = queue.clone();
        move || queue.clone()
    };
    let registry = tracing_subscriber::registry().with(filter);
    let text = || {
        fmt::layer()
            .with_writer(writer.clone())
            .with_ansi(io::stderr().is_terminal())
            .with_target(false)
    };
    let layer = match format {
        _ if to_journal => JournalLayer(queue.clone()).boxed(),
        Some(LogFormat::Json) => fmt::layer().json().with_writer(writer).boxed(),
        // The journal adds its own time.
        None if systemd::logs_to_journal() => text().without_time().boxed(),
        Some(LogFormat::Text) | None => text().boxed(),
    };
    // A second start in one process, as in tests, keeps the first configuration.
    let _ = registry.with(layer).try_init();
    Ok(queue)
}

fn filter(level: Option<&str>) -> Result<EnvFilter, StartError> {
    let given = level
        .map(|level| ("--log-level", level.to_owned()))
        .or_else(|| {
            env::var(FILTER_VARIABLE)
                .ok()
                .filter(|value| !value.is_empty())
                .map(|value| (FILTER_VARIABLE, value))
        });
    let Some((source, filter)) = given else {
        return Ok(EnvFilter::new("info"));
    };
    let invalid = |why: String| StartError::Usage {
        what: format!("invalid log filter {filter:?} in {source}: {why}"),
        advice:
            "use error, warn, info, debug or trace, or a filter such as info,groundlink::ike=debug"
                .to_owned(),
    };
    if let Some(word) = filter.split(',').find(|word| !is_directive(word)) {
        return Err(invalid(format!("{word:?} is not a log level")));
    }
    EnvFilter::try_new(&filter).map_err(|error| invalid(error.to_string()))
}

/// Whether a word of a filter has an effect. [`EnvFilter`] takes every word that is not a level as the name of a module, so that a misspelt
/// level switches all other logging off.
fn is_directive(word: &str) -> bool {
    let word = word.trim();
    let is_level = word.eq_ignore_ascii_case("off") || word.parse::<tracing::Level>().is_ok();
    is_level || word.contains(['=', '[']) || word.starts_with("groundlink")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_filters_are_accepted_and_others_are_usage_errors() {
        for good in ["info", "debug", "info,groundlink::ike=trace"] {
            assert!(filter(Some(good)).is_ok(), "{good}");
        }
        let error = filter(Some("groundlink=loud")).unwrap_err();
        assert!(matches!(&error, StartError::Usage { .. }));
        assert!(error.to_string().contains("groundlink=loud"), "{error}");
        for bad in ["verbose", "info,debg", "warning", ""] {
            let error = filter(Some(bad)).unwrap_err();
            assert!(error.to_string().contains("is not a log level"), "{error}");
        }
    }
}
