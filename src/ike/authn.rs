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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto;
    use crate::wire::IdType;

    /// Computed with Python's `hmac`, from the formula of RFC 7296 §2.15.
    const EXPECTED: &str = "6af61048b0fb95adad896d378eec897cbe008225cbec2df386f7274ebcc32dd0";

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn auth_is_what_another_hmac_makes_of_the_formula_and_every_part_counts() {
        let prf = crypto::prf(5).unwrap();
        let psk = Psk(Secret::from_slice(b"correct horse battery staple"));
        let first_message: Vec<u8> = (0..40).collect();
        let prove = Secret::from_slice(&[0x22; 32]);
        let id = Id::new(IdType::IPV4_ADDR, vec![192, 0, 2, 1]);
        let signed = Signed {
            first_message: &first_message,
            nonce: &[0x11; 32],
            prove: &prove,
            id: &id,
        };
        let value = auth(prf, &psk, signed);
        assert_eq!(hex(value.as_bytes()), EXPECTED);
        assert!(verify(prf, &psk, signed, value.as_bytes()));

        let theirs = value.as_bytes();
        let other_type = Id::new(IdType::KEY_ID, vec![192, 0, 2, 1]);
        let other_key = Psk(Secret::from_slice(b"correct horse battery staple\n"));
        let other = Signed {
            id: &other_type,
            ..signed
        };
        assert!(!verify(prf, &psk, other, theirs));
        let other = Signed {
            nonce: &[0x11; 31],
            ..signed
        };
        assert!(!verify(prf, &psk, other, theirs));
        assert!(!verify(prf, &other_key, signed, theirs));
        assert!(!verify(prf, &psk, signed, &theirs[..31]));
        assert!(!verify(prf, &psk, signed, &[]));
    }
}
