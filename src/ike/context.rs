//! What a protocol step receives: the time, the random generator and the output queues.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use super::event::{Event, Transmit};
use super::out_message::{Datagrams, FragmentSize, SentMessage};
use super::protect::Unopened;
use super::retransmit::Retransmit;
use super::unauthenticated::{DropClass, DropCounters};
use crate::crypto::Generator;
use crate::net::Time;
use crate::wire::{Header, Payload};

/// Output queues of the endpoint, in order.
#[derive(Debug, Default)]
pub struct Output {
    /// Datagrams to send.
    pub transmits: VecDeque<Transmit>,
    /// Events for the daemon, which acts on them before it sends datagrams: a Child SA is installed before the peer learns that it may use it.
    pub events: VecDeque<Event>,
    /// Counters of messages dropped before authentication.
    pub drops: DropCounters,
    /// Interval at which requests are repeated; `None` for the schedule of [`Retransmit`].
    pub repeat_interval: Option<Duration>,
    /// Deviations from the protocol that a test has ordered.
    #[cfg(feature = "testing")]
    pub impair: super::impair::Impair,
}

impl Output {
    /// Sends a message in fragments of the configured size.
    pub fn send(&mut self, local: SocketAddr, remote: SocketAddr, message: &Datagrams) {
        self.transmits
            .extend(message.transmits(FragmentSize::Configured, local, remote));
    }
}

/// Inputs and outputs of one protocol step.
pub struct Context<'a> {
    /// The current time.
    pub now: Time,
    /// The source of all randomness.
    pub rng: &'a mut Generator,
    /// The output queues.
    pub out: &'a mut Output,
    /// Whether another IKE SA has a Child SA with this inbound SPI.
    pub taken: &'a dyn Fn(u32) -> bool,
}

impl Context<'_> {
    /// Counts a dropped message.
    pub fn count_drop(&mut self, class: DropClass) {
        self.out.drops.count(class);
    }

    /// Counts a datagram that could not be opened.
    pub fn count_unopened(&mut self, why: Unopened) {
        match why {
            Unopened::Forged => self.count_drop(DropClass::Forged),
            Unopened::Partial => {}
        }
    }

    /// Sends a request. The result holds it for retransmission until the timeout.
    pub fn send_request(&mut self, request: SentMessage, timeout: Duration) -> Retransmit {
        self.out.transmits.extend(request.transmits());
        let jitter = self.jitter();
        let mut retransmit = Retransmit::new(self.now, request, timeout, jitter);
        if let Some(interval) = self.out.repeat_interval {
            retransmit.repeat_every(interval, self.now);
        }
        retransmit
    }

    /// Applies the deviations that a test has ordered to a message, before it is encoded.
    #[cfg(feature = "testing")]
    pub fn impaired(&self, header: Header, payloads: Vec<Payload>) -> (Header, Vec<Payload>) {
        self.out.impair.apply(header, payloads)
    }

    /// Returns the message unchanged: only builds for tests deviate from the protocol.
    #[cfg(not(feature = "testing"))]
    pub fn impaired(&self, header: Header, payloads: Vec<Payload>) -> (Header, Vec<Payload>) {
        (header, payloads)
    }

    /// A random byte of jitter.
    pub fn jitter(&mut self) -> u8 {
        let [byte] = self.rng.bytes::<1>();
        byte
    }
}
