//! The lab: two sites on this machine, a tunnel between them, traffic through it.
//!
//! ```text
//!   options ──▶ plan ──▶ world ──▶ gateways ──▶ up? ──▶ ping, TCP ──▶ report
//!   (words)  (addresses) (namespaces) (processes)   (status)   (hosts)
//! ```
//!
//! The gateways are real: each is a `groundlink run` process with a configuration file, a key file and a control socket, in a
//! network namespace of its own; or strongSwan's charon on the far side. Nothing of it has a name outside this process, so
//! nothing is left behind: dropping a [`Lab`] ends its programs and removes its folder, and where the lab is killed the kernel
//! does the same for programs and namespaces.

pub mod charon;
pub mod gateway;
pub mod interrupt;
pub mod options;
pub mod ping;
pub mod plan;
pub mod process;
pub mod report;
pub mod scratch;
pub mod tap;
pub mod traffic;
pub mod world;

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use charon::Charon;
use gateway::{Files, Gateway};
use interrupt::{Interrupt, Interrupted};
use nix::unistd::geteuid;
use options::{DEFAULT_SUITE, Options, Peer, Refusal, Role, Side};
use plan::Plan;
use report::{Drawing, Ping, Problem, Report, Tcp, Wire};
use scratch::Scratch;
use tap::Tap;
use world::World;

use crate::os::netns::{self, UserNamespaceError};
use crate::os::tun::{self, TunError};
use crate::status::{LastError, Rekeys, Snapshot, State, Tunnel};

/// Why there is no report at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No lab can be built from these options.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// There is no way to a TUN device.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// We are not root and cannot become it.
    #[error(transparent)]
    User(#[from] UserNamespaceError),
    /// This machine does not let us build a lab.
    #[error(transparent)]
    World(#[from] world::Error),
    /// strongSwan does not work here.
    #[error(transparent)]
    Strongswan(#[from] charon::Error),
    /// The person wants out.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// A file, a process or a socket of the lab's own.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// What to do about it.
    pub fn advice(&self) -> Option<String> {
        match self {
            Error::Strongswan(charon::Error::NotInstalled(_)) => Some(charon::INSTALL.to_owned()),
            Error::Strongswan(_)
            | Error::Tun(_)
            | Error::User(_)
            | Error::World(_)
            | Error::Refused(_)
            | Error::Interrupted(_)
            | Error::Io { .. } => None,
        }
    }
}

fn io(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Io { what, source }
}

/// Becomes root in a user namespace where we are not root, so that everything else works the same. Called while there is one
/// thread.
pub fn enter() -> Result<(), Error> {
    tun::open_node()?;
    if !geteuid().is_root() {
        netns::become_root_in_user_namespace()?;
    }
    Ok(())
}

/// A built lab with its gateways running. Dropping it ends everything.
#[derive(Debug)]
pub struct Lab {
    // Dropped in this order: programs before what they stand on.
    a: Gateway,
    b: Far,
    tap: Tap,
    world: World,
    plan: Plan,
    options: Options,
    started: Instant,
    interrupt: Interrupt,
    _scratch: Scratch,
}

/// Who stands on the far side.
#[derive(Debug)]
pub enum Far {
    /// A second groundlink.
    Groundlink(Gateway),
    /// strongSwan.
    Strongswan(Charon),
}

/// How long a tunnel may take, and how long we wait on once a side has said what is wrong.
const PATIENCE: Duration = Duration::from_secs(20);
const PATIENCE_AFTER_ERROR: Duration = Duration::from_secs(4);
const POLL: Duration = Duration::from_millis(5);

impl Lab {
    /// Builds the sites and starts both gateways from `program`, the one that waits first.
    pub fn build(options: &Options, program: &Path, interrupt: &Interrupt) -> Result<Lab, Error> {
        options.check()?;
        if options.peer == Peer::Strongswan {
            charon::is_installed()?;
        }
        let plan = Plan::new(options);
        let scratch = Scratch::new().map_err(io("no temporary folder"))?;
        let folder = |side: Side| {
            scratch
                .folder(&side.to_string())
                .map_err(io("no temporary folder"))
        };
        let folders = [folder(Side::A)?, folder(Side::B)?];
        let world = World::new(options, &plan)?;
        let tap = world.tap(&plan)?;
        interrupt.check()?;
        let psk = psk().map_err(io("no random key"))?;
        let groundlink = |side: Side, folder: &Path| {
            let files = Files::in_folder(folder);
            let config = gateway::config(options, &plan, side, &files);
            Gateway::start(program, world.gateway(side), &files, &config, &psk)
                .map_err(io("groundlink cannot be started"))
        };
        let far = |started: &mut Instant| -> Result<Far, Error> {
            *started = Instant::now();
            match options.peer {
                Peer::Groundlink => groundlink(Side::B, &folders[1]).map(Far::Groundlink),
                Peer::Strongswan => {
                    let connection = connection(options, &plan, &psk);
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
            _scratch: scratch,
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

    /// Waits until both sides say that every tunnel is up; `None` if they do not.
    pub fn await_up(&mut self) -> Result<Option<Duration>, Interrupted> {
        let begin = Instant::now();
        let mut first_error: Option<Instant> = None;
        loop {
            if self.a.is_up() {
                let connected = self.started.elapsed();
                let both = match &self.b {
                    Far::Groundlink(b) => b.is_up(),
                    Far::Strongswan(charon) => charon.is_up(),
                };
                if both {
                    return Ok(Some(connected));
                }
            } else if first_error.is_none() && self.has_failed() {
                first_error = Some(Instant::now());
            }
            let gave_up = begin.elapsed() > PATIENCE
                || first_error.is_some_and(|at| at.elapsed() > PATIENCE_AFTER_ERROR);
            if gave_up || self.has_ended() {
                return Ok(None);
            }
            self.interrupt.pause(POLL)?;
        }
    }

    /// Pings from host A to host B.
    pub fn ping(&self, count: u16) -> Result<Ping, Error> {
        let target = self.plan.b.host;
        let pinger = self
            .inside(Side::A, || ping::Pinger::new(target))?
            .map_err(io("no ICMP socket"))?;
        let result = pinger.ping(count, &self.interrupt);
        self.interrupt.check()?;
        result.map_err(io("the ping broke"))
    }

    /// Runs TCP from the host of `side` to the other one, over `streams` connections.
    pub fn tcp(
        &self,
        side: Side,
        streams: usize,
        duration: Duration,
    ) -> Result<traffic::Carried, TcpError> {
        let to = side.other();
        let address = self.plan.site(to).host;
        let sink = self
            .inside(to, || traffic::Sink::new(address))?
            .map_err(traffic::Error::Local)?;
        let target = sink.target().map_err(traffic::Error::Local)?;
        let connected = self.inside(side, || traffic::connect(target, streams))??;
        Ok(sink.fill(connected, duration, &self.interrupt)?)
    }

    /// Waits for the tunnels, runs the traffic, and says how it went.
    pub fn measure(&mut self, progress: &mut dyn FnMut(&str)) -> Result<Report, Error> {
        progress("waiting for the tunnel");
        let connected = self.await_up()?;
        let mut report = self.empty_report();
        report.connect_ms = connected.map(|time| time.as_secs_f64() * 1e3);
        if connected.is_some() {
            progress("pinging");
            report.ping = self.ping(20)?;
            if report.ping.received < report.ping.sent {
                let Ping { sent, received, .. } = report.ping;
                report.problems.push(Problem::new(format!(
                    "{} of {sent} pings were lost",
                    sent - received
                )));
            }
            self.tap
                .watch_protocol_50_only()
                .map_err(io("the WAN router cannot be watched"))?;
            for side in [Side::A, Side::B] {
                progress(&format!("TCP from {side} to {}", side.other()));
                match self.tcp(
                    side,
                    self.streams(),
                    Duration::from_secs(self.options.seconds.into()),
                ) {
                    Ok(carried) => *report.direction(side) = carried.mbit(),
                    Err(TcpError::Lab(error)) => return Err(error),
                    Err(TcpError::Traffic(traffic::Error::Interrupted(error))) => {
                        return Err(error.into());
                    }
                    Err(TcpError::Traffic(error)) => {
                        report.problems.push(Problem::new(format!(
                            "from {side} to {}: {error}",
                            side.other()
                        )));
                    }
                }
            }
        }
        self.conclude(&mut report, connected.is_some());
        Ok(report)
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
        let sockets = [
            Some(self.a.socket()),
            match &self.b {
                Far::Groundlink(b) => Some(b.socket()),
                Far::Strongswan(_) => None,
            },
        ];
        for (side, socket) in [Side::A, Side::B].into_iter().zip(sockets) {
            if let Some(socket) = socket {
                lines.push(format!(
                    "status {side}    groundlink status --socket {}",
                    socket.display()
                ));
            }
        }
        lines
    }

    fn inside<T: Send>(&self, side: Side, f: impl FnOnce() -> T + Send) -> Result<T, Error> {
        self.world
            .host(side)
            .run(f)
            .map_err(io("a network namespace cannot be entered"))
    }

    /// Enough flows that each of several tunnels is likely to get some.
    fn streams(&self) -> usize {
        match self.options.tunnels {
            1 => 1,
            several => usize::from(several) * 4,
        }
    }

    fn has_failed(&self) -> bool {
        let with_error = |gateway: &Gateway| {
            gateway.status().is_ok_and(|snapshot| {
                snapshot
                    .tunnels
                    .iter()
                    .any(|tunnel| tunnel.state != State::Up && tunnel.last_error.is_some())
            })
        };
        with_error(&self.a)
            || match &self.b {
                Far::Groundlink(b) => with_error(b),
                Far::Strongswan(_) => false,
            }
    }

    fn has_ended(&mut self) -> bool {
        self.a.process().ended().is_some()
            || match &mut self.b {
                Far::Groundlink(b) => b.process().ended().is_some(),
                Far::Strongswan(charon) => charon.process().ended().is_some(),
            }
    }

    fn empty_report(&self) -> Report {
        let sites = [&self.plan.a, &self.plan.b];
        let asked = |words: &Option<String>| {
            words
                .clone()
                .or_else(|| self.options.preset.clone())
                .unwrap_or_else(|| DEFAULT_SUITE.to_owned())
        };
        Report {
            ok: false,
            peer: self.options.peer.word(),
            ike: asked(&self.options.ike),
            esp: asked(&self.options.esp),
            connect_ms: None,
            ping: Ping::default(),
            tcp: Tcp::default(),
            rekeys: Rekeys::default(),
            tunnels: Vec::new(),
            wire: Wire::default(),
            problems: Vec::new(),
            drawing: Drawing {
                networks: sites.map(|site| site.network.to_string()),
                hosts: sites.map(|site| site.host.to_string()),
                gateways: sites.map(|site| {
                    site.outside
                        .first()
                        .map(ToString::to_string)
                        .unwrap_or_default()
                }),
                programs: [
                    "groundlink".to_owned(),
                    match self.options.peer {
                        Peer::Groundlink => "groundlink".to_owned(),
                        Peer::Strongswan => "strongSwan".to_owned(),
                    },
                ],
                router: match self.options.nat {
                    options::Nat::None => "WAN".to_owned(),
                    options::Nat::Us => "NAT for A".to_owned(),
                    options::Nat::Peer => "NAT for B".to_owned(),
                },
                seconds: self.options.seconds,
            },
        }
    }

    /// Adds what the gateways and the wire say at the end, and the verdict.
    fn conclude(&mut self, report: &mut Report, was_up: bool) {
        if let Ok(snapshot) = self.a.status() {
            report.rekeys = total_rekeys(&snapshot);
            report.tunnels = snapshot.tunnels;
        }
        report.wire = self.tap.seen();
        let Wire {
            esp_udp,
            esp_native,
            clear,
            ..
        } = report.wire;
        if !was_up {
            self.explain(report);
        } else if report
            .tunnels
            .iter()
            .any(|tunnel| tunnel.state != State::Up)
            || report.tunnels.is_empty()
        {
            report.problems.push(Problem::new("a tunnel went down"));
            self.explain(report);
        }
        if was_up && esp_udp == 0 {
            report
                .problems
                .push(Problem::new("no ESP was seen between the gateways"));
        }
        if esp_native > 0 {
            report.problems.push(Problem::new(format!(
                "{esp_native} packets left as protocol 50, not in UDP"
            )));
        }
        if clear > 0 {
            report.problems.push(Problem::new(format!(
                "{clear} packets of the two networks crossed the WAN in the clear"
            )));
        }
        report.ok = report.problems.is_empty();
    }

    /// Why the tunnel is not up: what each side says, and the end of its log.
    fn explain(&mut self, report: &mut Report) {
        // Who has ended explains the other's silence.
        let b_ended = match &mut self.b {
            Far::Groundlink(b) => b.process().ended().is_some(),
            Far::Strongswan(charon) => charon.process().ended().is_some(),
        };
        if !b_ended || self.a.process().ended().is_some() {
            report
                .problems
                .push(groundlink_problem(Side::A, &mut self.a));
        }
        report.problems.push(match &mut self.b {
            Far::Groundlink(b) => groundlink_problem(Side::B, b),
            Far::Strongswan(charon) => Problem {
                text: match charon.process().ended() {
                    Some(status) => format!("strongSwan at B ended: {status}"),
                    None => "strongSwan at B logged".to_owned(),
                },
                advice: None,
                log: charon.tail(15),
            },
        });
    }
}

/// What running TCP can end in: the traffic's own error, or the lab's.
#[derive(Debug, thiserror::Error)]
pub enum TcpError {
    /// The lab's.
    #[error(transparent)]
    Lab(#[from] Error),
    /// The traffic's.
    #[error(transparent)]
    Traffic(#[from] traffic::Error),
}

impl Report {
    fn direction(&mut self, from: Side) -> &mut f64 {
        match from {
            Side::A => &mut self.tcp.a_to_b_mbit,
            Side::B => &mut self.tcp.b_to_a_mbit,
        }
    }
}

fn groundlink_problem(side: Side, gateway: &mut Gateway) -> Problem {
    let status = gateway.status();
    let ended = gateway.process().ended();
    let last_error = status
        .as_ref()
        .ok()
        .and_then(|snapshot| snapshot.tunnels.iter().find_map(failure));
    let (text, advice) = match (ended, last_error, status) {
        (Some(status), _, _) => (format!("gateway {side} ended: {status}"), None),
        (
            None,
            Some(LastError {
                code, text, advice, ..
            }),
            _,
        ) => (
            format!("gateway {side} says {code}: {text}"),
            Some(advice).filter(|advice| !advice.is_empty()),
        ),
        (None, None, Ok(snapshot)) => {
            let states: Vec<String> = snapshot
                .tunnels
                .iter()
                .map(|tunnel| format!("{} is {}", tunnel.name, tunnel.state.word()))
                .collect();
            (format!("gateway {side} says {}", states.join(", ")), None)
        }
        (None, None, Err(error)) => (
            format!("gateway {side} does not answer on its control socket: {error}"),
            None,
        ),
    };
    Problem {
        text,
        advice,
        log: gateway.process().tail(8),
    }
}

fn failure(tunnel: &Tunnel) -> Option<LastError> {
    tunnel
        .last_error
        .clone()
        .filter(|_| tunnel.state != State::Up)
}

fn total_rekeys(snapshot: &Snapshot) -> Rekeys {
    snapshot
        .tunnels
        .iter()
        .fold(Rekeys::default(), |sum, tunnel| Rekeys {
            ike: sum.ike + tunnel.rekeys.ike,
            child: sum.child + tunnel.rekeys.child,
            packets_lost: sum.packets_lost + tunnel.rekeys.packets_lost,
        })
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

/// strongSwan's side of the agreement.
fn connection(options: &Options, plan: &Plan, psk: &str) -> charon::Connection {
    charon::Connection {
        local: plan.b.outside[0],
        remote: plan.a.public[0],
        id: plan.b.public[0].to_string(),
        peer_id: plan.a.public[0].to_string(),
        local_network: plan.b.network,
        remote_network: plan.a.network,
        ike: options.ike.clone(),
        esp: options.esp.clone(),
        psk: psk.to_owned(),
        start: if options.starts(Side::B) {
            charon::Start::Connects
        } else {
            charon::Start::Waits
        },
        dpd_delay: 10,
    }
}

/// A key for this lab: 32 hexadecimal digits from the kernel.
fn psk() -> io::Result<String> {
    use std::io::Read as _;
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whether our root is only that of a user namespace: then its map does not cover all users.
fn in_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !map.contains("4294967295"))
}
