//! State that an IKE SA keeps for the exchanges under way, in both roles.
//!
//! The types hold data only; the exchange that uses a type implements it: [`create_child`](crate::ike::exchange::create_child) implements `ChildOffer`,
//! [`rekey_ike`](crate::ike::exchange::rekey_ike) `IkeOffer`, [`followup_ke`](crate::ike::exchange::followup_ke) the rest.

use crate::crypto::{EspSuite, Group, IkeSuite, KeyExchange, Secret};
use crate::ike::event::Role;
use crate::ike::key_schedule::Nonces;
use crate::ike::retransmit::Retransmit;
use crate::net::{Policy, Time};
use crate::wire::{ExchangeType, IkeSpi, MessageId, Notify};

/// A request that we want to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// A liveness check: an empty INFORMATIONAL request.
    Liveness,
    /// INVALID_SPI: the peer sends ESP for an SPI that we do not have (RFC 7296 §1.5).
    InvalidSpi {
        /// The SPI.
        spi: u32,
    },
    /// Rekeying of a Child SA.
    RekeyChild {
        /// Its inbound SPI.
        spi_in: u32,
        /// The group that the peer has asked for.
        group: Option<u16>,
    },
    /// Creation of a Child SA, because none carries this traffic.
    CreateChild {
        /// The traffic selectors to offer.
        policy: Policy,
        /// The group that the peer has asked for.
        group: Option<u16>,
    },
    /// Rekeying of the IKE SA.
    RekeyIke {
        /// The group that the peer has asked for.
        group: Option<u16>,
    },
    /// Deletion of a Child SA.
    DeleteChild {
        /// Its inbound SPI.
        spi_in: u32,
    },
    /// Deletion of the IKE SA, with a notification that says why.
    DeleteIke(Option<Notify>),
}

impl Job {
    /// The exchange type of the request.
    pub fn exchange(&self) -> ExchangeType {
        match self {
            Job::Liveness
            | Job::InvalidSpi { .. }
            | Job::DeleteChild { .. }
            | Job::DeleteIke(_) => ExchangeType::INFORMATIONAL,
            Job::RekeyChild { .. } | Job::CreateChild { .. } | Job::RekeyIke { .. } => {
                ExchangeType::CREATE_CHILD_SA
            }
        }
    }
}

/// Our outstanding request.
#[derive(Debug)]
pub struct OutboundRequest {
    /// What it is for.
    pub job: Job,
    /// What is needed to process the response.
    pub offer: Offer,
    /// The message and its retransmission timer.
    pub retransmit: Retransmit,
    /// Its message ID.
    pub id: MessageId,
    /// Its exchange type.
    pub exchange: ExchangeType,
}

/// What we have offered in a request.
#[derive(Debug)]
pub enum Offer {
    /// Nothing: an INFORMATIONAL request.
    None,
    /// A Child SA.
    Child(Box<ChildOffer>),
    /// An IKE SA that replaces this one.
    Ike(Box<IkeOffer>),
}

/// Our request that creates or rekeys a Child SA.
#[derive(Debug)]
pub struct ChildOffer {
    /// The inbound SPI of the Child SA that it rekeys.
    pub old: Option<u32>,
    /// The inbound SPI of the Child SA that it creates.
    pub spi_in: u32,
    /// The traffic selectors that it offers.
    pub policy: Policy,
    /// The Child SA that the peer has created meanwhile, in place of the same old one.
    pub colliding: Option<CollidingChild>,
    /// Whether the peer has chosen the group by INVALID_KE_PAYLOAD.
    pub group_forced: bool,
    /// Ni.
    pub nonce: Vec<u8>,
    /// Our half of the key exchange, with PFS.
    pub ke: Option<KeyExchange>,
    /// The additional key exchange, once IKE_FOLLOWUP_KE is under way.
    pub followup: Option<Box<FollowupOffer<AgreedChild>>>,
}

/// A Child SA that the peer has created while our request for one was outstanding.
#[derive(Debug)]
pub struct CollidingChild {
    /// Its inbound SPI.
    pub spi_in: u32,
    /// The nonces of its exchange.
    pub nonces: Nonces,
}

/// A negotiated Child SA without keys. An additional key exchange may still follow.
#[derive(Debug)]
pub struct AgreedChild {
    /// The negotiated algorithms.
    pub suite: EspSuite,
    /// Our role in the exchange.
    pub role: Role,
    /// Our SPI.
    pub spi_in: u32,
    /// The peer's SPI.
    pub spi_out: u32,
    /// The negotiated traffic selectors.
    pub policy: Policy,
    /// The shared secret of the key exchange, with PFS.
    pub shared: Option<Secret>,
    /// The nonces.
    pub nonces: Nonces,
}

/// Our request that rekeys the IKE SA.
#[derive(Debug)]
pub struct IkeOffer {
    /// Our SPI of the new IKE SA.
    pub spi: IkeSpi,
    /// Whether the peer has chosen the group by INVALID_KE_PAYLOAD.
    pub group_forced: bool,
    /// Ni.
    pub nonce: Vec<u8>,
    /// Our half of the key exchange.
    pub ke: KeyExchange,
    /// The additional key exchange, once IKE_FOLLOWUP_KE is under way.
    pub followup: Option<Box<FollowupOffer<AgreedIke>>>,
}

/// A negotiated IKE SA without keys. An additional key exchange may still follow.
#[derive(Debug)]
pub struct AgreedIke {
    /// The negotiated algorithms.
    pub suite: IkeSuite,
    /// The initiator's SPI.
    pub spi_i: IkeSpi,
    /// The responder's SPI.
    pub spi_r: IkeSpi,
    /// Our role in the exchange.
    pub role: Role,
    /// The nonces.
    pub nonces: Nonces,
    /// The shared secret of the key exchange.
    pub shared: Secret,
}

/// Our IKE_FOLLOWUP_KE request, and what it completes.
#[derive(Debug)]
pub struct FollowupOffer<A> {
    /// The SA that CREATE_CHILD_SA has negotiated.
    pub agreed: A,
    /// The data of ADDITIONAL_KEY_EXCHANGE in the peer's response.
    pub link: Vec<u8>,
    /// Our half of the additional key exchange.
    pub ke: KeyExchange,
}

/// Octets of the data of our ADDITIONAL_KEY_EXCHANGE notifications.
pub const LINK_LEN: usize = 8;

/// An exchange that the peer has begun and must complete by IKE_FOLLOWUP_KE. There is one at most, since the window is one.
#[derive(Debug)]
pub struct PendingFollowup {
    /// The SA that CREATE_CHILD_SA has negotiated.
    pub agreed: AgreedSa,
    /// When it is forgotten.
    pub expires: Time,
    /// The method of the additional key exchange.
    pub method: &'static Group,
    /// The data of our ADDITIONAL_KEY_EXCHANGE notification.
    pub link: [u8; LINK_LEN],
}

/// An SA that CREATE_CHILD_SA has negotiated for the peer.
#[derive(Debug)]
pub enum AgreedSa {
    /// A Child SA.
    Child {
        /// The inbound SPI of the Child SA that it rekeys.
        old: Option<u32>,
        /// The new one.
        agreed: Box<AgreedChild>,
    },
    /// An IKE SA that replaces this one.
    Ike(Box<AgreedIke>),
}

impl PendingFollowup {
    /// The inbound SPI of the Child SA that may come of it.
    pub fn spi_in(&self) -> Option<u32> {
        match &self.agreed {
            AgreedSa::Child { agreed, .. } => Some(agreed.spi_in),
            AgreedSa::Ike(_) => None,
        }
    }
}
