//! Curve25519: group 31 (RFC 8031, RFC 7748).

use x25519_dalek::{PublicKey, StaticSecret};

use super::{InvalidPublicValue, KexMethod, PrivateValue};
use crate::crypto::keys::Secret;
use crate::crypto::random::Generator;

/// Group 31.
pub(in crate::crypto) struct X25519;

impl KexMethod for X25519 {
    fn generate(
        &'static self,
        _strength: u16,
        rng: &mut Generator,
    ) -> (Box<dyn PrivateValue>, Vec<u8>) {
        let secret = StaticSecret::random_from_rng(rng.inner());
        let public = PublicKey::from(&secret).to_bytes().to_vec();
        (Box::new(secret), public)
    }
}

impl PrivateValue for StaticSecret {
    fn agree(&self, peer: &[u8]) -> Result<Secret, InvalidPublicValue> {
        let peer: [u8; 32] = peer.try_into().map_err(|_| InvalidPublicValue::Length)?;
        let shared = self.diffie_hellman(&PublicKey::from(peer));
        // RFC 7748 §6.1: a point of small order gives zero for every private value.
        if !shared.was_contributory() {
            return Err(InvalidPublicValue::Subgroup);
        }
        Ok(Secret::from_slice(shared.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::vectors::bytes;

    fn secret(hex: &str) -> StaticSecret {
        let scalar: [u8; 32] = bytes(hex).try_into().unwrap();
        StaticSecret::from(scalar)
    }

    #[test]
    fn rfc_7748_section_5_2() {
        for (scalar, u, expected) in [
            (
                "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
                "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
                "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
            ),
            (
                "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
                "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
                "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
            ),
        ] {
            assert_eq!(
                secret(scalar).agree(&bytes(u)).unwrap().as_bytes(),
                bytes(expected)
            );
        }
    }

    #[test]
    fn rfc_7748_section_6_1() {
        let alice = secret("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
        let bob = secret("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
        let alices = bytes("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
        let bobs = bytes("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
        let shared = bytes("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
        assert_eq!(PublicKey::from(&alice).as_bytes()[..], alices);
        assert_eq!(PublicKey::from(&bob).as_bytes()[..], bobs);
        assert_eq!(alice.agree(&bobs).unwrap().as_bytes(), shared);
        assert_eq!(bob.agree(&alices).unwrap().as_bytes(), shared);
    }

    #[test]
    fn n07_points_of_small_order_are_rejected() {
        let alice = secret("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
        for u in [
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
            // p-1, p and p+1.
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        ] {
            let mut u = bytes(u);
            assert_eq!(alice.agree(&u), Err(InvalidPublicValue::Subgroup));
            // RFC 7748 §5: the top bit is ignored.
            u[31] |= 0x80;
            assert_eq!(alice.agree(&u), Err(InvalidPublicValue::Subgroup));
        }
    }
}
