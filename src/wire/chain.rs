//! The chain of payloads (RFC 7296 §3.2): each names the type of the next, the header that of the first.
//!
//! ```text
//! | next payload (1) | critical (1 bit) | length (2) | body … |
//! ```

use thiserror::Error;

use super::auth::Auth;
use super::codec::{Malformed, TooLong};
use super::delete::Delete;
use super::id::Id;
use super::ke::Ke;
use super::notify::Notify;
use super::numbers::PayloadType;
use super::sa::Sa;
use super::ts::TrafficSelectors;

/// One payload.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Payload {
    /// Proposals, or the one chosen.
    Sa(Sa),
    /// A public value.
    Ke(Ke),
    /// Who the initiator is.
    IdI(Id),
    /// Who the responder is, or should be.
    IdR(Id),
    /// The proof of it.
    Auth(Auth),
    /// Randomness.
    Nonce(Vec<u8>),
    /// An error or a fact.
    Notify(Notify),
    /// SAs that are gone.
    Delete(Delete),
    /// A vendor's mark.
    Vendor(Vec<u8>),
    /// What the initiator's side may carry.
    TsI(TrafficSelectors),
    /// What the responder's side may carry.
    TsR(TrafficSelectors),
    /// A payload of RFC 7296 that we do not read: certificates, configuration, EAP.
    Other {
        /// Which.
        kind: PayloadType,
        /// Its critical bit, which means nothing.
        critical: Critical,
        /// What it holds.
        body: Vec<u8>,
    },
    /// A payload that RFC 7296 does not define; if it arrived, it is not critical.
    Unknown {
        /// Which.
        kind: PayloadType,
        /// Whether the receiver must understand it.
        critical: Critical,
        /// What it holds.
        body: Vec<u8>,
    },
}

/// Whether a message may be understood without this payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Critical {
    /// Skip it if unknown.
    No,
    /// Refuse the message if unknown.
    Yes,
}

/// Why payloads were not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ChainError {
    /// They are not what they should be.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// One that RFC 7296 does not define is critical (RFC 7296 §2.5).
    #[error("payload type {0} is critical and unknown")]
    UnsupportedCritical(PayloadType),
    /// The message is of another version of IKE.
    #[error("major version {0} is not 2")]
    MajorVersion(u8),
}

/// More payloads than any honest message has; what has more is malformed.
pub const MOST: usize = 64;

/// Reads the payloads of `body`, whose first is a `first` and lies at `base_offset` of the message.
///
/// # Errors
/// A payload is malformed, encrypted, or unknown and critical; or there are more than [`MOST`].
pub fn parse(
    first: PayloadType,
    body: &[u8],
    base_offset: usize,
) -> Result<Vec<Payload>, ChainError> {
    todo!()
}

/// Appends `payloads` and returns the type of the first.
///
/// # Errors
/// A payload does not fit its length field.
pub fn encode(payloads: &[Payload], out: &mut Vec<u8>) -> Result<PayloadType, TooLong> {
    todo!()
}

impl Payload {
    /// Its type.
    #[must_use]
    pub const fn kind(&self) -> PayloadType {
        match self {
            Payload::Sa(_) => PayloadType::SA,
            Payload::Ke(_) => PayloadType::KE,
            Payload::IdI(_) => PayloadType::IDI,
            Payload::IdR(_) => PayloadType::IDR,
            Payload::Auth(_) => PayloadType::AUTH,
            Payload::Nonce(_) => PayloadType::NONCE,
            Payload::Notify(_) => PayloadType::NOTIFY,
            Payload::Delete(_) => PayloadType::DELETE,
            Payload::Vendor(_) => PayloadType::VENDOR,
            Payload::TsI(_) => PayloadType::TSI,
            Payload::TsR(_) => PayloadType::TSR,
            Payload::Other { kind, .. } | Payload::Unknown { kind, .. } => *kind,
        }
    }
}
