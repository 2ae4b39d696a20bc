//! Two endpoints and the simulated network between them.
//!
//! Time jumps from event to event, and randomness comes from seeds, so a test is fast and repeatable.

use std::time::Duration;

use groundlink::crypto::{EspProposal, IkeProposal, Secret};
use groundlink::ike::{
    Command, Content, Datagram, Dpd, Encapsulation, Event, Peer, PeerId, Psk, RekeyCheck,
    SelectorMode, Settings, Start, Transmit, TunnelId, TunnelState,
};
use groundlink::net::{Policy, Prefix, Time};

use crate::esp::key;
use crate::monitor::{Gap, Monitor};
use crate::node::Node;
use crate::wire::{Kind, Nat, SendOutcome, SimContent, SimDatagram, Wire};

pub use crate::wire::LATENCY;

/// The one tunnel of each endpoint.
pub const TUNNEL: TunnelId = TunnelId(0);

/// One of the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    A,
    B,
}

impl Side {
    pub fn other(self) -> Side {
        match self {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }

    pub fn ip(self) -> &'static str {
        match self {
            Side::A => "192.0.2.1",
            Side::B => "192.0.2.2",
        }
    }
}

pub struct Pair {
    pub now: Time,
    pub a: Node,
    pub b: Node,
    pub wire: Wire,
    pub monitor: Monitor,
    traffic: Option<Traffic>,
    /// The kinds of traffic of each side, all of which are sent; empty: any.
    pub flows: [Vec<Policy>; 2],
    trace: Trace,
}

/// Whether all messages and events are printed; `SIM_TRACE=1` enables it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trace {
    Off,
    On,
}

/// ESP traffic: both sides send a packet at this interval.
#[derive(Clone, Copy)]
struct Traffic {
    every: Duration,
    next: [Time; 2],
}

pub fn settings(side: Side) -> Settings {
    let prefix = |text: &str| vec![text.parse::<Prefix>().unwrap().into()];
    let (local, remote) = match side {
        Side::A => ("10.1.0.0/24", "10.2.0.0/24"),
        Side::B => ("10.2.0.0/24", "10.1.0.0/24"),
    };
    Settings {
        name: "t".to_owned(),
        peer: Peer::Address(side.other().ip().parse().unwrap()),
        local: side.ip().parse().unwrap(),
        id: side.ip().parse().unwrap(),
        peer_id: PeerId::Any,
        psk: Psk(Secret::from_slice(b"a key both sides know")),
        ppk: None,
        ike: vec![IkeProposal::parse("aes128-sha256-curve25519").unwrap().0],
        esp: vec![EspProposal::parse("aes128-sha256").unwrap().0],
        policy: Policy {
            local: prefix(local),
            remote: prefix(remote),
        },
        ike_lifetime: Duration::from_secs(24 * 3600),
        child_lifetime: Duration::from_secs(24 * 3600),
        start: match side {
            Side::A => Start::Auto,
            Side::B => Start::Add,
        },
        dpd: Dpd {
            delay: Duration::from_secs(10),
            timeout: Duration::from_secs(30),
        },
        encapsulation: Encapsulation::Udp,
        fragment_size: 1280,
        rekey_check: RekeyCheck::Never,
        selectors: SelectorMode::Together,
    }
}

impl Pair {
    /// Both endpoints with these settings and no impairment.
    pub fn new(a: Settings, b: Settings) -> Pair {
        Pair::with_seeds(a, b, (1, 2))
    }

    pub fn with_seeds(a: Settings, b: Settings, seeds: (u8, u8)) -> Pair {
        Pair::on_wire(Wire::new(), (a, [seeds.0; 32]), (b, [seeds.1; 32]))
    }

    /// Both endpoints on this network.
    pub fn on_wire(wire: Wire, a: (Settings, [u8; 32]), b: (Settings, [u8; 32])) -> Pair {
        let now = Time::from_secs(1000);
        let mut pair = Pair {
            now,
            a: Node::new(now, a.1),
            b: Node::new(now, b.1),
            wire,
            monitor: Monitor::default(),
            traffic: None,
            flows: Default::default(),
            trace: match std::env::var_os("SIM_TRACE") {
                Some(_) => Trace::On,
                None => Trace::Off,
            },
        };
        pair.b.endpoint.add_tunnel(now, TUNNEL, b.0);
        pair.collect(Side::B);
        pair.a.endpoint.add_tunnel(now, TUNNEL, a.0);
        pair.collect(Side::A);
        pair
    }

    /// The default pair, connected.
    pub fn established() -> Pair {
        let mut pair = Pair::new(settings(Side::A), settings(Side::B));
        pair.run_for(Duration::from_secs(1));
        pair.assert_agreed();
        pair
    }

    pub fn node(&mut self, side: Side) -> &mut Node {
        match side {
            Side::A => &mut self.a,
            Side::B => &mut self.b,
        }
    }

    /// Sets the impairment of IKE messages.
    pub fn impairment(
        &mut self,
        impairment: impl FnMut(Side, &Transmit) -> Vec<Duration> + 'static,
    ) {
        self.wire.impairment = Box::new(impairment);
    }

    /// Puts A behind a NAT with this address, which adds 10000 to ports. Datagrams in flight get the new address as well.
    pub fn nat(&mut self, outside: &str) {
        self.wire.put_nat(Nat {
            outside: outside.parse().unwrap(),
            shift: 10_000,
        });
    }

    /// Removes all impairment.
    pub fn no_impairment(&mut self) {
        self.wire.cut = [false; 2];
        self.impairment(|_, _| vec![LATENCY]);
    }

    /// Blocks both directions.
    pub fn cut(&mut self) {
        self.wire.cut = [true; 2];
    }

    pub fn command(&mut self, side: Side, command: Command) {
        let now = self.now;
        if self.trace == Trace::On && !matches!(command, Command::EspSent { .. }) {
            println!("{now:?} {side:?} gets command {command:?}");
        }
        self.node(side).endpoint.handle_command(now, command);
        self.collect(side);
    }

    /// Starts ESP traffic at this interval and reports received packets to the engine.
    pub fn traffic(&mut self, every: Duration) {
        let next = [self.now, self.now + every / 2];
        self.traffic = Some(Traffic { every, next });
    }

    /// Reduces the ESP traffic.
    pub fn slow_traffic(&mut self) {
        if let Some(traffic) = &mut self.traffic {
            traffic.every = Duration::from_millis(500);
        }
    }

    /// Prints all messages and events from now on.
    pub fn enable_trace(&mut self) {
        self.trace = Trace::On;
    }

    /// Delivers octets to a side as if they came from the other side.
    pub fn inject(&mut self, to: Side, port: u16, bytes: &[u8]) {
        let (local, remote) = (
            format!("{}:{port}", to.ip()),
            format!("{}:{port}", to.other().ip()),
        );
        self.inject_from(to, &local, &remote, bytes);
    }

    pub fn inject_from(&mut self, to: Side, local: &str, remote: &str, bytes: &[u8]) {
        self.deliver(SimDatagram {
            to,
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            content: SimContent::Ike(bytes.to_vec()),
        });
    }

    /// Replaces an endpoint by a new one, as after a crash.
    pub fn reboot(&mut self, side: Side, settings: Settings, seed: u8) {
        self.reboot_with(side, settings, [seed; 32]);
    }

    pub fn reboot_with(&mut self, side: Side, settings: Settings, seed: [u8; 32]) {
        let now = self.now;
        *self.node(side) = Node::new(now, seed);
        self.node(side).endpoint.add_tunnel(now, TUNNEL, settings);
        self.collect(side);
    }

    /// Applies the events of a side and sends its messages.
    fn collect(&mut self, side: Side) {
        let now = self.now;
        let node = match side {
            Side::A => &mut self.a,
            Side::B => &mut self.b,
        };
        while let Some(event) = node.endpoint.poll_event() {
            if self.trace == Trace::On {
                println!("{now:?} {side:?} {}", shown(&event));
            }
            if let Event::ChildUp(child) = &event {
                self.monitor.child_up(child);
            }
            if let Some(command) = node.apply_event(now, event) {
                node.endpoint.handle_command(now, command);
            }
        }
        self.monitor.settled(side, node);
        while let Some(transmit) = node.endpoint.poll_transmit() {
            if let Content::Ike(bytes) = &transmit.content {
                self.monitor.ike_sent(bytes);
                if self.trace == Trace::On {
                    println!("{now:?} {side:?} sends {}", outline(bytes));
                }
            }
            self.wire.send(now, side, &transmit);
            node.sent.push(transmit);
        }
    }

    /// Delivers a datagram.
    pub fn deliver(&mut self, datagram: SimDatagram) {
        let (now, side) = (self.now, datagram.to);
        let node = match side {
            Side::A => &mut self.a,
            Side::B => &mut self.b,
        };
        match &datagram.content {
            SimContent::Ike(_) if node.asleep_until > now => {}
            SimContent::Ike(bytes) => {
                if self.trace == Trace::On {
                    println!("{now:?} {side:?} gets {}", outline(bytes));
                }
                let (local, remote) = (datagram.local, datagram.remote);
                node.endpoint.handle_datagram(
                    now,
                    Datagram {
                        local,
                        remote,
                        bytes,
                    },
                );
            }
            SimContent::Esp(_) if node.asleep_until > now => {
                self.monitor.gap(now, side.other(), Gap::Asleep);
            }
            SimContent::Esp(packet) => {
                let (arrival, commands) = node.esp.receive(now, datagram.remote, packet);
                self.monitor.esp_arrived(now, side, node, packet, arrival);
                for command in commands {
                    node.endpoint.handle_command(now, command);
                }
            }
        }
        self.collect(side);
    }

    /// Sends an ESP packet of a side if it has an outbound SA.
    fn send_esp(&mut self, side: Side, flow: Option<&Policy>) {
        let now = self.now;
        if self.node(side).asleep_until > now {
            return;
        }
        let Some((local, remote, packet)) = self.node(side).esp.send(TUNNEL, flow) else {
            return self.monitor.gap(now, side, Gap::NoSa);
        };
        let outcome = self.wire.send_esp(now, side, (local, remote), packet);
        if outcome == SendOutcome::Lost {
            self.monitor.gap(now, side, Gap::Lost);
        }
        let (tunnel, at) = (TUNNEL, now);
        self.command(side, Command::EspSent { tunnel, at });
    }

    /// Processes the next event if it is due before `end`.
    pub fn step(&mut self, end: Time) -> bool {
        let timer = |node: &Node| {
            let timer = node.endpoint.poll_timeout().unwrap_or(Time::MAX);
            timer.max(node.asleep_until)
        };
        let arrival = self.wire.next();
        let (a, b) = (timer(&self.a), timer(&self.b));
        let ticks = self.traffic.map_or([Time::MAX; 2], |traffic| traffic.next);
        let next = arrival.min(a).min(b).min(ticks[0]).min(ticks[1]);
        if next > end {
            self.now = self.now.max(end);
            return false;
        }
        self.now = self.now.max(next);
        let now = self.now;
        if arrival == next {
            if let Some(datagram) = self.wire.arrive() {
                self.deliver(datagram);
            }
        } else if a == next || b == next {
            let side = if a == next { Side::A } else { Side::B };
            self.monitor.timer(now, side);
            self.node(side).endpoint.handle_timeout(now);
            self.collect(side);
        } else if let Some(traffic) = &mut self.traffic {
            let side = if ticks[0] == next { Side::A } else { Side::B };
            traffic.next[side as usize] = now + traffic.every;
            let flows = self.flows[side as usize].clone();
            if flows.is_empty() {
                self.send_esp(side, None);
            }
            for flow in &flows {
                self.send_esp(side, Some(flow));
            }
        }
        true
    }

    pub fn run_for(&mut self, span: Duration) {
        let end = self.now + span;
        let mut steps = 0;
        while self.step(end) {
            steps += 1;
            assert!(
                steps < 2_000_000,
                "the two sides keep each other busy for ever"
            );
        }
    }

    /// The reason why the two sides do not share exactly one IKE SA and one Child SA with matching keys, both in use.
    pub fn disagreement(&self) -> Option<String> {
        for (side, node) in [(Side::A, &self.a), (Side::B, &self.b)] {
            let counts = (node.ikes.len(), node.children.len());
            if node.state() != TunnelState::Up || counts != (1, 1) {
                let (events, codes) = (&node.events, node.codes());
                let state = node.state();
                return Some(format!(
                    "{side:?} is {state:?} with {counts:?} SAs: {events:?} {codes:?}"
                ));
            }
        }
        let (a, b) = (&self.a.children[0], &self.b.children[0]);
        let alike = self.a.ikes == self.b.ikes
            && (a.spi_in, a.spi_out) == (b.spi_out, b.spi_in)
            && key(&a.keys_in) == key(&b.keys_out)
            && key(&a.keys_out) == key(&b.keys_in)
            && a.policy.local == b.policy.remote
            && a.policy.remote == b.policy.local;
        let in_use = self.a.outbound() == Some(a.spi_in) && self.b.outbound() == Some(b.spi_in);
        match (alike, in_use) {
            (false, _) => Some(format!("they have different SAs: {a:?} {b:?}")),
            (true, false) => Some("not both send over it".to_owned()),
            (true, true) => None,
        }
    }

    /// Checks that both sides share exactly one IKE SA and one Child SA with matching keys, both in use.
    pub fn assert_agreed(&self) {
        if let Some(why) = self.disagreement() {
            panic!("{why}");
        }
    }
}

/// The header of a message as text.
fn outline(bytes: &[u8]) -> String {
    let spi = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    let id = u32::from_be_bytes(bytes[20..24].try_into().unwrap());
    format!("{:08x}:{:08x} {:?} {id}", spi(0), spi(8), Kind::of(bytes))
}

/// An event as short text.
fn shown(event: &Event) -> String {
    match event {
        Event::ChildUp(child) => format!(
            "ChildUp {:08x} {:08x} {:?} {:?} for {:08x?}",
            child.spi_in, child.spi_out, child.role, child.sends, child.replaces
        ),
        other => format!("{other:08x?}"),
    }
}
