//! Sealing a batch of ESP packets of one SA: what [`crate::crypto::Sealer`] makes of each, for as many at once as there are lanes.
//!
//! ```text
//!   packet 1   SPI, sequence ‖ IV ‖ text ‖ ICV    1. the IVs: counters, encrypted under a key of their own
//!   packet 2   SPI, sequence ‖ IV ‖ text ‖ ICV    2. the texts, in lanes
//!   …                                             3. the ICVs, in lanes, while the texts are in the first-level cache
//! ```

use crate::crypto::keys::IvKey;
use crate::crypto::protect::{SaKeys, SealError, WrongKeyLength};
use crate::crypto::registry::encryption;
use crate::crypto::suite::Protection;

use super::Kernel;
use super::cbc::{self, CbcJob};
use super::final_blocks::fill;
use super::hmac::{BatchHmac, HmacJob};

/// Bytes before the IV: SPI and sequence number.
pub(super) const HEADER: usize = 8;

/// Bytes of the IV.
pub(super) const IV: usize = 16;

/// Packets that go together: as many as the widest kernel takes.
pub const MAX_LANES: usize = 16;

/// ENCR_AES_CBC.
const AES_CBC: u16 = 12;

/// Encrypts and authenticates batches under the keys of one direction.
pub struct BatchSealer {
    protection: Protection,
    ivs: cbc::CbcEncryptor,
    cipher: cbc::CbcEncryptor,
    mac: BatchHmac,
}

/// A packet to seal.
#[derive(Default)]
pub struct SealJob<'a> {
    /// `ESP header ‖ room for the IV ‖ plaintext, padded ‖ room for the ICV`, as [`crate::crypto::Sealer::seal`] takes it.
    pub bytes: &'a mut [u8],
    /// The 64-bit sequence number, which never repeats under one key.
    pub counter: u64,
    /// Its high half where it is extended.
    pub esn_high: Option<u32>,
}

impl BatchSealer {
    /// Prepares the keys; `None` where the algorithms have no lanes.
    ///
    /// # Errors
    /// [`WrongKeyLength`] if the keys do not fit the algorithms.
    pub fn new(
        kernel: Kernel,
        protection: Protection,
        keys: &SaKeys,
        iv_key: &IvKey,
    ) -> Result<Option<BatchSealer>, WrongKeyLength> {
        let Some(mac) = mac(kernel, protection, keys)? else {
            return Ok(None);
        };
        let row = encryption(AES_CBC, Some(128)).ok_or(WrongKeyLength)?;
        let ivs = cbc::CbcEncryptor::new(kernel, row, iv_key.as_bytes()).ok_or(WrongKeyLength)?;
        let key = keys.encryption.as_bytes();
        let cipher = cbc::CbcEncryptor::new(kernel, protection.encryption, key);
        Ok(cipher.map(|cipher| BatchSealer {
            protection,
            ivs,
            cipher,
            mac,
        }))
    }

    /// Seals every packet in place. Where one of them does not fit, none is touched.
    ///
    /// # Errors
    /// What is wrong with the first that does not fit.
    pub fn seal(&self, packets: &mut [SealJob<'_>]) -> Result<(), SealError> {
        let icv_len = self.protection.icv_len();
        for packet in packets.iter() {
            let overhead = HEADER.saturating_add(IV).saturating_add(icv_len);
            match packet.bytes.len().checked_sub(overhead) {
                None | Some(0) => return Err(SealError::TooShort),
                Some(text) if !text.is_multiple_of(16) => return Err(SealError::Misaligned),
                Some(_) => {}
            }
        }
        for group in packets.chunks_mut(MAX_LANES) {
            self.seal_group(group, icv_len)
                .map_err(|_| SealError::Misaligned)?;
        }
        Ok(())
    }

    fn seal_group(&self, group: &mut [SealJob<'_>], icv_len: usize) -> Result<(), cbc::NotBlocks> {
        let count = group.len();

        // 1.
        let mut ivs = [[0; IV]; MAX_LANES];
        for (iv, packet) in ivs.iter_mut().zip(group.iter()) {
            if let Some(low) = iv.last_chunk_mut() {
                *low = packet.counter.to_be_bytes();
            }
        }
        self.ivs.encrypt_blocks(&mut ivs);

        // 2.
        let mut lanes: [CbcJob<'_>; MAX_LANES] = Default::default();
        for ((lane, iv), packet) in lanes.iter_mut().zip(ivs).zip(group.iter_mut()) {
            let room = packet.bytes.get_mut(HEADER..).unwrap_or_default();
            if let Some((room, rest)) = room.split_first_chunk_mut() {
                *room = iv;
                let text = rest.len().saturating_sub(icv_len);
                *lane = CbcJob {
                    iv,
                    text: rest.get_mut(..text).unwrap_or_default(),
                };
            }
        }
        self.cipher.encrypt(live(&mut lanes, count))?;

        // 3.
        let mut messages = [HmacJob::default(); MAX_LANES];
        for (message, packet) in messages.iter_mut().zip(group.iter()) {
            *message = message_of(packet.bytes, icv_len, packet.esn_high);
        }
        self.mac.authenticate(live(&mut messages, count));
        let mut tags = [[0; 32]; MAX_LANES];
        for (tag, message) in tags.iter_mut().zip(&messages) {
            *tag = message.tag;
        }
        for (tag, packet) in tags.iter().zip(group.iter_mut()) {
            let covered = packet.bytes.len().saturating_sub(icv_len);
            let icv = packet.bytes.get_mut(covered..).unwrap_or_default();
            fill(icv, tag.get(..icv_len).unwrap_or_default());
        }
        Ok(())
    }
}

/// The slots of a group that are in use.
pub(super) fn live<T>(slots: &mut [T; MAX_LANES], count: usize) -> &mut [T] {
    slots.get_mut(..count).unwrap_or_default()
}

/// What the ICV of a packet is over.
pub(super) fn message_of(packet: &[u8], icv_len: usize, esn_high: Option<u32>) -> HmacJob<'_> {
    let covered = packet.len().saturating_sub(icv_len);
    HmacJob {
        bytes: packet.get(..covered).unwrap_or_default(),
        tail: esn_high.map(u32::to_be_bytes),
        tag: [0; 32],
    }
}

/// The keyed HMAC of `protection`; `None` where it has no lanes.
pub(super) fn mac(
    kernel: Kernel,
    protection: Protection,
    keys: &SaKeys,
) -> Result<Option<BatchHmac>, WrongKeyLength> {
    let right = keys.encryption.len() == protection.encryption_key_len()
        && keys.integrity.len() == protection.integrity_key_len();
    if !right {
        return Err(WrongKeyLength);
    }
    Ok(protection
        .integrity
        .and_then(|row| BatchHmac::new(kernel, row, keys.integrity.as_bytes())))
}
