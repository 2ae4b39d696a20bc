//! Opening: the receiver's half of the door.

use std::ops::Range;

use super::{LengthError, Parts, SaKeys, WrongKeyLength, authenticate, check_lengths, keyed_mac};
use crate::crypto::aead::{AeadError, AeadKey};
use crate::crypto::cbc::Decryptor;
use crate::crypto::keys::equal;
use crate::crypto::mac::Mac;
use crate::crypto::registry::{Cipher, Integrity};
use crate::crypto::suite::Protection;

/// Authenticates and decrypts under the keys of one direction.
pub struct Opener {
    protection: Protection,
    mode: Opening,
}

/// A packet that its sender did not make under our keys. Nothing of it was left decrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
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
    #[inline]
    pub fn open(
        &self,
        packet: &mut [u8],
        aad_len: usize,
        esn_high: Option<u32>,
    ) -> Result<Range<usize>, OpenError> {
        let mut parts = Parts::split(packet, aad_len, self.protection)?;
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
                    return Err(OpenError::WrongIcv);
                }
                cipher
                    .decrypt(parts.iv, parts.text)
                    .map_err(|_| OpenError::Misaligned)?;
            }
            Opening::Aead(key) => key
                .open(&mut parts, esn_high)
                .map_err(|fault| match fault {
                    AeadError::NotEsp | AeadError::Refused => OpenError::WrongIcv,
                })?,
        }
        Ok(plaintext)
    }

    /// What it opens with.
    pub fn protection(&self) -> Protection {
        self.protection
    }
}

impl From<LengthError> for OpenError {
    fn from(misshapen: LengthError) -> OpenError {
        match misshapen {
            LengthError::TooShort => OpenError::TooShort,
            LengthError::Misaligned => OpenError::Misaligned,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kit::{HEADER, TEXT, keys, pair, protections, sealed};
    use super::*;
    use crate::crypto::keys::Secret;
    use crate::crypto::registry::{ENCRYPTION, INTEGRITY};

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
                    Err(OpenError::WrongIcv),
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
                    None | Some(0) => OpenError::TooShort,
                    Some(text) if text % protection.block() != 0 => OpenError::Misaligned,
                    Some(_) => OpenError::WrongIcv,
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
            Err(OpenError::Misaligned)
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
                    Err(OpenError::WrongIcv),
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
                (None, result) => assert_eq!(result, Err(OpenError::WrongIcv), "{protection}"),
                (Some(_), Err(error)) => panic!("{protection}: {error}"),
            }
        }
    }
}
