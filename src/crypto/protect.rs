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

use std::ops::Range;

use aes::Aes128Enc;
use aes::cipher::{BlockCipherEncrypt, KeyInit};

use super::aead::{AeadKey, Fault};
use super::cbc::{Decryptor, Encryptor};
use super::keys::{Secret, equal};
use super::mac::{Mac, Tag};
use super::registry::{Cipher, Integrity};
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

/// A buffer that cannot be sealed: the caller's mistake, never the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// No room for IV, at least one byte of plaintext and ICV after the associated data.
    #[error("the buffer is too short to seal")]
    TooShort,
    /// The plaintext is not a multiple of the block.
    #[error("the plaintext is not padded to the cipher's block")]
    Misaligned,
    /// Extended sequence numbers with an AEAD want the 8-byte ESP header as associated data.
    #[error("the associated data is not an ESP header")]
    NotEsp,
    /// More than the algorithm may encrypt under one nonce; no packet is that long.
    #[error("the plaintext is too long for its cipher")]
    TooLong,
}

/// A packet that its sender did not make under our keys. Nothing of it was left decrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forged {
    /// No room for IV, at least one byte of plaintext and ICV.
    #[error("the packet is too short to have been sealed")]
    TooShort,
    /// The ciphertext is not a multiple of the block.
    #[error("the ciphertext is not a multiple of the cipher's block")]
    Misaligned,
    /// The ICV does not match.
    #[error("the integrity check failed")]
    WrongIcv,
}

/// Encrypts and authenticates under the keys of one direction.
pub struct Sealer {
    protection: Protection,
    mode: Sealing,
}

/// Authenticates and decrypts under the keys of one direction.
pub struct Opener {
    protection: Protection,
    mode: Opening,
}

#[allow(
    clippy::large_enum_variant,
    reason = "one per SA: a box would cost every packet an indirection"
)]
enum Sealing {
    Cbc {
        cipher: Encryptor,
        ivs: Aes128Enc,
        mac: Mac,
    },
    Aead(AeadKey),
}

#[allow(
    clippy::large_enum_variant,
    reason = "one per SA: a box would cost every packet an indirection"
)]
enum Opening {
    Cbc {
        cipher: Decryptor,
        mac: Mac,
        integrity: &'static Integrity,
    },
    Aead(AeadKey),
}

impl Sealer {
    /// Prepares the keys. `iv_key` makes CBC's IVs: drawn at random for each SA, it never leaves this side.
    pub fn new(
        protection: Protection,
        keys: &SaKeys,
        iv_key: [u8; 16],
    ) -> Result<Sealer, WrongKeyLength> {
        check_lengths(protection, keys)?;
        let key = keys.encryption.as_bytes();
        let mode = match protection.encryption.cipher {
            Cipher::Cbc(cipher) => Sealing::Cbc {
                cipher: Encryptor::new(cipher, key).ok_or(WrongKeyLength)?,
                ivs: Aes128Enc::new(&iv_key.into()),
                mac: keyed_mac(protection, keys)?.1,
            },
            Cipher::Aead(algorithm) => {
                Sealing::Aead(AeadKey::new(algorithm, key).ok_or(WrongKeyLength)?)
            }
        };
        Ok(Sealer { protection, mode })
    }

    /// Seals `packet` in place: `associated data ‖ room for the IV ‖ plaintext, padded ‖ room for the ICV`.
    ///
    /// `counter` must never repeat under one key: ESP's 64-bit sequence number, or IKE's own count of messages. An AEAD sends it
    /// as its IV (RFC 4106 §3.1). CBC needs IVs nobody can predict (RFC 3602 §3): they are `counter` encrypted under a key of
    /// their own, which costs no random draw per packet.
    ///
    /// `esn_high`, the high half of an extended sequence number, is authenticated but not sent (RFC 4303 §2.2.1).
    pub fn seal(
        &self,
        packet: &mut [u8],
        aad_len: usize,
        counter: u64,
        esn_high: Option<u32>,
    ) -> Result<(), Misfit> {
        let parts = Parts::split(packet, aad_len, self.protection)?;
        match &self.mode {
            Sealing::Cbc { cipher, ivs, mac } => {
                let mut block = [0; 16];
                block
                    .iter_mut()
                    .rev()
                    .zip(counter.to_le_bytes())
                    .for_each(|(to, from)| *to = from);
                let mut block = block.into();
                ivs.encrypt_block(&mut block);
                // The ciphers of 1998 have 8-byte blocks and take the first half.
                parts
                    .iv
                    .iter_mut()
                    .zip(block)
                    .for_each(|(to, from)| *to = from);
                cipher
                    .encrypt(parts.iv, parts.text)
                    .map_err(|_| Misfit::Misaligned)?;
                let tag = authenticate(mac, &parts, esn_high);
                parts
                    .icv
                    .iter_mut()
                    .zip(tag.as_bytes())
                    .for_each(|(to, from)| *to = *from);
                Ok(())
            }
            Sealing::Aead(key) => key
                .seal(parts, counter, esn_high)
                .map_err(|fault| match fault {
                    Fault::NotEsp => Misfit::NotEsp,
                    Fault::Refused => Misfit::TooLong,
                }),
        }
    }

    /// What it seals with.
    pub fn protection(&self) -> Protection {
        self.protection
    }
}

impl Opener {
    /// Prepares the keys.
    pub fn new(protection: Protection, keys: &SaKeys) -> Result<Opener, WrongKeyLength> {
        check_lengths(protection, keys)?;
        let key = keys.encryption.as_bytes();
        let mode = match protection.encryption.cipher {
            Cipher::Cbc(cipher) => {
                let (integrity, mac) = keyed_mac(protection, keys)?;
                Opening::Cbc {
                    cipher: Decryptor::new(cipher, key).ok_or(WrongKeyLength)?,
                    mac,
                    integrity,
                }
            }
            Cipher::Aead(algorithm) => {
                Opening::Aead(AeadKey::new(algorithm, key).ok_or(WrongKeyLength)?)
            }
        };
        Ok(Opener { protection, mode })
    }

    /// Checks the ICV, in constant time, and only if it is right decrypts in place. Returns where in `packet` the plaintext is,
    /// with the padding and trailer its sender gave it.
    ///
    /// A packet refused is not to be used: an AEAD overwrites its text.
    pub fn open(
        &self,
        packet: &mut [u8],
        aad_len: usize,
        esn_high: Option<u32>,
    ) -> Result<Range<usize>, Forged> {
        let parts = Parts::split(packet, aad_len, self.protection)?;
        let start = parts.aad.len().saturating_add(parts.iv.len());
        let plaintext = start..start.saturating_add(parts.text.len());
        match &self.mode {
            Opening::Cbc {
                cipher,
                mac,
                integrity,
            } => {
                let tag = authenticate(mac, &parts, esn_high);
                let expected = tag.as_bytes().get(..integrity.icv_len).unwrap_or_default();
                if !equal(expected, parts.icv) {
                    return Err(Forged::WrongIcv);
                }
                cipher
                    .decrypt(parts.iv, parts.text)
                    .map_err(|_| Forged::Misaligned)?;
            }
            Opening::Aead(key) => key.open(parts, esn_high).map_err(|fault| match fault {
                Fault::NotEsp | Fault::Refused => Forged::WrongIcv,
            })?,
        }
        Ok(plaintext)
    }

    /// What it opens with.
    pub fn protection(&self) -> Protection {
        self.protection
    }
}

/// A packet cut where the drawing above cuts it.
pub(super) struct Parts<'a> {
    pub aad: &'a [u8],
    pub iv: &'a mut [u8],
    pub text: &'a mut [u8],
    pub icv: &'a mut [u8],
}

/// Why a packet cannot be cut.
enum Misshapen {
    TooShort,
    Misaligned,
}

impl<'a> Parts<'a> {
    fn split(
        packet: &'a mut [u8],
        aad_len: usize,
        protection: Protection,
    ) -> Result<Parts<'a>, Misshapen> {
        let too_short = Misshapen::TooShort;
        let Some((aad, rest)) = packet.split_at_mut_checked(aad_len) else {
            return Err(too_short);
        };
        let Some((iv, rest)) = rest.split_at_mut_checked(protection.iv_len()) else {
            return Err(too_short);
        };
        let Some(text_len) = rest.len().checked_sub(protection.icv_len()) else {
            return Err(too_short);
        };
        let Some((text, icv)) = rest.split_at_mut_checked(text_len) else {
            return Err(too_short);
        };
        // Every sealed thing ends in a trailer, so an empty plaintext was never sealed.
        if text.is_empty() {
            return Err(too_short);
        }
        if !text.len().is_multiple_of(protection.block()) {
            return Err(Misshapen::Misaligned);
        }
        Ok(Parts { aad, iv, text, icv })
    }
}

impl From<Misshapen> for Misfit {
    fn from(misshapen: Misshapen) -> Misfit {
        match misshapen {
            Misshapen::TooShort => Misfit::TooShort,
            Misshapen::Misaligned => Misfit::Misaligned,
        }
    }
}

impl From<Misshapen> for Forged {
    fn from(misshapen: Misshapen) -> Forged {
        match misshapen {
            Misshapen::TooShort => Forged::TooShort,
            Misshapen::Misaligned => Forged::Misaligned,
        }
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
mod tests {
    use super::*;
    use crate::crypto::registry::{ENCRYPTION, INTEGRITY};
    use crate::crypto::{EspProposal, vectors};

    /// Every cipher with every integrity algorithm it can be negotiated with.
    fn protections() -> Vec<Protection> {
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

    fn keys(protection: Protection) -> SaKeys {
        let bytes = |len: usize| Secret::new((0..len).map(|i| i as u8 ^ 0x5a).collect());
        SaKeys {
            encryption: bytes(protection.encryption_key_len()),
            integrity: bytes(protection.integrity_key_len()),
        }
    }

    fn pair(protection: Protection) -> (Sealer, Opener) {
        let keys = keys(protection);
        (
            Sealer::new(protection, &keys, [9; 16]).unwrap(),
            Opener::new(protection, &keys).unwrap(),
        )
    }

    const HEADER: [u8; 8] = [0xc0, 0xde, 0xba, 0x5e, 0, 0, 0, 1];
    const TEXT: [u8; 48] = *b"forty-eight bytes of text, three whole blocks  .";

    /// An ESP packet around [`TEXT`], sealed as number 1.
    fn sealed(sealer: &Sealer, esn_high: Option<u32>) -> Vec<u8> {
        let protection = sealer.protection();
        let mut packet = HEADER.to_vec();
        packet.resize(HEADER.len() + protection.iv_len(), 0);
        packet.extend(TEXT);
        packet.resize(packet.len() + protection.icv_len(), 0);
        sealer.seal(&mut packet, HEADER.len(), 1, esn_high).unwrap();
        packet
    }

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
        for case in vectors::cases(include_str!("../../tests/vectors/esp-cbc-hmac.txt")) {
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
            let iv_key = case.bytes("iv-key").try_into().unwrap();
            let sealer = Sealer::new(protection, &keys, iv_key).unwrap();
            sealer.seal(&mut packet, 8, counter, esn_high).unwrap();
            assert_eq!(packet, case.bytes("packet"), "{}", case.title);
        }
    }

    #[test]
    fn p02_e02_every_flipped_bit_is_refused_and_nothing_is_decrypted() {
        for protection in protections() {
            let (sealer, opener) = pair(protection);
            let packet = sealed(&sealer, None);
            for bit in 0..packet.len() * 8 {
                let mut forged = packet.clone();
                forged[bit / 8] ^= 1 << (bit % 8);
                let before = forged.clone();
                assert_eq!(
                    opener.open(&mut forged, HEADER.len(), None),
                    Err(Forged::WrongIcv),
                    "{protection} {bit}"
                );
                match protection.integrity {
                    Some(_) => assert_eq!(
                        forged, before,
                        "{protection}: touched before the ICV was checked"
                    ),
                    None => assert!(
                        !forged
                            .windows(16)
                            .any(|part| TEXT.windows(16).any(|text| text == part))
                    ),
                }
            }
        }
    }

    #[test]
    fn p02_e02_every_truncation_is_refused() {
        for protection in protections() {
            let (sealer, opener) = pair(protection);
            let packet = sealed(&sealer, None);
            for len in 0..packet.len() {
                let mut cut = packet[..len].to_vec();
                let overhead = HEADER.len() + protection.iv_len() + protection.icv_len();
                let expected = match len.checked_sub(overhead) {
                    None | Some(0) => Forged::TooShort,
                    Some(text) if text % protection.block() != 0 => Forged::Misaligned,
                    Some(_) => Forged::WrongIcv,
                };
                let opened = opener.open(&mut cut, HEADER.len(), None);
                assert_eq!(opened, Err(expected), "{protection} {len}");
            }
        }
    }

    #[test]
    fn e02_an_icv_of_96_bits_is_no_icv_of_hmac_sha2_256() {
        // Linux once truncated SHA2-256 to 96 bits; such a packet is four bytes short.
        let sha256 = INTEGRITY.iter().find(|row| row.word == "sha256");
        let protection = Protection {
            encryption: &ENCRYPTION[0],
            integrity: sha256,
        };
        let (sealer, opener) = pair(protection);
        let packet = sealed(&sealer, None);
        let mut cut = packet[..packet.len() - 4].to_vec();
        assert_eq!(
            opener.open(&mut cut, HEADER.len(), None),
            Err(Forged::Misaligned)
        );
    }

    #[test]
    fn another_high_half_of_the_sequence_number_is_refused() {
        for protection in protections() {
            let (sealer, opener) = pair(protection);
            for (sent, assumed) in [(Some(1), Some(2)), (Some(1), None), (None, Some(0))] {
                let mut packet = sealed(&sealer, sent);
                assert_eq!(
                    opener.open(&mut packet, HEADER.len(), assumed),
                    Err(Forged::WrongIcv),
                    "{protection}"
                );
            }
        }
    }

    #[test]
    fn another_key_or_another_direction_is_refused() {
        for protection in protections() {
            let (sealer, _) = pair(protection);
            let mut other = keys(protection).encryption.as_bytes().to_vec();
            other[1] ^= 2;
            let keys = SaKeys {
                encryption: Secret::new(other),
                integrity: keys(protection).integrity,
            };
            let opener = Opener::new(protection, &keys).unwrap();
            let mut packet = sealed(&sealer, None);
            match (
                protection.integrity,
                opener.open(&mut packet, HEADER.len(), None),
            ) {
                // Encryption and integrity keys are separate: the packet is genuine, its text is not readable.
                (Some(_), Ok(plaintext)) => assert_ne!(packet[plaintext], TEXT, "{protection}"),
                (None, result) => assert_eq!(result, Err(Forged::WrongIcv), "{protection}"),
                (Some(_), Err(error)) => panic!("{protection}: {error}"),
            }
        }
    }

    #[test]
    fn the_same_text_never_looks_the_same_twice() {
        for protection in protections() {
            let (sealer, _) = pair(protection);
            let seal = |counter| {
                let mut packet =
                    vec![0; HEADER.len() + protection.iv_len() + 16 + protection.icv_len()];
                sealer
                    .seal(&mut packet, HEADER.len(), counter, None)
                    .unwrap();
                packet
            };
            let (first, second) = (seal(1), seal(2));
            let text = HEADER.len() + protection.iv_len()..;
            assert_ne!(first[text.clone()], second[text], "{protection}");
        }
    }

    #[test]
    fn cbc_ivs_differ_between_sas_and_aead_ivs_count() {
        let cbc = protections()[0];
        let keys_ = keys(cbc);
        let iv = |iv_key| sealed(&Sealer::new(cbc, &keys_, iv_key).unwrap(), None)[8..24].to_vec();
        assert_ne!(iv([1; 16]), iv([2; 16]));
        assert_eq!(iv([1; 16]), iv([1; 16]));
        let aead = *protections().last().unwrap();
        assert_eq!(sealed(&pair(aead).0, None)[8..16], 1_u64.to_be_bytes());
    }

    #[test]
    fn a_buffer_that_does_not_fit_is_not_sealed() {
        for protection in protections() {
            let (sealer, _) = pair(protection);
            let overhead = protection.iv_len() + protection.icv_len();
            let seal = |len: usize, aad_len| sealer.seal(&mut vec![0; len], aad_len, 1, None);
            assert_eq!(seal(0, 0), Err(Misfit::TooShort));
            assert_eq!(seal(7, 8), Err(Misfit::TooShort));
            assert_eq!(
                seal(8 + overhead, 8),
                Err(Misfit::TooShort),
                "{protection}: no plaintext"
            );
            assert_eq!(
                seal(usize::from(u16::MAX), usize::MAX),
                Err(Misfit::TooShort)
            );
            if protection.block() > 1 {
                assert_eq!(
                    seal(8 + overhead + protection.block() + 1, 8),
                    Err(Misfit::Misaligned)
                );
            } else {
                let mut packet = vec![0; 28 + overhead + 4];
                assert_eq!(
                    sealer.seal(&mut packet, 28, 1, Some(0)),
                    Err(Misfit::NotEsp)
                );
            }
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
                Sealer::new(protection, &wrong, [0; 16]).is_err(),
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
    fn sealers_and_openers_may_move_between_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<(Sealer, Opener)>();
    }
}
