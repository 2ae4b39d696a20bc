//! SAs that the sender has deleted (RFC 7296 §3.11).
//!
//! ```text
//! | protocol (1) | SPI size (1) | count (2) | SPIs … |
//! ```

use super::codec::{Cursor, Malformed, TooLong, two_octets};
use super::numbers::ProtocolId;

/// The SPIs that the sender of the payload no longer receives on; for IKE, whose SPIs stand in the header, none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Delete {
    /// What kind of SA.
    pub protocol: ProtocolId,
    /// Their SPIs. Empty for [`ProtocolId::IKE`].
    pub spis: Vec<u32>,
}

impl Delete {
    /// The IKE SA that carries the message.
    #[must_use]
    pub const fn ike() -> Delete {
        Delete {
            protocol: ProtocolId::IKE,
            spis: Vec::new(),
        }
    }

    /// ESP SAs.
    #[must_use]
    pub const fn esp(spis: Vec<u32>) -> Delete {
        Delete {
            protocol: ProtocolId::ESP,
            spis,
        }
    }

    pub(super) fn parse(mut body: Cursor<'_>) -> Result<Delete, Malformed> {
        todo!()
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        todo!()
    }
}
