//! What goes in and out of the engine besides time: datagrams, commands, events and the view that status reports read.

use std::net::{IpAddr, SocketAddr};

use super::failure::Failure;
use super::settings::TunnelId;
use super::unauthenticated::DropClass;
use crate::crypto::{EspSuite, IkeSuite, IvKey, SaKeys};
use crate::net::{EspTransport, Policy, RekeyVerdict, Time, TunnelState, WaitingFor};
use crate::wire::IkeSpi;

pub use crate::net::{NatLocation, Role};

/// A received IKE message; the non-ESP marker of port 4500 is already taken off.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// Where it came to: the port tells which socket.
    pub local: SocketAddr,
    /// Where it came from.
    pub remote: SocketAddr,
    /// The message, header first.
    pub bytes: &'a [u8],
}

/// A datagram to send.
#[derive(Clone, PartialEq, Eq)]
pub struct Transmit {
    /// Where it leaves from. The port is 500 or 4500 and names the socket; an unspecified address leaves the choice to routing.
    pub local: SocketAddr,
    /// Where it goes.
    pub remote: SocketAddr,
    /// What it carries.
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

/// What a datagram to send carries.
#[derive(Clone, PartialEq, Eq)]
pub enum Content {
    /// An IKE message: from port 4500 it needs the non-ESP marker in front (RFC 3948 §2.2).
    Ike(Vec<u8>),
    /// A NAT keepalive: the single byte 0xff without a marker (RFC 3948 §2.3).
    Keepalive,
}

/// What the rest of the program asks or tells the engine.
#[derive(Clone, Debug)]
pub enum Command {
    /// Connect, and for `start = auto` keep connected.
    Up(TunnelId),
    /// Disconnect and stay so until `Up`.
    Down(TunnelId),
    /// Throw everything away and begin anew.
    Reset(TunnelId),
    /// A packet wants through a tunnel with `start = trap`.
    Demand(TunnelId),
    /// The answer to [`Event::Resolve`]; `None` when the name has no address now.
    Resolved {
        /// Whose peer was looked up.
        tunnel: TunnelId,
        /// What the name stands for.
        address: Option<IpAddr>,
    },
    /// The answer to [`Event::Source`]; `None` when nothing leads to the peer now.
    Source {
        /// Whose attempt waits for it.
        tunnel: TunnelId,
        /// The address that the kernel would send from.
        local: Option<IpAddr>,
    },
    /// Authentic ESP came in at that time: liveness needs no proof (RFC 7296 §2.4).
    Heard {
        /// Over which tunnel.
        tunnel: TunnelId,
        /// When.
        at: Time,
    },
    /// ESP left at that time: the NAT needs no keepalive.
    Sent {
        /// Over which tunnel.
        tunnel: TunnelId,
        /// When.
        at: Time,
    },
    /// A Child SA could not be put to work, so it is deleted at the peer too.
    InstallFailed {
        /// Whose.
        tunnel: TunnelId,
        /// Its inbound SPI.
        spi_in: u32,
        /// What went wrong, for people.
        why: String,
    },
    /// A person wants fresh keys.
    Rekey {
        /// Of which tunnel.
        tunnel: TunnelId,
        /// Of which SA.
        what: Rekey,
    },
    /// The bytes, packets or sequence numbers of a Child SA come to their end: it is rekeyed.
    SoftLimit {
        /// Whose.
        tunnel: TunnelId,
        /// Its inbound SPI.
        spi_in: u32,
    },
    /// The first authentic packet came in over a Child SA that was told to wait with its own ([`Sends::Later`]): the peer has it installed.
    ChildHeard {
        /// Whose.
        tunnel: TunnelId,
        /// Its inbound SPI.
        spi_in: u32,
    },
    /// A fresh authentic ESP packet came from another address or port than the peer's last known one.
    SeenFrom {
        /// Over which tunnel.
        tunnel: TunnelId,
        /// The inbound SPI of its Child SA.
        spi_in: u32,
        /// Where it came from.
        remote: SocketAddr,
        /// When.
        at: Time,
    },
    /// ESP came for an SPI that no Child SA has: a peer with which an IKE SA stands is told, under its protection (RFC 7296 §1.5).
    UnknownSpi {
        /// Where it came from; port 0 as IP protocol 50.
        remote: SocketAddr,
        /// The SPI.
        spi: u32,
    },
    /// The bytes, packets or sequence numbers of a Child SA are used up: it may not send any more.
    SequenceExhausted {
        /// Whose.
        tunnel: TunnelId,
        /// Its inbound SPI.
        spi_in: u32,
    },
    /// Say goodbye to every peer. The endpoint tells when all have answered.
    Shutdown,
}

/// An SA that can be given fresh keys (RFC 7296 §2.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rekey {
    /// The Child SA.
    Child,
    /// The IKE SA.
    Ike,
}

/// What the engine tells the rest of the program, in order.
#[derive(Clone, Debug)]
pub enum Event {
    /// A peer given by name must be looked up; answered with [`Command::Resolved`].
    Resolve {
        /// Whose peer.
        tunnel: TunnelId,
        /// The name.
        name: String,
    },
    /// An attempt waits to hear which address of ours leads to the peer: without NAT detection of the right one, the peer would see a NAT where there is none.
    /// Answered with [`Command::Source`].
    Source {
        /// Whose attempt.
        tunnel: TunnelId,
        /// Where the peer is.
        peer: IpAddr,
    },
    /// An attempt begins.
    Connecting {
        /// Which tunnel.
        tunnel: TunnelId,
        /// Where the first message goes.
        remote: SocketAddr,
    },
    /// An IKE SA is authenticated.
    IkeUp {
        /// Which tunnel.
        tunnel: TunnelId,
        /// The IKE SA.
        ike: IkeView,
    },
    /// An IKE SA is gone, and its Child SAs with it (each has had its own [`Event::ChildDown`]).
    IkeDown {
        /// Which tunnel.
        tunnel: TunnelId,
        /// Its SPIs, initiator's first.
        spis: (IkeSpi, IkeSpi),
        /// Why.
        reason: DownReason,
    },
    /// An IKE SA has taken the place of another, with its Child SAs (RFC 7296 §2.8).
    IkeRekeyed {
        /// Which tunnel.
        tunnel: TunnelId,
        /// The SPIs of the old one, initiator's first.
        old: (IkeSpi, IkeSpi),
        /// The new one.
        ike: IkeView,
    },
    /// The peer is somewhere else now: a NAT in front of it has changed its mind (RFC 7296 §2.23). ESP goes there from now on.
    PeerMoved {
        /// Which tunnel.
        tunnel: TunnelId,
        /// Where the peer is.
        remote: SocketAddr,
    },
    /// What came of trying whether the peer rekeys at all.
    RekeyChecked {
        /// Which tunnel.
        tunnel: TunnelId,
        /// Which SA.
        what: Rekey,
        /// Why the peer refuses.
        result: Result<(), Failure>,
    },
    /// A Child SA is to be put to work: inbound first, then outbound.
    ChildUp(Box<Child>),
    /// From now on send over this Child SA, which is installed already: the peer has it too, or its rival is about to be closed.
    ChildPreferred {
        /// Which tunnel.
        tunnel: TunnelId,
        /// The inbound SPI of the one to use.
        spi_in: u32,
    },
    /// A Child SA is to be taken out.
    ChildDown {
        /// Which tunnel.
        tunnel: TunnelId,
        /// Its inbound SPI.
        spi_in: u32,
        /// Why.
        reason: DownReason,
    },
    /// Something was refused or did not come about.
    Failed {
        /// Which tunnel; `None` when the peer belongs to none.
        tunnel: Option<TunnelId>,
        /// What, and what to do.
        failure: Failure,
    },
    /// Messages of people who have proved nothing came to nothing: told at once, and then once a minute for each class.
    Dropped {
        /// Why.
        class: DropClass,
        /// Where the last one came from, if that can be believed.
        remote: SocketAddr,
        /// How many there were since the last time.
        count: u64,
    },
}

/// Why an SA went away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownReason {
    /// A person or the shutdown asked for it.
    Asked,
    /// The peer deleted it.
    PeerDeleted,
    /// The peer deleted it because it does not believe who we are.
    PeerDisbelieves,
    /// The peer did not answer any more.
    PeerDead,
    /// Its hard lifetime or its sequence numbers ran out.
    Expired,
    /// The peer began anew (INITIAL_CONTACT).
    PeerRestarted,
    /// Another SA for the same tunnel took its conn.
    Redundant,
    /// It was rekeyed. Of a Child SA nothing more is sent, but what the peer sent last may still come in for a while.
    Replaced,
    /// It came without a Child SA, or the Child SA could not be installed.
    Useless,
}

impl DownReason {
    /// The reason in words.
    pub fn text(self) -> &'static str {
        match self {
            DownReason::Asked => "asked for",
            DownReason::PeerDeleted => "deleted by the peer",
            DownReason::PeerDisbelieves => "the peer does not believe who we are",
            DownReason::PeerDead => "the peer stopped answering",
            DownReason::Expired => "its lifetime or its sequence numbers ran out",
            DownReason::PeerRestarted => "the peer started anew",
            DownReason::Redundant => "another SA took its place",
            DownReason::Replaced => "it was rekeyed",
            DownReason::Useless => "it had no working Child SA",
        }
    }
}

/// A Child SA, ready to be installed.
#[derive(Clone, Debug)]
pub struct Child {
    /// Whose.
    pub tunnel: TunnelId,
    /// The SPI of packets to us.
    pub spi_in: u32,
    /// The SPI of packets to the peer.
    pub spi_out: u32,
    /// What was negotiated.
    pub suite: EspSuite,
    /// Keys of packets to us.
    pub keys_in: SaKeys,
    /// Keys of packets to the peer.
    pub keys_out: SaKeys,
    /// The secret from which the IVs of CBC ciphers come.
    pub iv_key: IvKey,
    /// The traffic the SA carries, as negotiated.
    pub policy: Policy,
    /// Where our IKE and our ESP-in-UDP leave from.
    pub local: SocketAddr,
    /// Where our IKE and our ESP-in-UDP go.
    pub remote: SocketAddr,
    /// What carries ESP.
    pub transport: EspTransport,
    /// Who started the exchange that made it.
    pub role: Role,
    /// When it must be gone.
    pub hard_expiry: Time,
    /// Whether to send over it at once.
    pub sends: Sends,
    /// The inbound SPI of the Child SA that it rekeys.
    pub replaces: Option<u32>,
}

/// When a new Child SA begins to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sends {
    /// At once: the peer has it installed already.
    Now,
    /// With [`Event::ChildPreferred`]: the peer may not even know yet that it exists (RFC 7296 §2.8).
    Later,
}

/// A tunnel as status reports show it.
#[derive(Clone, Debug)]
pub struct View {
    /// How it is doing.
    pub state: TunnelState,
    /// What it waits for while connecting.
    pub waiting: Option<WaitingFor>,
    /// Since when it is in this state.
    pub since: Time,
    /// Where the peer is, once known.
    pub remote: Option<SocketAddr>,
    /// The newest IKE SA.
    pub ike: Option<IkeView>,
    /// The Child SA in use.
    pub child: Option<ChildView>,
    /// How often each SA got fresh keys, whoever began.
    pub rekeys: Rekeys,
    /// What is known of the peer's rekeying, where the tunnel was asked to find out.
    pub rekey_check: Option<RekeyVerdicts>,
    /// The last thing that went wrong.
    pub last_failure: Option<Failure>,
}

/// Completed rekeys, begun by either side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rekeys {
    /// Of IKE SAs.
    pub ike: u64,
    /// Of Child SAs.
    pub child: u64,
}

/// What came of trying whether the peer rekeys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RekeyVerdicts {
    /// Of the Child SA.
    pub child: RekeyVerdict,
    /// Of the IKE SA.
    pub ike: RekeyVerdict,
}

/// An IKE SA as status reports show it.
#[derive(Clone, Debug)]
pub struct IkeView {
    /// The initiator's SPI.
    pub spi_i: IkeSpi,
    /// The responder's SPI.
    pub spi_r: IkeSpi,
    /// What was negotiated.
    pub suite: IkeSuite,
    /// Which side we were.
    pub role: Role,
    /// When we rekey it, unless the peer does before.
    pub rekey_at: Time,
    /// When it must be gone.
    pub hard_expiry: Time,
    /// Where a NAT was seen.
    pub nat: NatLocation,
    /// Whether its keys withstand a quantum computer: ML-KEM or a PPK went into them.
    pub post_quantum: bool,
}

/// A Child SA as status reports show it.
#[derive(Clone, Debug)]
pub struct ChildView {
    /// The SPI of packets to us.
    pub spi_in: u32,
    /// The SPI of packets to the peer.
    pub spi_out: u32,
    /// What was negotiated.
    pub suite: EspSuite,
    /// The traffic it carries.
    pub policy: Policy,
    /// What carries ESP.
    pub transport: EspTransport,
    /// When we rekey it, unless the peer does before.
    pub rekey_at: Time,
    /// When it must be gone.
    pub hard_expiry: Time,
}
