//! Batches of ESP packets of one SA, with the same result as [`Sealer`](crate::crypto::Sealer) and
//! [`Opener`](crate::crypto::Opener) for each packet.
//!
//! ```text
//!   packet 1   SPI, sequence ‖ IV ‖ text ‖ ICV    1. IVs: counters, encrypted under the IV key
//!   packet 2   SPI, sequence ‖ IV ‖ text ‖ ICV    2. texts, in lanes
//!   …                                             3. ICVs, in lanes, while the texts are in the first-level cache
//! ```

use std::ops::Range;

use subtle::ConstantTimeEq;

use crate::crypto::keys::{IvKey, equal};
use crate::crypto::protect::{OpenError, Protection, SaKeys, SealError, WrongKeyLength};
use crate::crypto::registry::encryption;

use super::cbc::{CbcDecryptor, CbcEncryptor, CbcJob, NotBlocks};
use super::hmac::{BatchHmac, HmacJob, copy_prefix};
use super::kernel::Kernel;

/// Bytes before the IV: SPI and sequence number.
const HEADER: usize = 8;

/// Bytes of the IV.
const IV: usize = 16;

/// Packets of one group: the lanes of the widest kernel.
pub const MAX_LANES: usize = 16;

/// ENCR_AES_CBC.
const AES_CBC: u16 = 12;

/// Encrypts and authenticates batches under the keys of one direction.
pub struct BatchSealer {
    protection: Protection,
    iv_cipher: CbcEncryptor,
    cipher: CbcEncryptor,
    mac: BatchHmac,
}

/// A packet to seal.
#[derive(Default)]
pub struct SealJob<'a> {
    /// `ESP header ‖ room for the IV ‖ plaintext, padded ‖ room for the ICV`, as for [`crate::crypto::Sealer::seal`].
    pub bytes: &'a mut [u8],
    /// The 64-bit sequence number, which never repeats under one key.
    pub counter: u64,
    /// The high half of an extended sequence number.
    pub esn_high: Option<u32>,
}

impl BatchSealer {
    /// Prepares the keys; `None` for algorithms without multi-buffer kernels.
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
        let iv_cipher = CbcEncryptor::new(kernel, row, iv_key.as_bytes()).ok_or(WrongKeyLength)?;
        let key = keys.encryption.as_bytes();
        let cipher = CbcEncryptor::new(kernel, protection.encryption, key);
        Ok(cipher.map(|cipher| BatchSealer {
            protection,
            iv_cipher,
            cipher,
            mac,
        }))
    }

    /// Seals every packet in place.
    ///
    /// # Errors
    /// The error of the first packet that has no room or is not padded; then no packet is changed.
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

    fn seal_group(&self, group: &mut [SealJob<'_>], icv_len: usize) -> Result<(), NotBlocks> {
        let count = group.len();

        // 1.
        let mut ivs = [[0; IV]; MAX_LANES];
        for (iv, packet) in ivs.iter_mut().zip(group.iter()) {
            if let Some(low) = iv.last_chunk_mut() {
                *low = packet.counter.to_be_bytes();
            }
        }
        self.iv_cipher.encrypt_blocks(&mut ivs);

        // 2.
        let mut jobs: [CbcJob<'_>; MAX_LANES] = Default::default();
        for ((job, iv), packet) in jobs.iter_mut().zip(ivs).zip(group.iter_mut()) {
            let room = packet.bytes.get_mut(HEADER..).unwrap_or_default();
            if let Some((room, rest)) = room.split_first_chunk_mut() {
                *room = iv;
                let text = rest.len().saturating_sub(icv_len);
                *job = CbcJob {
                    iv,
                    text: rest.get_mut(..text).unwrap_or_default(),
                };
            }
        }
        self.cipher.encrypt(live(&mut jobs, count))?;

        // 3.
        let mut messages = [HmacJob::default(); MAX_LANES];
        for (message, packet) in messages.iter_mut().zip(group.iter()) {
            *message = authenticated(packet.bytes, icv_len, packet.esn_high);
        }
        self.mac.authenticate(live(&mut messages, count));
        let mut tags = [[0; 32]; MAX_LANES];
        for (tag, message) in tags.iter_mut().zip(&messages) {
            *tag = message.tag;
        }
        for (tag, packet) in tags.iter().zip(group.iter_mut()) {
            let covered = packet.bytes.len().saturating_sub(icv_len);
            let icv = packet.bytes.get_mut(covered..).unwrap_or_default();
            copy_prefix(icv, tag.get(..icv_len).unwrap_or_default());
        }
        Ok(())
    }
}

/// Authenticates and decrypts batches under the keys of one direction.
pub struct BatchOpener {
    protection: Protection,
    cipher: CbcDecryptor,
    mac: BatchHmac,
}

/// A packet to open.
pub struct OpenJob<'a> {
    /// `ESP header ‖ IV ‖ ciphertext ‖ ICV`.
    pub bytes: &'a mut [u8],
    /// The high half of an extended sequence number.
    pub esn_high: Option<u32>,
    /// The position of the plaintext in `bytes` once the packet is opened; an error before that, and for a packet that fails.
    pub plaintext: Result<Range<usize>, OpenError>,
}

impl<'a> OpenJob<'a> {
    /// A packet that is not opened yet.
    pub fn new(bytes: &'a mut [u8], esn_high: Option<u32>) -> OpenJob<'a> {
        OpenJob {
            bytes,
            esn_high,
            plaintext: Err(OpenError::TooShort),
        }
    }
}

impl BatchOpener {
    /// Prepares the keys; `None` for algorithms without multi-buffer kernels.
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
        let cipher = CbcDecryptor::new(kernel, protection.encryption, key);
        Ok(cipher.map(|cipher| BatchOpener {
            protection,
            cipher,
            mac,
        }))
    }

    /// Checks the ICV of every packet in constant time and decrypts in place those whose ICV matches. The others are unchanged. The
    /// result of each packet is in its `plaintext`.
    pub fn open(&self, packets: &mut [OpenJob<'_>]) {
        for group in packets.chunks_mut(MAX_LANES) {
            let icv_len = self.protection.icv_len();
            let mut messages = [HmacJob::default(); MAX_LANES];
            for (message, packet) in messages.iter_mut().zip(group.iter()) {
                *message = authenticated(packet.bytes, icv_len, packet.esn_high);
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

    /// Compares the ICV of one packet with its tag and decrypts the packet.
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
        if !icv_matches(tag.get(..icv_len).unwrap_or_default(), icv) {
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

/// The slots of a group that are in use.
fn live<T>(slots: &mut [T; MAX_LANES], count: usize) -> &mut [T] {
    slots.get_mut(..count).unwrap_or_default()
}

/// The part of a packet that its ICV covers.
fn authenticated(packet: &[u8], icv_len: usize, esn_high: Option<u32>) -> HmacJob<'_> {
    let covered = packet.len().saturating_sub(icv_len);
    HmacJob {
        bytes: packet.get(..covered).unwrap_or_default(),
        tail: esn_high.map(u32::to_be_bytes),
        tag: [0; 32],
    }
}

/// The keyed HMAC of `protection`; `None` if its hash has no multi-buffer kernels.
fn mac(
    kernel: Kernel,
    protection: Protection,
    keys: &SaKeys,
) -> Result<Option<BatchHmac>, WrongKeyLength> {
    protection.check_keys(keys)?;
    Ok(protection
        .integrity
        .and_then(|row| BatchHmac::new(kernel, row, keys.integrity.as_bytes())))
}

/// Compares two ICVs in constant time; those of up to sixteen bytes as one number each.
fn icv_matches(expected: &[u8], icv: &[u8]) -> bool {
    let number = |icv: &[u8]| {
        let mut bytes = [0; 16];
        copy_prefix(&mut bytes, icv);
        u128::from_ne_bytes(bytes)
    };
    if expected.len() == icv.len() && expected.len() <= 16 {
        number(expected).ct_eq(&number(icv)).into()
    } else {
        equal(expected, icv)
    }
}
