//! The methods of key exchange behind the rows of the registry: MODP groups, elliptic curves and ML-KEM.
//!
//! Every method validates the peer's public value by RFC 6989 before a secret is used with it.

pub(super) mod ecp;
pub(super) mod mlkem;
pub(super) mod modp;
pub(super) mod primes;
pub(super) mod x25519;

use std::fmt;

use super::keys::Secret;
use super::random::Generator;

/// A public value that fails the tests of RFC 6989 (or FIPS 203): the exchange fails, and no key is derived.
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
    /// An encapsulation key with a coefficient that is not below the modulus (FIPS 203 §7.2).
    #[error("the encapsulation key holds a number that is not below the modulus")]
    Modulus,
}

/// The responder's side of a key exchange.
pub struct KeResponse {
    /// The public value of the responder's KE payload.
    pub public: Vec<u8>,
    /// The shared secret.
    pub shared: Secret,
}

impl fmt::Debug for KeResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeResponse({} octets)", self.public.len())
    }
}

/// The implementation of a group row.
pub(super) trait KexMethod: Sync {
    /// Draws a private value of `strength` bits of security and computes its public value.
    fn generate(
        &'static self,
        strength: u16,
        rng: &mut Generator,
    ) -> (Box<dyn PrivateValue>, Vec<u8>);

    /// The responder's side. In a Diffie-Hellman group both sides do the same.
    fn respond(
        &'static self,
        strength: u16,
        theirs: &[u8],
        rng: &mut Generator,
    ) -> Result<KeResponse, InvalidPublicValue> {
        let (private, public) = self.generate(strength, rng);
        let shared = private.agree(theirs)?;
        Ok(KeResponse { public, shared })
    }
}

/// A private value; wiped when dropped.
pub(super) trait PrivateValue: Send + Sync {
    /// Validates the peer's public value and computes the shared secret.
    fn agree(&self, peer: &[u8]) -> Result<Secret, InvalidPublicValue>;
}
