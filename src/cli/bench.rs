//! `groundlink bench`: benchmarks of the program on this machine.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::common::{Exit, Failure, own_program, print, render};
use crate::bench::{esp, ike, tunnel};
use crate::lab;
use crate::lab::interrupt::BlockedSignals;
use crate::lab::options::DEFAULT_SUITE;

/// Measure ESP or handshakes on one core of this CPU, or two gateways end to end
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  groundlink bench esp
  groundlink bench esp --esp aes128-sha1 --esp aes128gcm16 --seconds 2 --json
  groundlink bench ike
  groundlink bench tunnel --versus strongswan --report report.html

docs/performance.md explains the figures.

Exit status: 0 measured · 1 failed · 2 the command line is wrong · 4 some figures could not be measured")]
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

/// Encrypt and decrypt ESP packets on one core, per suite and packet size; needs no network and no root
#[derive(Debug, Args)]
#[command(after_help = "Example:
  groundlink bench esp --esp aes256-sha256 --seconds 1

Figures are bits of inner packets per second for all steps of an SA, in batches; `lanes only` is the cipher and \
the ICV only. The machine should be idle otherwise.")]
struct Esp {
    /// Suite to measure, in the syntax of swanctl.conf; can be repeated [default: eight common ones]
    #[arg(long = "esp", value_name = "WORDS")]
    suites: Vec<String>,
    /// Duration of each row and packet size in seconds
    #[arg(long, value_name = "N", default_value = "0.2", value_parser = seconds)]
    seconds: Duration,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

/// Measure two gateways end to end in network namespaces: TCP, UDP without loss, round trip, CPU time, memory
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  groundlink bench tunnel
  groundlink bench tunnel --versus strongswan --esp aes128-sha1 --esp aes128gcm16 --report report.html

The requirements are those of `groundlink lab`: no root if user namespaces are allowed and /dev/net/tun can be \
opened. `--versus strongswan` needs strongSwan. Sender, both gateways and receiver share the cores of this machine, \
so only the ratios of one run compare the programs.

Exit status: 0 measured · 1 failed · 2 the command line is wrong · 4 some figures could not be measured")]
struct Tunnel {
    /// Measure this program too, on both sides, in the same run
    #[arg(long, value_enum, value_name = "SYSTEM")]
    versus: Option<Versus>,
    /// Proposals of the IKE SA, in the syntax of swanctl.conf
    #[arg(long, value_name = "WORDS", default_value = DEFAULT_SUITE)]
    ike: String,
    /// Proposals of the Child SA; can be repeated, with one run for each [default: aes128-sha1]
    #[arg(long = "esp", value_name = "WORDS")]
    esp: Vec<String>,
    /// Duration of each TCP measurement in seconds; each step of the UDP rate search takes half of it
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
    /// Also write a self-contained HTML page with plots
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// A program to compare groundlink with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Versus {
    /// strongSwan's charon with kernel-libipsec, its userspace ESP
    Strongswan,
}

/// Measure handshakes per second on one core, per IKE suite; needs no network and no root
#[derive(Debug, Args)]
#[command(after_help = "Example:
  groundlink bench ike --ike aes256gcm16-prfsha384-ecp384 --seconds 2

Two engines exchange all messages from IKE_SA_INIT to the first Child SA; the CPU time of each side is measured.")]
struct Ike {
    /// Suite to measure, in the syntax of swanctl.conf; can be repeated [default: six common ones]
    #[arg(long = "ike", value_name = "WORDS")]
    suites: Vec<String>,
    /// Duration of each row in seconds
    #[arg(long, value_name = "N", default_value = "0.5", value_parser = seconds)]
    seconds: Duration,
    /// Print one JSON object instead of the table
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
                "examples: `--esp aes128-sha1`, `--esp aes128gcm16`",
            )
        })?;
        print(render(&report, self.json)?.as_bytes())
    }
}

impl Tunnel {
    fn execute(self) -> Result<Exit, Failure> {
        let options = self.options();
        // Report every error that can be found before the measurement, which takes minutes.
        options.check().map_err(tunnel_failure)?;
        let page = self.report.as_deref().map(ReportFile::open).transpose()?;
        let program = own_program()?;
        // The order matters, as in the lab.
        let blocked = BlockedSignals::new()
            .map_err(|error| Failure::failed(format!("cannot block signals: {error}"), ""))?;
        lab::enter()?;
        let interrupt = blocked
            .watch()
            .map_err(|error| Failure::failed(format!("cannot start a thread: {error}"), ""))?;
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

/// The file of a report, opened for writing before the measurement.
struct ReportFile<'a> {
    file: File,
    path: &'a Path,
}

impl ReportFile<'_> {
    fn open(path: &Path) -> Result<ReportFile<'_>, Failure> {
        let mut options = OpenOptions::new();
        // Not truncated yet: an older report stays until the new one is complete.
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
    let what = format!("cannot write the report {}: {error}", path.display());
    Failure::failed(what, "name a file in a writable directory with `--report`")
}

fn tunnel_failure(error: tunnel::TunnelBenchError) -> Failure {
    match error {
        tunnel::TunnelBenchError::Lab(error) => error.into(),
        not_up @ tunnel::TunnelBenchError::NotUp { .. } => Failure::failed(
            not_up.to_string(),
            "`groundlink lab` with the same options shows the details",
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
            Failure::usage(error.to_string(), "example: `--ike aes128-sha1-modp1024`")
        })?;
        print(render(&report, self.json)?.as_bytes())
    }
}

/// Parses a duration of at most a minute, within which no sequence number runs out.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.001..=60.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("write a number from 0.001 to 60".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::charon;

    #[test]
    fn without_strongswan_the_error_says_what_to_install() {
        let missing = charon::CharonError::NotInstalled("/usr/sbin/swanctl");
        let failure = tunnel_failure(tunnel::TunnelBenchError::Lab(missing.into())).to_string();
        assert!(
            failure.contains("/usr/sbin/swanctl is not installed"),
            "{failure}"
        );
        assert!(failure.contains("apt install charon-systemd"), "{failure}");
    }

    #[test]
    fn a_duration_can_be_a_fraction_of_a_second() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        for wrong in ["0", "-1", "61", "NaN", "inf", "two"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
