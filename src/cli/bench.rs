//! `groundlink bench`: what this machine makes of the program.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::lab::{failure as lab_failure, own_program};
use super::outcome::{Exit, Failure, print};
use crate::bench::{esp, ike, tunnel};
use crate::lab;
use crate::lab::interrupt::BlockedSignals;
use crate::lab::options::DEFAULT_SUITE;

/// Measures: ESP or handshakes on one core of this CPU, or two gateways end to end
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  groundlink bench esp
  groundlink bench esp --esp aes128-sha1 --esp aes128gcm16 --seconds 2 --json
  groundlink bench ike
  groundlink bench tunnel --versus strongswan --report report.html

docs/performance.md says how to read the figures.

Exit status: 0 measured · 1 could not be · 2 the command line is wrong · 4 some of it could not be")]
pub(crate) struct Bench {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Debug, Subcommand)]
enum Benchmark {
    Esp(Esp),
    Ike(Ike),
    Tunnel(Tunnel),
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

/// Two gateways end to end in network namespaces: TCP, UDP without loss, round trip, CPU time, memory
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  groundlink bench tunnel
  groundlink bench tunnel --versus strongswan --esp aes128-sha1 --esp aes128gcm16 --report report.html

Needs what `groundlink lab` needs: no root where user namespaces are allowed and /dev/net/tun may be opened. \
`--versus strongswan` needs strongSwan. Sender, both gateways and receiver share this machine's cores, so only \
ratios within one run say something about the programs.

Exit status: 0 measured · 1 could not be · 2 the command line is wrong · 4 some of it could not be")]
struct Tunnel {
    /// What to put beside groundlink, on both sides, in the same run
    #[arg(long, value_enum, value_name = "SYSTEM")]
    versus: Option<Versus>,
    /// Proposals of the IKE SA, in the words of swanctl.conf
    #[arg(long, value_name = "WORDS", default_value = DEFAULT_SUITE)]
    ike: String,
    /// Proposals of the Child SA; given several times, each is a run of its own [default: aes128-sha1]
    #[arg(long = "esp", value_name = "WORDS")]
    esp: Vec<String>,
    /// How long TCP runs, each time; a trial of the UDP rate search takes half of it
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// One JSON object on stdout instead of the table
    #[arg(long)]
    json: bool,
    /// Also a page with plots, which needs nothing but itself
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// What can be put beside groundlink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Versus {
    /// strongSwan's charon with kernel-libipsec, its userspace ESP
    Strongswan,
}

/// Handshakes a second on one core, per IKE suite; no network, no root
#[derive(Debug, Args)]
#[command(after_help = "Example:
  groundlink bench ike --ike aes256gcm16-prfsha384-ecp384 --seconds 2

Two engines exchange every message from IKE_SA_INIT to the first Child SA; what each side spends is timed.")]
struct Ike {
    /// A suite to measure, in the words of swanctl.conf; may be given several times [default: six common ones]
    #[arg(long = "ike", value_name = "WORDS")]
    suites: Vec<String>,
    /// How long each row of the table takes
    #[arg(long, value_name = "N", default_value = "0.5", value_parser = seconds)]
    seconds: Duration,
    /// One JSON object on stdout instead of the table
    #[arg(long)]
    json: bool,
}

impl Bench {
    pub fn execute(self) -> Result<Exit, Failure> {
        match self.benchmark {
            Benchmark::Esp(esp) => esp.execute(),
            Benchmark::Ike(ike) => ike.execute(),
            Benchmark::Tunnel(tunnel) => tunnel.execute(),
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
        let options = esp::EspBenchOptions {
            suites,
            time: self.seconds,
        };
        let report = esp::run(&options).map_err(|error| {
            Failure::usage(
                error.to_string(),
                "`--esp aes128-sha1` and `--esp aes128gcm16` are suites",
            )
        })?;
        print(render(&report, self.json)?.as_bytes())
    }
}

impl Tunnel {
    fn execute(self) -> Result<Exit, Failure> {
        let options = self.options();
        // All that can be wrong before minutes are spent.
        options.check().map_err(tunnel_failure)?;
        let page = self.report.as_deref().map(ReportFile::open).transpose()?;
        let program = own_program()?;
        // In this order, as in the lab.
        let blocked = BlockedSignals::new()
            .map_err(|error| Failure::failed(format!("signals cannot be blocked: {error}"), ""))?;
        lab::enter().map_err(lab_failure)?;
        let interrupt = blocked
            .watch()
            .map_err(|error| Failure::failed(format!("no thread: {error}"), ""))?;
        let report = tunnel::run(&options, &program, &interrupt).map_err(tunnel_failure)?;
        if let Some(page) = page {
            page.write(&report.to_html())?;
        }
        print(render(&report, self.json)?.as_bytes())?;
        Ok(if report.is_complete() {
            Exit::Done
        } else {
            Exit::Unhealthy
        })
    }

    fn options(&self) -> tunnel::TunnelBenchOptions {
        tunnel::TunnelBenchOptions {
            versus: self.versus.map(|versus| match versus {
                Versus::Strongswan => tunnel::System::Strongswan,
            }),
            ike: self.ike.clone(),
            esp: if self.esp.is_empty() {
                vec!["aes128-sha1".to_owned()]
            } else {
                self.esp.clone()
            },
            seconds: self.seconds,
        }
    }
}

/// A page still to be written, in a file that is known to take it.
struct ReportFile<'a> {
    file: File,
    path: &'a Path,
}

impl ReportFile<'_> {
    fn open(path: &Path) -> Result<ReportFile<'_>, Failure> {
        let mut options = OpenOptions::new();
        // What is there is replaced when there is something better.
        let file = options.write(true).create(true).truncate(false).open(path);
        match file {
            Ok(file) => Ok(ReportFile { file, path }),
            Err(error) => Err(cannot_write(path, &error)),
        }
    }

    fn write(mut self, html: &str) -> Result<(), Failure> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.write_all(html.as_bytes()))
            .map_err(|error| cannot_write(self.path, &error))
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    let what = format!("the page {} cannot be written: {error}", path.display());
    Failure::failed(
        what,
        "`--report FILE` names a file in a folder that you may write to",
    )
}

fn tunnel_failure(error: tunnel::TunnelBenchError) -> Failure {
    match error {
        tunnel::TunnelBenchError::Lab(error) => lab_failure(error),
        not_up @ tunnel::TunnelBenchError::NotUp { .. } => Failure::failed(
            not_up.to_string(),
            "`groundlink lab` with the same words says more",
        ),
    }
}

impl Ike {
    fn execute(self) -> Result<Exit, Failure> {
        let suites = if self.suites.is_empty() {
            ike::SUITES.map(str::to_owned).to_vec()
        } else {
            self.suites
        };
        let options = ike::IkeBenchOptions {
            suites,
            time: self.seconds,
        };
        let report = ike::run(&options).map_err(|error| {
            Failure::usage(
                error.to_string(),
                "`--ike aes128-sha1-modp1024` is a suite, for instance",
            )
        })?;
        print(render(&report, self.json)?.as_bytes())
    }
}

/// For people, or for scripts.
fn render<T: serde::Serialize + std::fmt::Display>(
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
    use crate::lab::charon;

    #[test]
    fn without_strongswan_it_says_what_to_install() {
        let missing = charon::CharonError::NotInstalled("/usr/sbin/swanctl");
        let failure = tunnel_failure(tunnel::TunnelBenchError::Lab(missing.into())).to_string();
        assert!(
            failure.contains("/usr/sbin/swanctl is not installed"),
            "{failure}"
        );
        assert!(failure.contains("apt install charon-systemd"), "{failure}");
    }

    #[test]
    fn seconds_may_be_parts_of_one() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        for wrong in ["0", "-1", "61", "NaN", "inf", "two"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
