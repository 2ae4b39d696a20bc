//! Sealing and opening: one door for ESP packets and for IKE's encrypted payloads.
//!
//! ```text
//!   ┌── associated data ──┬─ IV ─┬──── plaintext, padded ────┬─ ICV ─┐
//!   │ ESP: SPI, sequence  │      │ ◀────── encrypted ──────▶ │       │
//!   │ IKE: headers        │      │                           │       │
//!   └─────────────────────┴──────┴───────────────────────────┴───────┘
//!    ◀───────────────────── authenticated ──────────────────▶ ‖ high half of an extended sequence number
//! ```
//!
//! CBC is encrypted first, and HMAC covers associated data, IV and ciphertext (RFC 4303 §3.3.2, RFC 7296 §3.14). An AEAD does
//! both at once. Neither sealing nor opening allocates, and both may be used from several threads.

mod opener;
mod sealer;

pub use opener::{OpenError, Opener};
pub use sealer::{SealError, Sealer};

use super::keys::Secret;
use super::mac::{Mac, Tag};
use super::registry::Integrity;
use super::suite::Protection;

/// The keys of one direction of an SA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaKeys {
    /// The encryption key; for an AEAD, its salt follows.
    pub encryption: Secret,
    /// The integrity key; empty for an AEAD.
    pub integrity: Secret,
}

/// Keys that do not fit the algorithms they are for, or CBC left without an integrity algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the keys do not have the lengths their algorithms take")]
pub struct WrongKeyLength;

/// A packet cut where the drawing above cuts it.
pub(super) struct Parts<'a> {
    pub aad: &'a [u8],
    pub iv: &'a mut [u8],
    pub text: &'a mut [u8],
    pub icv: &'a mut [u8],
}

/// Why a packet cannot be cut.
enum LengthError {
    TooShort,
    Misaligned,
}

impl<'a> Parts<'a> {
    #[inline]
    fn split(
        packet: &'a mut [u8],
        aad_len: usize,
        protection: Protection,
    ) -> Result<Parts<'a>, LengthError> {
        let parts = Parts::cut(packet, aad_len, protection).ok_or(LengthError::TooShort)?;
        // Every sealed thing ends in a trailer, so an empty plaintext was never sealed.
        if parts.text.is_empty() {
            return Err(LengthError::TooShort);
        }
        // Blocks are powers of two; a division would cost as much as all the rest.
        if parts.text.len() & protection.block().wrapping_sub(1) != 0 {
            return Err(LengthError::Misaligned);
        }
        Ok(parts)
    }

    #[inline]
    fn cut(packet: &'a mut [u8], aad_len: usize, protection: Protection) -> Option<Parts<'a>> {
        let (aad, rest) = packet.split_at_mut_checked(aad_len)?;
        let (iv, rest) = rest.split_at_mut_checked(protection.iv_len())?;
        let text_len = rest.len().checked_sub(protection.icv_len())?;
        let (text, icv) = rest.split_at_mut_checked(text_len)?;
        Some(Parts { aad, iv, text, icv })
    }
}

/// HMAC over everything before the ICV; the high half of an extended sequence number follows (RFC 4303 §3.3.2.1).
fn authenticate(keyed: &Mac, parts: &Parts<'_>, esn_high: Option<u32>) -> Tag {
    let mut mac = keyed.clone();
    mac.update(parts.aad);
    mac.update(parts.iv);
    mac.update(parts.text);
    if let Some(high) = esn_high {
        mac.update(&high.to_be_bytes());
    }
    mac.finish()
}

fn check_lengths(protection: Protection, keys: &SaKeys) -> Result<(), WrongKeyLength> {
    let right = keys.encryption.len() == protection.encryption_key_len()
        && keys.integrity.len() == protection.integrity_key_len()
        && protection.encryption.is_aead() == protection.integrity.is_none();
    if right { Ok(()) } else { Err(WrongKeyLength) }
}

fn keyed_mac(
    protection: Protection,
    keys: &SaKeys,
) -> Result<(&'static Integrity, Mac), WrongKeyLength> {
    let integrity = protection.integrity.ok_or(WrongKeyLength)?;
    Ok((
        integrity,
        Mac::new(integrity.hash, keys.integrity.as_bytes()),
    ))
}

#[cfg(test)]
mod kit {
    //! What the tests of sealer and opener share.

    use super::*;
    use crate::crypto::registry::{ENCRYPTION, INTEGRITY};

    /// Every cipher with every integrity algorithm it can be negotiated with.
    pub(super) fn protections() -> Vec<Protection> {
        let cbc = ENCRYPTION.iter().filter(|row| !row.is_aead());
        let cbc = cbc.flat_map(|encryption| {
            INTEGRITY.iter().map(move |integrity| Protection {
                encryption,
                integrity: Some(integrity),
            })
        });
        let aead = ENCRYPTION.iter().filter(|row| row.is_aead());
        cbc.chain(aead.map(|encryption| Protection {
            encryption,
            integrity: None,
        }))
        .collect()
    }

    pub(super) fn keys(protection: Protection) -> SaKeys {
        let bytes = |len: usize| Secret::new((0..len).map(|i| i as u8 ^ 0x5a).collect());
        SaKeys {
            encryption: bytes(protection.encryption_key_len()),
            integrity: bytes(protection.integrity_key_len()),
        }
    }

    pub(super) fn pair(protection: Protection) -> (Sealer, Opener) {
        let keys = keys(protection);
        (
            Sealer::new(protection, &keys, &[9; 16].into()).unwrap(),
            Opener::new(protection, &keys).unwrap(),
        )
    }

    pub(super) const HEADER: [u8; 8] = [0xc0, 0xde, 0xba, 0x5e, 0, 0, 0, 1];
    pub(super) const TEXT: [u8; 48] = *b"forty-eight bytes of text, three whole blocks  .";

    /// An ESP packet around [`TEXT`], sealed as number 1.
    pub(super) fn sealed(sealer: &Sealer, esn_high: Option<u32>) -> Vec<u8> {
        let protection = sealer.protection();
        let mut packet = HEADER.to_vec();
        packet.resize(HEADER.len() + protection.iv_len(), 0);
        packet.extend(TEXT);
        packet.resize(packet.len() + protection.icv_len(), 0);
        sealer.seal(&mut packet, HEADER.len(), 1, esn_high).unwrap();
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::kit::{HEADER, TEXT, keys, pair, protections, sealed};
    use super::*;
    use crate::crypto::registry::ENCRYPTION;
    use crate::crypto::{EspProposal, vectors};

    #[test]
    fn what_is_sealed_opens_under_every_protection_with_and_without_esn() {
        for protection in protections() {
            let (sealer, opener) = pair(protection);
            for esn_high in [None, Some(0), Some(7)] {
                let mut packet = sealed(&sealer, esn_high);
                assert_eq!(packet[..8], HEADER, "{protection}");
                assert!(
                    !packet.windows(TEXT.len()).any(|window| window == TEXT),
                    "{protection}"
                );
                let plaintext = opener.open(&mut packet, HEADER.len(), esn_high).unwrap();
                assert_eq!(packet[plaintext], TEXT, "{protection}");
            }
        }
    }

    #[test]
    fn packets_another_implementation_made_open_and_are_made_the_same() {
        for case in vectors::cases(include_str!("../../../tests/vectors/esp-cbc-hmac.txt")) {
            let (proposal, _) = EspProposal::parse(case.text("esp")).unwrap();
            let protection = proposal.first().unwrap().protection;
            let keys = SaKeys {
                encryption: Secret::new(case.bytes("key")),
                integrity: Secret::new(case.bytes("integrity-key")),
            };
            let esn_high = case.number("esn-high");
            let plaintext = case.bytes("plaintext");
            let mut packet = case.bytes("packet");

            let opener = Opener::new(protection, &keys).unwrap();
            let opened = opener.open(&mut packet, 8, esn_high).unwrap();
            assert_eq!(packet[opened.clone()], plaintext, "{}", case.title);

            packet[8..opened.start].fill(0);
            packet[opened.end..].fill(0);
            let low = u32::from_be_bytes(packet[4..8].try_into().unwrap());
            let counter = u64::from(esn_high.unwrap_or(0)) << 32 | u64::from(low);
            let iv_key: [u8; 16] = case.bytes("iv-key").try_into().unwrap();
            let sealer = Sealer::new(protection, &keys, &iv_key.into()).unwrap();
            sealer.seal(&mut packet, 8, counter, esn_high).unwrap();
            assert_eq!(packet, case.bytes("packet"), "{}", case.title);
        }
    }

    #[test]
    fn keys_of_the_wrong_length_are_refused() {
        for protection in protections() {
            let keys = keys(protection);
            let short = Secret::from_slice(&keys.encryption.as_bytes()[1..]);
            let wrong = SaKeys {
                encryption: short,
                integrity: keys.integrity.clone(),
            };
            assert!(
                Sealer::new(protection, &wrong, &[0; 16].into()).is_err(),
                "{protection}"
            );
            let longer = Secret::new([keys.integrity.as_bytes(), &[0]].concat());
            let wrong = SaKeys {
                encryption: keys.encryption,
                integrity: longer,
            };
            assert!(Opener::new(protection, &wrong).is_err(), "{protection}");
        }
        let bare = Protection {
            encryption: &ENCRYPTION[0],
            integrity: None,
        };
        assert!(
            Opener::new(bare, &keys(bare)).is_err(),
            "CBC without integrity"
        );
    }

    #[test]
    fn debug_shows_no_key_byte() {
        let protection = protections()[0];
        let shown = format!("{:?}", keys(protection));
        assert_eq!(shown, "SaKeys { encryption: …, integrity: … }");
    }

    #[test]
    fn sealers_and_openers_may_move_between_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<(Sealer, Opener)>();
    }
}
