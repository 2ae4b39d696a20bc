//! AES-GCM (RFC 4106) and ChaCha20-Poly1305 (RFC 7634), for ESP and, after RFC 5282, for IKE.
//!
//! ```text
//!   nonce            = salt (4, from the key material) ‖ IV (8, sent)
//!   associated data  = ESP:  SPI ‖ sequence number        with ESN: SPI ‖ high half ‖ low half
//!                      IKE:  everything before the IV
//! ```

use ring::aead::{Aad, Algorithm, LessSafeKey, NONCE_LEN, Nonce, Tag, UnboundKey};
use zeroize::Zeroizing;

use super::protect::Parts;

/// An AEAD key with the salt that its nonces begin with.
pub(super) struct AeadKey {
    key: LessSafeKey,
    salt: Zeroizing<[u8; SALT_LEN]>,
}

/// What went wrong in an AEAD operation.
pub(super) enum AeadError {
    /// Extended sequence numbers, but the associated data is no ESP header.
    NotEsp,
    /// The lengths are beyond the algorithm, or (opening) the tag is wrong.
    Refused,
}

const SALT_LEN: usize = 4;

impl AeadKey {
    /// Takes key ‖ salt; `None` if that has the wrong length.
    pub(super) fn new(algorithm: &'static Algorithm, key_and_salt: &[u8]) -> Option<AeadKey> {
        let (key, salt) = key_and_salt.split_last_chunk::<SALT_LEN>()?;
        let key = UnboundKey::new(algorithm, key).ok()?;
        Some(AeadKey {
            key: LessSafeKey::new(key),
            salt: Zeroizing::new(*salt),
        })
    }

    /// Writes the IV from `counter`, encrypts the text and writes the ICV.
    pub(super) fn seal(
        &self,
        parts: &mut Parts<'_>,
        counter: u64,
        esn_high: Option<u32>,
    ) -> Result<(), AeadError> {
        parts.iv.copy_from_slice(&counter.to_be_bytes());
        let nonce = self.nonce(parts.iv);
        let tag = match esn_high {
            None => self
                .key
                .seal_in_place_separate_tag(nonce, Aad::from(parts.aad), parts.text),
            Some(high) => {
                let aad = Aad::from(extended_header(parts.aad, high)?);
                self.key.seal_in_place_separate_tag(nonce, aad, parts.text)
            }
        };
        parts
            .icv
            .copy_from_slice(tag.map_err(|_| AeadError::Refused)?.as_ref());
        Ok(())
    }

    /// Checks the ICV and decrypts the text. On failure the text is overwritten: ring leaves nothing unverified behind.
    pub(super) fn open(
        &self,
        parts: &mut Parts<'_>,
        esn_high: Option<u32>,
    ) -> Result<(), AeadError> {
        let nonce = self.nonce(parts.iv);
        let tag = Tag::try_from(&*parts.icv).map_err(|_| AeadError::Refused)?;
        let opened = match esn_high {
            None => self.key.open_in_place_separate_tag(
                nonce,
                Aad::from(parts.aad),
                tag,
                parts.text,
                0..,
            ),
            Some(high) => {
                let aad = Aad::from(extended_header(parts.aad, high)?);
                self.key
                    .open_in_place_separate_tag(nonce, aad, tag, parts.text, 0..)
            }
        };
        opened.map(|_| ()).map_err(|_| AeadError::Refused)
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

            // A counter is what the IV says; the vectors' IVs are free numbers.
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
