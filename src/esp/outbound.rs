//! Outbound SAs: keys, selectors and counts.
//!
//! ```text
//!   Outbound ──lock──▶ OutboundGuard     one worker at a time, for a batch; the counts are published at its end
//! ```
//!
//! [`OutboundGuard`] turns inner packets into ESP packets in the buffer that is sent:
//!
//! ```text
//!   frame     SPI, sequence number │ (IV) │ inner packet │ padding, pad length, next header │ (ICV)     one packet
//!   seal_all  encrypts and authenticates contiguous packets                                             several in parallel
//! ```
//!
//! The steps are separate because AES-CBC with HMAC is several times faster over packets in parallel
//! ([`lanes`](crate::crypto::lanes)).

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::lifetime::{Lifetime, LifetimeState, Limits, Usage};
use super::{HEADER, Traffic, alignment, trailer};
use crate::crypto::lanes::{self, Kernel, MAX_LANES, SealJob};
use crate::crypto::{Esn, EspSuite, IvKey, SaKeys, Sealer, WrongKeyLength};
use crate::net::{DropReason, Packet, Policy};

/// Outbound SA: keys, selectors and the sequence number, which starts at 1 and never repeats.
///
/// One worker seals for an SA: a second one would send out of order, and a peer with a small replay window would drop late
/// packets. The lock ensures that no two packets share a sequence number, which is the nonce of an AEAD.
pub struct Outbound {
    pub(super) spi: u32,
    pub(super) suite: EspSuite,
    /// The alignment of the encrypted part at which the cipher is fastest.
    fast_alignment: usize,
    pub(super) sealer: Sealer,
    /// Multi-buffer kernel, for suites that have one.
    pub(super) lanes: Option<lanes::BatchSealer>,
    policy: Policy,
    pub(super) lifetime: Lifetime,
    used: Mutex<Counted>,
    /// Last sequence number, as of the last batch.
    pub(super) number: AtomicU64,
    pub(super) sent: Traffic,
}

/// Transform ID of AES-GCM with an ICV of 16 octets (RFC 4106 §8).
const ENCR_AES_GCM_16: u16 = 20;

/// Octets of an AES block.
const AES_BLOCK: usize = 16;

impl Outbound {
    /// Creates an SA. `iv_key` makes the IVs of block ciphers unpredictable; it is not shared with the peer.
    ///
    /// # Errors
    /// The keys have the wrong length for the suite.
    pub fn new(
        spi: u32,
        suite: EspSuite,
        keys: &SaKeys,
        iv_key: &IvKey,
        policy: Policy,
    ) -> Result<Outbound, WrongKeyLength> {
        let sealer = Sealer::new(suite.protection, keys, iv_key)?;
        let lanes = lanes::BatchSealer::new(Kernel::best(), suite.protection, keys, iv_key)?;
        let lifetime = Lifetime::new(suite.esn);
        let fast_alignment = match suite.protection.encryption.id {
            ENCR_AES_GCM_16 => AES_BLOCK,
            _ => alignment(suite.protection),
        };
        Ok(Outbound {
            spi,
            suite,
            fast_alignment,
            sealer,
            lanes,
            policy,
            lifetime,
            used: Mutex::default(),
            number: AtomicU64::new(0),
            sent: Traffic::default(),
        })
    }

    /// The same SA with limits.
    #[must_use]
    pub fn limited(mut self, limits: Limits) -> Outbound {
        self.lifetime = Lifetime::limited(self.suite.esn, limits);
        self
    }

    /// SPI, chosen by the peer.
    pub fn spi(&self) -> u32 {
        self.spi
    }

    /// Algorithms.
    pub fn suite(&self) -> EspSuite {
        self.suite
    }

    /// Packets and octets sent.
    pub fn sent(&self) -> &Traffic {
        &self.sent
    }

    /// Last sequence number, as of the last batch; 0 before the first.
    pub fn sequence(&self) -> u64 {
        self.number.load(Relaxed)
    }

    /// Lifetime state.
    pub fn stage(&self) -> LifetimeState {
        self.lifetime.stage(Usage {
            sequence: self.sequence(),
            packets: self.sequence(),
            bytes: self.sent.bytes(),
        })
    }

    /// Traffic selectors.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Whether the selectors cover a packet to send.
    pub fn permits(&self, packet: &Packet<'_>) -> bool {
        self.policy.permits_outbound(packet)
    }

    /// Octets of the ESP packet around an inner packet of `inner` octets with minimum padding.
    pub fn sealed_len(&self, inner: usize) -> usize {
        self.aligned_len(inner, alignment(self.suite.protection))
    }

    /// Octets of the ESP packet with the padding that is fastest to encrypt, where that keeps within `longest`. AES-GCM is a tenth
    /// slower when the plaintext does not end on a block of AES; other ciphers gain nothing by more padding than they need.
    pub fn padded_len(&self, inner: usize, longest: usize) -> usize {
        let roomy = self.aligned_len(inner, self.fast_alignment);
        if roomy <= longest {
            roomy
        } else {
            self.sealed_len(inner)
        }
    }

    /// Where an inner packet of `inner` octets lies in its ESP packet: behind SPI, sequence number and IV.
    #[inline]
    pub fn payload(&self, inner: usize) -> Range<usize> {
        let start = HEADER.saturating_add(self.suite.protection.iv_len());
        start..start.saturating_add(inner)
    }

    fn aligned_len(&self, inner: usize, align: usize) -> usize {
        self.envelope()
            .saturating_add(inner)
            .saturating_add(trailer::len(inner, align))
    }

    /// Octets around the encrypted part.
    pub(super) fn envelope(&self) -> usize {
        let protection = self.suite.protection;
        HEADER
            .saturating_add(protection.iv_len())
            .saturating_add(protection.icv_len())
    }

    /// Locks the SA for a batch.
    pub fn lock(&self) -> OutboundGuard<'_> {
        // The counts are consistent after every step, so a poisoned lock is usable.
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        OutboundGuard::new(self, used)
    }

    /// Seals `packet` into the front of `room` and returns the length of the ESP packet, [`sealed_len`](Outbound::sealed_len).
    ///
    /// # Errors
    /// See [`OutboundGuard::frame`].
    pub fn seal(&self, packet: &Packet<'_>, room: &mut [u8]) -> Result<usize, DropReason> {
        let room = room
            .get_mut(..self.sealed_len(packet.len()))
            .ok_or(DropReason::Overflow)?;
        let mut guard = self.lock();
        room.get_mut(self.payload(packet.len()))
            .ok_or(DropReason::Overflow)?
            .copy_from_slice(packet.bytes());
        let laid = guard.frame(packet, packet.len(), room)?;
        guard.seal_all(&[laid], room)?;
        Ok(room.len())
    }

    /// Sets the sequence number as if `sequence` numbers were used.
    #[cfg(test)]
    pub(crate) fn pretend_used(&self, sequence: u64) {
        self.lock().pretend_used(sequence);
    }
}

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Outbound {{ spi: {:08x}, suite: {}, sequence: {} }}",
            self.spi,
            self.suite,
            self.sequence()
        )
    }
}

/// Outbound SA locked for a batch of packets.
pub struct OutboundGuard<'a> {
    sa: &'a Outbound,
    used: MutexGuard<'a, Counted>,
    /// Counts before the batch.
    before: Counted,
}

/// Sequence numbers, one for each packet, and octets of inner packets.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counted {
    sequence: u64,
    bytes: u64,
}

/// ESP packet with a sequence number, not sealed yet.
#[derive(Clone, Copy, Debug)]
pub struct FramedPacket {
    sequence: u64,
    /// Octets of the ESP packet.
    len: usize,
}

impl<'a> OutboundGuard<'a> {
    /// Packets that fill the multi-buffer kernel and fit the L1 cache.
    pub const GROUP: usize = MAX_LANES;

    pub(super) fn new(sa: &'a Outbound, used: MutexGuard<'a, Counted>) -> OutboundGuard<'a> {
        let before = *used;
        OutboundGuard { sa, used, before }
    }

    /// Lifetime state.
    pub fn stage(&self) -> LifetimeState {
        self.sa.lifetime.stage(self.carried())
    }

    /// Gives a packet its sequence number and writes the ESP header and trailer around the inner packet, which `room` already holds at
    /// [`payload`](Outbound::payload). `room` has [`sealed_len`](Outbound::sealed_len) or [`padded_len`](Outbound::padded_len) octets.
    /// `like` is the inner packet, or the packet of which it is a part. The packet is in the clear until
    /// [`seal_all`](OutboundGuard::seal_all).
    ///
    /// # Errors
    /// [`DropReason::Overflow`] if `room` has another length, [`DropReason::SequenceExhausted`] after the last sequence number,
    /// [`DropReason::Expired`] once the SA has reached a hard limit. No sequence number is used then.
    #[inline]
    pub fn frame(
        &mut self,
        like: &Packet<'_>,
        inner: usize,
        room: &mut [u8],
    ) -> Result<FramedPacket, DropReason> {
        self.sa.lifetime.admits(self.carried())?;
        let len = room.len();
        let protection = self.sa.suite.protection;
        let sequence = self.used.sequence.saturating_add(1);

        // a. The header: SPI and the low half of the sequence number. The cipher writes the IV.
        let (spi, rest) = room
            .split_first_chunk_mut::<4>()
            .ok_or(DropReason::Overflow)?;
        let (number, rest) = rest
            .split_first_chunk_mut::<4>()
            .ok_or(DropReason::Overflow)?;
        *spi = self.sa.spi.to_be_bytes();
        *number = (sequence as u32).to_be_bytes();

        // b. The inner packet is in its place.
        let trailer_at = protection.iv_len().saturating_add(inner);
        let (_iv_and_inner, rest) = rest
            .split_at_mut_checked(trailer_at)
            .ok_or(DropReason::Overflow)?;

        // c. The trailer: padding, pad length, next header. The cipher writes the ICV.
        let trailer = rest
            .len()
            .checked_sub(protection.icv_len())
            .and_then(|len| rest.get_mut(..len))
            .ok_or(DropReason::Overflow)?;
        let next = if like.is_ipv4() {
            trailer::IPV4
        } else {
            trailer::IPV6
        };
        trailer::write(trailer, next).ok_or(DropReason::Overflow)?;

        self.used.sequence = sequence;
        self.used.bytes = self.used.bytes.saturating_add(inner as u64);
        Ok(FramedPacket { sequence, len })
    }

    /// Seals framed packets that are contiguous from the start of `room`.
    ///
    /// # Errors
    /// [`DropReason::Overflow`] if their lengths do not match `room`; none of them may be sent then.
    pub fn seal_all(&self, framed: &[FramedPacket], room: &mut [u8]) -> Result<(), DropReason> {
        let mut rest = room;
        match &self.sa.lanes {
            // A single packet gains nothing from the multi-buffer kernel.
            Some(lanes) if framed.len() > 1 => framed.chunks(MAX_LANES).try_for_each(|group| {
                let mut packets: [SealJob<'_>; MAX_LANES] = Default::default();
                for (packet, framed) in packets.iter_mut().zip(group) {
                    *packet = SealJob {
                        bytes: cut(&mut rest, framed.len)?,
                        counter: framed.sequence,
                        esn_high: self.high(framed.sequence),
                    };
                }
                let packets = packets.get_mut(..group.len()).ok_or(DropReason::Overflow)?;
                lanes.seal(packets).map_err(|_| DropReason::Overflow)
            }),
            Some(_) | None => framed.iter().try_for_each(|framed| {
                let packet = cut(&mut rest, framed.len)?;
                self.sa
                    .sealer
                    .seal(packet, HEADER, framed.sequence, self.high(framed.sequence))
                    .map_err(|_| DropReason::Overflow)
            }),
        }
    }

    /// High half of the sequence number, which is authenticated but not sent.
    fn high(&self, sequence: u64) -> Option<u32> {
        match self.sa.suite.esn {
            Esn::No => None,
            Esn::Yes => Some((sequence >> 32) as u32),
        }
    }

    fn carried(&self) -> Usage {
        Usage {
            sequence: self.used.sequence,
            packets: self.used.sequence,
            bytes: self.used.bytes,
        }
    }

    /// Sets the sequence number as if `sequence` numbers were used.
    #[cfg(test)]
    pub(super) fn pretend_used(&mut self, sequence: u64) {
        self.used.sequence = sequence;
        self.before.sequence = sequence;
    }
}

/// The shared counters are updated once a batch.
impl Drop for OutboundGuard<'_> {
    fn drop(&mut self) {
        let Counted { sequence, bytes } = *self.used;
        self.sa.number.store(sequence, Relaxed);
        let packets = sequence.saturating_sub(self.before.sequence);
        if packets > 0 {
            let bytes = bytes.saturating_sub(self.before.bytes);
            self.sa.sent.add(packets, bytes);
        }
    }
}

/// Splits the next `len` octets off the front.
fn cut<'a>(rest: &mut &'a mut [u8], len: usize) -> Result<&'a mut [u8], DropReason> {
    let (packet, after) = std::mem::take(rest)
        .split_at_mut_checked(len)
        .ok_or(DropReason::Overflow)?;
    *rest = after;
    Ok(packet)
}

#[cfg(test)]
mod guard_tests;
#[cfg(test)]
mod tests;
