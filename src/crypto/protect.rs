//! Protection of packets: how an ESP packet or an IKE encrypted payload is sealed and opened.
//!
//! ```text
//!   ┌── associated data ──┬─ IV ─┬──── plaintext, padded ────┬─ ICV ─┐
//!   │ ESP: SPI, sequence  │      │ ◀────── encrypted ──────▶ │       │
//!   │ IKE: headers        │      │                           │       │
//!   └─────────────────────┴──────┴───────────────────────────┴───────┘
//!    ◀───────────────────── authenticated ──────────────────▶ ‖ high half of an extended sequence number
//! ```
//!
//! CBC encrypts first, and HMAC covers associated data, IV and ciphertext (RFC 4303 §3.3.2, RFC 7296 §3.14). An AEAD does both at
//! once. Neither sealing nor opening allocates, and several threads may share a [`Sealer`] or an [`Opener`].

use std::fmt;
use std::ops::Range;

use aes::Aes128Enc;
use aes::cipher::{BlockCipherEncrypt, KeyInit};

use super::aead::{AeadError, AeadKey};
use super::cbc::{Decryptor, Encryptor};
use super::keys::{IvKey, Secret, equal};
use super::mac::{Mac, Tag};
use super::registry::{Cipher, Encryption, Integrity};

/// The algorithms that protect packets: common to ESP SAs and to IKE's encrypted payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Protection {
    /// The cipher.
    pub encryption: &'static Encryption,
    /// The integrity algorithm; `None` beside an AEAD.
    pub integrity: Option<&'static Integrity>,
}

impl Protection {
    /// The first alternative of each kind; `None` if a list that must not be empty is.
    pub(super) fn first(
        encryption: &[&'static Encryption],
        integrity: &[&'static Integrity],
    ) -> Option<Protection> {
        let encryption = *encryption.first()?;
        let integrity = match encryption.is_aead() {
            true => None,
            false => Some(*integrity.first()?),
        };
        Some(Protection {
            encryption,
            integrity,
        })
    }

    /// Bytes of the encryption key with the salt that follows it.
    pub fn encryption_key_len(self) -> usize {
        self.encryption
            .key_len
            .saturating_add(self.encryption.salt_len)
    }

    /// Bytes of the integrity key; 0 for an AEAD.
    pub fn integrity_key_len(self) -> usize {
        self.integrity.map_or(0, |integrity| integrity.key_len)
    }

    /// Bytes of IV in each packet.
    pub fn iv_len(self) -> usize {
        self.encryption.iv_len
    }

    /// Bytes of ICV in each packet.
    pub fn icv_len(self) -> usize {
        self.integrity
            .map_or(self.encryption.icv_len, |integrity| integrity.icv_len)
    }

    /// Block length of the cipher in bytes: 16, 8 or 1. The plaintext is a multiple of it.
    pub fn block(self) -> usize {
        self.encryption.block
    }

    /// Checks the lengths of `keys`, and that CBC has an integrity algorithm and an AEAD has none.
    pub(super) fn check_keys(self, keys: &SaKeys) -> Result<(), WrongKeyLength> {
        let valid = keys.encryption.len() == self.encryption_key_len()
            && keys.integrity.len() == self.integrity_key_len()
            && self.encryption.is_aead() == self.integrity.is_none();
        if valid { Ok(()) } else { Err(WrongKeyLength) }
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.encryption)?;
        match self.integrity {
            Some(integrity) => write!(f, "-{integrity}"),
            None => Ok(()),
        }
    }
}

/// The keys of one direction of an SA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaKeys {
    /// The encryption key; for an AEAD, its salt follows.
    pub encryption: Secret,
    /// The integrity key; empty for an AEAD.
    pub integrity: Secret,
}

/// Keys that do not fit their algorithms, or CBC without an integrity algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the keys do not have the lengths their algorithms take")]
pub struct WrongKeyLength;

/// Encrypts and authenticates under the keys of one direction.
pub struct Sealer {
    protection: Protection,
    mode: SealMode,
}

/// A buffer that cannot be sealed: an error of the caller, never of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// No room for IV, at least one byte of plaintext and ICV after the associated data.
    #[error("the buffer is too short to seal")]
    TooShort,
    /// The plaintext is not a multiple of the block.
    #[error("the plaintext is not padded to the cipher's block")]
    Misaligned,
    /// Extended sequence numbers with an AEAD need the 8-byte ESP header as associated data.
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
enum SealMode {
    Cbc {
        cipher: Encryptor,
        iv_cipher: Aes128Enc,
        mac: Mac,
    },
    Aead(AeadKey),
}

impl Sealer {
    /// Prepares the keys. `iv_key` makes the IVs of CBC; an AEAD does not use it.
    ///
    /// # Errors
    /// [`WrongKeyLength`] if the keys do not fit the algorithms.
    pub fn new(
        protection: Protection,
        keys: &SaKeys,
        iv_key: &IvKey,
    ) -> Result<Sealer, WrongKeyLength> {
        protection.check_keys(keys)?;
        let key = keys.encryption.as_bytes();
        let mode = match protection.encryption.cipher {
            Cipher::Cbc(cipher) => SealMode::Cbc {
                cipher: Encryptor::new(cipher, key).ok_or(WrongKeyLength)?,
                iv_cipher: Aes128Enc::new(iv_key.as_bytes().into()),
                mac: keyed_mac(protection, keys)?.1,
            },
            Cipher::Aead(algorithm) => {
                SealMode::Aead(AeadKey::new(algorithm, key).ok_or(WrongKeyLength)?)
            }
        };
        Ok(Sealer { protection, mode })
    }

    /// Seals `packet` in place: `associated data ‖ room for the IV ‖ plaintext, padded ‖ room for the ICV`.
    ///
    /// `counter` must never repeat under one key: ESP's 64-bit sequence number, or the count of sealed IKE messages. An AEAD sends
    /// the counter as its IV (RFC 4106 §3.1). CBC needs unpredictable IVs (RFC 3602 §3): each is the counter encrypted under the
    /// IV key, which costs no random draw per packet.
    ///
    /// `esn_high`, the high half of an extended sequence number, is authenticated but not sent (RFC 4303 §2.2.1).
    ///
    /// # Errors
    /// [`SealError`] if `packet` has no room or is not padded.
    pub fn seal(
        &self,
        packet: &mut [u8],
        aad_len: usize,
        counter: u64,
        esn_high: Option<u32>,
    ) -> Result<(), SealError> {
        let (short, misaligned) = (SealError::TooShort, SealError::Misaligned);
        let parts = Parts::split(packet, aad_len, self.protection, short, misaligned)?;
        match &self.mode {
            SealMode::Cbc {
                cipher,
                iv_cipher,
                mac,
            } => {
                let mut block = [0; 16];
                block
                    .iter_mut()
                    .rev()
                    .zip(counter.to_le_bytes())
                    .for_each(|(to, from)| *to = from);
                let mut block = block.into();
                iv_cipher.encrypt_block(&mut block);
                // 3DES and DES have 8-byte blocks and take the first half.
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
            SealMode::Aead(key) => {
                parts.iv.copy_from_slice(&counter.to_be_bytes());
                let tag = key
                    .seal(parts.aad, esn_high, parts.iv, parts.text)
                    .map_err(|error| match error {
                        AeadError::NotEsp => SealError::NotEsp,
                        AeadError::Rejected => SealError::TooLong,
                    })?;
                parts.icv.copy_from_slice(tag.as_ref());
                Ok(())
            }
        }
    }
}

/// Authenticates and decrypts under the keys of one direction.
pub struct Opener {
    protection: Protection,
    mode: OpenMode,
}

/// A packet that is not from the peer or is damaged. No plaintext of it is left in the buffer.
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
enum OpenMode {
    Cbc {
        cipher: Decryptor,
        mac: Mac,
        integrity: &'static Integrity,
    },
    Aead(AeadKey),
}

impl Opener {
    /// Prepares the keys.
    ///
    /// # Errors
    /// [`WrongKeyLength`] if the keys do not fit the algorithms.
    pub fn new(protection: Protection, keys: &SaKeys) -> Result<Opener, WrongKeyLength> {
        protection.check_keys(keys)?;
        let key = keys.encryption.as_bytes();
        let mode = match protection.encryption.cipher {
            Cipher::Cbc(cipher) => {
                let (integrity, mac) = keyed_mac(protection, keys)?;
                OpenMode::Cbc {
                    cipher: Decryptor::new(cipher, key).ok_or(WrongKeyLength)?,
                    mac,
                    integrity,
                }
            }
            Cipher::Aead(algorithm) => {
                OpenMode::Aead(AeadKey::new(algorithm, key).ok_or(WrongKeyLength)?)
            }
        };
        Ok(Opener { protection, mode })
    }

    /// Checks the ICV in constant time and, only if it matches, decrypts in place. Returns the position of the plaintext in
    /// `packet`, with the padding and trailer of its sender.
    ///
    /// # Errors
    /// [`OpenError`]; the contents of `packet` are then not to be used, since an AEAD overwrites its text.
    #[inline]
    pub fn open(
        &self,
        packet: &mut [u8],
        aad_len: usize,
        esn_high: Option<u32>,
    ) -> Result<Range<usize>, OpenError> {
        let (short, misaligned) = (OpenError::TooShort, OpenError::Misaligned);
        let parts = Parts::split(packet, aad_len, self.protection, short, misaligned)?;
        let start = parts.aad.len().saturating_add(parts.iv.len());
        let plaintext = start..start.saturating_add(parts.text.len());
        match &self.mode {
            OpenMode::Cbc {
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
            OpenMode::Aead(key) => key
                .open(parts.aad, esn_high, parts.iv, parts.text, parts.icv)
                .map_err(|error| match error {
                    AeadError::NotEsp | AeadError::Rejected => OpenError::WrongIcv,
                })?,
        }
        Ok(plaintext)
    }
}

/// A packet split as the drawing at the top of this file shows.
struct Parts<'a> {
    aad: &'a [u8],
    iv: &'a mut [u8],
    text: &'a mut [u8],
    icv: &'a mut [u8],
}

impl<'a> Parts<'a> {
    /// Splits a packet; fails with `too_short` or `misaligned`.
    #[inline]
    fn split<E>(
        packet: &'a mut [u8],
        aad_len: usize,
        protection: Protection,
        too_short: E,
        misaligned: E,
    ) -> Result<Parts<'a>, E> {
        match Parts::at_lengths(packet, aad_len, protection) {
            // Blocks are powers of two; a division would cost as much as all the rest.
            Some(parts) if parts.text.len() & protection.block().wrapping_sub(1) != 0 => {
                Err(misaligned)
            }
            // Every plaintext ends in a trailer, so it is never empty.
            Some(parts) if !parts.text.is_empty() => Ok(parts),
            Some(_) | None => Err(too_short),
        }
    }

    #[inline]
    fn at_lengths(
        packet: &'a mut [u8],
        aad_len: usize,
        protection: Protection,
    ) -> Option<Parts<'a>> {
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

fn keyed_mac(
    protection: Protection,
    keys: &SaKeys,
) -> Result<(&'static Integrity, Mac), WrongKeyLength> {
    let integrity = protection.integrity.ok_or(WrongKeyLength)?;
    let mac = Mac::new(integrity.hash, keys.integrity.as_bytes());
    Ok((integrity, mac))
}

#[cfg(test)]
mod tests;
