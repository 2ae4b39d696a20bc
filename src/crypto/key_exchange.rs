//! Key exchange: a fresh private value, the public value of a KE payload, and the shared secret of both sides.
//!
//! ```text
//!   initiator                         responder
//!   generate ── KE: public ─────────▶ respond ──▶ g^ir
//!   agree ◀──── KE: public ──────────────┘
//!     └──▶ g^ir
//! ```
//!
//! A KEM has the same three functions, although only its initiator has a private value: see [`mlkem`](super::kex::mlkem).

use std::fmt;

use super::kex::{InvalidPublicValue, KeResponse, PrivateValue};
use super::keys::Secret;
use super::random::Generator;
use super::registry::Group;

/// The initiator's side of a key exchange: a private value used once, and its public value.
pub struct KeyExchange {
    group: &'static Group,
    private: Box<dyn PrivateValue>,
    public: Vec<u8>,
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

    /// The group of the exchange.
    pub fn group(&self) -> &'static Group {
        self.group
    }

    /// The public value, as a KE payload carries it.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// The shared secret g^ir, padded to the length of the modulus (RFC 7296 §2.14).
    ///
    /// # Errors
    /// [`InvalidPublicValue`] if `peer` fails the tests of RFC 6989.
    pub fn agree(&self, peer: &[u8]) -> Result<Secret, InvalidPublicValue> {
        if peer.len() != self.group.answer_len {
            return Err(InvalidPublicValue::Length);
        }
        self.private.agree(peer)
    }

    /// The responder's side, complete in one step: its public value and the shared secret.
    ///
    /// # Errors
    /// [`InvalidPublicValue`] if `theirs` fails the tests of RFC 6989.
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

impl fmt::Debug for KeyExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyExchange({})", self.group)
    }
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
    fn n07_a_public_value_of_any_other_length_is_rejected() {
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
    fn n07_all_zeros_and_all_ones_are_rejected_by_every_group_but_curve25519() {
        let mut rng = Generator::from_seed([3; 32]);
        for group in GROUP {
            let exchange = KeyExchange::generate(group, &mut rng);
            assert!(
                exchange.agree(&vec![0; group.public_len]).is_err(),
                "{group}"
            );
            // Curve25519 accepts every 32-byte string as a coordinate (RFC 7748 §5): all ones is 2^255-1 mod p = 18, a valid one.
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
        wiped::<zeroize::Zeroizing<crypto_bigint::U448>>();
    }
}
