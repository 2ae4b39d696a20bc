//! Sealing: the sender's half of the door.

use aes::Aes128Enc;
use aes::cipher::{BlockCipherEncrypt, KeyInit};

use super::{LengthError, Parts, SaKeys, WrongKeyLength, authenticate, check_lengths, keyed_mac};
use crate::crypto::aead::{AeadError, AeadKey};
use crate::crypto::cbc::Encryptor;
use crate::crypto::keys::IvKey;
use crate::crypto::mac::Mac;
use crate::crypto::registry::Cipher;
use crate::crypto::suite::Protection;

/// Encrypts and authenticates under the keys of one direction.
pub struct Sealer {
    protection: Protection,
    mode: Sealing,
}

/// A buffer that cannot be sealed: the caller's mistake, never the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
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

impl Sealer {
    /// Prepares the keys. `iv_key` makes CBC's IVs: drawn at random for each SA, it never leaves this side.
    pub fn new(
        protection: Protection,
        keys: &SaKeys,
        iv_key: &IvKey,
    ) -> Result<Sealer, WrongKeyLength> {
        check_lengths(protection, keys)?;
        let key = keys.encryption.as_bytes();
        let mode = match protection.encryption.cipher {
            Cipher::Cbc(cipher) => Sealing::Cbc {
                cipher: Encryptor::new(cipher, key).ok_or(WrongKeyLength)?,
                ivs: Aes128Enc::new(iv_key.as_bytes().into()),
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
    ) -> Result<(), SealError> {
        let mut parts = Parts::split(packet, aad_len, self.protection)?;
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
                    .map_err(|_| SealError::Misaligned)?;
                let tag = authenticate(mac, &parts, esn_high);
                parts
                    .icv
                    .iter_mut()
                    .zip(tag.as_bytes())
                    .for_each(|(to, from)| *to = *from);
                Ok(())
            }
            Sealing::Aead(key) => {
                key.seal(&mut parts, counter, esn_high)
                    .map_err(|fault| match fault {
                        AeadError::NotEsp => SealError::NotEsp,
                        AeadError::Refused => SealError::TooLong,
                    })
            }
        }
    }

    /// What it seals with.
    pub fn protection(&self) -> Protection {
        self.protection
    }
}

impl From<LengthError> for SealError {
    fn from(misshapen: LengthError) -> SealError {
        match misshapen {
            LengthError::TooShort => SealError::TooShort,
            LengthError::Misaligned => SealError::Misaligned,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kit::{HEADER, keys, pair, protections, sealed};
    use super::*;

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
        let iv = |iv_key: [u8; 16]| {
            sealed(&Sealer::new(cbc, &keys_, &iv_key.into()).unwrap(), None)[8..24].to_vec()
        };
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
            assert_eq!(seal(0, 0), Err(SealError::TooShort));
            assert_eq!(seal(7, 8), Err(SealError::TooShort));
            assert_eq!(
                seal(8 + overhead, 8),
                Err(SealError::TooShort),
                "{protection}: no plaintext"
            );
            assert_eq!(
                seal(usize::from(u16::MAX), usize::MAX),
                Err(SealError::TooShort)
            );
            if protection.block() > 1 {
                assert_eq!(
                    seal(8 + overhead + protection.block() + 1, 8),
                    Err(SealError::Misaligned)
                );
            } else {
                let mut packet = vec![0; 28 + overhead + 4];
                assert_eq!(
                    sealer.seal(&mut packet, 28, 1, Some(0)),
                    Err(SealError::NotEsp)
                );
            }
        }
    }
}
