//! Curve25519: group 31 (RFC 8031, RFC 7748).

use x25519_dalek::{PublicKey, StaticSecret};

use super::{InvalidPublicValue, Method, Private};
use crate::crypto::keys::Secret;
use crate::crypto::random::Generator;

/// Group 31.
pub(in crate::crypto) struct X25519;

impl Method for X25519 {
    fn generate(&'static self, _strength: u16, rng: &mut Generator) -> (Box<dyn Private>, Vec<u8>) {
        let secret = StaticSecret::from(rng.bytes());
        let public = PublicKey::from(&secret).to_bytes().to_vec();
        (Box::new(secret), public)
    }
}

impl Private for StaticSecret {
    fn agree(&self, peer: &[u8]) -> Result<Secret, InvalidPublicValue> {
        let peer: [u8; 32] = peer.try_into().map_err(|_| InvalidPublicValue::Length)?;
        let shared = self.diffie_hellman(&PublicKey::from(peer));
        // RFC 7748 §6.1: a point of small order gives zero, whatever our secret is.
        if !shared.was_contributory() {
            return Err(InvalidPublicValue::Subgroup);
        }
        Ok(Secret::from_slice(shared.as_bytes()))
    }
}
