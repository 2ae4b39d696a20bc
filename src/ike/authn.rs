//! Proof of the pre-shared key (RFC 7296 §2.15).
//!
//! ```text
//! AUTH = prf( prf(PSK, "Key Pad for IKEv2"), first message as sent | peer's nonce | prf(SK_p, IDType | RESERVED | IDData) )
//! ```

use super::settings::Psk;
use crate::crypto::{Prf, Secret, equal};
use crate::wire::Id;

/// What one side signs: its own first message, the other side's nonce and its own identity.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// The IKE_SA_INIT message this side sent, every byte of it.
    pub first_message: &'a [u8],
    /// The nonce this side received.
    pub nonce: &'a [u8],
    /// SK_pi for the initiator, SK_pr for the responder.
    pub prove: &'a Secret,
    /// The ID payload this side sends.
    pub id: &'a Id,
}

const KEY_PAD: &[u8] = b"Key Pad for IKEv2";

/// The AUTH value of one side.
pub fn auth(prf: &Prf, psk: &Psk, signed: Signed<'_>) -> Secret {
    let id = signed.id.authenticated_octets();
    let maced_id = prf.compute(signed.prove.as_bytes(), &[&id]);
    let padded = prf.compute(psk.0.as_bytes(), &[KEY_PAD]);
    prf.compute(
        padded.as_bytes(),
        &[signed.first_message, signed.nonce, maced_id.as_bytes()],
    )
}

/// Whether the peer knows the key; in constant time.
pub fn verify(prf: &Prf, psk: &Psk, signed: Signed<'_>, theirs: &[u8]) -> bool {
    equal(auth(prf, psk, signed).as_bytes(), theirs)
}
