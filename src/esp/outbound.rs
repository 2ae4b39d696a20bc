//! The sending half: inner packets become ESP packets, sealed where they will leave from.
//!
//! ```text
//!   lay_out   SPI, number ‖ room for the IV ‖ inner packet ‖ padding ‖ room for the ICV      a packet gets its number and place
//!   seal_all  ▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓│▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓│▓▓▓▓▓▓▓▓▓▓▓▓ …       some of them, side by side, at once
//! ```
//!
//! Laying out and sealing are two steps because AES-CBC with HMAC is several times faster over packets in parallel
//! ([`lanes`](crate::crypto::lanes)).

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::lifetime::{Carried, Lifetime, Limits, Stage};
use super::{HEADER, Traffic, alignment, trailer};
use crate::crypto::lanes::{self, Kernel, Outgoing};
use crate::crypto::{Esn, EspSuite, SaKeys, Sealer, WrongKeyLength};
use crate::net::{Packet, Policy, Refusal};

/// An outbound SA: keys, selectors and the sequence number, which starts at 1 and is never used twice.
///
/// By design one worker seals for one SA, for a second one would send out of order and a peer with a small replay window would
/// drop what comes late. Two that did it all the same would still never share a number (and so, under an AEAD, a nonce).
pub struct Outbound {
    spi: u32,
    suite: EspSuite,
    sealer: Sealer,
    /// What seals several at once, for suites that gain by it.
    lanes: Option<lanes::Sealer>,
    policy: Policy,
    lifetime: Lifetime,
    used: AtomicU64,
    sent: Traffic,
}

/// An ESP packet that has its number and its place, but is still to be sealed.
#[derive(Clone, Copy, Debug)]
pub struct Laid {
    sequence: u64,
    /// Octets of the whole ESP packet.
    len: usize,
}

impl Outbound {
    /// So many packets laid out are worth sealing: they fill the lanes, and the first-level cache still holds them.
    pub const GROUP: usize = lanes::GROUP;

    /// An SA that has sent nothing yet. `iv_key` makes the IVs of block ciphers unpredictable; it is no key of the peer's.
    ///
    /// # Errors
    /// The keys are not of the length the suite has.
    pub fn new(
        spi: u32,
        suite: EspSuite,
        keys: &SaKeys,
        iv_key: [u8; 16],
        policy: Policy,
    ) -> Result<Outbound, WrongKeyLength> {
        let sealer = Sealer::new(suite.protection, keys, iv_key)?;
        let lanes = lanes::Sealer::new(Kernel::best(), suite.protection, keys, iv_key)?;
        let lifetime = Lifetime::new(suite.esn);
        Ok(Outbound {
            spi,
            suite,
            sealer,
            lanes,
            policy,
            lifetime,
            used: AtomicU64::new(0),
            sent: Traffic::default(),
        })
    }

    /// The same SA, allowed to carry no more than this.
    #[must_use]
    pub fn limited(mut self, limits: Limits) -> Outbound {
        self.lifetime = Lifetime::limited(self.suite.esn, limits);
        self
    }

    /// The peer's name for this SA.
    pub fn spi(&self) -> u32 {
        self.spi
    }

    /// The algorithms.
    pub fn suite(&self) -> EspSuite {
        self.suite
    }

    /// What it has carried.
    pub fn sent(&self) -> &Traffic {
        &self.sent
    }

    /// The last sequence number used; 0 before the first.
    pub fn sequence(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// Whether it should be replaced, or has ended.
    pub fn stage(&self) -> Stage {
        self.lifetime.stage(self.carried(self.sequence()))
    }

    /// What it has carried, once `sequence` numbers are used: every number is one packet.
    fn carried(&self, sequence: u64) -> Carried {
        Carried {
            sequence,
            packets: sequence,
            bytes: self.sent.bytes(),
        }
    }

    /// Whether the negotiated selectors cover a packet that leaves.
    pub fn permits(&self, packet: &Packet<'_>) -> bool {
        self.policy.permits_outbound(packet)
    }

    /// Octets of the ESP packet around an inner packet of `inner` octets.
    pub fn sealed_len(&self, inner: usize) -> usize {
        let protection = self.suite.protection;
        [
            HEADER,
            protection.iv_len(),
            inner,
            trailer::len(inner, alignment(protection)),
            protection.icv_len(),
        ]
        .iter()
        .fold(0, |sum, part| sum.saturating_add(*part))
    }

    /// Seals `packet` into the front of `room` and says how much of it the ESP packet fills:
    /// [`sealed_len`](Outbound::sealed_len).
    ///
    /// # Errors
    /// Those of [`lay_out`](Outbound::lay_out).
    pub fn seal(&self, packet: &Packet<'_>, room: &mut [u8]) -> Result<usize, Refusal> {
        let laid = self.lay_out(packet, packet.len(), room, |inner| {
            inner.copy_from_slice(packet.bytes());
            true
        })?;
        self.seal_all(&[laid], room)?;
        Ok(laid.len)
    }

    /// Gives a packet of `inner` octets its number and lays it out at the front of `room`: `write` puts it there, and says whether
    /// it could. It is of the family that `like` has, the packet it is or is a part of. Until [`seal_all`](Outbound::seal_all) it
    /// is in the clear and must not leave.
    ///
    /// # Errors
    /// [`Refusal::Overflow`] if the room is too small or `write` failed, [`Refusal::SequenceExhausted`] when no number may be used
    /// any more, [`Refusal::Expired`] when the SA has carried as much as it may.
    pub fn lay_out(
        &self,
        like: &Packet<'_>,
        inner: usize,
        room: &mut [u8],
        write: impl FnOnce(&mut [u8]) -> bool,
    ) -> Result<Laid, Refusal> {
        let room = room
            .get_mut(..self.sealed_len(inner))
            .ok_or(Refusal::Overflow)?;
        let sequence = self.next_sequence()?;
        let next = if like.is_ipv4() {
            trailer::IPV4
        } else {
            trailer::IPV6
        };
        let len = room.len();
        self.fill(sequence, inner, next, room, write)
            .ok_or(Refusal::Overflow)?;
        self.sent.add(1, inner as u64);
        Ok(Laid { sequence, len })
    }

    /// Seals packets that lie side by side from the start of `room`, each as it was laid out.
    ///
    /// # Errors
    /// [`Refusal::Overflow`] if they do not fill `room` as they should; then none of them may leave.
    pub fn seal_all(&self, laid: &[Laid], room: &mut [u8]) -> Result<(), Refusal> {
        let mut rest = room;
        match &self.lanes {
            // One alone has nobody to share the lanes with.
            Some(lanes) if laid.len() > 1 => laid.chunks(Self::GROUP).try_for_each(|group| {
                let mut packets: [Outgoing<'_>; Self::GROUP] = Default::default();
                for (packet, laid) in packets.iter_mut().zip(group) {
                    *packet = Outgoing {
                        bytes: cut(&mut rest, laid.len)?,
                        counter: laid.sequence,
                        esn_high: self.high(laid.sequence),
                    };
                }
                let packets = packets.get_mut(..group.len()).ok_or(Refusal::Overflow)?;
                lanes.seal(packets).map_err(|_| Refusal::Overflow)
            }),
            Some(_) | None => laid.iter().try_for_each(|laid| {
                let packet = cut(&mut rest, laid.len)?;
                self.sealer
                    .seal(packet, HEADER, laid.sequence, self.high(laid.sequence))
                    .map_err(|_| Refusal::Overflow)
            }),
        }
    }

    /// The half of the number that is authenticated and does not travel.
    fn high(&self, sequence: u64) -> Option<u32> {
        match self.suite.esn {
            Esn::No => None,
            Esn::Yes => Some((sequence >> 32) as u32),
        }
    }

    /// A number nobody else gets. The counter may run past the end by one for each refused packet; it is 64 bits wide.
    fn next_sequence(&self) -> Result<u64, Refusal> {
        let before = self.used.fetch_add(1, Relaxed);
        match self.lifetime.admits(self.carried(before)) {
            Ok(()) => Ok(before.saturating_add(1)),
            Err(refusal) => {
                self.used.fetch_sub(1, Relaxed);
                Err(refusal)
            }
        }
    }

    /// Writes everything that is not the cipher's: header, inner packet and trailer.
    fn fill(
        &self,
        sequence: u64,
        inner: usize,
        next: u8,
        room: &mut [u8],
        write: impl FnOnce(&mut [u8]) -> bool,
    ) -> Option<()> {
        let (spi, room) = room.split_first_chunk_mut::<4>()?;
        let (number, room) = room.split_first_chunk_mut::<4>()?;
        *spi = self.spi.to_be_bytes();
        *number = (sequence as u32).to_be_bytes();

        let (_iv, room) = room.split_at_mut_checked(self.suite.protection.iv_len())?;
        let (payload, room) = room.split_at_mut_checked(inner)?;
        write(payload).then_some(())?;

        let trailer_len = trailer::len(inner, alignment(self.suite.protection));
        let (trailer, _icv) = room.split_at_mut_checked(trailer_len)?;
        trailer::write(trailer, next)
    }

    /// Pretends that `sequence` numbers have been used.
    #[cfg(test)]
    pub(crate) fn pretend_used(&self, sequence: u64) {
        self.used.store(sequence, Relaxed);
    }
}

/// Takes the next `len` octets off the front.
fn cut<'a>(rest: &mut &'a mut [u8], len: usize) -> Result<&'a mut [u8], Refusal> {
    let (packet, after) = std::mem::take(rest)
        .split_at_mut_checked(len)
        .ok_or(Refusal::Overflow)?;
    *rest = after;
    Ok(packet)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::esp::testing::{SUITES, pair, udp4, udp6};
    use std::collections::HashSet;

    fn seal(sa: &Outbound, packet: &[u8]) -> Result<Vec<u8>, Refusal> {
        let packet = Packet::parse(packet).unwrap();
        let mut room = vec![0; sa.sealed_len(packet.len())];
        sa.seal(&packet, &mut room).map(|len| {
            assert_eq!(len, room.len());
            room
        })
    }

    #[test]
    fn the_header_is_spi_then_a_sequence_that_starts_at_one() {
        for words in SUITES {
            let (sa, _) = pair(words);
            for expected in 1..=5u32 {
                let sealed = seal(&sa, &udp4(100)).unwrap();
                assert_eq!(sealed[..4], sa.spi().to_be_bytes());
                assert_eq!(sealed[4..8], expected.to_be_bytes(), "{words}");
            }
            assert_eq!((sa.sent().packets(), sa.sent().bytes()), (5, 500));
        }
    }

    #[test]
    fn every_length_is_padded_to_whole_blocks_and_comes_back_whole() {
        for words in SUITES {
            let (sa, inbound) = pair(words);
            let mut opening = inbound.lock();
            for len in 28..28 + 64 {
                let packet = udp4(len);
                let mut sealed = seal(&sa, &packet).unwrap();
                let protection = sa.suite().protection;
                let encrypted = sealed.len() - HEADER - protection.iv_len() - protection.icv_len();
                assert_eq!(encrypted % protection.block().max(4), 0, "{words} {len}");
                assert!(
                    encrypted - len - trailer::LEAST < protection.block().max(4),
                    "{words} {len}: no more padding than needed"
                );
                assert_eq!(
                    opening.open(&mut sealed).unwrap().packet.bytes(),
                    packet,
                    "{words} {len}"
                );
            }
        }
    }

    #[test]
    fn ipv6_inside_is_announced_as_such() {
        let (sa, inbound) = pair("aes128-sha1");
        let mut sealed = seal(&sa, &udp6(100)).unwrap();
        assert_eq!(
            inbound.lock().open(&mut sealed).unwrap().packet.version(),
            6
        );
    }

    #[test]
    fn e17_sealers_that_race_never_share_a_sequence_number() {
        let (sa, _) = pair("aes128gcm16");
        let packet = udp4(60);
        let numbers: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..500)
                            .map(|_| seal(&sa, &packet).unwrap()[4..16].to_vec())
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            workers
                .into_iter()
                .flat_map(|worker| worker.join().unwrap())
                .collect()
        });
        let different: HashSet<_> = numbers.iter().collect();
        assert_eq!(
            different.len(),
            2000,
            "sequence number and nonce of every packet are its own"
        );
        assert_eq!(sa.sequence(), 2000);
    }

    #[test]
    fn e17_the_nonce_of_an_aead_is_the_sequence_number() {
        let (sa, _) = pair("aes256gcm16");
        for expected in 1..=3u64 {
            assert_eq!(seal(&sa, &udp4(60)).unwrap()[8..16], expected.to_be_bytes());
        }
    }

    #[test]
    fn p19_sending_stops_before_a_number_could_repeat_and_stays_stopped() {
        let (sa, _) = pair("aes128-sha1");
        let last = Lifetime::new(Esn::No).last();
        sa.pretend_used(last - 1);
        assert_eq!(sa.stage(), Stage::NearEnd);
        assert_eq!(
            seal(&sa, &udp4(60)).unwrap()[4..8],
            (last as u32).to_be_bytes()
        );
        for _ in 0..3 {
            assert_eq!(seal(&sa, &udp4(60)), Err(Refusal::SequenceExhausted));
        }
        assert_eq!(sa.sequence(), last);
    }

    #[test]
    fn p19_extended_numbers_end_before_they_repeat_too() {
        let (sa, _) = pair("aes128gcm16-esn");
        let last = Lifetime::new(Esn::Yes).last();
        sa.pretend_used(last - 1);
        assert_eq!(sa.stage(), Stage::NearEnd);
        assert!(seal(&sa, &udp4(60)).is_ok());
        assert_eq!(sa.stage(), Stage::Ended);
        assert_eq!(seal(&sa, &udp4(60)), Err(Refusal::SequenceExhausted));
        assert_eq!(sa.sequence(), last);
    }

    #[test]
    fn p19_limits_in_packets_and_bytes_are_kept_to_the_packet() {
        let limits = |bytes, packets| Limits {
            bytes,
            packets,
            jitter: 0,
        };
        let (sa, _) = pair("aes128gcm16");
        let sa = sa.limited(limits(None, Some(1000)));
        let sealed = (0..1200).filter(|_| seal(&sa, &udp4(60)).is_ok()).count();
        assert_eq!((sealed, sa.sent().packets()), (1000, 1000));
        assert_eq!(seal(&sa, &udp4(60)), Err(Refusal::Expired));

        let (sa, _) = pair("aes128gcm16");
        let sa = sa.limited(limits(Some(1_000_000), None));
        let mut stages = vec![sa.stage()];
        while seal(&sa, &udp4(1400)).is_ok() {
            stages.push(sa.stage());
        }
        stages.dedup();
        assert_eq!(stages, [Stage::Fresh, Stage::NearEnd, Stage::Ended]);
        let carried = sa.sent().bytes();
        assert!((930_000..=1_000_000).contains(&carried), "{carried}");
        assert_eq!(seal(&sa, &udp4(28)), Err(Refusal::Expired));
    }

    #[test]
    fn e06_extended_numbers_cross_the_wrap_of_the_low_half() {
        for words in ["aes128-sha1-esn", "aes128gcm16-esn", "chacha20poly1305-esn"] {
            let (sa, inbound) = pair(words);
            let wrap = 1u64 << 32;
            sa.pretend_used(wrap - 3);
            inbound.pretend_seen(wrap - 3);
            let mut packets: Vec<_> = (0..6).map(|_| seal(&sa, &udp4(80)).unwrap()).collect();
            let again = packets.clone();
            let mut opening = inbound.lock();
            for packet in &mut packets {
                assert!(opening.open(packet).is_ok(), "{words}");
            }
            for mut packet in again {
                assert_eq!(
                    opening.open(&mut packet).err(),
                    Some(Refusal::Replay),
                    "{words}: across the wrap"
                );
            }
        }
    }

    #[test]
    fn a_room_too_small_refuses_without_using_a_number() {
        let (sa, _) = pair("aes128-sha1");
        let bytes = udp4(100);
        let packet = Packet::parse(&bytes).unwrap();
        let mut room = vec![0; sa.sealed_len(100) - 1];
        assert_eq!(sa.seal(&packet, &mut room), Err(Refusal::Overflow));
        assert_eq!(sa.sequence(), 0);
    }

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
                let mut tail = 0;
                let laid: Vec<_> = packets
                    .iter()
                    .map(|inner| {
                        let packet = Packet::parse(inner).unwrap();
                        let write = |place: &mut [u8]| {
                            place.copy_from_slice(inner);
                            true
                        };
                        let laid = together
                            .lay_out(&packet, inner.len(), &mut room[tail..], write)
                            .unwrap();
                        tail += laid.len;
                        laid
                    })
                    .collect();
                together.seal_all(&laid, &mut room).unwrap();
                let expected: Vec<_> = packets
                    .iter()
                    .map(|inner| seal(&alone, inner).unwrap())
                    .collect();
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
        let laid = outbound.lay_out(&packet, 60, &mut room, |_| true).unwrap();
        assert_eq!(
            outbound.seal_all(&[laid, laid], &mut room),
            Err(Refusal::Overflow)
        );
        assert_eq!(
            outbound
                .lay_out(&packet, 60, &mut room, |_| false)
                .unwrap_err(),
            Refusal::Overflow
        );
    }
}
