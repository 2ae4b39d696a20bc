//! Two endpoints and the wire between them.
//!
//! Time jumps from event to event; randomness comes from seeds. So a test runs in no time, and a failing one runs the same again.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use groundlink::crypto::{EspProposal, Generator, IkeProposal, Secret};
use groundlink::ike::{
    Child, Command, Content, Datagram, Dpd, Encapsulation, Endpoint, Event, Failure, Peer, PeerId,
    Psk, RekeyTest, Settings, Start, State, Transmit, TunnelId, View,
};
use groundlink::net::{Policy, Prefix, Time};

/// The one tunnel of each endpoint.
pub const TUNNEL: TunnelId = TunnelId(0);

/// One of the two ends.
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

    fn ip(self) -> &'static str {
        match self {
            Side::A => "192.0.2.1",
            Side::B => "192.0.2.2",
        }
    }
}

/// What one endpoint has told so far.
pub struct Node {
    pub endpoint: Endpoint,
    /// The Child SAs installed now.
    pub children: Vec<Child>,
    /// The inbound SPI of the one in use for sending.
    pub outbound: Option<u32>,
    pub failures: Vec<Failure>,
    pub events: Vec<String>,
    pub sent: Vec<Transmit>,
}

/// A datagram on the wire.
#[derive(Clone)]
struct Flying {
    at: Time,
    to: Side,
    local: SocketAddr,
    remote: SocketAddr,
    bytes: Vec<u8>,
}

/// What the wire does to one datagram: nothing, or copies of it that arrive after these delays.
pub type Weather = Box<dyn FnMut(Side, &Transmit) -> Vec<Duration>>;

pub struct Pair {
    pub now: Time,
    pub a: Node,
    pub b: Node,
    flying: VecDeque<Flying>,
    weather: Weather,
    nat: Option<std::net::IpAddr>,
}

/// The usual delay of a datagram.
pub const LATENCY: Duration = Duration::from_millis(5);

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
        rekey_test: RekeyTest::Never,
    }
}

impl Node {
    fn new(seed: u8) -> Node {
        Node {
            endpoint: Endpoint::new(Generator::from_seed([seed; 32])),
            children: Vec::new(),
            outbound: None,
            failures: Vec::new(),
            events: Vec::new(),
            sent: Vec::new(),
        }
    }

    pub fn view(&self) -> View {
        self.endpoint.view(TUNNEL).expect("the tunnel was added")
    }

    pub fn state(&self) -> State {
        self.view().state
    }

    pub fn codes(&self) -> Vec<&'static str> {
        self.failures.iter().map(|failure| failure.code).collect()
    }

    /// The IKE message it sent as number `index`.
    pub fn sent_ike(&self, index: usize) -> Vec<u8> {
        match &self.sent[index].content {
            Content::Ike(bytes) => bytes.clone(),
            Content::Keepalive => panic!("number {index} is a keepalive"),
        }
    }

    fn act(&mut self) {
        while let Some(event) = self.endpoint.poll_event() {
            // No news of a tunnel, and whatever a test injects may cause one.
            if matches!(event, Event::Refused { .. }) {
                continue;
            }
            self.events.push(
                format!("{event:?}")
                    .split([' ', '(', '{'])
                    .next()
                    .unwrap_or_default()
                    .to_owned(),
            );
            match event {
                Event::ChildUp(child) => {
                    self.outbound = Some(child.spi_in);
                    self.children.push(*child);
                }
                Event::ChildPreferred { spi_in, .. } => self.outbound = Some(spi_in),
                Event::ChildDown { spi_in, .. } => {
                    self.children.retain(|child| child.spi_in != spi_in);
                    if self.outbound == Some(spi_in) {
                        self.outbound = self.children.last().map(|child| child.spi_in);
                    }
                }
                Event::Failed { failure, .. } => self.failures.push(failure),
                Event::Refused { .. }
                | Event::Resolve { .. }
                | Event::Connecting { .. }
                | Event::IkeUp { .. }
                | Event::IkeRekeyed { .. }
                | Event::PeerMoved { .. }
                | Event::RekeyChecked { .. }
                | Event::IkeDown { .. } => {}
            }
        }
    }
}

impl Pair {
    /// Both endpoints with these settings, and fair weather.
    pub fn new(a: Settings, b: Settings) -> Pair {
        Pair::with_seeds(a, b, (1, 2))
    }

    pub fn with_seeds(a: Settings, b: Settings, seeds: (u8, u8)) -> Pair {
        let now = Time::from_secs(1000);
        let mut pair = Pair {
            now,
            a: Node::new(seeds.0),
            b: Node::new(seeds.1),
            flying: VecDeque::new(),
            weather: Box::new(|_, _| vec![LATENCY]),
            nat: None,
        };
        pair.b.endpoint.add_tunnel(now, TUNNEL, b);
        pair.collect(Side::B);
        pair.a.endpoint.add_tunnel(now, TUNNEL, a);
        pair.collect(Side::A);
        pair
    }

    /// The usual pair, connected.
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

    /// From now on the wire does this.
    pub fn weather(&mut self, weather: impl FnMut(Side, &Transmit) -> Vec<Duration> + 'static) {
        self.weather = Box::new(weather);
    }

    /// From now on A stands behind a NAT with this address, which moves its ports by 10000. What is already flying is sent again from there.
    pub fn nat(&mut self, outside: &str) {
        let outside = outside.parse().unwrap();
        self.nat = Some(outside);
        for flying in &mut self.flying {
            if flying.to == Side::B {
                flying.remote = SocketAddr::new(outside, flying.remote.port() + 10_000);
            }
        }
    }

    fn translate(
        &self,
        from: Side,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> (SocketAddr, SocketAddr) {
        match (self.nat, from) {
            (Some(outside), Side::A) => (SocketAddr::new(outside, local.port() + 10_000), remote),
            (Some(outside), Side::B) if remote.ip() == outside => {
                let inside = SocketAddr::new(Side::A.ip().parse().unwrap(), remote.port() - 10_000);
                (local, inside)
            }
            _ => (local, remote),
        }
    }

    pub fn fair(&mut self) {
        self.weather(|_, _| vec![LATENCY]);
    }

    pub fn cut(&mut self) {
        self.weather(|_, _| Vec::new());
    }

    pub fn command(&mut self, side: Side, command: Command) {
        let now = self.now;
        self.node(side).endpoint.handle_command(now, command);
        self.collect(side);
    }

    /// Hands bytes to a side as if they came from the other.
    pub fn inject(&mut self, to: Side, port: u16, bytes: &[u8]) {
        let (local, remote) = (
            format!("{}:{port}", to.ip()),
            format!("{}:{port}", to.other().ip()),
        );
        self.inject_from(to, &local, &remote, bytes);
    }

    pub fn inject_from(&mut self, to: Side, local: &str, remote: &str, bytes: &[u8]) {
        let now = self.now;
        let (local, remote) = (local.parse().unwrap(), remote.parse().unwrap());
        self.node(to).endpoint.handle_datagram(
            now,
            Datagram {
                local,
                remote,
                bytes,
            },
        );
        self.collect(to);
    }

    /// Replaces an endpoint by a new one, as after a crash.
    pub fn reboot(&mut self, side: Side, settings: Settings, seed: u8) {
        let now = self.now;
        *self.node(side) = Node::new(seed);
        self.node(side).endpoint.add_tunnel(now, TUNNEL, settings);
        self.collect(side);
    }

    /// Takes what a side has to say and throws it on the wire.
    fn collect(&mut self, side: Side) {
        let now = self.now;
        self.node(side).act();
        while let Some(transmit) = self.node(side).endpoint.poll_transmit() {
            let delays = (self.weather)(side, &transmit);
            if let Content::Ike(bytes) = &transmit.content {
                let (local, remote) = self.translate(side, transmit.local, transmit.remote);
                for delay in delays {
                    self.flying.push_back(Flying {
                        at: now + delay,
                        to: side.other(),
                        local: remote,
                        remote: local,
                        bytes: bytes.clone(),
                    });
                }
            }
            self.node(side).sent.push(transmit);
        }
    }

    /// Lets the next thing happen, if it does before `end`.
    fn step(&mut self, end: Time) -> bool {
        let datagram = (0..self.flying.len()).min_by_key(|index| self.flying[*index].at);
        let arrival = datagram.map_or(Time::MAX, |index| self.flying[index].at);
        let timer = |node: &Node| node.endpoint.poll_timeout().unwrap_or(Time::MAX);
        let (a, b) = (timer(&self.a), timer(&self.b));
        let next = arrival.min(a).min(b);
        if next > end {
            self.now = end;
            return false;
        }
        self.now = self.now.max(next);
        let now = self.now;
        if arrival == next {
            let flying = self.flying.remove(datagram.unwrap()).unwrap();
            self.node(flying.to).endpoint.handle_datagram(
                now,
                Datagram {
                    local: flying.local,
                    remote: flying.remote,
                    bytes: &flying.bytes,
                },
            );
            self.collect(flying.to);
        } else {
            let side = if a == next { Side::A } else { Side::B };
            self.node(side).endpoint.handle_timeout(now);
            self.collect(side);
        }
        true
    }

    pub fn run_for(&mut self, span: Duration) {
        let end = self.now + span;
        let mut steps = 0;
        while self.step(end) {
            steps += 1;
            assert!(
                steps < 200_000,
                "the two sides keep each other busy for ever"
            );
        }
    }

    /// Both sides have exactly one Child SA in use, the same one, with each other's keys.
    pub fn assert_agreed(&self) {
        assert_eq!(
            self.a.state(),
            State::Up,
            "A: {:?} {:?}",
            self.a.events,
            self.a.failures
        );
        assert_eq!(
            self.b.state(),
            State::Up,
            "B: {:?} {:?}",
            self.b.events,
            self.b.failures
        );
        assert_eq!(self.a.children.len(), 1, "{:?}", self.a.events);
        assert_eq!(self.b.children.len(), 1, "{:?}", self.b.events);
        let (a, b) = (&self.a.children[0], &self.b.children[0]);
        assert_eq!((a.spi_in, a.spi_out), (b.spi_out, b.spi_in));
        assert_eq!(a.keys_in.encryption, b.keys_out.encryption);
        assert_eq!(a.keys_out.integrity, b.keys_in.integrity);
        assert_eq!(a.policy.local, b.policy.remote);
        assert_eq!(self.a.outbound, Some(a.spi_in));
        assert_eq!(self.b.outbound, Some(b.spi_in));
    }
}
