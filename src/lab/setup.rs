//! Building the sites, and ending them.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::addressing::Addressing;
use super::charon::{self, Charon};
use super::gateway::{self, GatewayFiles, GatewayProcess};
use super::interrupt::{Interrupt, Interrupted};
use super::options::{InitiatorChoice, LabOptions, RemoteKind, Side};
use super::report::WireCounters;
use super::scratch::ScratchDir;
use super::topology::Topology;
use super::wire_tap::WireTap;
use super::{LabError, doing};

/// A built lab with its gateways running. Dropping it ends everything.
#[derive(Debug)]
pub struct Lab {
    // Dropped in this order: programs before what they stand on.
    pub(super) a: GatewayProcess,
    pub(super) b: RemoteGateway,
    pub(super) tap: WireTap,
    pub(super) world: Topology,
    pub(super) plan: Addressing,
    pub(super) options: LabOptions,
    pub(super) started: Instant,
    pub(super) interrupt: Interrupt,
    scratch: ScratchDir,
}

/// Who stands on the far side.
#[derive(Debug)]
pub enum RemoteGateway {
    /// A second groundlink.
    Groundlink(GatewayProcess),
    /// strongSwan.
    Strongswan(Charon),
}

/// What a test makes different, so that a tunnel fails in a way the options cannot ask for.
#[derive(Default)]
pub struct Overrides<'a> {
    /// Rewrites the configuration of a groundlink.
    pub config: Option<&'a dyn Fn(Side, String) -> String>,
    /// Rewrites strongSwan's side of the agreement.
    pub connection: Option<&'a dyn Fn(&mut charon::CharonConfig)>,
}

/// How often a gateway is asked how it is.
pub(super) const POLL: Duration = Duration::from_millis(5);

impl Lab {
    /// Builds the sites and starts both gateways from `program`, the one that waits first.
    pub fn build(
        options: &LabOptions,
        program: &Path,
        interrupt: &Interrupt,
    ) -> Result<Lab, LabError> {
        Lab::build_changed(options, program, interrupt, &Overrides::default())
    }

    /// Does the same with `changes`.
    pub fn build_changed(
        options: &LabOptions,
        program: &Path,
        interrupt: &Interrupt,
        changes: &Overrides<'_>,
    ) -> Result<Lab, LabError> {
        options.check()?;
        if options.peer == RemoteKind::Strongswan {
            charon::is_installed()?;
        }
        let plan = Addressing::new(options);
        let scratch = ScratchDir::new().map_err(doing("no temporary folder"))?;
        let folder = |side: Side| {
            scratch
                .folder(&side.to_string())
                .map_err(doing("no temporary folder"))
        };
        let folders = [folder(Side::A)?, folder(Side::B)?];
        let world = Topology::new(options, &plan)?;
        let tap = world.tap(&plan)?;
        interrupt.check()?;
        let psk = psk().map_err(doing("no random key"))?;
        let groundlink = |side: Side, folder: &Path| {
            let files = GatewayFiles::in_folder(folder);
            let written = gateway::config(options, &plan, side, &files);
            let config = match changes.config {
                Some(change) => change(side, written),
                None => written,
            };
            GatewayProcess::start(program, world.gateway(side), &files, &config, &psk)
                .map_err(doing("groundlink cannot be started"))
        };
        let far = |started: &mut Instant| -> Result<RemoteGateway, LabError> {
            *started = Instant::now();
            match options.peer {
                RemoteKind::Groundlink => {
                    groundlink(Side::B, &folders[1]).map(RemoteGateway::Groundlink)
                }
                RemoteKind::Strongswan => {
                    let mut connection = connection(options, &plan, Side::B, &psk);
                    if let Some(change) = changes.connection {
                        change(&mut connection);
                    }
                    let charon =
                        Charon::start(world.gateway(Side::B), &folders[1], &connection, interrupt)?;
                    Ok(RemoteGateway::Strongswan(charon))
                }
            }
        };
        let mut started = Instant::now();
        let (a, b) = match options.role {
            InitiatorChoice::Initiator => {
                let mut b = far(&mut started)?;
                await_answer(&mut b, interrupt)?;
                started = Instant::now();
                (groundlink(Side::A, &folders[0])?, b)
            }
            InitiatorChoice::Responder | InitiatorChoice::Both => {
                let mut a = groundlink(Side::A, &folders[0])?;
                if options.role == InitiatorChoice::Responder {
                    await_control(&mut a, interrupt)?;
                }
                let b = far(&mut started)?;
                (a, b)
            }
        };
        Ok(Lab {
            a,
            b,
            tap,
            world,
            plan,
            options: options.clone(),
            started,
            interrupt: interrupt.clone(),
            scratch,
        })
    }

    /// Our gateway.
    pub fn a(&mut self) -> &mut GatewayProcess {
        &mut self.a
    }

    /// The peer's.
    pub fn b(&mut self) -> &mut RemoteGateway {
        &mut self.b
    }

    /// Starts our gateway again where it was, with the files it had.
    pub fn restart_a(&mut self, program: &Path) -> io::Result<()> {
        let files = GatewayFiles::in_folder(&self.scratch.path().join(Side::A.to_string()));
        self.a = GatewayProcess::resume(program, self.world.gateway(Side::A), &files)?;
        Ok(())
    }

    /// Does the same for strongSwan, which must have ended: it has one socket for orders.
    pub fn restart_b(&mut self) -> Result<(), charon::CharonError> {
        let folder = self.scratch.path().join(Side::B.to_string());
        let charon = Charon::resume(self.world.gateway(Side::B), &folder, &self.interrupt)?;
        self.b = RemoteGateway::Strongswan(charon);
        Ok(())
    }

    /// The machines.
    pub fn world(&self) -> &Topology {
        &self.world
    }

    /// The addresses.
    pub fn plan(&self) -> &Addressing {
        &self.plan
    }

    /// What the WAN router saw.
    pub fn wire(&mut self) -> WireCounters {
        self.tap.seen()
    }

    /// One line for each machine: how to step inside.
    pub fn namespace_commands(&self) -> Vec<String> {
        let process = std::process::id();
        let user = if in_user_namespace() {
            format!(" --preserve-credentials --user=/proc/{process}/ns/user")
        } else {
            String::new()
        };
        let machines = [
            ("host A", self.world.host(Side::A)),
            ("gateway A", self.world.gateway(Side::A)),
            ("WAN router", self.world.wan()),
            ("gateway B", self.world.gateway(Side::B)),
            ("host B", self.world.host(Side::B)),
        ];
        let mut lines: Vec<String> = machines
            .iter()
            .map(|(name, namespace)| {
                format!(
                    "{name:<10}  nsenter{user} --net={}",
                    namespace.path().display()
                )
            })
            .collect();
        lines.push(format!("status A    {}", self.a.status_command()));
        lines.push(match &self.b {
            RemoteGateway::Groundlink(b) => format!("status B    {}", b.status_command()),
            RemoteGateway::Strongswan(charon) => format!("status B    {}", charon.status_command()),
        });
        lines
    }
}

/// The peer must be listening before the other side starts: otherwise we would measure its first retransmission.
fn await_answer(far: &mut RemoteGateway, interrupt: &Interrupt) -> Result<(), Interrupted> {
    match far {
        RemoteGateway::Groundlink(gateway) => await_control(gateway, interrupt),
        // Its vici socket was awaited, and opens last.
        RemoteGateway::Strongswan(_) => Ok(()),
    }
}

/// A gateway that never answers shows up later, with its log.
fn await_control(gateway: &mut GatewayProcess, interrupt: &Interrupt) -> Result<(), Interrupted> {
    let give_up = Instant::now() + Duration::from_secs(5);
    while gateway.status().is_err()
        && gateway.process().ended().is_none()
        && Instant::now() < give_up
    {
        interrupt.pause(POLL)?;
    }
    Ok(())
}

/// One side of the agreement, as strongSwan sees it.
pub(crate) fn connection(
    options: &LabOptions,
    plan: &Addressing,
    side: Side,
    psk: &str,
) -> charon::CharonConfig {
    let (ours, theirs) = (plan.site(side), plan.site(side.other()));
    charon::CharonConfig {
        local: ours.outside[0],
        remote: theirs.public[0],
        id: ours.public[0].to_string(),
        peer_id: theirs.public[0].to_string(),
        local_network: ours.network,
        remote_network: theirs.network,
        ike: options.ike.clone(),
        esp: options.esp.clone(),
        psk: psk.to_owned(),
        start: if options.starts(side) {
            charon::CharonStart::Connect
        } else {
            charon::CharonStart::Wait
        },
        dpd_delay: 10,
        fragment_size: None,
        cookies_from: None,
        rekey_times: charon::RekeyTimes::default(),
        retransmit_ms: None,
        ppk: None,
        root: None,
    }
}

/// A key for this lab: 32 hexadecimal digits from the kernel.
pub(crate) fn psk() -> io::Result<String> {
    use std::io::Read as _;
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whether our root is only that of a user namespace: then its map does not cover all users.
fn in_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !map.contains("4294967295"))
}
