//! Two connected gateways of one implementation.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::config::{self, ConfigText, LoadOptions, SecretPolicy};
use crate::ike;
use crate::lab::addressing::Addressing;
use crate::lab::charon::{self, Charon, CharonError};
use crate::lab::gateway::{self, GatewayFiles, GatewayProcess};
use crate::lab::interrupt::{Interrupt, Interrupted};
use crate::lab::options::{LabOptions, OptionsError, Side};
use crate::lab::process::{ScratchDir, write_private};
use crate::lab::topology::{Topology, TopologyError};
use crate::lab::{self, LabError, RemoteGateway};
use crate::os::netns::Namespace;
use crate::status::Snapshot;

/// Implementation of both gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum System {
    /// `groundlink run`.
    Groundlink,
    /// strongSwan's charon with userspace ESP.
    Strongswan,
}

impl System {
    pub(super) fn check_installed(self) -> Result<(), CharonError> {
        match self {
            System::Groundlink => Ok(()),
            System::Strongswan => charon::check_installed(),
        }
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            System::Groundlink => "groundlink",
            System::Strongswan => "strongSwan",
        })
    }
}

/// The reason why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum TunnelBenchError {
    /// An error of the lab.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The tunnel did not come up.
    #[error(
        "the tunnel between two {system} gateways with {esp} did not come up{}",
        indented(log)
    )]
    NotUp {
        /// Implementation of the gateways.
        system: System,
        /// ESP proposals.
        esp: String,
        /// Last lines of both logs.
        log: Vec<String>,
    },
}

impl From<Interrupted> for TunnelBenchError {
    fn from(interrupted: Interrupted) -> TunnelBenchError {
        TunnelBenchError::Lab(interrupted.into())
    }
}

impl From<OptionsError> for TunnelBenchError {
    fn from(error: OptionsError) -> TunnelBenchError {
        TunnelBenchError::Lab(error.into())
    }
}

impl From<TopologyError> for TunnelBenchError {
    fn from(error: TopologyError) -> TunnelBenchError {
        TunnelBenchError::Lab(error.into())
    }
}

/// The lines of a log, indented.
fn indented(log: &[String]) -> String {
    log.iter().map(|line| format!("\n  | {line}")).collect()
}

/// Two connected gateways and their namespaces. Dropping it stops the gateways.
pub(super) struct GatewayPair {
    // Drop order: programs before the namespaces and files that they use.
    a: RemoteGateway,
    b: RemoteGateway,
    topology: Topology,
    pub(super) addressing: Addressing,
    options: LabOptions,
    psk: String,
    scratch: ScratchDir,
}

/// Time for the tunnel to come up.
const UP_TIMEOUT: Duration = Duration::from_secs(20);

const POLL: Duration = Duration::from_millis(10);

impl GatewayPair {
    /// Sets up the namespaces, starts the gateways and waits for the tunnel.
    pub(super) fn connect(
        system: System,
        options: &LabOptions,
        program: &Path,
        interrupt: &Interrupt,
    ) -> Result<GatewayPair, TunnelBenchError> {
        let addressing = Addressing::new(options);
        let no_dir = LabError::io("cannot create a temporary directory");
        let scratch = ScratchDir::new().map_err(&no_dir)?;
        let topology = Topology::new(options, &addressing)?;
        let psk = lab::random_psk()?;
        let start = |side: Side| -> Result<RemoteGateway, LabError> {
            let dir = scratch.subdir(&side.to_string()).map_err(&no_dir)?;
            let namespace = topology.gateway(side);
            match system {
                System::Groundlink => {
                    let files = GatewayFiles::in_dir(&dir);
                    let config = gateway::config(options, &addressing, side, &files);
                    GatewayProcess::start(program, namespace, &files, &config, &psk)
                        .map(RemoteGateway::Groundlink)
                        .map_err(LabError::io("cannot start groundlink"))
                }
                System::Strongswan => {
                    let config = lab::charon_config(options, &addressing, side, &psk);
                    let charon = Charon::start(namespace, &dir, &config, interrupt)?;
                    Ok(RemoteGateway::Strongswan(charon))
                }
            }
        };
        // B is the responder.
        let b = start(Side::B)?;
        let a = start(Side::A)?;
        let mut pair = GatewayPair {
            a,
            b,
            topology,
            addressing,
            options: options.clone(),
            psk,
            scratch,
        };
        let deadline = Instant::now() + UP_TIMEOUT;
        while !(pair.a.is_up() && pair.b.is_up()) {
            let mut gateways = [&mut pair.a, &mut pair.b];
            let has_exited = gateways
                .iter_mut()
                .any(|gateway| gateway.process().exit_status().is_some());
            if has_exited || Instant::now() > deadline {
                return Err(TunnelBenchError::NotUp {
                    system,
                    esp: options.esp.clone().unwrap_or_default(),
                    log: gateways
                        .into_iter()
                        .flat_map(|gateway| gateway.tail(8))
                        .collect(),
                });
            }
            interrupt.pause(POLL)?;
        }
        Ok(pair)
    }

    /// Stops gateway A, which deletes its SAs, so that another peer can take its place.
    pub(super) fn stop_a(&mut self) -> io::Result<()> {
        self.a.process().stop().map(drop)
    }

    /// The IKE settings of gateway A.
    pub(super) fn settings_of_a(&self) -> Result<ike::Settings, LabError> {
        let dir = self
            .scratch
            .subdir("peer")
            .map_err(LabError::io("cannot create a temporary directory"))?;
        let files = GatewayFiles::in_dir(&dir);
        write_private(&files.psk, &self.psk).map_err(LabError::io("cannot write a key file"))?;
        let text = gateway::config(&self.options, &self.addressing, Side::A, &files);
        let load_options = LoadOptions {
            credentials: None,
            secrets: SecretPolicy::Required,
        };
        let loaded = config::load_text(ConfigText::new("peer", text), &dir, &load_options);
        let tunnel = loaded.settings.and_then(|mut all| all.tunnels.pop());
        tunnel.map(|tunnel| tunnel.ike).ok_or_else(|| {
            let error = io::Error::other("it has no tunnel");
            LabError::io("the configuration of gateway A")(error)
        })
    }

    /// The status of both gateways; `None` if they are not groundlink.
    pub(super) fn status(&self) -> Option<[Snapshot; 2]> {
        let status = |gateway: &RemoteGateway| match gateway {
            RemoteGateway::Groundlink(gateway) => gateway.status().ok(),
            RemoteGateway::Strongswan(_) => None,
        };
        Some([status(&self.a)?, status(&self.b)?])
    }

    /// CPU time of both gateways.
    pub(super) fn cpu_time(&mut self) -> [Option<Duration>; 2] {
        [&mut self.a, &mut self.b].map(|gateway| cpu_time(gateway.process().id()))
    }

    /// Resident memory of both gateways in bytes.
    pub(super) fn resident_memory(&mut self) -> [Option<u64>; 2] {
        [&mut self.a, &mut self.b].map(|gateway| resident_memory(gateway.process().id()))
    }

    /// Runs `work` in the namespace of a host.
    pub(super) fn on_host<T: Send>(
        &self,
        side: Side,
        work: impl FnOnce() -> T + Send,
    ) -> Result<T, LabError> {
        enter(self.topology.host(side), work)
    }

    /// Runs `work` in the namespace of gateway A.
    pub(super) fn on_gateway_a<T: Send>(
        &self,
        work: impl FnOnce() -> T + Send,
    ) -> Result<T, LabError> {
        enter(self.topology.gateway(Side::A), work)
    }

    /// Runs `work` in the namespace of the WAN router.
    pub(super) fn on_wan<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        enter(self.topology.wan(), work)
    }
}

fn enter<T: Send>(namespace: &Namespace, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
    namespace
        .run(work)
        .map_err(LabError::io("cannot enter a network namespace"))
}

/// CPU time of all threads of a process in user and kernel mode, without softirqs in other contexts.
fn cpu_time(process: u32) -> Option<Duration> {
    parse_stat(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
}

/// Resident memory of a process in bytes.
fn resident_memory(process: u32) -> Option<u64> {
    parse_status(&fs::read_to_string(format!("/proc/{process}/status")).ok()?)
}

/// A tick of /proc: USER_HZ is 100 on every architecture that we build for.
const TICK: Duration = Duration::from_millis(10);

/// Parses proc_pid_stat(5): the name in parentheses may contain any character; utime and stime are fields 14 and 15.
fn parse_stat(stat: &str) -> Option<Duration> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(TICK * user + TICK * system)
}

fn parse_status(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parentheses_in_a_process_name_shift_no_field() {
        let stat = "7 (a) (b c) S 1 7 7 0 -1 4194560 99 0 0 0 150 25 3 4 20 0 3 0 100 1 2";
        assert_eq!(parse_stat(stat), Some(Duration::from_millis(1750)));
        assert_eq!(parse_stat("7 (a) S 1"), None);
    }

    #[test]
    fn resident_memory_is_vm_rss() {
        let status = "Name:\tx\nVmHWM:\t 9999 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(parse_status(status), Some(1 << 20));
        assert!(resident_memory(std::process::id()).unwrap() > 100_000);
        assert!(cpu_time(std::process::id()).is_some());
    }
}
