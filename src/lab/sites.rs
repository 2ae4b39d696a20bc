//! Building the sites, and ending them.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::charon::{self, Charon};
use super::gateway::{self, Files, Gateway};
use super::interrupt::{Interrupt, Interrupted};
use super::options::{Options, Peer, Role, Side};
use super::plan::Plan;
use super::report::Wire;
use super::scratch::Scratch;
use super::tap::Tap;
use super::world::World;
use super::{Error, doing};

/// A built lab with its gateways running. Dropping it ends everything.
#[derive(Debug)]
pub struct Lab {
    // Dropped in this order: programs before what they stand on.
    pub(super) a: Gateway,
    pub(super) b: Far,
    pub(super) tap: Tap,
    pub(super) world: World,
    pub(super) plan: Plan,
    pub(super) options: Options,
    pub(super) started: Instant,
    pub(super) interrupt: Interrupt,
    scratch: Scratch,
}

/// Who stands on the far side.
#[derive(Debug)]
pub enum Far {
    /// A second groundlink.
    Groundlink(Gateway),
    /// strongSwan.
    Strongswan(Charon),
}

/// What a test makes different, so that a tunnel fails in a way the options cannot ask for.
#[derive(Default)]
pub struct Changes<'a> {
    /// Rewrites the configuration of a groundlink.
    pub config: Option<&'a dyn Fn(Side, String) -> String>,
    /// Rewrites strongSwan's side of the agreement.
    pub connection: Option<&'a dyn Fn(&mut charon::Connection)>,
}

/// How often a gateway is asked how it is.
pub(super) const POLL: Duration = Duration::from_millis(5);

impl Lab {
    /// Builds the sites and starts both gateways from `program`, the one that waits first.
    pub fn build(options: &Options, program: &Path, interrupt: &Interrupt) -> Result<Lab, Error> {
        Lab::build_changed(options, program, interrupt, &Changes::default())
    }

    /// Does the same with `changes`.
    pub fn build_changed(
        options: &Options,
        program: &Path,
        interrupt: &Interrupt,
        changes: &Changes<'_>,
    ) -> Result<Lab, Error> {
        options.check()?;
        if options.peer == Peer::Strongswan {
            charon::is_installed()?;
        }
        let plan = Plan::new(options);
        let scratch = Scratch::new().map_err(doing("no temporary folder"))?;
        let folder = |side: Side| {
            scratch
                .folder(&side.to_string())
                .map_err(doing("no temporary folder"))
        };
        let folders = [folder(Side::A)?, folder(Side::B)?];
        let world = World::new(options, &plan)?;
        let tap = world.tap(&plan)?;
        interrupt.check()?;
        let psk = psk().map_err(doing("no random key"))?;
        let groundlink = |side: Side, folder: &Path| {
            let files = Files::in_folder(folder);
            let written = gateway::config(options, &plan, side, &files);
            let config = match changes.config {
                Some(change) => change(side, written),
                None => written,
            };
            Gateway::start(program, world.gateway(side), &files, &config, &psk)
                .map_err(doing("groundlink cannot be started"))
        };
        let far = |started: &mut Instant| -> Result<Far, Error> {
            *started = Instant::now();
            match options.peer {
                Peer::Groundlink => groundlink(Side::B, &folders[1]).map(Far::Groundlink),
                Peer::Strongswan => {
                    let mut connection = connection(options, &plan, Side::B, &psk);
                    if let Some(change) = changes.connection {
                        change(&mut connection);
                    }
                    let charon =
                        Charon::start(world.gateway(Side::B), &folders[1], &connection, interrupt)?;
                    Ok(Far::Strongswan(charon))
                }
            }
        };
        let mut started = Instant::now();
        let (a, b) = match options.role {
            Role::Initiator => {
                let mut b = far(&mut started)?;
                await_answer(&mut b, interrupt)?;
                started = Instant::now();
                (groundlink(Side::A, &folders[0])?, b)
            }
            Role::Responder | Role::Both => {
                let mut a = groundlink(Side::A, &folders[0])?;
                if options.role == Role::Responder {
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
    pub fn a(&mut self) -> &mut Gateway {
        &mut self.a
    }

    /// The peer's.
    pub fn b(&mut self) -> &mut Far {
        &mut self.b
    }

    /// Starts our gateway again where it was, with the files it had.
    pub fn restart_a(&mut self, program: &Path) -> io::Result<()> {
        let files = Files::in_folder(&self.scratch.path().join(Side::A.to_string()));
        self.a = Gateway::resume(program, self.world.gateway(Side::A), &files)?;
        Ok(())
    }

    /// Does the same for strongSwan, which must have ended: it has one socket for orders.
    pub fn restart_b(&mut self) -> Result<(), charon::Error> {
        let folder = self.scratch.path().join(Side::B.to_string());
        let charon = Charon::resume(self.world.gateway(Side::B), &folder, &self.interrupt)?;
        self.b = Far::Strongswan(charon);
        Ok(())
    }

    /// The machines.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The addresses.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What the WAN router saw.
    pub fn wire(&mut self) -> Wire {
        self.tap.seen()
    }

    /// One line for each machine: how to step inside.
    pub fn doors(&self) -> Vec<String> {
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
            Far::Groundlink(b) => format!("status B    {}", b.status_command()),
            Far::Strongswan(charon) => format!("status B    {}", charon.status_command()),
        });
        lines
    }
}

/// The peer must be listening before the other side starts: otherwise we would measure its first retransmission.
fn await_answer(far: &mut Far, interrupt: &Interrupt) -> Result<(), Interrupted> {
    match far {
        Far::Groundlink(gateway) => await_control(gateway, interrupt),
        // Its vici socket was awaited, and opens last.
        Far::Strongswan(_) => Ok(()),
    }
}

/// A gateway that never answers shows up later, with its log.
fn await_control(gateway: &mut Gateway, interrupt: &Interrupt) -> Result<(), Interrupted> {
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
    options: &Options,
    plan: &Plan,
    side: Side,
    psk: &str,
) -> charon::Connection {
    let (ours, theirs) = (plan.site(side), plan.site(side.other()));
    charon::Connection {
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
            charon::Start::Connects
        } else {
            charon::Start::Waits
        },
        dpd_delay: 10,
        fragment_size: None,
        cookies_from: None,
        renewal: charon::Renewal::default(),
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
