//! Guard of an outbound SA: turns inner packets into ESP packets in the buffer that is sent.
//!
//! ```text
//!   frame     SPI, sequence number │ (IV) │ inner packet │ padding, pad length, next header │ (ICV)     one packet
//!   seal_all  encrypts and authenticates contiguous packets                                             several in parallel
//! ```
//!
//! The steps are separate because AES-CBC with HMAC is several times faster over packets in parallel
//! ([`lanes`](crate::crypto::lanes)).

use std::sync::MutexGuard;
use std::sync::atomic::Ordering::Relaxed;

use super::lifetime::{LifetimeState, Usage};
use super::{HEADER, Outbound, trailer};
use crate::crypto::Esn;
use crate::crypto::lanes::{MAX_LANES, SealJob};
use crate::net::{DropReason, Packet};

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
mod tests {
    use super::*;
    use crate::esp::testing::{SUITES, pair, seal, udp4};

    #[test]
    fn parallel_and_single_sealing_have_equal_results() {
        for words in SUITES
            .iter()
            .chain(&["aes128-sha1-esn", "aes256-sha256-esn"])
        {
            let (together, _) = pair(words);
            let (alone, _) = pair(words);
            for count in [1, 2, 15, 16, 17, 46] {
                let packets: Vec<_> = (0..count).map(|n| udp4(28 + n * 29)).collect();
                let lens = packets.iter().map(|inner| together.sealed_len(inner.len()));
                let mut room = vec![0; lens.sum()];
                let mut rest = &mut room[..];
                let mut guard = together.lock();
                let framed: Vec<_> = packets
                    .iter()
                    .map(|inner| {
                        let packet = Packet::parse(inner).unwrap();
                        let room = cut(&mut rest, together.sealed_len(inner.len())).unwrap();
                        room[together.payload(inner.len())].copy_from_slice(inner);
                        guard.frame(&packet, inner.len(), room).unwrap()
                    })
                    .collect();
                guard.seal_all(&framed, &mut room).unwrap();
                drop(guard);
                let expected: Vec<_> = packets.iter().map(|inner| seal(&alone, inner)).collect();
                assert!(room == expected.concat(), "{words} {count}");
            }
            assert_eq!(together.sent().packets(), alone.sent().packets());
            assert_eq!(together.sent().bytes(), alone.sent().bytes());
        }
    }

    #[test]
    fn packets_that_do_not_match_the_buffer_are_not_sealed() {
        let (outbound, _) = pair("aes128-sha1");
        let inner = udp4(60);
        let packet = Packet::parse(&inner).unwrap();
        let mut room = vec![0; outbound.sealed_len(60)];
        let mut guard = outbound.lock();
        let framed = guard.frame(&packet, 60, &mut room).unwrap();
        assert_eq!(
            guard.seal_all(&[framed, framed], &mut room),
            Err(DropReason::Overflow)
        );
        for len in [0, 61] {
            let framed = guard.frame(&packet, 60, &mut room[..len]);
            assert_eq!(framed.unwrap_err(), DropReason::Overflow);
        }
        drop(guard);
        assert_eq!(outbound.sequence(), 1, "a failure uses no number");
    }

    #[test]
    fn the_shared_counters_are_updated_at_the_end_of_the_batch() {
        let (outbound, _) = pair("aes128gcm16");
        let inner = udp4(60);
        let packet = Packet::parse(&inner).unwrap();
        let mut room = vec![0; outbound.sealed_len(60)];
        let mut guard = outbound.lock();
        for _ in 0..3 {
            guard.frame(&packet, 60, &mut room).unwrap();
        }
        assert_eq!(outbound.sequence(), 0);
        drop(guard);
        assert_eq!(outbound.sequence(), 3);
        assert_eq!(
            (outbound.sent().packets(), outbound.sent().bytes()),
            (3, 180)
        );
    }
}
