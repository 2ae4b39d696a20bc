//! Key exchange: a fresh secret, the public value sent in a KE payload, and the shared secret both ends arrive at.
//!
//! ```text
//!   initiator                         responder
//!   generate ── KE: public ─────────▶ agree ──▶ g^ir
//!   agree ◀──────── KE: public ────── generate
//!     └──▶ g^ir
//! ```
//!
//! With a KEM in place of Diffie-Hellman ([`mlkem`]) only the initiator generates, and the responder answers with a ciphertext. Both kinds have the same face:
//! the initiator generates, sends and [agrees](KeyExchange::agree), the responder [responds](KeyExchange::respond).
//!
//! Every public value received is validated as RFC 6989 asks before a secret touches it.

pub(super) mod ecp;
pub(super) mod mlkem;
mod modp;
pub(super) mod primes;
pub(super) mod x25519;

use std::fmt;

use super::keys::Secret;
use super::random::Generator;
use super::registry::Group;

/// The initiator's side of a key exchange: a private value used once, and the public value that goes with it.
pub struct KeyExchange {
    group: &'static Group,
    private: Box<dyn PrivateValue>,
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
    /// An encapsulation key with a coefficient that is not below the modulus (FIPS 203 §7.2).
    #[error("the encapsulation key holds a number that is not below the modulus")]
    Modulus,
}

/// The responder's side of a key exchange, which is over as soon as it has begun.
pub struct KeResponse {
    /// What goes into the responder's KE payload.
    pub public: Vec<u8>,
    /// The shared secret.
    pub shared: Secret,
}

impl KeyExchange {
    /// Draws a fresh private value from `rng` and computes its public value.
    pub fn generate(group: &'static Group, rng: &mut Generator) -> KeyExchange {
        let (private, public) = group.method.generate(group.strength, rng);
        KeyExchange {
            group,
            private,
            public,
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
        if peer.len() != self.group.answer_len {
            return Err(InvalidPublicValue::Length);
        }
        self.private.agree(peer)
    }

    /// Answers an initiator's public value: the responder's whole part in the exchange.
    pub fn respond(
        group: &'static Group,
        theirs: &[u8],
        rng: &mut Generator,
    ) -> Result<KeResponse, InvalidPublicValue> {
        if theirs.len() != group.public_len {
            return Err(InvalidPublicValue::Length);
        }
        group.method.respond(group.strength, theirs, rng)
    }
}

impl fmt::Debug for KeResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeResponse({} octets)", self.public.len())
    }
}

impl fmt::Debug for KeyExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyExchange({})", self.group)
    }
}

/// What a group row runs: draws a private value fit for `strength` bits of security and computes the public one.
pub(super) trait KexMethod: Sync {
    fn generate(
        &'static self,
        strength: u16,
        rng: &mut Generator,
    ) -> (Box<dyn PrivateValue>, Vec<u8>);

    /// The responder's part. With Diffie-Hellman both sides do the same.
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

/// A private value, wiped when dropped. It validates a peer's public value before it meets it.
pub(super) trait PrivateValue: Send + Sync {
    fn agree(&self, peer: &[u8]) -> Result<Secret, InvalidPublicValue>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::registry::GROUP;

    #[test]
    fn both_sides_of_every_group_agree() {
        let mut rng = Generator::from_seed([1; 32]);
        for group in GROUP {
            let a = KeyExchange::generate(group, &mut rng);
            let b = KeyExchange::generate(group, &mut rng);
            assert_eq!(a.public().len(), group.public_len, "{group}");
            assert_ne!(a.public(), b.public(), "{group}");
            assert_eq!(a.agree(b.public()), b.agree(a.public()), "{group}");
            assert!(a.agree(b.public()).unwrap().len() >= 32);
            let answer = KeyExchange::respond(group, a.public(), &mut rng).unwrap();
            assert_eq!(a.agree(&answer.public).unwrap(), answer.shared, "{group}");
        }
    }

    #[test]
    fn n07_a_public_value_of_any_other_length_is_refused() {
        let mut rng = Generator::from_seed([2; 32]);
        for group in GROUP {
            let exchange = KeyExchange::generate(group, &mut rng);
            for len in [0, 1, group.public_len - 1, group.public_len + 1, 4096] {
                assert_eq!(
                    exchange.agree(&vec![7; len]),
                    Err(InvalidPublicValue::Length),
                    "{group} {len}"
                );
            }
        }
    }

    #[test]
    fn n07_all_zeros_and_all_ones_are_refused_by_every_group_but_curve25519() {
        let mut rng = Generator::from_seed([3; 32]);
        for group in GROUP {
            let exchange = KeyExchange::generate(group, &mut rng);
            assert!(
                exchange.agree(&vec![0; group.public_len]).is_err(),
                "{group}"
            );
            // Curve25519 takes every 32-byte string for a coordinate (RFC 7748 §5): all ones is 2^255-1 mod p = 18, sound.
            let ones = exchange.agree(&vec![0xff; group.public_len]);
            assert_eq!(ones.is_ok(), group.word == "curve25519", "{group}");
        }
    }

    #[test]
    fn debug_shows_the_group_and_lengths_only() {
        let mut rng = Generator::from_seed([4; 32]);
        let exchange = KeyExchange::generate(&GROUP[0], &mut rng);
        assert_eq!(format!("{exchange:?}"), "KeyExchange(modp768)");
        let response = KeyExchange::respond(&GROUP[0], exchange.public(), &mut rng).unwrap();
        assert_eq!(format!("{response:?}"), "KeResponse(96 octets)");
    }

    #[test]
    fn private_values_and_shared_secrets_are_wiped_when_dropped() {
        fn wiped<T: zeroize::ZeroizeOnDrop>() {}
        use p256::elliptic_curve::{SecretKey, ecdh::SharedSecret};
        wiped::<SecretKey<p256::NistP256>>();
        wiped::<SecretKey<p384::NistP384>>();
        wiped::<SecretKey<p521::NistP521>>();
        wiped::<SharedSecret<p521::NistP521>>();
        wiped::<x25519_dalek::StaticSecret>();
        wiped::<x25519_dalek::SharedSecret>();
        wiped::<ml_kem::DecapsulationKey768>();
        wiped::<ml_kem::DecapsulationKey1024>();
        wiped::<zeroize::Zeroizing<modp::Exponent>>();
    }
}
