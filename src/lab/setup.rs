//! Construction and teardown of a lab.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;

use super::addressing::Addressing;
use super::charon::{self, Charon, CharonConfig, CharonStart, RekeyTimes};
use super::error::LabError;
use super::gateway::{self, GatewayFiles, GatewayProcess};
use super::interrupt::{Interrupt, Interrupted};
use super::options::{InitiatorChoice, LabOptions, RemoteKind, Side};
use super::process::{ChildProcess, ScratchDir};
use super::report::WireCounters;
use super::topology::Topology;
use super::wire_tap::WireTap;
use crate::os::entropy;

/// A running lab. Dropping it stops the gateways and removes the namespaces.
#[derive(Debug)]
pub struct Lab {
    // Drop order: programs before the namespaces and files that they use.
    pub(super) a: GatewayProcess,
    pub(super) b: RemoteGateway,
    pub(super) wire_tap: WireTap,
    pub(super) topology: Topology,
    pub(super) addressing: Addressing,
    pub(super) options: LabOptions,
    pub(super) started: Instant,
    pub(super) interrupt: Interrupt,
    scratch: ScratchDir,
}

/// The remote gateway.
#[derive(Debug)]
pub enum RemoteGateway {
    /// A second groundlink.
    Groundlink(GatewayProcess),
    /// strongSwan.
    Strongswan(Charon),
}

impl RemoteGateway {
    /// Whether its tunnels are up.
    pub fn is_up(&self) -> bool {
        match self {
            RemoteGateway::Groundlink(gateway) => gateway.is_up(),
            RemoteGateway::Strongswan(charon) => charon.is_up(),
        }
    }

    /// The child process.
    pub fn process(&mut self) -> &mut ChildProcess {
        match self {
            RemoteGateway::Groundlink(gateway) => gateway.process(),
            RemoteGateway::Strongswan(charon) => charon.process(),
        }
    }

    /// Last `count` lines of its log.
    pub fn tail(&mut self, count: usize) -> Vec<String> {
        match self {
            RemoteGateway::Groundlink(gateway) => gateway.process().tail(count),
            RemoteGateway::Strongswan(charon) => charon.tail(count),
        }
    }

    fn status_command(&self) -> String {
        match self {
            RemoteGateway::Groundlink(gateway) => gateway.status_command(),
            RemoteGateway::Strongswan(charon) => charon.status_command(),
        }
    }
}

/// Changes that a test makes to the configurations, for failures that no option causes.
#[derive(Default)]
pub struct Overrides<'a> {
    /// Changes the configuration file of a groundlink gateway.
    pub config: Option<&'a dyn Fn(Side, String) -> String>,
    /// Changes the configuration of strongSwan.
    pub connection: Option<&'a dyn Fn(&mut CharonConfig)>,
}

/// Interval between status requests.
pub(super) const POLL: Duration = Duration::from_millis(5);

/// Time for a gateway to open its control socket.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(5);

impl Lab {
    /// Builds the sites and starts both gateways, the responder first. `program` is the groundlink binary.
    pub fn build(
        options: &LabOptions,
        program: &Path,
        interrupt: &Interrupt,
    ) -> Result<Lab, LabError> {
        Lab::build_with(options, program, interrupt, &Overrides::default())
    }

    /// Builds the lab with changed configurations.
    pub fn build_with(
        options: &LabOptions,
        program: &Path,
        interrupt: &Interrupt,
        overrides: &Overrides<'_>,
    ) -> Result<Lab, LabError> {
        options.check()?;
        if options.peer == RemoteKind::Strongswan {
            charon::check_installed()?;
        }
        let addressing = Addressing::new(options);
        let no_dir = LabError::io("cannot create a temporary directory");
        let scratch = ScratchDir::new().map_err(&no_dir)?;
        let subdir = |side: Side| scratch.subdir(&side.to_string()).map_err(&no_dir);
        let [dir_a, dir_b] = [subdir(Side::A)?, subdir(Side::B)?];
        let topology = Topology::new(options, &addressing)?;
        let wire_tap = topology.wire_tap(&addressing)?;
        interrupt.check()?;
        let psk = random_psk()?;
        let groundlink = |side: Side, dir: &Path| {
            let files = GatewayFiles::in_dir(dir);
            let mut config = gateway::config(options, &addressing, side, &files);
            if let Some(change) = overrides.config {
                config = change(side, config);
            }
            GatewayProcess::start(program, topology.gateway(side), &files, &config, &psk)
                .map_err(LabError::io("cannot start groundlink"))
        };
        let remote = || -> Result<RemoteGateway, LabError> {
            match options.peer {
                RemoteKind::Groundlink => {
                    groundlink(Side::B, &dir_b).map(RemoteGateway::Groundlink)
                }
                RemoteKind::Strongswan => {
                    let mut config = charon_config(options, &addressing, Side::B, &psk);
                    if let Some(change) = overrides.connection {
                        change(&mut config);
                    }
                    let namespace = topology.gateway(Side::B);
                    let charon = Charon::start(namespace, &dir_b, &config, interrupt)?;
                    Ok(RemoteGateway::Strongswan(charon))
                }
            }
        };
        // The responder must listen before the initiator starts; otherwise the first retransmission would be measured.
        let (a, b, started) = match options.role {
            InitiatorChoice::Initiator => {
                let mut b = remote()?;
                if let RemoteGateway::Groundlink(gateway) = &mut b {
                    await_control(gateway, interrupt)?;
                }
                let started = Instant::now();
                (groundlink(Side::A, &dir_a)?, b, started)
            }
            InitiatorChoice::Responder | InitiatorChoice::Both => {
                let mut a = groundlink(Side::A, &dir_a)?;
                if options.role == InitiatorChoice::Responder {
                    await_control(&mut a, interrupt)?;
                }
                let started = Instant::now();
                (a, remote()?, started)
            }
        };
        Ok(Lab {
            a,
            b,
            wire_tap,
            topology,
            addressing,
            options: options.clone(),
            started,
            interrupt: interrupt.clone(),
            scratch,
        })
    }

    /// The local gateway.
    pub fn a(&mut self) -> &mut GatewayProcess {
        &mut self.a
    }

    /// The remote gateway.
    pub fn b(&mut self) -> &mut RemoteGateway {
        &mut self.b
    }

    /// Restarts the local gateway with the same files.
    pub fn restart_a(&mut self, program: &Path) -> io::Result<()> {
        let files = GatewayFiles::in_dir(&self.scratch.path().join(Side::A.to_string()));
        self.a = GatewayProcess::restart(program, self.topology.gateway(Side::A), &files)?;
        Ok(())
    }

    /// Restarts strongSwan with the same files. It must have exited, because it has only one vici socket.
    pub fn restart_b(&mut self) -> Result<(), charon::CharonError> {
        let dir = self.scratch.path().join(Side::B.to_string());
        let charon = Charon::restart(self.topology.gateway(Side::B), &dir, &self.interrupt)?;
        self.b = RemoteGateway::Strongswan(charon);
        Ok(())
    }

    /// The network namespaces.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The addresses.
    pub fn addressing(&self) -> &Addressing {
        &self.addressing
    }

    /// Packet counters of the WAN router.
    pub fn wire(&mut self) -> WireCounters {
        self.wire_tap.counters()
    }

    /// Shell commands that enter each namespace, and that show the status of each gateway.
    pub fn namespace_commands(&self) -> Vec<String> {
        let process = std::process::id();
        let user = if in_user_namespace() {
            format!(" --preserve-credentials --user=/proc/{process}/ns/user")
        } else {
            String::new()
        };
        let namespaces = [
            ("host A", self.topology.host(Side::A)),
            ("gateway A", self.topology.gateway(Side::A)),
            ("WAN router", self.topology.wan()),
            ("gateway B", self.topology.gateway(Side::B)),
            ("host B", self.topology.host(Side::B)),
        ];
        let enter = namespaces.iter().map(|(name, namespace)| {
            format!(
                "{name:<10}  nsenter{user} --net={}",
                namespace.path().display()
            )
        });
        let status = [self.a.status_command(), self.b.status_command()];
        let status = ["A", "B"]
            .iter()
            .zip(status)
            .map(|(side, command)| format!("status {side}    {command}"));
        enter.chain(status).collect()
    }
}

/// Waits for the control socket. The report shows the log of a gateway that never opens it.
fn await_control(gateway: &mut GatewayProcess, interrupt: &Interrupt) -> Result<(), Interrupted> {
    let deadline = Instant::now() + CONTROL_TIMEOUT;
    while gateway.status().is_err()
        && gateway.process().exit_status().is_none()
        && Instant::now() < deadline
    {
        interrupt.pause(POLL)?;
    }
    Ok(())
}

/// The configuration of strongSwan on `side`.
pub(crate) fn charon_config(
    options: &LabOptions,
    addressing: &Addressing,
    side: Side,
    psk: &str,
) -> CharonConfig {
    let (ours, theirs) = (addressing.site(side), addressing.site(side.other()));
    CharonConfig {
        local: ours.outside[0],
        remote: theirs.public[0],
        id: ours.public[0].to_string(),
        peer_id: theirs.public[0].to_string(),
        local_network: ours.network,
        remote_network: theirs.network,
        ike: options.ike.clone(),
        esp: options.esp.clone(),
        psk: psk.to_owned(),
        start: if options.initiates(side) {
            CharonStart::Connect
        } else {
            CharonStart::Wait
        },
        dpd_delay: 10,
        fragment_size: None,
        cookies_from: None,
        rekey_times: RekeyTimes::default(),
        retransmit_ms: None,
        further_remote_networks: Vec::new(),
        ppk: None,
        root: None,
    }
}

/// A random pre-shared key: 32 hexadecimal digits.
pub(crate) fn random_psk() -> Result<String, LabError> {
    let seed = entropy::seed().map_err(LabError::io("cannot get random numbers"))?;
    Ok(HEXLOWER.encode(&seed[..16]))
}

/// Whether root is that of a user namespace: its map does not cover all users.
fn in_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !map.contains("4294967295"))
}
