//! Two gateways with many tunnels between one address of A and an address of B for each tunnel.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use groundlink::crypto::Generator;
use groundlink::ike::{
    Command, Content, Datagram, DropClass, Endpoint, Event, Peer, Settings, Start, Transmit,
    TunnelId, TunnelState,
};
use groundlink::net::Time;

use crate::pair::{LATENCY, Side, settings};

const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

/// Interval after which a DELETE is repeated at shutdown.
const REPEAT_INTERVAL: Duration = Duration::from_millis(200);

/// Datagrams that a receive buffer of the kernel's default size takes at once, with a margin.
const BURST: usize = 100;

/// Decides which datagrams are lost.
type Loss = Box<dyn FnMut(Side, &Transmit) -> bool>;

/// The two gateways.
struct Many {
    now: Time,
    a: Endpoint,
    b: Endpoint,
    tunnels: u32,
    /// Datagrams in flight, in order of arrival.
    in_flight: VecDeque<(Time, Side, Transmit)>,
    loses: Loss,
    /// Number of datagrams that A has sent at each time.
    sent_by_a: BTreeMap<Time, usize>,
}

fn address_of_b(number: u32) -> IpAddr {
    IpAddr::from((0xc612_0001 + number).to_be_bytes())
}

fn side_settings(side: Side, number: u32) -> Settings {
    let b = address_of_b(number);
    let (local, peer, start) = match side {
        Side::A => (A, b, Start::Auto),
        Side::B => (b, A, Start::Add),
    };
    Settings {
        local,
        id: local.to_string().parse().unwrap(),
        peer: Peer::Address(peer),
        start,
        ..settings(side)
    }
}

impl Many {
    fn new(tunnels: u32) -> Many {
        let now = Time::from_secs(1000);
        let mut many = Many {
            now,
            a: Endpoint::new(Generator::from_seed([1; 32])),
            b: Endpoint::new(Generator::from_seed([2; 32])),
            tunnels,
            in_flight: VecDeque::new(),
            loses: Box::new(|_, _| false),
            sent_by_a: BTreeMap::new(),
        };
        for number in 0..tunnels {
            let id = TunnelId(number);
            many.b.add_tunnel(now, id, side_settings(Side::B, number));
            many.a.add_tunnel(now, id, side_settings(Side::A, number));
        }
        many.collect(Side::A);
        many
    }

    fn established(tunnels: u32) -> Many {
        let mut many = Many::new(tunnels);
        many.run_for(Duration::from_secs(30));
        assert_eq!(many.up(), [tunnels; 2]);
        many
    }

    fn endpoint(&mut self, side: Side) -> &mut Endpoint {
        match side {
            Side::A => &mut self.a,
            Side::B => &mut self.b,
        }
    }

    /// Number of tunnels that are up at A and at B.
    fn up(&self) -> [u32; 2] {
        [&self.a, &self.b].map(|endpoint| {
            let up = |n: &u32| endpoint.view(TunnelId(*n)).unwrap().state == TunnelState::Up;
            u32::try_from((0..self.tunnels).filter(up).count()).unwrap()
        })
    }

    fn collect(&mut self, side: Side) {
        while let Some(event) = self.endpoint(side).poll_event() {
            assert!(!matches!(event, Event::Resolve { .. }));
        }
        while let Some(transmit) = self.endpoint(side).poll_transmit() {
            if side == Side::A {
                *self.sent_by_a.entry(self.now).or_default() += 1;
            }
            if !(self.loses)(side, &transmit) {
                let at = self.now + LATENCY;
                self.in_flight.push_back((at, side.other(), transmit));
            }
        }
    }

    fn run_for(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let arrival = self.in_flight.front().map_or(Time::MAX, |next| next.0);
            let timer = |endpoint: &Endpoint| endpoint.poll_timeout().unwrap_or(Time::MAX);
            let (a, b) = (timer(&self.a), timer(&self.b));
            let next = arrival.min(a).min(b);
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            let now = self.now;
            let side = if arrival == next {
                let (_, side, transmit) = self.in_flight.pop_front().unwrap();
                if let Content::Ike(bytes) = &transmit.content {
                    let datagram = Datagram {
                        local: transmit.remote,
                        remote: transmit.local,
                        bytes,
                    };
                    self.endpoint(side).handle_datagram(now, datagram);
                }
                side
            } else {
                let side = if a == next { Side::A } else { Side::B };
                self.endpoint(side).handle_timeout(now);
                side
            };
            self.collect(side);
        }
    }

    fn shut_down_a(&mut self) {
        self.sent_by_a.clear();
        let now = self.now;
        self.a.handle_command(now, Command::Shutdown);
        self.collect(Side::A);
    }
}

/// ```text
/// A                                     B
/// │── DELETE of 60 SAs ──────────── ╳   │
/// │── DELETE, after 200 ms ──────── ╳   │   the first three copies of each are lost
/// │── DELETE, after 600 ms ────────────▶│
/// │◀─────────────────────────────── {} ─│
/// ```
#[test]
fn a_lost_delete_is_repeated_until_it_is_answered_within_the_second_of_the_shutdown() {
    let mut many = Many::established(60);
    let mut copies = BTreeMap::<IpAddr, u32>::new();
    many.loses = Box::new(move |side, transmit| {
        let copies = copies.entry(transmit.remote.ip()).or_default();
        *copies += 1;
        side == Side::A && *copies <= 3
    });
    many.shut_down_a();
    assert!(!many.a.is_idle());
    many.run_for(Duration::from_secs(1));
    let [_, left] = many.up();
    assert_eq!(left, 0, "tunnels that B believes in");
    assert!(many.a.is_idle(), "every answer has arrived");
}

#[test]
fn deletes_of_a_shutdown_leave_in_batches_and_all_before_the_first_is_repeated() {
    let mut many = Many::established(150);
    let begin = many.now;
    many.loses = Box::new(|_, _| true);
    many.shut_down_a();
    many.run_for(Duration::from_secs(1));
    let largest = many.sent_by_a.values().max().unwrap();
    assert!(*largest <= BURST, "{:?}", many.sent_by_a);
    let first: usize = many
        .sent_by_a
        .range(..begin + REPEAT_INTERVAL)
        .map(|(_, sent)| sent)
        .sum();
    assert_eq!(first, 150, "each once");
    let all: usize = many.sent_by_a.values().sum();
    assert!(all >= 4 * 150, "each at least three times more: {all}");
}

#[test]
fn a_request_without_an_answer_delays_the_delete_by_one_repetition() {
    let mut many = Many::established(1);
    many.loses = Box::new(|side, _| side == Side::B);
    many.run_for(Duration::from_secs(11));
    // A liveness check is outstanding.
    many.shut_down_a();
    many.loses = Box::new(|_, _| false);
    many.run_for(REPEAT_INTERVAL + 4 * LATENCY);
    assert!(many.a.is_idle());
    assert_eq!(many.up(), [0, 0]);
}

/// ```text
/// A                                       B
/// │── IKE_SA_INIT ×64 ───────────────────▶│
/// │◀──────────────────────── COOKIE ×61 ──│
/// │── IKE_SA_INIT with the cookie ×61 ───▶│   as many half-open SAs as A has tunnels
/// │── IKE_AUTH … and the next tunnels ───▶│
/// ```
#[test]
fn many_tunnels_from_one_address_start_paced_and_none_is_dropped() {
    let mut many = Many::new(150);
    many.run_for(Duration::from_secs(1));
    assert_eq!(many.up(), [150; 2], "before anything is repeated");
    let full = many.b.drop_counts();
    let full: u64 = full
        .filter(|(class, _)| *class == DropClass::HalfOpenFull)
        .map(|(_, count)| count)
        .sum();
    assert_eq!(full, 0, "requests dropped for the limit of half-open SAs");
    let largest = many.sent_by_a.values().max().unwrap();
    assert!(*largest <= BURST, "{:?}", many.sent_by_a);
}

#[test]
fn tunnels_whose_peers_are_silent_delay_the_others_little() {
    let mut many = Many::new(150);
    let dead = address_of_b(100);
    many.loses = Box::new(move |_, transmit| {
        let ends = [transmit.local.ip(), transmit.remote.ip()];
        ends.iter().any(|end| *end != A && *end < dead)
    });
    // The first burst left before.
    many.in_flight.clear();
    many.run_for(Duration::from_secs(2));
    assert_eq!(many.up(), [50; 2]);
}
