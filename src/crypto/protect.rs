//! Sealing and opening: one door for ESP packets and for IKE's encrypted payloads.
//!
//! ```text
//!   ┌── associated data ──┬─ IV ─┬──── plaintext, padded ────┬─ ICV ─┐
//!   │ ESP: SPI, sequence  │      │                           │       │
//!   │ IKE: headers        │      │                           │       │
//!   └─────────────────────┴──────┴───────────────────────────┴───────┘
//!                                 ◀──────── encrypted ───────▶
//!    ◀──────────── authenticated (HMAC; an AEAD leaves out its IV) ───▶
//! ```

use std::ops::Range;

use super::keys::Secret;
use super::suite::Protection;

/// The keys of one direction of an SA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaKeys {
    /// The encryption key; for an AEAD, its salt follows.
    pub encryption: Secret,
    /// The integrity key; empty for an AEAD.
    pub integrity: Secret,
}

/// Keys that do not fit the algorithms they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key does not have the length its algorithm takes")]
pub struct WrongKeyLength;

/// A buffer that cannot be sealed: the caller's mistake, never the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// No room for IV, a plaintext and ICV after the associated data.
    #[error("the buffer is too short to seal")]
    TooShort,
    /// The plaintext is not a multiple of the block.
    #[error("the plaintext is not padded to the cipher's block")]
    Misaligned,
    /// Extended sequence numbers with an AEAD want the 8-byte ESP header as associated data.
    #[error("the associated data is not an ESP header")]
    NotEsp,
}

/// A packet that its sender did not make under our keys. Nothing of it was decrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forged {
    /// No room for IV, a plaintext and ICV.
    #[error("the packet is too short to be sealed")]
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
}

/// Authenticates and decrypts under the keys of one direction.
pub struct Opener {
    protection: Protection,
}

impl Sealer {
    /// Prepares keys. `iv_key` is drawn at random for each SA and never leaves this side.
    pub fn new(
        protection: Protection,
        keys: &SaKeys,
        iv_key: [u8; 16],
    ) -> Result<Sealer, WrongKeyLength> {
        let _ = (keys, iv_key);
        Ok(Sealer { protection })
    }

    /// Seals `packet` in place: `associated data ‖ room for the IV ‖ plaintext, padded ‖ room for the ICV`.
    pub fn seal(
        &self,
        packet: &mut [u8],
        aad_len: usize,
        counter: u64,
        esn_high: Option<u32>,
    ) -> Result<(), Misfit> {
        let _ = (packet, aad_len, counter, esn_high);
        todo!("next landing")
    }

    /// What it seals with.
    pub fn protection(&self) -> Protection {
        self.protection
    }
}

impl Opener {
    /// Prepares keys.
    pub fn new(protection: Protection, keys: &SaKeys) -> Result<Opener, WrongKeyLength> {
        let _ = keys;
        Ok(Opener { protection })
    }

    /// Checks the ICV and, only if it is right, decrypts in place. Returns where the plaintext lies in `packet`.
    pub fn open(
        &self,
        packet: &mut [u8],
        aad_len: usize,
        esn_high: Option<u32>,
    ) -> Result<Range<usize>, Forged> {
        let _ = (packet, aad_len, esn_high);
        todo!("next landing")
    }

    /// What it opens with.
    pub fn protection(&self) -> Protection {
        self.protection
    }
}
