//! The simulated network between two gateways: it loses, delays, duplicates and reorders datagrams, can be blocked in one or both
//! directions, has an optional NAT in front of A, and can hold back messages for a test.

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

/// The impairment of one IKE message: the delays of the copies that arrive; none if the message is lost.
pub type Impairment = Box<dyn FnMut(Side, &Transmit) -> Vec<Duration>>;

/// A datagram in flight, with the addresses that its receiver sees.
#[derive(Clone, Debug)]
pub struct SimDatagram {
    pub to: Side,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub content: SimContent,
}

/// The content of a datagram.
#[derive(Clone, Debug)]
pub enum SimContent {
    Ike(Vec<u8>),
    Esp(Packet),
}

/// The exchange type and the response flag of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub exchange: ExchangeType,
    pub response: bool,
}

/// A request of this exchange type.
pub const fn request_kind(exchange: ExchangeType) -> Kind {
    Kind {
        exchange,
        response: false,
    }
}

/// A response of this exchange type.
pub const fn response_kind(exchange: ExchangeType) -> Kind {
    Kind {
        exchange,
        response: true,
    }
}

impl Kind {
    /// The kind of an encoded IKE message.
    pub fn of(bytes: &[u8]) -> Kind {
        Kind {
            exchange: ExchangeType(bytes[18]),
            response: bytes[19] & 0x20 != 0,
        }
    }
}

/// A NAT in front of A: its outside address and the offset that it adds to ports. With offset 0 it is a one-to-one NAT, as in
/// front of cloud gateways.
#[derive(Clone, Copy, Debug)]
pub struct Nat {
    pub outside: IpAddr,
    pub shift: u16,
}

/// Whether a sent datagram arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendOutcome {
    InFlight,
    Lost,
}

pub struct Wire {
    in_flight: BTreeMap<(Time, u64), SimDatagram>,
    sent_count: u64,
    pub impairment: Impairment,
    /// The delay of an ESP packet.
    pub esp_delay: Duration,
    /// Blocks all datagrams from A, or from B.
    pub cut: [bool; 2],
    pub nat: Option<Nat>,
    /// Holds messages of established IKE SAs back for the test; handshakes are delivered at once.
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

    /// The arrival time of the next datagram.
    pub fn next(&self) -> Time {
        self.in_flight
            .keys()
            .next()
            .map_or(Time::MAX, |(at, _)| *at)
    }

    /// Removes the datagram that arrives next.
    pub fn arrive(&mut self) -> Option<SimDatagram> {
        self.in_flight.pop_first().map(|(_, datagram)| datagram)
    }

    pub fn schedule(&mut self, at: Time, datagram: SimDatagram) {
        self.in_flight.insert((at, self.sent_count), datagram);
        self.sent_count += 1;
    }

    /// Sends an IKE message of a side.
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

    /// Sends an ESP packet, which is not impaired.
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

    /// Translates the addresses of a datagram from `local` to `remote`; `None` if the NAT has no mapping.
    fn address(
        &self,
        from: Side,
        local: SocketAddr,
        remote: SocketAddr,
        content: SimContent,
    ) -> Option<SimDatagram> {
        // The kernel chooses an unspecified local address, and each side has one address.
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

    /// Puts this NAT in front of A. Datagrams of A in flight get its address as well.
    pub fn put_nat(&mut self, nat: Nat) {
        for datagram in self.in_flight.values_mut() {
            if datagram.to == Side::B && self.nat.is_none() {
                let port = datagram.remote.port().wrapping_add(nat.shift);
                datagram.remote = SocketAddr::new(nat.outside, port);
            }
        }
        self.nat = Some(nat);
    }

    /// Removes the oldest held message of a side.
    pub fn take(&mut self, from: Side) -> Option<SimDatagram> {
        let index = self.waiting.iter().position(|l| l.to == from.other())?;
        self.waiting.remove(index)
    }

    /// The number of held messages.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Removes the held message at `index`.
    pub fn take_nth(&mut self, index: usize) -> SimDatagram {
        self.waiting.remove(index).expect("so many wait")
    }

    /// Stops holding messages back and sends the held ones.
    pub fn release_messages(&mut self, now: Time) {
        self.hold_messages = false;
        while let Some(datagram) = self.waiting.pop_front() {
            self.schedule(now + LATENCY, datagram);
        }
    }
}
