//! Inner packets become ESP packets, many under one outbound SA, sealed where they will leave from. The mirror image is
//! [`guard`](super::guard).
//!
//! ```text
//!   frame   SPI, number ‖ room for the IV ‖ inner packet ‖ padding ‖ room for the ICV      a packet gets its number and place
//!   seal_all  ▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓│▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓│▓▓▓▓▓▓▓▓▓▓▓▓ …       some of them, side by side, at once
//! ```
//!
//! Laying out and guard are two steps because AES-CBC with HMAC is several times faster over packets in parallel
//! ([`lanes`](crate::crypto::lanes)).

use std::sync::MutexGuard;
use std::sync::atomic::Ordering::Relaxed;

use super::lifetime::{LifetimeState, Usage};
use super::{HEADER, Outbound, trailer};
use crate::crypto::Esn;
use crate::crypto::lanes::{MAX_LANES, SealJob};
use crate::net::{DropReason, Packet};

/// An outbound SA held for a batch of packets.
pub struct OutboundGuard<'a> {
    sa: &'a Outbound,
    used: MutexGuard<'a, Counted>,
    /// What it had carried before.
    before: Counted,
}

/// What an SA has carried: sequence numbers, each of them one packet's, and octets of inner packets.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counted {
    sequence: u64,
    bytes: u64,
}

/// An ESP packet that has its number and its place, but is still to be sealed.
#[derive(Clone, Copy, Debug)]
pub struct FramedPacket {
    sequence: u64,
    /// Octets of the whole ESP packet.
    len: usize,
}

impl<'a> OutboundGuard<'a> {
    /// So many packets laid out are worth guard: they fill the lanes, and the first-level cache still holds them.
    pub const GROUP: usize = MAX_LANES;

    pub(super) fn new(sa: &'a Outbound, used: MutexGuard<'a, Counted>) -> OutboundGuard<'a> {
        let before = *used;
        OutboundGuard { sa, used, before }
    }

    /// Whether the SA should be replaced, or has ended.
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

    /// Seals packets that lie side by side from the start of `room`, each as it was laid out.
    ///
    /// # Errors
    /// [`DropReason::Overflow`] if they do not fill `room` as they should; then none of them may leave.
    pub fn seal_all(&self, laid: &[FramedPacket], room: &mut [u8]) -> Result<(), DropReason> {
        let mut rest = room;
        match &self.sa.lanes {
            // One alone has nobody to share the lanes with.
            Some(lanes) if laid.len() > 1 => laid.chunks(MAX_LANES).try_for_each(|group| {
                let mut packets: [SealJob<'_>; MAX_LANES] = Default::default();
                for (packet, laid) in packets.iter_mut().zip(group) {
                    *packet = SealJob {
                        bytes: cut(&mut rest, laid.len)?,
                        counter: laid.sequence,
                        esn_high: self.high(laid.sequence),
                    };
                }
                let packets = packets.get_mut(..group.len()).ok_or(DropReason::Overflow)?;
                lanes.seal(packets).map_err(|_| DropReason::Overflow)
            }),
            Some(_) | None => laid.iter().try_for_each(|laid| {
                let packet = cut(&mut rest, laid.len)?;
                self.sa
                    .sealer
                    .seal(packet, HEADER, laid.sequence, self.high(laid.sequence))
                    .map_err(|_| DropReason::Overflow)
            }),
        }
    }

    /// The half of the number that is authenticated and does not travel.
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

    /// Pretends that `sequence` numbers have been used.
    #[cfg(test)]
    pub(super) fn pretend_used(&mut self, sequence: u64) {
        self.used.sequence = sequence;
        self.before.sequence = sequence;
    }
}

/// What others read is written once a batch.
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

/// Takes the next `len` octets off the front.
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
    fn several_sealed_at_once_are_what_each_would_be_alone() {
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
                let laid: Vec<_> = packets
                    .iter()
                    .map(|inner| {
                        let packet = Packet::parse(inner).unwrap();
                        let room = cut(&mut rest, together.sealed_len(inner.len())).unwrap();
                        room[together.payload(inner.len())].copy_from_slice(inner);
                        guard.frame(&packet, inner.len(), room).unwrap()
                    })
                    .collect();
                guard.seal_all(&laid, &mut room).unwrap();
                drop(guard);
                let expected: Vec<_> = packets.iter().map(|inner| seal(&alone, inner)).collect();
                assert!(room == expected.concat(), "{words} {count}");
            }
            assert_eq!(together.sent().packets(), alone.sent().packets());
            assert_eq!(together.sent().bytes(), alone.sent().bytes());
        }
    }

    #[test]
    fn what_does_not_fit_its_room_is_not_sealed() {
        let (outbound, _) = pair("aes128-sha1");
        let inner = udp4(60);
        let packet = Packet::parse(&inner).unwrap();
        let mut room = vec![0; outbound.sealed_len(60)];
        let mut guard = outbound.lock();
        let laid = guard.frame(&packet, 60, &mut room).unwrap();
        assert_eq!(
            guard.seal_all(&[laid, laid], &mut room),
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
    fn what_others_read_is_written_when_the_batch_ends() {
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
