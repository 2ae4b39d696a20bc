//! `groundlink cleanup`: removes what a stopped daemon has left on purpose.

use clap::Args;
use serde_json::json;

use super::common::{Exit, Failure, print};
use crate::daemon::{self, StartError};

/// Remove the fail-closed routes and the rules that a stopped gateway has left
///
/// A gateway that stops, or is killed, leaves its fail-closed routes, with the rules and tables of sources that have some, so that nothing
/// leaves unencrypted until it runs again. Before groundlink is removed from a machine, this command removes them. It does nothing while
/// a gateway runs.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  sudo systemctl stop groundlink && sudo groundlink cleanup\n\nExit status: 0 done, also if there was nothing · 1 a gateway runs in this network namespace, or no permission"
)]
pub(crate) struct Cleanup {
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

impl Cleanup {
    pub fn execute(self) -> Result<Exit, Failure> {
        let removed = daemon::cleanup().map_err(|error| match error {
            StartError::Start { what, advice } | StartError::Usage { what, advice } => {
                Failure::failed(what, advice)
            }
            StartError::Configuration(report) => Failure::failed(report.to_string(), ""),
        })?;
        print(text(&removed, self.json).as_bytes())
    }
}

fn text(removed: &[String], json: bool) -> String {
    if json {
        return format!("{}\n", json!({ "removed": removed }));
    }
    if removed.is_empty() {
        return "nothing to remove\n".to_owned();
    }
    removed
        .iter()
        .map(|what| format!("removed {what}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_removed_is_listed() {
        let one = ["the route 10.2.0.0/24 metric 100".to_owned()];
        assert_eq!(
            text(&one, false),
            "removed the route 10.2.0.0/24 metric 100\n"
        );
        assert_eq!(text(&[], false), "nothing to remove\n");
        assert_eq!(text(&[], true), "{\"removed\":[]}\n");
    }
}
