//! Inputs and outputs of the engine besides time: datagrams, commands, events and the status view.

use std::net::{IpAddr, SocketAddr};

use super::failure::Failure;
use super::settings::TunnelId;
use super::unauthenticated::DropClass;
use crate::crypto::{EspSuite, IkeSuite, IvKey, SaKeys};
use crate::net::{EspTransport, Policy, RekeyVerdict, Time, TunnelState, WaitingFor};
use crate::wire::IkeSpi;

pub use crate::net::{NatLocation, Role};

/// A received IKE message, without the non-ESP marker of port 4500.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// Destination; the port names the receiving socket.
    pub local: SocketAddr,
    /// Source.
    pub remote: SocketAddr,
    /// The message, starting with the IKE header.
    pub bytes: &'a [u8],
}

/// A datagram to send.
#[derive(Clone, PartialEq, Eq)]
pub struct Transmit {
    /// Source. The port is 500 or 4500 and names the socket; the kernel selects an unspecified address by route.
    pub local: SocketAddr,
    /// Destination.
    pub remote: SocketAddr,
    /// Payload of the datagram.
    pub content: Content,
}

impl std::fmt::Debug for Transmit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match &self.content {
            Content::Ike(bytes) => format!("{} bytes of IKE", bytes.len()),
            Content::Keepalive => "keepalive".to_owned(),
        };
        write!(f, "{} -> {}: {what}", self.local, self.remote)
    }
}

/// Content of a datagram to send.
#[derive(Clone, PartialEq, Eq)]
pub enum Content {
    /// An IKE message; port 4500 requires the non-ESP marker in front (RFC 3948 §2.2).
    Ike(Vec<u8>),
    /// A NAT keepalive: the single byte 0xff without a marker (RFC 3948 §2.3).
    Keepalive,
}

/// Result of the lookup of a peer's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Its addresses, of both families, in order of preference.
    Found(Vec<IpAddr>),
    /// The name has no address.
    NoAddress,
    /// No name server has answered.
    NoAnswer,
}

/// A command from the daemon to the engine.
#[derive(Clone, Debug)]
pub enum Command {
    /// Connects the tunnel; with `start = auto` the engine keeps it connected.
    Up(TunnelId),
    /// Disconnects the tunnel until the next `Up`.
    Down(TunnelId),
    /// Discards all SAs of the tunnel and reconnects.
    Reset(TunnelId),
    /// An outbound packet arrived for a tunnel with `start = trap`.
    Demand(TunnelId),
    /// Response to [`Event::Resolve`].
    Resolved {
        /// The tunnel of the peer.
        tunnel: TunnelId,
        /// The result.
        lookup: Lookup,
    },
    /// The network of this host has changed, so that a peer out of reach may be in reach now: pauses between attempts end early.
    NetworkChanged,
    /// Response to [`Event::Source`]; `None` if there is no route to the peer.
    Source {
        /// The tunnel of the attempt.
        tunnel: TunnelId,
        /// The source address that the kernel would select.
        local: Option<IpAddr>,
    },
    /// An authentic ESP packet arrived: no liveness check is needed (RFC 7296 §2.4).
    EspReceived {
        /// The tunnel.
        tunnel: TunnelId,
        /// Time of arrival.
        at: Time,
    },
    /// An ESP packet was sent: no NAT keepalive is needed.
    EspSent {
        /// The tunnel.
        tunnel: TunnelId,
        /// Time of sending.
        at: Time,
    },
    /// The installation of a Child SA failed; the engine deletes the Child SA at the peer too.
    InstallFailed {
        /// The tunnel.
        tunnel: TunnelId,
        /// The inbound SPI of the Child SA.
        spi_in: u32,
        /// The error text for the log and `status`.
        why: String,
    },
    /// A rekey requested by the operator.
    Rekey {
        /// The tunnel.
        tunnel: TunnelId,
        /// The SA to rekey.
        what: Rekey,
    },
    /// A soft limit (bytes, packets or sequence numbers) of a Child SA was reached: the engine rekeys the Child SA.
    SoftLimit {
        /// The tunnel.
        tunnel: TunnelId,
        /// The inbound SPI of the Child SA.
        spi_in: u32,
    },
    /// The first authentic packet arrived on a Child SA installed with [`Sends::Later`]: the peer has installed the Child SA.
    ChildConfirmed {
        /// The tunnel.
        tunnel: TunnelId,
        /// The inbound SPI of the Child SA.
        spi_in: u32,
    },
    /// A fresh authentic ESP packet arrived from an address or port other than the peer's last known one.
    EspSource {
        /// The tunnel.
        tunnel: TunnelId,
        /// The inbound SPI of the Child SA.
        spi_in: u32,
        /// The source of the packet.
        remote: SocketAddr,
        /// Time of arrival.
        at: Time,
    },
    /// An ESP packet arrived with an SPI of no Child SA. A peer with an established IKE SA receives a protected INVALID_SPI (RFC
    /// 7296 §1.5).
    UnknownSpi {
        /// The source of the packet; the port is 0 for IP protocol 50.
        remote: SocketAddr,
        /// The SPI.
        spi: u32,
    },
    /// A hard limit (bytes, packets or sequence numbers) of a Child SA was reached: the Child SA must not send any more.
    SequenceExhausted {
        /// The tunnel.
        tunnel: TunnelId,
        /// The inbound SPI of the Child SA.
        spi_in: u32,
    },
    /// Sends a DELETE to every peer. [`Endpoint::is_idle`](super::Endpoint::is_idle) reports when all peers have responded.
    Shutdown,
}

/// An SA that can be rekeyed (RFC 7296 §2.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rekey {
    /// The Child SA.
    Child,
    /// The IKE SA.
    Ike,
}

/// An event from the engine to the daemon, in order.
#[derive(Clone, Debug)]
pub enum Event {
    /// A peer's name is to be resolved; the response is [`Command::Resolved`].
    Resolve {
        /// The tunnel of the peer.
        tunnel: TunnelId,
        /// The name.
        name: String,
    },
    /// An attempt needs the source address of the route to the peer: with another address in NAT detection, the peer would detect
    /// a NAT where there is none. The response is [`Command::Source`].
    Source {
        /// The tunnel of the attempt.
        tunnel: TunnelId,
        /// The peer's address.
        peer: IpAddr,
    },
    /// A connection attempt starts.
    Connecting {
        /// The tunnel.
        tunnel: TunnelId,
        /// Destination of the first message.
        remote: SocketAddr,
    },
    /// An IKE SA is established.
    IkeUp {
        /// The tunnel.
        tunnel: TunnelId,
        /// The IKE SA.
        ike: IkeView,
    },
    /// An IKE SA was removed with its Child SAs, each of which had its own [`Event::ChildDown`].
    IkeDown {
        /// The tunnel.
        tunnel: TunnelId,
        /// SPIs of the IKE SA, the initiator's first.
        spis: (IkeSpi, IkeSpi),
        /// The reason.
        reason: DownReason,
    },
    /// An IKE SA has replaced another one and inherited its Child SAs (RFC 7296 §2.8).
    IkeRekeyed {
        /// The tunnel.
        tunnel: TunnelId,
        /// SPIs of the old IKE SA, the initiator's first.
        old: (IkeSpi, IkeSpi),
        /// The new IKE SA.
        ike: IkeView,
    },
    /// The peer's address or port changed, because a NAT changed its mapping (RFC 7296 §2.23). ESP is sent to the new address.
    PeerMoved {
        /// The tunnel.
        tunnel: TunnelId,
        /// The peer's new address and port.
        remote: SocketAddr,
    },
    /// Result of a check whether the peer accepts a rekey.
    RekeyChecked {
        /// The tunnel.
        tunnel: TunnelId,
        /// The SA that was rekeyed.
        what: Rekey,
        /// The failure, if the peer rejected the rekey.
        result: Result<(), Failure>,
    },
    /// A Child SA is offered to the peer, which may send over it before its response arrives: ESP for this SPI is to be kept until
    /// [`Event::ChildUp`].
    ChildOffered {
        /// The tunnel.
        tunnel: TunnelId,
        /// The inbound SPI of the Child SA.
        spi_in: u32,
    },
    /// A Child SA is to be installed: inbound first, then outbound.
    ChildUp(Box<Child>),
    /// An installed Child SA becomes the sending one: the peer has installed it too, or its duplicate is about to be closed.
    ChildPreferred {
        /// The tunnel.
        tunnel: TunnelId,
        /// The inbound SPI of the Child SA.
        spi_in: u32,
    },
    /// A Child SA is to be removed.
    ChildDown {
        /// The tunnel.
        tunnel: TunnelId,
        /// The inbound SPI of the Child SA.
        spi_in: u32,
        /// The reason.
        reason: DownReason,
    },
    /// An attempt or a request failed.
    Failed {
        /// The tunnel; `None` if the peer belongs to no tunnel.
        tunnel: Option<TunnelId>,
        /// The failure, with advice.
        failure: Failure,
    },
    /// Unauthenticated messages were dropped: reported at once, and then once a minute for each class.
    Dropped {
        /// The class.
        class: DropClass,
        /// The source of the last message; it may be spoofed.
        remote: SocketAddr,
        /// Number of messages since the last report.
        count: u64,
    },
}

/// Reason for the removal of an SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownReason {
    /// A command or the shutdown closed the SA.
    Requested,
    /// The peer deleted the SA.
    PeerDeleted,
    /// The peer does not have the SA: it answered CHILD_SA_NOT_FOUND, or sent INVALID_SPI.
    UnknownToPeer,
    /// This gateway closed the IKE SA, because no Child SA was left.
    NoChildLeft,
    /// This gateway closed the IKE SA, because the peer sent an invalid request (RFC 7296 §2.21.3).
    InvalidRequest,
    /// The peer rejected a request as invalid, which ends the IKE SA (RFC 7296 §2.21.3).
    RequestRejected,
    /// The peer deleted the IKE SA after rejecting our identity.
    IdentityRejected,
    /// The peer stopped responding.
    PeerDead,
    /// The hard lifetime or the sequence numbers of the SA were exhausted.
    Expired,
    /// The peer restarted (INITIAL_CONTACT).
    PeerRestarted,
    /// Another SA of the same tunnel is used instead.
    Redundant,
    /// The SA was rekeyed. A replaced Child SA no longer sends, but may still receive for a while.
    Replaced,
    /// The SA was established without a Child SA, or the Child SA could not be installed.
    Useless,
}

impl DownReason {
    /// The reason as log text.
    pub fn text(self) -> &'static str {
        match self {
            DownReason::Requested => "closed by a command on this gateway or by its shutdown",
            DownReason::PeerDeleted => "deleted by the peer",
            DownReason::UnknownToPeer => "the peer does not have it",
            DownReason::NoChildLeft => "closed by this gateway: no Child SA was left",
            DownReason::InvalidRequest => {
                "closed by this gateway: the peer sent an invalid request"
            }
            DownReason::RequestRejected => "the peer rejected a request as invalid",
            DownReason::IdentityRejected => "the peer rejected our identity",
            DownReason::PeerDead => "the peer stopped responding",
            DownReason::Expired => "its lifetime or sequence numbers are exhausted",
            DownReason::PeerRestarted => "the peer restarted",
            DownReason::Redundant => "another SA of the tunnel is used",
            DownReason::Replaced => "it was rekeyed",
            DownReason::Useless => "it had no working Child SA",
        }
    }

    /// Whether another SA carries the traffic from now on. The peer may still send over this one.
    pub fn leaves_replacement(self) -> bool {
        match self {
            DownReason::Replaced | DownReason::Redundant => true,
            DownReason::Requested
            | DownReason::PeerDeleted
            | DownReason::UnknownToPeer
            | DownReason::NoChildLeft
            | DownReason::InvalidRequest
            | DownReason::RequestRejected
            | DownReason::IdentityRejected
            | DownReason::PeerDead
            | DownReason::Expired
            | DownReason::PeerRestarted
            | DownReason::Useless => false,
        }
    }
}

/// A Child SA to install.
#[derive(Clone, Debug)]
pub struct Child {
    /// The tunnel.
    pub tunnel: TunnelId,
    /// The SPI of inbound packets.
    pub spi_in: u32,
    /// The SPI of outbound packets.
    pub spi_out: u32,
    /// The negotiated algorithms.
    pub suite: EspSuite,
    /// Keys of inbound packets.
    pub keys_in: SaKeys,
    /// Keys of outbound packets.
    pub keys_out: SaKeys,
    /// The secret from which the IVs of CBC ciphers are derived.
    pub iv_key: IvKey,
    /// The negotiated traffic selectors.
    pub policy: Policy,
    /// Local address and port of IKE and of UDP-encapsulated ESP.
    pub local: SocketAddr,
    /// Remote address and port of IKE and of UDP-encapsulated ESP.
    pub remote: SocketAddr,
    /// The ESP transport.
    pub transport: EspTransport,
    /// Our role in the exchange that created the Child SA.
    pub role: Role,
    /// Latest time of removal.
    pub hard_expiry: Time,
    /// When the Child SA starts to send.
    pub sends: Sends,
    /// The inbound SPI of the Child SA that the new one replaces.
    pub replaces: Option<u32>,
}

/// When a new Child SA starts to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sends {
    /// At once: the peer has installed the Child SA.
    Now,
    /// With [`Event::ChildPreferred`]: the peer may not have received the response that creates it (RFC 7296 §2.8).
    Later,
}

/// Status of a tunnel.
#[derive(Clone, Debug)]
pub struct View {
    /// The state.
    pub state: TunnelState,
    /// What the tunnel waits for while connecting.
    pub waiting: Option<WaitingFor>,
    /// When the next attempt to connect begins, if it waits for its time.
    pub next_attempt: Option<Time>,
    /// Start time of the state.
    pub since: Time,
    /// The peer's address, if known.
    pub remote: Option<SocketAddr>,
    /// The newest IKE SA.
    pub ike: Option<IkeView>,
    /// The first of `children`.
    pub child: Option<ChildView>,
    /// The Child SAs that send, one for each traffic in order of creation.
    pub children: Vec<ChildView>,
    /// Completed rekeys of each SA, initiated by either side.
    pub rekeys: Rekeys,
    /// Results of the rekey check, if configured.
    pub rekey_check: Option<RekeyVerdicts>,
    /// The last failure.
    pub last_failure: Option<Failure>,
}

/// Completed rekeys, initiated by either side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rekeys {
    /// Rekeys of IKE SAs.
    pub ike: u64,
    /// Rekeys of Child SAs.
    pub child: u64,
}

/// Results of the rekey check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RekeyVerdicts {
    /// Result for the Child SA.
    pub child: RekeyVerdict,
    /// Result for the IKE SA.
    pub ike: RekeyVerdict,
}

/// Status of an IKE SA.
#[derive(Clone, Debug)]
pub struct IkeView {
    /// The initiator's SPI.
    pub spi_i: IkeSpi,
    /// The responder's SPI.
    pub spi_r: IkeSpi,
    /// The negotiated algorithms.
    pub suite: IkeSuite,
    /// Our role.
    pub role: Role,
    /// Time of our next rekey, unless the peer rekeys before.
    pub rekey_at: Time,
    /// Latest time of removal.
    pub hard_expiry: Time,
    /// Where a NAT was detected.
    pub nat: NatLocation,
    /// Whether the keys resist a quantum computer: ML-KEM or a PPK contributed to them.
    pub post_quantum: bool,
}

/// Status of a Child SA.
#[derive(Clone, Debug)]
pub struct ChildView {
    /// The SPI of inbound packets.
    pub spi_in: u32,
    /// The SPI of outbound packets.
    pub spi_out: u32,
    /// The negotiated algorithms.
    pub suite: EspSuite,
    /// The negotiated traffic selectors.
    pub policy: Policy,
    /// The ESP transport.
    pub transport: EspTransport,
    /// Time of our next rekey, unless the peer rekeys before.
    pub rekey_at: Time,
    /// Latest time of removal.
    pub hard_expiry: Time,
}
