//! `groundlink bench`: what this machine makes of the program.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::outcome::{Exit, Failure, print};
use crate::bench::esp;

/// Measures: ESP on one core of this CPU
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  groundlink bench esp
  groundlink bench esp --esp aes128-sha1 --esp aes128gcm16 --seconds 2 --json

docs/performance.md says how to read the figures.

Exit status: 0 measured · 1 could not be · 2 the command line is wrong")]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Esp(Esp),
    #[command(hide = true, disable_help_flag = true)]
    Ike(Later),
    #[command(hide = true, disable_help_flag = true)]
    Tunnel(Later),
}

/// ESP sealed and opened on one core, per suite and packet size; no network, no root
#[derive(Debug, Args)]
#[command(after_help = "Example:
  groundlink bench esp --esp aes256-sha256 --seconds 1

Figures are bits of inner packets a second through everything an SA does for a packet, in batches; \
`lanes alone` is cipher and ICV without the rest. The machine should have nothing else to do.")]
struct Esp {
    /// A suite to measure, in the words of swanctl.conf; may be given several times [default: eight common ones]
    #[arg(long = "esp", value_name = "WORDS")]
    suites: Vec<String>,
    /// How long each row of the table takes for each packet size
    #[arg(long, value_name = "N", default_value = "0.2", value_parser = seconds)]
    seconds: Duration,
    /// One JSON object on stdout instead of the table
    #[arg(long)]
    json: bool,
}

/// Whatever is said to a bench of a later version.
#[derive(Debug, Args)]
struct Later {
    #[arg(num_args(0..), trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

impl Bench {
    pub fn execute(self) -> Result<Exit, Failure> {
        match self.what {
            What::Esp(esp) => esp.execute(),
            What::Ike(later) => later.refuse("ike"),
            What::Tunnel(later) => later.refuse("tunnel"),
        }
    }
}

impl Esp {
    fn execute(self) -> Result<Exit, Failure> {
        let suites = if self.suites.is_empty() {
            esp::SUITES.map(str::to_owned).to_vec()
        } else {
            self.suites
        };
        let options = esp::Options {
            suites,
            time: self.seconds,
        };
        let report = esp::run(&options).map_err(|error| {
            Failure::usage(
                error.to_string(),
                "`--esp aes128-sha1` and `--esp aes128gcm16` are suites",
            )
        })?;
        print(shown(&report, self.json)?.as_bytes())
    }
}

impl Later {
    fn refuse(self, name: &str) -> Result<Exit, Failure> {
        let what = format!(
            "`groundlink bench {name}` is not in this version ({})",
            env!("CARGO_PKG_VERSION")
        );
        Err(Failure::usage(what, "`groundlink bench esp` is"))
    }
}

/// For people, or for scripts.
fn shown<T: serde::Serialize + std::fmt::Display>(
    report: &T,
    json: bool,
) -> Result<String, Failure> {
    if json {
        let text = serde_json::to_string(report)
            .map_err(|error| Failure::failed(error.to_string(), ""))?;
        Ok(text + "\n")
    } else {
        Ok(format!("{report}"))
    }
}

/// Between a millisecond and a minute, in which no sequence number runs out.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.001..=60.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("from 0.001 to 60".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_may_be_parts_of_one() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        for wrong in ["0", "-1", "61", "NaN", "inf", "two"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
