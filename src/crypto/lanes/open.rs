//! Opening ESP packets of one SA: what [`crate::crypto::Opener`] makes of each, with the ICVs of several checked in lanes.

use std::ops::Range;

use subtle::ConstantTimeEq;

use crate::crypto::keys::equal;
use crate::crypto::protect::{Forged, SaKeys, WrongKeyLength};
use crate::crypto::suite::Protection;

use super::Kernel;
use super::cbc;
use super::hmac::{Hmac, Message};
use super::padding::fill;
use super::seal::{GROUP, HEADER, IV, live, mac, message_of};

/// Authenticates and decrypts batches under the keys of one direction.
pub struct Opener {
    protection: Protection,
    cipher: cbc::Decryptor,
    mac: Hmac,
}

/// A packet to open.
pub struct Incoming<'a> {
    /// `ESP header ‖ IV ‖ ciphertext ‖ ICV`.
    pub bytes: &'a mut [u8],
    /// The high half of the sequence number where it is extended.
    pub esn_high: Option<u32>,
    /// Where in `bytes` the plaintext is, once opened. Before that, and for a packet that is refused, an error.
    pub plaintext: Result<Range<usize>, Forged>,
}

impl<'a> Incoming<'a> {
    /// One that is still to be opened.
    pub fn new(bytes: &'a mut [u8], esn_high: Option<u32>) -> Incoming<'a> {
        Incoming {
            bytes,
            esn_high,
            plaintext: Err(Forged::TooShort),
        }
    }
}

impl Opener {
    /// Prepares the keys; `None` where the algorithms have no lanes.
    ///
    /// # Errors
    /// [`WrongKeyLength`] if the keys do not fit the algorithms.
    pub fn new(
        kernel: Kernel,
        protection: Protection,
        keys: &SaKeys,
    ) -> Result<Option<Opener>, WrongKeyLength> {
        let Some(mac) = mac(kernel, protection, keys)? else {
            return Ok(None);
        };
        let key = keys.encryption.as_bytes();
        let cipher = cbc::Decryptor::new(kernel, protection.encryption, key);
        Ok(cipher.map(|cipher| Opener {
            protection,
            cipher,
            mac,
        }))
    }

    /// Checks the ICV of every packet, in constant time, and decrypts in place those where it is right; the others are not
    /// touched. Each packet says what became of it.
    pub fn open(&self, packets: &mut [Incoming<'_>]) {
        for group in packets.chunks_mut(GROUP) {
            let icv_len = self.protection.icv_len();
            let mut messages = [Message::default(); GROUP];
            for (message, packet) in messages.iter_mut().zip(group.iter()) {
                *message = message_of(packet.bytes, icv_len, packet.esn_high);
            }
            self.mac.authenticate(live(&mut messages, group.len()));
            let mut tags = [[0; 32]; GROUP];
            for (tag, message) in tags.iter_mut().zip(&messages) {
                *tag = message.tag;
            }
            for (tag, packet) in tags.iter().zip(group.iter_mut()) {
                packet.plaintext = self.finish(tag, packet.bytes);
            }
        }
    }

    /// Checks one packet against its tag and decrypts it.
    fn finish(&self, tag: &[u8], packet: &mut [u8]) -> Result<Range<usize>, Forged> {
        let icv_len = self.protection.icv_len();
        let start = HEADER.saturating_add(IV);
        let end = packet.len().saturating_sub(icv_len);
        if end <= start {
            return Err(Forged::TooShort);
        }
        if !end.saturating_sub(start).is_multiple_of(16) {
            return Err(Forged::Misaligned);
        }
        let (sealed, icv) = packet.split_at_mut_checked(end).ok_or(Forged::TooShort)?;
        if !same(tag.get(..icv_len).unwrap_or_default(), icv) {
            return Err(Forged::WrongIcv);
        }
        let rest = sealed.get_mut(HEADER..).unwrap_or_default();
        let (iv, text) = rest.split_first_chunk_mut().ok_or(Forged::TooShort)?;
        self.cipher
            .decrypt(iv, text)
            .map_err(|_| Forged::Misaligned)?;
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
