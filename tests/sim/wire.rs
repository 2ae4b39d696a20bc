//! The wire between two gateways: it loses, delays, duplicates and reorders, is cut one way or both, has a NAT before A that forgets its mappings; and it can be
//! held by hand, message by message.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use groundlink::ike::{Content, Transmit};
use groundlink::net::Time;
use groundlink::wire::ExchangeType;

use crate::esp::Packet;
use crate::pair::Side;

/// The usual delay of a datagram.
pub const LATENCY: Duration = Duration::from_millis(5);

/// What the wire does to one IKE message: nothing, or copies of it that arrive after these delays.
pub type Impairment = Box<dyn FnMut(Side, &Transmit) -> Vec<Duration>>;

/// A datagram on the wire, with the addresses that its receiver sees.
#[derive(Clone, Debug)]
pub struct SimDatagram {
    pub to: Side,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub content: SimContent,
}

/// What a datagram carries.
#[derive(Clone, Debug)]
pub enum SimContent {
    Ike(Vec<u8>),
    Esp(Packet),
}

/// What can be seen of a message from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub exchange: ExchangeType,
    pub response: bool,
}

/// A request of this exchange.
pub const fn request_kind(exchange: ExchangeType) -> Kind {
    Kind {
        exchange,
        response: false,
    }
}

/// The answer to one.
pub const fn response_kind(exchange: ExchangeType) -> Kind {
    Kind {
        exchange,
        response: true,
    }
}

impl Kind {
    /// Of an IKE message.
    pub fn of(bytes: &[u8]) -> Kind {
        Kind {
            exchange: ExchangeType(bytes[18]),
            response: bytes[19] & 0x20 != 0,
        }
    }
}

/// A NAT before A: where it is seen from outside, and how far it moves ports. With 0 it is one-to-one, as before the gateways of clouds.
#[derive(Clone, Copy, Debug)]
pub struct Nat {
    pub outside: IpAddr,
    pub shift: u16,
}

/// Whether what was thrown arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendOutcome {
    InFlight,
    Lost,
}

pub struct Wire {
    in_flight: BTreeMap<(Time, u64), SimDatagram>,
    sent_count: u64,
    pub impairment: Impairment,
    /// How long an ESP packet takes.
    pub esp_delay: Duration,
    /// Nothing that A, or B, sends arrives.
    pub cut: [bool; 2],
    pub nat: Option<Nat>,
    /// Messages of established IKE SAs wait for the test; handshakes go by themselves.
    pub hold_messages: bool,
    waiting: VecDeque<SimDatagram>,
}

impl Wire {
    pub fn new() -> Wire {
        Wire {
            in_flight: BTreeMap::new(),
            sent_count: 0,
            impairment: Box::new(|_, _| vec![LATENCY]),
            esp_delay: LATENCY,
            cut: [false; 2],
            nat: None,
            hold_messages: false,
            waiting: VecDeque::new(),
        }
    }

    /// When the next datagram arrives.
    pub fn next(&self) -> Time {
        self.in_flight
            .keys()
            .next()
            .map_or(Time::MAX, |(at, _)| *at)
    }

    /// Takes the datagram that arrives next.
    pub fn arrive(&mut self) -> Option<SimDatagram> {
        self.in_flight.pop_first().map(|(_, datagram)| datagram)
    }

    pub fn schedule(&mut self, at: Time, datagram: SimDatagram) {
        self.in_flight.insert((at, self.sent_count), datagram);
        self.sent_count += 1;
    }

    /// What a side sends is thrown on the wire.
    pub fn send(&mut self, now: Time, from: Side, transmit: &Transmit) {
        let delays = (self.impairment)(from, transmit);
        let Content::Ike(bytes) = &transmit.content else {
            return;
        };
        if self.cut[from as usize] {
            return;
        }
        let content = SimContent::Ike(bytes.clone());
        let Some(datagram) = self.address(from, transmit.local, transmit.remote, content) else {
            return;
        };
        let exchange = Kind::of(bytes).exchange;
        let of_established = [
            ExchangeType::CREATE_CHILD_SA,
            ExchangeType::INFORMATIONAL,
            ExchangeType::IKE_FOLLOWUP_KE,
        ];
        if self.hold_messages && of_established.contains(&exchange) {
            return self.waiting.push_back(datagram);
        }
        for delay in delays {
            self.schedule(now + delay, datagram.clone());
        }
    }

    /// The same for an ESP packet, which the weather spares.
    pub fn send_esp(
        &mut self,
        now: Time,
        from: Side,
        (local, remote): (SocketAddr, SocketAddr),
        packet: Packet,
    ) -> SendOutcome {
        if self.cut[from as usize] {
            return SendOutcome::Lost;
        }
        match self.address(from, local, remote, SimContent::Esp(packet)) {
            Some(datagram) => {
                self.schedule(now + self.esp_delay, datagram);
                SendOutcome::InFlight
            }
            None => SendOutcome::Lost,
        }
    }

    /// What the NAT makes of the addresses of a datagram from `local` to `remote`; nothing if it has no mapping for it.
    fn address(
        &self,
        from: Side,
        local: SocketAddr,
        remote: SocketAddr,
        content: SimContent,
    ) -> Option<SimDatagram> {
        // An address that is left open is the kernel's to choose, and each side has but one.
        let local = match local.ip().is_unspecified() {
            true => SocketAddr::new(from.ip().parse().ok()?, local.port()),
            false => local,
        };
        let (source, target) = match (self.nat, from) {
            (None, _) => (local, remote),
            (Some(nat), Side::A) => {
                let port = local.port().wrapping_add(nat.shift);
                (SocketAddr::new(nat.outside, port), remote)
            }
            (Some(nat), Side::B) => {
                let port = remote.port().wrapping_sub(nat.shift);
                let mapped = remote.ip() == nat.outside && [500, 4500].contains(&port);
                let target = mapped.then(|| SocketAddr::new(Side::A.ip().parse().unwrap(), port));
                (local, target?)
            }
        };
        Some(SimDatagram {
            to: from.other(),
            local: target,
            remote: source,
            content,
        })
    }

    /// From now on this NAT stands before A. What A has sent and has not arrived yet comes from there as well.
    pub fn put_nat(&mut self, nat: Nat) {
        for datagram in self.in_flight.values_mut() {
            if datagram.to == Side::B && self.nat.is_none() {
                let port = datagram.remote.port().wrapping_add(nat.shift);
                datagram.remote = SocketAddr::new(nat.outside, port);
            }
        }
        self.nat = Some(nat);
    }

    /// The oldest message that a side has sent and that waits for the test.
    pub fn take(&mut self, from: Side) -> Option<SimDatagram> {
        let index = self.waiting.iter().position(|l| l.to == from.other())?;
        self.waiting.remove(index)
    }

    /// How many messages wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// One of them.
    pub fn take_nth(&mut self, index: usize) -> SimDatagram {
        self.waiting.remove(index).expect("so many wait")
    }

    /// Messages go by themselves again, beginning with those that wait.
    pub fn release_messages(&mut self, now: Time) {
        self.hold_messages = false;
        while let Some(datagram) = self.waiting.pop_front() {
            self.schedule(now + LATENCY, datagram);
        }
    }
}
