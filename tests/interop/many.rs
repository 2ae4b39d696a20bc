//! Many tunnels between two gateways: what each of them costs, and that nothing is done while nothing is to be done.
//!
//! ```text
//!   gateway A: 10.60.n.1 ─┐                                                ┌─ 198.18.0.n ── 10.50.n.1 :gateway B
//!   (one address towards  ├── 192.0.2.1 ═══ tunnel n of many ═══ router ═══┤
//!    the WAN)             ┘                                                └─ (an address for each tunnel)
//! ```
//!
//! The networks are addresses of the gateways themselves, so that no host is needed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use groundlink::lab::addressing::Addressing;
use groundlink::lab::gateway::{GatewayFiles, GatewayProcess};
use groundlink::lab::options::{LabOptions, Side};
use groundlink::lab::process::ScratchDir;
use groundlink::lab::topology::Topology;
use groundlink::status::TunnelState;

use super::lab::program;
use super::wait;

/// As many as there are workers on the largest machine: then every thread is there.
const FEW: u16 = 8;
const MANY: u16 = 200;

/// What one more tunnel may take.
const EACH_KIB: u64 = 100;

/// How long all of them may take to come up, in a build without optimisation.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long an idle gateway is watched, and how many hundredths of a second of CPU time it may take meanwhile.
const QUIET: Duration = Duration::from_secs(3);
const TICKS: u64 = 5;

/// Two gateways with tunnels that are up.
pub struct Pair {
    // Dropped in this order: programs before what they stand on.
    pub gateways: [GatewayProcess; 2],
    pub world: Topology,
    tunnels: u16,
    _scratch: ScratchDir,
}

fn inner(side: Side, number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    match side {
        Side::A => [10, 60 + high, low, 1].into(),
        Side::B => [10, 50 + high, low, 1].into(),
    }
}

pub fn outer(number: u16) -> Ipv4Addr {
    let [high, low] = (number + 1).to_be_bytes();
    [198, 18, high, low].into()
}

fn config(side: Side, plan: &Addressing, files: &GatewayFiles, tunnels: u16) -> String {
    let mut toml = format!("[gateway]\ncontrol = {:?}\n", files.control);
    let one = plan.a.outside[0].to_string();
    for number in 0..tunnels {
        let another = outer(number).to_string();
        let (here, there, start) = match side {
            Side::A => (&one, &another, "auto"),
            Side::B => (&another, &one, "add"),
        };
        let _ = write!(
            toml,
            "
[[tunnel]]
name = \"t{number}\"
address = \"{here}\"
local-address = \"{here}\"
peer = \"{there}\"
psk = {{ file = {:?} }}
local = [\"{}/32\"]
remote = [\"{}/32\"]
ike = \"aes128-sha256-curve25519\"
esp = \"aes128-sha1\"
start = \"{start}\"
dpd = {{ delay = \"3600s\", timeout = \"7200s\" }}
",
            files.psk,
            inner(side, number),
            inner(side.other(), number),
        );
    }
    toml
}

impl Pair {
    pub fn with(tunnels: u16) -> Pair {
        let options = LabOptions::default();
        let plan = Addressing::new(&options);
        let world = Topology::new(&options, &plan).unwrap();
        for side in [Side::A, Side::B] {
            let mut netlink = world.gateway(side).netlink().unwrap();
            let lan = netlink.link_named("lan0").unwrap().index;
            let wan = netlink.link_named("wan0").unwrap().index;
            for number in 0..tunnels {
                netlink
                    .add_address(lan, inner(side, number).into(), 32)
                    .unwrap();
                if side == Side::B {
                    netlink.add_address(wan, outer(number).into(), 32).unwrap();
                }
            }
        }
        // By way of the gateway's first address, so that no table of neighbours grows.
        let mut netlink = world.wan().netlink().unwrap();
        let leg = netlink.link_named("leg-b").unwrap().index;
        netlink.add_default_route(leg, plan.b.outside[0]).unwrap();
        let scratch = ScratchDir::new().unwrap();
        let start = |side: Side| {
            let files = GatewayFiles::in_dir(&scratch.subdir(&side.to_string()).unwrap());
            let config = config(side, &plan, &files, tunnels);
            GatewayProcess::start(program(), world.gateway(side), &files, &config, "of many")
                .unwrap()
        };
        let mut b = start(Side::B);
        let begin = Instant::now();
        while b.status().is_err() {
            assert!(
                begin.elapsed() < PATIENCE,
                "B does not answer: {:#?}\n{:#?}",
                b.status().err(),
                b.process().tail(20)
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut pair = Pair {
            gateways: [start(Side::A), b],
            world,
            tunnels,
            _scratch: scratch,
        };
        pair.await_up();
        pair
    }

    pub fn await_up(&mut self) {
        let begin = Instant::now();
        loop {
            let up = self.gateways.each_ref().map(|gateway| {
                gateway.status().map_or(0, |snapshot| {
                    let tunnels = snapshot.tunnels.iter();
                    tunnels
                        .filter(|tunnel| tunnel.state == TunnelState::Up)
                        .count()
                })
            });
            if up == [usize::from(self.tunnels); 2] {
                println!("{} tunnels up after {:?}", self.tunnels, begin.elapsed());
                return;
            }
            assert!(
                begin.elapsed() < PATIENCE,
                "{up:?} of {} are up\n{:#?}",
                self.tunnels,
                self.gateways[0].process().tail(20)
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Sends datagrams through one tunnel, each sent back by the other side.
    fn echo(&self, number: u16) {
        let [a, b] = [Side::A, Side::B].map(|side| {
            let bind = || UdpSocket::bind((inner(side, number), 0)).unwrap();
            let socket = self.world.gateway(side).run(bind).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            socket
        });
        let mut buffer = [0; 2000];
        for size in [1, 100, 1300] {
            let sent = vec![number as u8; size];
            a.send_to(&sent, b.local_addr().unwrap()).unwrap();
            let (length, from) = b.recv_from(&mut buffer).unwrap();
            assert_eq!(
                (&buffer[..length], from),
                (&sent[..], a.local_addr().unwrap())
            );
            b.send_to(&sent, from).unwrap();
            let length = a.recv(&mut buffer).unwrap();
            assert_eq!(buffer[..length], sent[..], "tunnel {number}");
        }
    }

    /// The tunnels that have carried what [`Pair::echo`] sends, and nothing else.
    fn used(&self) -> Vec<u16> {
        let tunnels = self.gateways[0].status().unwrap().tunnels;
        let used = tunnels
            .iter()
            .filter(|tunnel| tunnel.tx.packets > 0 && tunnel.rx.packets > 0);
        let mut used: Vec<u16> = used
            .map(|tunnel| tunnel.name[1..].parse().unwrap())
            .collect();
        used.sort_unstable();
        used
    }

    fn proc(&mut self, side: Side, what: &str) -> PathBuf {
        let gateway = match side {
            Side::A => &mut self.gateways[0],
            Side::B => &mut self.gateways[1],
        };
        format!("/proc/{}/{what}", gateway.process().id()).into()
    }

    fn taken(&mut self, side: Side) -> Taken {
        let status = fs::read_to_string(self.proc(side, "status")).unwrap();
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok())
            .unwrap();
        let mut threads = BTreeMap::new();
        for task in fs::read_dir(self.proc(side, "task")).unwrap() {
            let name = fs::read_to_string(task.unwrap().path().join("comm")).unwrap();
            *threads.entry(name.trim().to_owned()).or_default() += 1;
        }
        let descriptors = fs::read_dir(self.proc(side, "fd")).unwrap();
        let sockets = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        Taken {
            resident,
            threads,
            sockets: sockets
                .filter(|target| target.to_string_lossy().starts_with("socket:"))
                .count(),
        }
    }

    /// Watches a gateway with nothing to do. What tunnels have to say when they come up, and what kernels say to new devices, is over
    /// within seconds: a gateway that never comes to rest fails.
    #[track_caller]
    fn rests(&mut self, side: Side) {
        let stat = self.proc(side, "stat");
        let mut seen = Vec::new();
        for _ in 0..6 {
            let before = ticks(&stat);
            std::thread::sleep(QUIET);
            seen.push(ticks(&stat) - before);
            if seen.last().is_some_and(|ticks| *ticks <= TICKS) {
                println!("{side}, {} tunnels, idle: {seen:?} ticks", self.tunnels);
                return;
            }
        }
        panic!(
            "{side} with {} tunnels is never idle: {seen:?} ticks in {QUIET:?} each",
            self.tunnels
        );
    }
}

/// What a process takes of the machine.
#[derive(Debug)]
struct Taken {
    /// In KiB.
    resident: u64,
    /// How many of each name.
    threads: BTreeMap<String, u32>,
    sockets: usize,
}

/// User and system time of a process or thread so far, in hundredths of a second (proc_pid_stat(5), fields 14 and 15).
fn ticks(stat: &PathBuf) -> u64 {
    let stat = fs::read_to_string(stat).unwrap();
    let behind_name = stat.rsplit_once(')').unwrap().1;
    let times = behind_name.split_whitespace().skip(11).take(2);
    times.map(|time| time.parse::<u64>().unwrap()).sum()
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn two_hundred_tunnels_cost_little_each_and_nothing_while_idle() {
    let mut few = Pair::with(FEW);
    (0..FEW).for_each(|number| few.echo(number));
    let base = few.taken(Side::A);
    drop(few);

    let mut many = Pair::with(MANY);
    let carrying = [0, MANY / 2, MANY - 1];
    for number in carrying {
        many.echo(number);
    }
    assert_eq!(many.used(), carrying);
    let taken = many.taken(Side::A);
    let each = taken.resident.saturating_sub(base.resident) / u64::from(MANY - FEW);
    println!("{each} KiB for each tunnel: {base:?}, {taken:?}");
    assert!(
        each <= EACH_KIB,
        "{each} KiB for each tunnel: {base:?}, {taken:?}"
    );
    assert_eq!(taken.threads, base.threads);
    assert_eq!(taken.sockets, base.sockets);
    for side in [Side::A, Side::B] {
        many.rests(side);
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn one_tunnel_costs_nothing_while_idle() {
    let mut one = Pair::with(1);
    one.echo(0);
    for side in [Side::A, Side::B] {
        one.rests(side);
    }
}

/// How often a gateway's egress workers have each run, by their names.
fn egress_ticks(pair: &mut Pair) -> BTreeMap<String, u64> {
    let tasks = fs::read_dir(pair.proc(Side::A, "task")).unwrap();
    let threads = tasks.filter_map(|task| {
        let folder = task.ok()?.path();
        let name = fs::read_to_string(folder.join("comm")).ok()?;
        let name = name.trim().to_owned();
        name.starts_with("egress")
            .then(|| (name, ticks(&folder.join("stat"))))
    });
    threads.collect()
}

/// Sends numbered datagrams through one tunnel until `end`, a few under way at a time, and checks that none overtakes another.
fn stream(pair: &Pair, number: u16, end: Instant) -> u64 {
    const WINDOW: u64 = 64;
    let [a, b] = [Side::A, Side::B].map(|side| {
        let bind = || UdpSocket::bind((inner(side, number), 0)).unwrap();
        let socket = pair.world.gateway(side).run(bind).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        socket
    });
    let target = b.local_addr().unwrap();
    let (mut sent, mut buffer) = (0_u64, [0; 2000]);
    while Instant::now() < end {
        for next in sent..sent + WINDOW {
            let mut datagram = [number as u8; 1300];
            datagram[..8].copy_from_slice(&next.to_be_bytes());
            a.send_to(&datagram, target).unwrap();
        }
        for next in sent..sent + WINDOW {
            assert_eq!(b.recv(&mut buffer).unwrap(), 1300);
            assert_eq!(buffer[..8], next.to_be_bytes(), "tunnel {number}");
        }
        sent += WINDOW;
    }
    sent
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn two_tunnels_at_once_have_a_worker_each_and_each_keeps_its_order() {
    let mut pair = Pair::with(2);
    let before = egress_ticks(&mut pair);
    let end = Instant::now() + Duration::from_secs(3);
    let shared = &pair;
    let carried = std::thread::scope(|scope| {
        let streams = [0, 1].map(|number| scope.spawn(move || stream(shared, number, end)));
        streams.map(|stream| stream.join().unwrap())
    });
    let after = egress_ticks(&mut pair);
    let spent: Vec<u64> = after
        .iter()
        .map(|(name, ticks)| ticks - before.get(name).unwrap_or(&0))
        .collect();
    println!("{carried:?} packets, {spent:?} ticks");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    assert_eq!(spent.len(), cores.min(2), "{after:?}");
    assert!(
        spent.iter().all(|ticks| *ticks >= 10),
        "{spent:?} ticks for {carried:?} packets"
    );
}

/// Tunnels of the exit test; `GROUNDLINK_MANY_TUNNELS=1000` shows the time that a thousand take.
fn exit_tunnels() -> u16 {
    let given = std::env::var("GROUNDLINK_MANY_TUNNELS").ok();
    given.map_or(MANY, |given| given.parse().expect("a number of tunnels"))
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn exit_tells_every_peer_and_leaves_no_device() {
    let mut pair = Pair::with(exit_tunnels());
    let (took, status) = pair.gateways[0].process().stop().unwrap();
    println!("{} tunnels: exit after {took:?}", pair.tunnels);
    assert!(status.success(), "{status} after {took:?}");
    // B notices by DELETE only: its liveness checks are an hour apart.
    wait::until(PATIENCE, "B has handled every DELETE", || {
        let up = pair.gateways[1].status().unwrap().tunnels.into_iter();
        let up: Vec<String> = up
            .filter(|tunnel| tunnel.state == TunnelState::Up)
            .map(|tunnel| tunnel.name)
            .collect();
        match up.as_slice() {
            [] => Ok(()),
            up => Err(format!("{up:?} are up")),
        }
    });
    let mut netlink = pair.world.gateway(Side::A).netlink().unwrap();
    let left = netlink.links().unwrap().into_iter();
    let left: Vec<String> = left
        .map(|link| link.name)
        .filter(|name| name.starts_with("gl-"))
        .collect();
    assert_eq!(left, Vec::<String>::new());
}
