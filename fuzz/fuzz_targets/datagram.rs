//! Arbitrary datagrams cause no panic and no unbounded state, and unauthenticated ones do not harm established SAs.
//!
//! One gateway has four tunnels: one that it initiated, one that its peer initiated, one whose peer never responds, and one that
//! waits. The two peers are compliant and their network is perfect; the input adds datagrams from any address: arbitrary bytes,
//! with or without a valid header, and earlier datagrams, changed or not. Meanwhile time passes and operators request rekeys.
//!
//! ```text
//!   peers ◀════ compliant ═════▶ gateway ◀── the input, from any address
//! ```
//!
//! Run on the stable toolchain with `cargo fuzz run -s none datagram fuzz/corpus/datagram fuzz/seeds/datagram`.
#![no_main]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use groundlink::ike::{
    Command, Content, Datagram, DownReason, Lookup, Peer, Rekey, Settings, Start, Transmit,
    TunnelId, TunnelState,
};
use groundlink::net::Time;
use groundlink::wire::{ExchangeType, Flags, Header, IkeSpi, MessageId, PayloadType};
use groundlink_fuzz::fuzz_input::FuzzInput;
use groundlink_fuzz::node::Node;
use groundlink_fuzz::pair::{Side, settings};
use libfuzzer_sys::fuzz_target;

const MAX_STEPS: usize = 150;

/// Upper bound on the earlier messages available for replay.
const MAX_KNOWN: usize = 64;

/// Upper bound on IKE SAs of all four tunnels: established ones and those being rekeyed, half-open ones of seven sources, and
/// closed ones that keep a response.
const MAX_SAS: usize = 120;

/// Upper bound on datagrams sent in reaction to one datagram.
const MAX_ANSWERS: usize = 4;

const GATEWAY: &str = "192.0.2.1";

/// The two connected peers, a third that never responds, and a fourth for which the gateway waits.
const PEERS: [&str; 4] = ["192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5"];

const UNCONFIGURED_PEERS: [&str; 3] = ["198.51.100.7", "2001:db8::7", "2001:db8::8"];

fuzz_target!(|input: &[u8]| {
    let mut input = FuzzInput::new(input);
    let mut scenario = Scenario::new();
    for _ in 0..MAX_STEPS {
        let Some(step) = input.step() else { break };
        scenario.step(step, &mut input);
        scenario.assert_unharmed();
    }
    // No tunnel is harmed later either.
    scenario.pass(Duration::from_secs(120));
    scenario.assert_unharmed();
});

struct Scenario {
    now: Time,
    gateway: Node,
    /// The connected peers.
    peers: [Node; 2],
    /// Earlier datagrams with their source and destination.
    known: Vec<(SocketAddr, SocketAddr, Vec<u8>)>,
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Tunnel settings of the gateway (side A) and its peers (side B).
fn tunnel_settings(side: Side, index: usize, start: Start) -> Settings {
    let mut settings = settings(side);
    let (local, remote) = match side {
        Side::A => (GATEWAY, PEERS[index]),
        Side::B => (PEERS[index], GATEWAY),
    };
    settings.name = format!("t{index}");
    settings.local = ip(local);
    settings.id = ip(local).into();
    settings.peer = Peer::Address(ip(remote));
    settings.start = start;
    settings.ike_lifetime = Duration::from_secs(3000);
    settings.child_lifetime = Duration::from_secs(1000);
    settings
}

impl Scenario {
    fn new() -> Scenario {
        let now = Time::from_secs(1000);
        let mut scenario = Scenario {
            now,
            gateway: Node::new(now, [1; 32]),
            peers: [Node::new(now, [2; 32]), Node::new(now, [3; 32])],
            known: Vec::new(),
        };
        let starts = [
            (Start::Auto, Start::Add),
            (Start::Add, Start::Auto),
            (Start::Auto, Start::Add),
            (Start::Add, Start::Add),
        ];
        for (index, (ours, theirs)) in starts.into_iter().enumerate() {
            let number = u32::try_from(index).expect("few tunnels");
            let ours = tunnel_settings(Side::A, index, ours);
            scenario
                .gateway
                .endpoint
                .add_tunnel(now, TunnelId(number), ours);
            if let Some(peer) = scenario.peers.get_mut(index) {
                let theirs = tunnel_settings(Side::B, index, theirs);
                peer.endpoint.add_tunnel(now, TunnelId(0), theirs);
            }
        }
        scenario.settle();
        scenario.assert_unharmed();
        scenario
    }

    fn step(&mut self, step: u8, input: &mut FuzzInput) {
        match step % 8 {
            0 => {
                let bytes = input.bytes().to_vec();
                self.inject(input, &bytes);
            }
            1 | 2 => {
                let bytes = self.with_header(input);
                self.inject(input, &bytes);
            }
            3..=5 => self.replay(step >> 3, input),
            6 => self.pass(input.span()),
            _ => self.command(input),
        }
    }

    /// A message with the SPIs of an earlier one and a body from the input.
    fn with_header(&self, input: &mut FuzzInput) -> Vec<u8> {
        let (_, _, model) = input.one(&self.known);
        let model = Header::parse(&model).expect("it was a message");
        let spi_r = match input.byte() & 3 {
            0 => IkeSpi::ZERO,
            _ => model.spi_r,
        };
        let flags = input.byte();
        let flags = Flags {
            initiator: flags & 1 != 0,
            response: flags & 2 != 0,
            version: flags & 4 != 0,
        };
        let exchange = ExchangeType(34 + input.byte() % 11);
        let id = MessageId(u32::from(input.byte() % 16));
        let header = Header {
            next: PayloadType(input.byte()),
            ..Header::new(model.spi_i, spi_r, exchange, flags, id)
        };
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        for _ in 0..=input.byte() & 3 {
            bytes.extend_from_slice(input.bytes());
        }
        let length = u32::try_from(bytes.len()).expect("it is short");
        bytes[24..28].copy_from_slice(&length.to_be_bytes());
        bytes
    }

    /// Replays an earlier datagram, possibly from another address, possibly changed.
    fn replay(&mut self, how: u8, input: &mut FuzzInput) {
        let (from, to, mut bytes) = input.one(&self.known);
        if how & 1 != 0 {
            input.corrupt(&mut bytes);
        }
        if how & 2 != 0 {
            return self.inject(input, &bytes);
        }
        // From its original source, or back to it.
        let (local, remote) = if to.ip() == ip(GATEWAY) {
            (to, from)
        } else {
            (from, to)
        };
        self.arrive(local, remote, &bytes);
    }

    /// Delivers a datagram of the input.
    fn inject(&mut self, input: &mut FuzzInput, bytes: &[u8]) {
        let from = input.byte();
        let addresses = [&PEERS[..], &UNCONFIGURED_PEERS[..]].concat();
        let remote = ip(addresses[usize::from(from & 15) % addresses.len()]);
        let ports = [(500, 500), (4500, 4500), (500, 4500), (4500, 1024)];
        let (local_port, remote_port) = ports[usize::from(from >> 4 & 3)];
        let local = SocketAddr::new(ip(GATEWAY), local_port);
        self.arrive(local, SocketAddr::new(remote, remote_port), bytes);
    }

    fn arrive(&mut self, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) {
        let datagram = Datagram {
            local,
            remote,
            bytes,
        };
        self.gateway.endpoint.handle_datagram(self.now, datagram);
        apply_events(self.now, &mut self.gateway);
        let mut answers = Vec::new();
        while let Some(transmit) = self.gateway.endpoint.poll_transmit() {
            let target = transmit.remote.ip();
            let expected = target == remote.ip() || PEERS.iter().any(|peer| ip(peer) == target);
            assert!(expected, "{transmit:?} goes to a third party");
            answers.push(transmit);
        }
        let count = answers.len();
        assert!(count <= MAX_ANSWERS, "{count} datagrams for one");
        for transmit in answers {
            self.carry(transmit);
        }
        self.settle();
    }

    /// Commands of operators and of the datapath.
    fn command(&mut self, input: &mut FuzzInput) {
        let tunnel = TunnelId(u32::from(input.byte() & 3));
        let spi_in = match self.gateway.children.len() {
            0 => 0,
            count => self.gateway.children[usize::from(input.byte()) % count].spi_in,
        };
        let now = self.now;
        let remote = SocketAddr::new(ip(input.one(&PEERS)), 4500);
        let command = match input.byte() % 10 {
            0 => Command::Rekey {
                tunnel,
                what: Rekey::Child,
            },
            1 => Command::Rekey {
                tunnel,
                what: Rekey::Ike,
            },
            2 => Command::SoftLimit { tunnel, spi_in },
            3 => Command::ChildConfirmed { tunnel, spi_in },
            4 => Command::UnknownSpi {
                remote,
                spi: u32::from(input.byte()),
            },
            5 => Command::Demand(tunnel),
            6 => Command::Up(tunnel),
            7 => Command::EspReceived { tunnel, at: now },
            8 => Command::EspSent { tunnel, at: now },
            _ => Command::Resolved {
                tunnel,
                lookup: Lookup::NoAddress,
            },
        };
        self.gateway.endpoint.handle_command(now, command);
        self.settle();
    }

    /// Exchanges datagrams between the three gateways until none is pending.
    fn settle(&mut self) {
        for _ in 0..1000 {
            let mut sent = Vec::new();
            for node in [&mut self.gateway].into_iter().chain(&mut self.peers) {
                apply_events(self.now, node);
                sent.extend(std::iter::from_fn(|| node.endpoint.poll_transmit()));
            }
            if sent.is_empty() {
                return;
            }
            sent.into_iter().for_each(|transmit| self.carry(transmit));
        }
        panic!("they keep each other busy for ever");
    }

    /// Delivers a datagram to its receiver if that is one of the three.
    fn carry(&mut self, transmit: Transmit) {
        let Content::Ike(bytes) = transmit.content else {
            return;
        };
        let (local, remote) = (transmit.remote, transmit.local);
        if self.known.len() < MAX_KNOWN {
            self.known.push((remote, local, bytes.clone()));
        }
        let node = if local.ip() == ip(GATEWAY) {
            &mut self.gateway
        } else if local.ip() == ip(PEERS[0]) {
            &mut self.peers[0]
        } else if local.ip() == ip(PEERS[1]) {
            &mut self.peers[1]
        } else {
            return;
        };
        let datagram = Datagram {
            local,
            remote,
            bytes: &bytes,
        };
        node.endpoint.handle_datagram(self.now, datagram);
        apply_events(self.now, node);
    }

    /// Lets time pass.
    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        let mut timer_repeats = 0;
        loop {
            let nodes = || [&self.gateway].into_iter().chain(&self.peers);
            let next = nodes()
                .filter_map(|node| node.endpoint.poll_timeout())
                .min();
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            timer_repeats = if next > self.now {
                0
            } else {
                timer_repeats + 1
            };
            assert!(timer_repeats < 20, "timers spin");
            self.now = self.now.max(next);
            for node in [&mut self.gateway].into_iter().chain(&mut self.peers) {
                if node
                    .endpoint
                    .poll_timeout()
                    .is_some_and(|at| at <= self.now)
                {
                    node.endpoint.handle_timeout(self.now);
                }
            }
            self.settle();
        }
        self.now = end;
    }

    fn assert_unharmed(&self) {
        let gateway = &self.gateway;
        for tunnel in [TunnelId(0), TunnelId(1)] {
            let view = gateway.endpoint.view(tunnel).expect("it was added");
            assert_eq!(
                view.state,
                TunnelState::Up,
                "{tunnel:?}: {:?}",
                gateway.events
            );
        }
        // Rekeyed, possibly by both sides at once: one of two SAs is closed then.
        let rekeyed =
            |reason: &DownReason| matches!(reason, DownReason::Replaced | DownReason::Redundant);
        assert!(
            gateway.down_reasons.iter().all(rekeyed),
            "{:?}",
            gateway.down_reasons
        );
        assert!(gateway.ikes.len() <= 4 && gateway.children.len() <= 4);
        let count = gateway.endpoint.sa_count();
        assert!(count <= MAX_SAS, "{count} IKE SAs");
        gateway.assert_sends();
    }
}

/// Applies the events of a gateway.
fn apply_events(now: Time, node: &mut Node) {
    while let Some(event) = node.endpoint.poll_event() {
        if let Some(command) = node.apply_event(now, event) {
            node.endpoint.handle_command(now, command);
        }
    }
}
