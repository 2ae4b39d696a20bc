//! The line every IKE SA walks before it is established; a state that ends is consumed (RFC 7296 §1.2).
//!
//! ```text
//! initiator                                                          responder
//! InitSent ── HDR, SAi1, KEi, Ni, N(NAT-D) ──────────────────────▶
//!          ◀─────────────────────── HDR, SAr1, KEr, Nr, N(NAT-D) ──  HalfOpen
//! [IntermediateSent ── HDR, SK { KEi(1) } ───────────────────────▶
//!          ◀─────────────────────────────── HDR, SK { KEr(1) } ────  HalfOpen]      if an additional key exchange was agreed on
//! AuthSent ── HDR, SK { IDi, AUTH, SAi2, TSi, TSr } ─────────────▶
//!          ◀────────────── HDR, SK { IDr, AUTH, SAr2, TSi, TSr } ──  Established
//! Established
//! ```
//!
//! The steps themselves are in [`exchange::init`](super::exchange) and [`exchange::auth`](super::exchange).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use super::authn::Intermediates;
use super::event::{Event, Role, Transmit};
use super::failure::Failure;
use super::half_open::ReturnRoutability;
use super::key_schedule::{IkeKeys, Nonces};
use super::nat::Detected;
use super::out_message::{Datagrams, FragmentSize};
use super::ppk::PpkUse;
use super::protect::{Protector, Unopened};
use super::retransmit::Retransmit;
use super::settings::{Settings, TunnelId};
use super::unauthenticated::{DropClass, DropCounters};
use super::window::Received;
use crate::crypto::{Generator, Group, IkeSuite, KeyExchange};
use crate::net::{EspTransport, Time};
use crate::wire::{Header, Id, IkeSpi, Payload};

/// What goes out, in order.
#[derive(Debug, Default)]
pub struct Output {
    /// Datagrams.
    pub transmits: VecDeque<Transmit>,
    /// News. They are to be acted on before the datagrams leave: a Child SA is installed before the peer learns that it may use it.
    pub events: VecDeque<Event>,
    /// What has been refused of people who have proved nothing.
    pub drops: DropCounters,
    /// How to misbehave.
    #[cfg(feature = "testing")]
    pub impair: super::impair::Impair,
}

impl Output {
    /// Sends a message, in as many datagrams as it has.
    pub fn send(&mut self, local: SocketAddr, remote: SocketAddr, datagrams: &Datagrams) {
        self.transmits
            .extend(datagrams.transmits(FragmentSize::Configured, local, remote));
    }
}

/// What every step may use.
pub struct Context<'a> {
    /// What time it is.
    pub now: Time,
    /// Where randomness comes from.
    pub rng: &'a mut Generator,
    /// Where results go.
    pub out: &'a mut Output,
    /// Whether an IKE SA other than the one at work has a Child SA with this SPI at our end.
    pub taken: &'a dyn Fn(u32) -> bool,
}

impl Context<'_> {
    /// Counts a message that came to nothing.
    pub fn count_drop(&mut self, class: DropClass) {
        self.out.drops.count(class);
    }

    /// Counts a datagram that made no message.
    pub fn count_unopened(&mut self, why: Unopened) {
        match why {
            Unopened::Forged => self.count_drop(DropClass::Forged),
            Unopened::Partial => {}
        }
    }

    /// The last word on a message before it is encoded: a test may have ordered misbehaviour.
    #[cfg(feature = "testing")]
    pub fn impaired(&self, header: Header, payloads: Vec<Payload>) -> (Header, Vec<Payload>) {
        self.out.impair.apply(header, payloads)
    }

    /// The last word on a message before it is encoded: it stays as it is.
    #[cfg(not(feature = "testing"))]
    pub fn impaired(&self, header: Header, payloads: Vec<Payload>) -> (Header, Vec<Payload>) {
        (header, payloads)
    }

    /// A byte of jitter.
    pub fn jitter(&mut self) -> u8 {
        let [byte] = self.rng.bytes::<1>();
        byte
    }
}

/// Which tunnel an SA belongs to, between which addresses.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The tunnel.
    pub tunnel: TunnelId,
    /// Its settings.
    pub settings: Arc<Settings>,
    /// Our end.
    pub local: SocketAddr,
    /// The peer's end.
    pub remote: SocketAddr,
    /// When the first message of the handshake went or came.
    pub started: Time,
}

/// We sent IKE_SA_INIT.
#[derive(Debug)]
pub struct InitSent {
    /// Whose.
    pub conn: Connection,
    /// Our SPI.
    pub spi_i: IkeSpi,
    /// Our half of the key exchange.
    pub ke: KeyExchange,
    /// Ni.
    pub nonce: Vec<u8>,
    /// The NAT detection notifies as sent: whatever the peer has us begin again for, they stay as they are.
    pub nat: [Payload; 2],
    /// The message as sent last: AUTH will cover it.
    pub message: Vec<u8>,
    /// The cookie the peer asked to see, if it did.
    pub cookie: Option<Vec<u8>>,
    /// How often the peer had us begin again, for a cookie or another group.
    pub restarts: u8,
    /// The peer's refusal, while we wait whether it was a forged one.
    pub refusal: Option<Failure>,
    /// When to repeat it.
    pub retransmit: Retransmit,
}

/// What both sides have once the shared secret is known.
#[derive(Debug)]
pub struct InitResult {
    /// Whose.
    pub conn: Connection,
    /// The initiator's SPI.
    pub spi_i: IkeSpi,
    /// The responder's SPI.
    pub spi_r: IkeSpi,
    /// Which side we are.
    pub role: Role,
    /// What was negotiated.
    pub suite: IkeSuite,
    /// The nonces.
    pub nonces: Nonces,
    /// The keys.
    pub keys: IkeKeys,
    /// The protection made of them.
    pub protector: Protector,
    /// Where a NAT was seen.
    pub detected: Detected,
    /// What carries ESP, given that.
    pub transport: EspTransport,
    /// Whether a post-quantum pre-shared key goes into the keys.
    pub ppk: PpkUse,
    /// The IKE_INTERMEDIATE exchanges so far.
    pub intermediates: Intermediates,
    /// Whether the peer is a groundlink too, so that both settle crossed handshakes by the same rule.
    pub peer: PeerKind,
    /// The initiator's IKE_SA_INIT as it was on the wire.
    pub init_request: Vec<u8>,
    /// The responder's.
    pub init_response: Vec<u8>,
}

impl InitResult {
    /// Whether the keys hold a secret that a quantum computer does not find out from what was on the wire.
    pub fn is_post_quantum(&self) -> bool {
        match self.ppk {
            PpkUse::Mixed => true,
            PpkUse::Unused | PpkUse::Announced => self.suite.additional.is_some(),
        }
    }
}

/// Who made the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerKind {
    /// Another groundlink.
    Groundlink,
    /// Somebody else.
    Other,
}

/// The Vendor ID payload by which groundlinks know each other.
pub const VENDOR_ID: &[u8] = b"groundlink IKEv2 1";

/// What becomes of the SA that our IKE_AUTH may bring about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It serves its tunnel.
    Serve,
    /// Nobody wants it any more. It may stand at the peer already, so the answer is awaited and the SA closed.
    Close,
}

/// We sent IKE_INTERMEDIATE.
#[derive(Debug)]
pub struct IntermediateSent {
    /// Keys and all, so far.
    pub init: InitResult,
    /// Our half of the additional key exchange.
    pub ke: KeyExchange,
    /// The request, bare.
    pub request: Vec<u8>,
    /// When to repeat it.
    pub retransmit: Retransmit,
}

/// We sent IKE_AUTH.
#[derive(Debug)]
pub struct AuthSent {
    /// Keys and all.
    pub init: InitResult,
    /// What for.
    pub purpose: Purpose,
    /// The SPI we offered for the Child SA.
    pub spi_in: u32,
    /// When to repeat it.
    pub retransmit: Retransmit,
}

/// We answered IKE_SA_INIT and await what comes next.
#[derive(Debug)]
pub struct HalfOpen {
    /// Keys and all, so far.
    pub init: InitResult,
    /// What that is.
    pub awaits: Awaits,
    /// Which requests are new after IKE_SA_INIT, and the last answer.
    pub received: Received,
    /// The protection of that answer and its request, if the keys have changed since.
    pub before: Option<Protector>,
    /// Whether the peer has shown that it receives at its address.
    pub routability: ReturnRoutability,
    /// When we stop waiting.
    pub expires: Time,
}

/// The next request of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaits {
    /// IKE_INTERMEDIATE, with an additional key exchange by this method.
    Intermediate(&'static Group),
    /// IKE_AUTH.
    Auth,
}

/// What is left of an SA that we refused or that the peer deleted: our last answer, in case it got lost.
#[derive(Debug)]
pub struct LastResponse {
    /// The request and its answer.
    pub received: Received,
    /// When even that is forgotten.
    pub expires: Time,
}

impl LastResponse {
    /// Keeps an answer as long as a peer may repeat the question.
    pub fn new(received: Received, now: Time) -> LastResponse {
        LastResponse {
            received,
            expires: now + super::retransmit::HANDSHAKE_PATIENCE,
        }
    }
}

/// Our identity as a payload's content, and the peer's expected one likewise.
pub fn id_payload(identity: &super::settings::Identity) -> Id {
    use super::settings::Identity;
    use crate::wire::IdType;
    let (kind, data) = match identity {
        Identity::Ipv4(address) => (IdType::IPV4_ADDR, address.octets().to_vec()),
        Identity::Ipv6(address) => (IdType::IPV6_ADDR, address.octets().to_vec()),
        Identity::Fqdn(name) => (IdType::FQDN, name.clone().into_bytes()),
        Identity::Email(name) => (IdType::RFC822_ADDR, name.clone().into_bytes()),
        Identity::KeyId(bytes) => (IdType::KEY_ID, bytes.clone()),
    };
    Id::new(kind, data)
}
