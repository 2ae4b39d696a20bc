//! AEAD ciphers: AES-GCM (RFC 4106) and ChaCha20-Poly1305 (RFC 7634), for ESP and, by RFC 5282, for IKE.
//!
//! ```text
//!   nonce            = salt (4, from the key material) ‖ IV (8, sent)
//!   associated data  = ESP:  SPI ‖ sequence number        with ESN: SPI ‖ high half ‖ low half
//!                      IKE:  everything before the IV
//! ```
//!
//! ring does not wipe its expanded keys, and nothing outside ring can; the copy of the salt here is wiped.

use ring::aead::{Aad, Algorithm, LessSafeKey, NONCE_LEN, Nonce, Tag, UnboundKey};
use zeroize::Zeroizing;

/// An AEAD key with the salt of its nonces.
pub(super) struct AeadKey {
    key: LessSafeKey,
    salt: Zeroizing<[u8; SALT_LEN]>,
}

/// Why an AEAD operation failed.
pub(super) enum AeadError {
    /// Extended sequence numbers, but the associated data is no ESP header.
    NotEsp,
    /// The text is too long for the algorithm, or, in opening, the tag is wrong.
    Rejected,
}

const SALT_LEN: usize = 4;

impl AeadKey {
    /// A key from key ‖ salt; `None` if their length is wrong.
    pub(super) fn new(algorithm: &'static Algorithm, key_and_salt: &[u8]) -> Option<AeadKey> {
        let (key, salt) = key_and_salt.split_last_chunk::<SALT_LEN>()?;
        let key = UnboundKey::new(algorithm, key).ok()?;
        Some(AeadKey {
            key: LessSafeKey::new(key),
            salt: Zeroizing::new(*salt),
        })
    }

    /// Encrypts `text` in place and returns the ICV.
    pub(super) fn seal(
        &self,
        aad: &[u8],
        esn_high: Option<u32>,
        iv: &[u8],
        text: &mut [u8],
    ) -> Result<Tag, AeadError> {
        let nonce = self.nonce(iv);
        let tag = match esn_high {
            None => self
                .key
                .seal_in_place_separate_tag(nonce, Aad::from(aad), text),
            Some(high) => {
                let aad = Aad::from(extended_header(aad, high)?);
                self.key.seal_in_place_separate_tag(nonce, aad, text)
            }
        };
        tag.map_err(|_| AeadError::Rejected)
    }

    /// Checks the ICV and decrypts `text` in place. On failure ring overwrites the text, so that nothing unverified is left.
    pub(super) fn open(
        &self,
        aad: &[u8],
        esn_high: Option<u32>,
        iv: &[u8],
        text: &mut [u8],
        icv: &[u8],
    ) -> Result<(), AeadError> {
        let nonce = self.nonce(iv);
        let tag = Tag::try_from(icv).map_err(|_| AeadError::Rejected)?;
        let opened = match esn_high {
            None => self
                .key
                .open_in_place_separate_tag(nonce, Aad::from(aad), tag, text, 0..),
            Some(high) => {
                let aad = Aad::from(extended_header(aad, high)?);
                self.key
                    .open_in_place_separate_tag(nonce, aad, tag, text, 0..)
            }
        };
        opened.map(|_| ()).map_err(|_| AeadError::Rejected)
    }

    fn nonce(&self, iv: &[u8]) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        let (salt, rest) = nonce.split_at_mut(SALT_LEN);
        salt.copy_from_slice(&*self.salt);
        rest.copy_from_slice(iv);
        Nonce::assume_unique_for_key(nonce)
    }
}

/// SPI ‖ high half ‖ low half of the sequence number (RFC 4106 §5).
fn extended_header(aad: &[u8], high: u32) -> Result<[u8; 12], AeadError> {
    let header: [u8; 8] = aad.try_into().map_err(|_| AeadError::NotEsp)?;
    let [s0, s1, s2, s3, l0, l1, l2, l3] = header;
    let [h0, h1, h2, h3] = high.to_be_bytes();
    Ok([s0, s1, s2, s3, h0, h1, h2, h3, l0, l1, l2, l3])
}

#[cfg(test)]
mod tests {
    use crate::crypto::vectors;
    use crate::crypto::{EspProposal, Opener, SaKeys, Sealer, Secret};

    #[test]
    fn esp_packets_of_draft_mcgrew_gcm_test_01_and_rfc_7634() {
        for case in vectors::cases(include_str!("../../tests/vectors/esp-aead.txt")) {
            let (proposal, _) = EspProposal::parse(case.text("cipher")).unwrap();
            let protection = proposal.first().unwrap().protection;
            let keys = SaKeys {
                encryption: Secret::new(case.bytes("key")),
                integrity: Secret::new(vec![]),
            };
            let esn_high = case.number("esn-high");
            let plaintext = case.bytes("plaintext");
            let sealed = case.bytes("packet");

            // The counter is the IV of the vector.
            let counter = u64::from_be_bytes(sealed[8..16].try_into().unwrap());
            let mut packet = sealed[..8].to_vec();
            packet.resize(16, 0);
            packet.extend(&plaintext);
            packet.resize(sealed.len(), 0);
            let sealer = Sealer::new(protection, &keys, &[0; 16].into()).unwrap();
            sealer.seal(&mut packet, 8, counter, esn_high).unwrap();
            assert_eq!(packet, sealed, "{}", case.title);

            let opener = Opener::new(protection, &keys).unwrap();
            let opened = opener.open(&mut packet, 8, esn_high).unwrap();
            assert_eq!(packet[opened], plaintext, "{}", case.title);
        }
    }
}
