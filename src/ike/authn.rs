//! Authentication with a pre-shared key: the AUTH payload (RFC 7296 §2.15).
//!
//! ```text
//! AUTH = prf( prf(PSK, "Key Pad for IKEv2"), first message as sent | peer's nonce | prf(SK_p, IDType | RESERVED | IDData) [| IntAuth] )
//! ```
//!
//! IntAuth is present after IKE_INTERMEDIATE (RFC 9242 §3.3.2). Each side covers the messages of both:
//!
//! ```text
//! IntAuth    = IntAuth_i | IntAuth_r | message ID of IKE_AUTH
//! IntAuth_i1 = prf(SK_pi (before the exchange), first request)       IntAuth_i2 = prf(SK_pi, IntAuth_i1 | second request)  …
//! IntAuth_r1 = prf(SK_pr (before the exchange), first response)        likewise
//! ```

use super::key_schedule::IkeKeys;
use super::settings::Psk;
use crate::crypto::{Prf, Secret, equal};
use crate::wire::{Id, MessageId};

/// Input of one side's AUTH: its own first message, the other side's nonce, its own identity, and the IKE_INTERMEDIATE messages
/// of both.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// The complete IKE_SA_INIT message that this side sent.
    pub first_message: &'a [u8],
    /// The nonce that this side received.
    pub nonce: &'a [u8],
    /// SK_pi for the initiator, SK_pr for the responder.
    pub prove: &'a Secret,
    /// The ID payload that this side sends.
    pub id: &'a Id,
    /// The IKE_INTERMEDIATE exchanges.
    pub intermediates: &'a Intermediates,
}

/// The IKE_INTERMEDIATE exchanges before an IKE_AUTH, as AUTH covers them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intermediates {
    count: u32,
    requests: Secret,
    responses: Secret,
}

impl Intermediates {
    /// Adds an exchange. Both messages have the IntAuth form; `keys` protected the exchange.
    pub fn add(&mut self, prf: &Prf, keys: &IkeKeys, request: &[u8], response: &[u8]) {
        let cover = |key: &Secret, before: &Secret, message: &[u8]| {
            prf.compute(key.as_bytes(), &[before.as_bytes(), message])
        };
        self.requests = cover(&keys.prove_initiator, &self.requests, request);
        self.responses = cover(&keys.prove_responder, &self.responses, response);
        self.count = self.count.saturating_add(1);
    }

    /// The message ID of the IKE_AUTH exchange that follows; that of IKE_SA_INIT is 0.
    pub fn auth_id(&self) -> MessageId {
        MessageId(self.count.saturating_add(1))
    }

    /// IntAuth.
    fn octets(&self) -> Secret {
        if self.count == 0 {
            return Secret::default();
        }
        let id = self.auth_id().0.to_be_bytes();
        Secret::new([self.requests.as_bytes(), self.responses.as_bytes(), &id].concat())
    }
}

const KEY_PAD: &[u8] = b"Key Pad for IKEv2";

/// The AUTH value of one side.
pub fn auth(prf: &Prf, psk: &Psk, signed: Signed<'_>) -> Secret {
    let id = signed.id.authenticated_octets();
    let maced_id = prf.compute(signed.prove.as_bytes(), &[&id]);
    let padded = prf.compute(psk.0.as_bytes(), &[KEY_PAD]);
    prf.compute(
        padded.as_bytes(),
        &[
            signed.first_message,
            signed.nonce,
            maced_id.as_bytes(),
            signed.intermediates.octets().as_bytes(),
        ],
    )
}

/// Whether the peer's AUTH value matches, in constant time.
pub fn verify(prf: &Prf, psk: &Psk, signed: Signed<'_>, theirs: &[u8]) -> bool {
    equal(auth(prf, psk, signed).as_bytes(), theirs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto;
    use crate::wire::IdType;

    /// Computed with Python's `hmac` from the formula of RFC 7296 §2.15.
    const EXPECTED: &str = "6af61048b0fb95adad896d378eec897cbe008225cbec2df386f7274ebcc32dd0";

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn auth_matches_an_independent_computation_and_covers_every_part() {
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
            intermediates: &Intermediates::default(),
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

    /// Expected values computed with Python's `hmac` from the formulas of RFC 9242 §3.3.2.
    #[test]
    fn auth_covers_the_ike_intermediate_exchanges_in_order_with_their_keys() {
        let prf = crypto::prf(5).unwrap();
        let psk = Psk(Secret::from_slice(b"correct horse battery staple"));
        let first_message: Vec<u8> = (0..40).collect();
        let prove = Secret::from_slice(&[0x22; 32]);
        let id = Id::new(IdType::IPV4_ADDR, vec![192, 0, 2, 1]);
        let covered = |intermediates: &Intermediates| {
            let signed = Signed {
                first_message: &first_message,
                nonce: &[0x11; 32],
                prove: &prove,
                id: &id,
                intermediates,
            };
            hex(auth(prf, &psk, signed).as_bytes())
        };
        let keys = |i: u8, r: u8| {
            let empty = || crate::crypto::SaKeys {
                encryption: Secret::from_slice(&[]),
                integrity: Secret::from_slice(&[]),
            };
            IkeKeys {
                derive: Secret::from_slice(&[]),
                initiator: empty(),
                responder: empty(),
                prove_initiator: Secret::from_slice(&[i; 32]),
                prove_responder: Secret::from_slice(&[r; 32]),
            }
        };
        let mut intermediates = Intermediates::default();
        assert_eq!(intermediates.auth_id(), MessageId(1));
        assert_eq!(covered(&intermediates), EXPECTED);
        intermediates.add(prf, &keys(0x22, 0x33), b"first request", b"first answer");
        assert_eq!(intermediates.auth_id(), MessageId(2));
        assert_eq!(
            covered(&intermediates),
            "2bb4ef48a3aeb381151905685794b38af723c77d38d67dc44ae54de7a199b8eb"
        );
        intermediates.add(prf, &keys(0x44, 0x55), b"second request", b"second answer");
        assert_eq!(intermediates.auth_id(), MessageId(3));
        assert_eq!(
            covered(&intermediates),
            "1af5ee4a19b2108a384cc1472f85d6583ff521543a535ab415a951587747eba6"
        );
    }
}
