//! Opening ESP packets of one SA: what [`crate::crypto::Opener`] makes of each, with the ICVs of several checked in lanes.

use std::ops::Range;

use subtle::ConstantTimeEq;

use crate::crypto::keys::equal;
use crate::crypto::protect::{OpenError, SaKeys, WrongKeyLength};
use crate::crypto::suite::Protection;

use super::Kernel;
use super::cbc;
use super::final_blocks::fill;
use super::hmac::{BatchHmac, HmacJob};
use super::seal::{HEADER, IV, MAX_LANES, live, mac, message_of};

/// Authenticates and decrypts batches under the keys of one direction.
pub struct BatchOpener {
    protection: Protection,
    cipher: cbc::CbcDecryptor,
    mac: BatchHmac,
}

/// A packet to open.
pub struct OpenJob<'a> {
    /// `ESP header ‖ IV ‖ ciphertext ‖ ICV`.
    pub bytes: &'a mut [u8],
    /// The high half of the sequence number where it is extended.
    pub esn_high: Option<u32>,
    /// Where in `bytes` the plaintext is, once opened. Before that, and for a packet that is refused, an error.
    pub plaintext: Result<Range<usize>, OpenError>,
}

impl<'a> OpenJob<'a> {
    /// One that is still to be opened.
    pub fn new(bytes: &'a mut [u8], esn_high: Option<u32>) -> OpenJob<'a> {
        OpenJob {
            bytes,
            esn_high,
            plaintext: Err(OpenError::TooShort),
        }
    }
}

impl BatchOpener {
    /// Prepares the keys; `None` where the algorithms have no lanes.
    ///
    /// # Errors
    /// [`WrongKeyLength`] if the keys do not fit the algorithms.
    pub fn new(
        kernel: Kernel,
        protection: Protection,
        keys: &SaKeys,
    ) -> Result<Option<BatchOpener>, WrongKeyLength> {
        let Some(mac) = mac(kernel, protection, keys)? else {
            return Ok(None);
        };
        let key = keys.encryption.as_bytes();
        let cipher = cbc::CbcDecryptor::new(kernel, protection.encryption, key);
        Ok(cipher.map(|cipher| BatchOpener {
            protection,
            cipher,
            mac,
        }))
    }

    /// Checks the ICV of every packet, in constant time, and decrypts in place those where it is right; the others are not
    /// touched. Each packet says what became of it.
    pub fn open(&self, packets: &mut [OpenJob<'_>]) {
        for group in packets.chunks_mut(MAX_LANES) {
            let icv_len = self.protection.icv_len();
            let mut messages = [HmacJob::default(); MAX_LANES];
            for (message, packet) in messages.iter_mut().zip(group.iter()) {
                *message = message_of(packet.bytes, icv_len, packet.esn_high);
            }
            self.mac.authenticate(live(&mut messages, group.len()));
            let mut tags = [[0; 32]; MAX_LANES];
            for (tag, message) in tags.iter_mut().zip(&messages) {
                *tag = message.tag;
            }
            for (tag, packet) in tags.iter().zip(group.iter_mut()) {
                packet.plaintext = self.finish(tag, packet.bytes);
            }
        }
    }

    /// Checks one packet against its tag and decrypts it.
    fn finish(&self, tag: &[u8], packet: &mut [u8]) -> Result<Range<usize>, OpenError> {
        let icv_len = self.protection.icv_len();
        let start = HEADER.saturating_add(IV);
        let end = packet.len().saturating_sub(icv_len);
        if end <= start {
            return Err(OpenError::TooShort);
        }
        if !end.saturating_sub(start).is_multiple_of(16) {
            return Err(OpenError::Misaligned);
        }
        let (sealed, icv) = packet
            .split_at_mut_checked(end)
            .ok_or(OpenError::TooShort)?;
        if !same(tag.get(..icv_len).unwrap_or_default(), icv) {
            return Err(OpenError::WrongIcv);
        }
        let rest = sealed.get_mut(HEADER..).unwrap_or_default();
        let (iv, text) = rest.split_first_chunk_mut().ok_or(OpenError::TooShort)?;
        self.cipher
            .decrypt(iv, text)
            .map_err(|_| OpenError::Misaligned)?;
        Ok(start..end)
    }
}

/// Whether two ICVs are the same, in constant time: those of up to sixteen bytes as one number each.
fn same(ours: &[u8], theirs: &[u8]) -> bool {
    let number = |icv: &[u8]| {
        let mut bytes = [0; 16];
        fill(&mut bytes, icv);
        u128::from_ne_bytes(bytes)
    };
    if ours.len() == theirs.len() && ours.len() <= 16 {
        number(ours).ct_eq(&number(theirs)).into()
    } else {
        equal(ours, theirs)
    }
}
