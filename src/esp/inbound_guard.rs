//! Guard of an inbound SA: opens packets in place, one by one or several in parallel.
//!
//! ```text
//!            one by one                 several in parallel
//!   packet 1   1 2 3 4 5 6 7 8          1 2  ┐           4 5 6 7 8
//!   packet 2            1 2 3 …         1 2  ├─ 3 at once   4 5 6 7 8     the steps are those of `inbound`
//!   packet 3                            1 2  ┘              4 5 6 7 8
//! ```
//!
//! The results are equal: step 4 checks the window again, since earlier packets of the batch have moved it.

use std::ops::Range;
use std::sync::MutexGuard;

use super::lifetime::{LifetimeState, Usage};
use super::replay::{self, Window};
use super::{HEADER, Inbound};
use crate::crypto::lanes::{self, MAX_LANES, OpenJob};
use crate::crypto::{Esn, OpenError};
use crate::net::{DropReason, Packet};

/// Inbound SA locked for a batch. The lock ensures that the window has one writer; it is contended only if packets of one SA
/// reach two workers, such as after a NAT rebinding.
pub struct InboundGuard<'a> {
    sa: &'a Inbound,
    window: MutexGuard<'a, Window>,
    /// Packets and octets before the batch.
    before: (u64, u64),
    authentic: u64,
    is_newest: bool,
    packets: u64,
    bytes: u64,
}

/// An opened packet.
#[derive(Debug)]
pub struct Decapsulated<'a> {
    /// Inner packet, inside the selectors.
    pub packet: Packet<'a>,
    /// Position of the inner packet in the received packet.
    pub range: Range<usize>,
}

/// One of several packets to open.
#[derive(Debug)]
pub struct RxPacket<'p> {
    /// ESP packet from SPI to ICV, decrypted in place.
    pub esp: &'p mut [u8],
    /// Position of the inner packet, or the drop reason. The octets may be decrypted in both cases.
    pub inner: Result<Range<usize>, DropReason>,
    /// Whether the packet is authentic and newer than all before ([`InboundGuard::is_newest`]).
    pub is_newest: bool,
}

impl<'p> RxPacket<'p> {
    /// Packet to open.
    pub fn new(esp: &'p mut [u8]) -> RxPacket<'p> {
        RxPacket {
            esp,
            inner: Err(DropReason::Short),
            is_newest: false,
        }
    }
}

impl<'a> InboundGuard<'a> {
    /// Packets that fill the multi-buffer kernel and fit the L1 cache.
    pub const GROUP: usize = MAX_LANES;

    pub(super) fn new(sa: &'a Inbound, window: MutexGuard<'a, Window>) -> InboundGuard<'a> {
        InboundGuard {
            sa,
            window,
            before: (sa.received().packets(), sa.received().bytes()),
            authentic: 0,
            is_newest: false,
            packets: 0,
            bytes: 0,
        }
    }

    /// Opens an ESP packet in place, from SPI to ICV.
    ///
    /// # Errors
    /// The drop reason. The octets may be decrypted.
    pub fn open<'p>(&mut self, esp: &'p mut [u8]) -> Result<Decapsulated<'p>, DropReason> {
        let mut packet = RxPacket::new(esp);
        self.alone(&mut packet);
        let RxPacket { esp, inner, .. } = packet;
        let range = inner?;
        let packet = Packet::parse(esp.get(range.clone()).unwrap_or_default())?;
        Ok(Decapsulated { packet, range })
    }

    /// Opens several packets in order, with the results that [`open`](InboundGuard::open) would have for each.
    pub fn open_all(&mut self, packets: &mut [RxPacket<'_>]) {
        match &self.sa.lanes {
            // A single packet gains nothing from the multi-buffer kernel.
            Some(lanes) if packets.len() > 1 => {
                for group in packets.chunks_mut(MAX_LANES) {
                    self.open_group(lanes, group);
                }
            }
            Some(_) | None => packets.iter_mut().for_each(|packet| self.alone(packet)),
        }
    }

    fn alone(&mut self, packet: &mut RxPacket<'_>) {
        self.is_newest = false;
        packet.inner = self.precheck(packet.esp).and_then(|sequence| {
            let high = self.high(sequence);
            let plaintext = self.sa.opener.open(packet.esp, HEADER, high);
            self.finish(sequence, packet.esp, plaintext)
        });
        packet.is_newest = self.is_newest;
    }

    /// Opens at most [`InboundGuard::GROUP`] packets.
    fn open_group(&mut self, lanes: &lanes::BatchOpener, group: &mut [RxPacket<'_>]) {
        // 1. and 2. The sequence number of each packet, or its drop reason.
        let mut numbers = [Err(DropReason::Short); MAX_LANES];
        for (number, packet) in numbers.iter_mut().zip(group.iter()) {
            *number = self.precheck(packet.esp);
        }

        // 3. The remaining packets, in parallel.
        let mut incoming: [OpenJob<'_>; MAX_LANES] =
            std::array::from_fn(|_| OpenJob::new(&mut [], None));
        let mut count = 0_usize;
        let numbered = group.iter_mut().zip(numbers);
        let admitted = numbered.filter_map(|(packet, number)| Some((packet, number.ok()?)));
        for (place, (packet, number)) in incoming.iter_mut().zip(admitted) {
            *place = OpenJob::new(packet.esp, self.high(number));
            count = count.saturating_add(1);
        }
        lanes.open(incoming.get_mut(..count).unwrap_or_default());
        let mut plaintexts = incoming.map(|packet| packet.plaintext).into_iter();

        // 4. to 8. In order of arrival.
        for (packet, number) in group.iter_mut().zip(numbers) {
            self.is_newest = false;
            packet.inner = number.and_then(|number| {
                let plaintext = plaintexts.next().unwrap_or(Err(OpenError::TooShort));
                if plaintext.is_err() && self.precheck(packet.esp).is_ok_and(|now| now != number) {
                    // Those before it have moved the window so far that its number must be another. It is as it came.
                    self.alone(packet);
                    return packet.inner.clone();
                }
                self.finish(number, packet.esp, plaintext)
            });
            packet.is_newest = self.is_newest;
        }
    }

    /// Steps 1 and 2: sequence number of a packet that passes the checks before any cryptography.
    #[inline]
    fn precheck(&self, esp: &[u8]) -> Result<u64, DropReason> {
        // 1. Lengths and limits: the code below relies on the minimum length.
        let low = self.sa.parse_header(esp)?;
        self.may_carry()?;

        // 2. Replays are dropped before any cryptography.
        let sequence = match self.sa.suite().esn {
            Esn::No => u64::from(low),
            Esn::Yes => replay::infer(low, self.window.top(), self.window.size())
                .ok_or(DropReason::Replay)?,
        };
        match self.window.admits(sequence) {
            true => Ok(sequence),
            false => Err(DropReason::Replay),
        }
    }

    /// Steps 4 to 8 for a packet whose ICV was checked. Inlined, since returning the range through memory costs more than
    /// computing it.
    #[inline(always)]
    fn finish(
        &mut self,
        sequence: u64,
        esp: &[u8],
        plaintext: Result<Range<usize>, OpenError>,
    ) -> Result<Range<usize>, DropReason> {
        // 3. The ICV covers everything before it; nothing is decrypted unless it is correct.
        let plaintext = plaintext.map_err(|forged| match forged {
            OpenError::TooShort | OpenError::Misaligned => DropReason::Short,
            OpenError::WrongIcv => DropReason::Auth,
        })?;

        // 4. Only an authentic packet moves the window (RFC 4303 §3.4.3). One of the same batch may have been the same, or the last.
        self.may_carry()?;
        if !self.window.admits(sequence) {
            return Err(DropReason::Replay);
        }
        self.is_newest = sequence > self.window.top();
        self.window.record(sequence);
        self.authentic = self.authentic.saturating_add(1);

        // 5. to 8.
        let start = plaintext.start;
        let inner = self
            .sa
            .decapsulate(esp.get(plaintext).ok_or(DropReason::Short)?)?;
        self.packets = self.packets.saturating_add(1);
        self.bytes = self.bytes.saturating_add(inner as u64);
        Ok(start..start.saturating_add(inner))
    }

    /// Whether the limits allow one more packet.
    fn may_carry(&self) -> Result<(), DropReason> {
        match self.sa.lifetime.admits(self.carried()) {
            // Sequence numbers are used by the sender; all of them are valid here.
            Ok(()) | Err(DropReason::SequenceExhausted) => Ok(()),
            Err(reason) => Err(reason),
        }
    }

    /// High half of the sequence number, which is authenticated but not sent.
    fn high(&self, sequence: u64) -> Option<u32> {
        match self.sa.suite().esn {
            Esn::No => None,
            Esn::Yes => Some((sequence >> 32) as u32),
        }
    }

    /// Number of authentic packets in this batch, with any content: signs of life of the peer.
    pub fn authentic(&self) -> u64 {
        self.authentic
    }

    /// Whether the last packet was authentic and newer than all others. Only such a packet updates the address of the peer: an
    /// attacker may delay older ones.
    pub fn is_newest(&self) -> bool {
        self.is_newest
    }

    /// Lifetime state.
    pub fn stage(&self) -> LifetimeState {
        self.sa.lifetime.stage(self.carried())
    }

    fn carried(&self) -> Usage {
        let (packets, bytes) = self.before;
        Usage {
            sequence: self.window.top(),
            packets: packets.saturating_add(self.packets),
            bytes: bytes.saturating_add(self.bytes),
        }
    }

    /// Sets the window as if everything up to `sequence` was received.
    #[cfg(test)]
    pub(super) fn pretend_seen(&mut self, sequence: u64) {
        self.window.record(sequence);
    }
}

/// The shared counters are updated once a batch.
impl Drop for InboundGuard<'_> {
    fn drop(&mut self) {
        if self.packets > 0 {
            self.sa.received.add(self.packets, self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lifetime::Limits;
    use super::*;
    use crate::esp::testing::*;

    const LANED: [&str; 5] = [
        "aes128-sha1",
        "aes256-sha256",
        "aes128-sha1-esn",
        "aes128gcm16",
        "aes192-sha384",
    ];

    /// Results of these packets, opened `together` at a time.
    fn outcomes(inbound: &Inbound, packets: &[Vec<u8>], together: usize) -> Vec<Outcome> {
        let mut copies = packets.to_vec();
        let mut guard = inbound.lock();
        let mut all = Vec::new();
        for group in copies.chunks_mut(together) {
            let mut packets: Vec<_> = group.iter_mut().map(|esp| RxPacket::new(esp)).collect();
            guard.open_all(&mut packets);
            all.extend(packets.into_iter().map(|packet| {
                let inner = packet.inner.map(|range| packet.esp[range].to_vec());
                (inner, packet.is_newest)
            }));
        }
        all
    }

    type Outcome = (Result<Vec<u8>, DropReason>, bool);

    /// Valid packets of many lengths, partly reordered, mixed with invalid ones of every kind.
    fn mixture(words: &str) -> Vec<Vec<u8>> {
        let (outbound, _) = pair(words);
        let mut packets: Vec<_> = (0..90)
            .map(|n| seal(&outbound, &udp4(28 + n * 14)))
            .collect();
        packets.swap(3, 9);
        packets.swap(40, 41);
        for at in [5, 20, 50, 77] {
            packets.insert(at, packets[at - 2].clone());
        }
        for at in [7, 30, 31, 60] {
            let mut forged = packets[at].clone();
            *forged.last_mut().unwrap() ^= 1;
            packets.insert(at, forged);
        }
        packets.insert(33, packets[33][..40].to_vec());
        let outside = ipv4([10, 9, 0, 5], [10, 1, 0, 7], 60);
        packets.push(craft(words, 91, &padded(words, &udp4(60), 17)));
        packets.push(craft(words, 92, &padded(words, &outside, 4)));
        packets
    }

    #[test]
    fn parallel_and_single_opening_have_equal_results() {
        for words in LANED {
            let packets = mixture(words);
            let alone = outcomes(&pair(words).1, &packets, 1);
            let refusals = alone.iter().filter(|(inner, _)| inner.is_err()).count();
            assert!(refusals >= 10 && alone.len() - refusals >= 60, "{words}");
            for together in [2, 3, 15, 16, 17, 46, 1000] {
                let inbound = pair(words).1;
                assert_eq!(
                    outcomes(&inbound, &packets, together),
                    alone,
                    "{words} {together}"
                );
                assert_eq!(
                    inbound.received().packets() as usize,
                    alone.len() - refusals
                );
            }
        }
    }

    #[test]
    fn e05_the_same_packet_twice_in_one_batch_is_opened_once() {
        for words in LANED {
            let (outbound, inbound) = pair(words);
            let packet = seal(&outbound, &udp4(60));
            let all = outcomes(&inbound, &vec![packet; 16], 16);
            assert_eq!(all[0], (Ok(udp4(60)), true), "{words}");
            assert!(
                all[1..]
                    .iter()
                    .all(|one| *one == (Err(DropReason::Replay), false))
            );
        }
    }

    #[test]
    fn e06_a_batch_across_the_wrap_of_the_low_half_opens() {
        for words in ["aes128-sha1-esn", "aes256-sha256-esn", "aes128gcm16-esn"] {
            let (_, inbound) = pair(words);
            let first = (1 << 32) - 8;
            inbound.pretend_seen(first - 1);
            let packets: Vec<_> = (first..first + 16)
                .map(|n| craft(words, n, &padded(words, &udp4(60), 4)))
                .collect();
            let all = outcomes(&inbound, &packets, 16);
            assert!(
                all.iter().all(|one| *one == (Ok(udp4(60)), true)),
                "{words}"
            );
        }
    }

    #[test]
    fn e06_the_first_packet_of_a_batch_updates_the_high_half_for_the_rest() {
        // The window stands at 10. The first packet, authentic, takes it up by nearly 2^32; the second number's low half then means
        // the next round, where before the first it meant this one.
        let words = "aes128-sha1-esn";
        let (_, inbound) = pair(words);
        inbound.pretend_seen(10);
        let far = (1 << 32) - 256;
        let packets = [far, (1 << 32) + 11].map(|n| craft(words, n, &padded(words, &udp4(60), 4)));
        let all = outcomes(&inbound, &packets, 2);
        assert!(
            all.iter().all(|one| *one == (Ok(udp4(60)), true)),
            "{all:?}"
        );
    }

    #[test]
    fn p19_a_limit_inside_a_batch_is_exact() {
        for words in LANED {
            let (outbound, inbound) = pair(words);
            let inbound = inbound.limited(Limits {
                bytes: None,
                packets: Some(10),
                jitter: 0,
            });
            let packets: Vec<_> = (0..16).map(|_| seal(&outbound, &udp4(60))).collect();
            let all = outcomes(&inbound, &packets, 16);
            assert!(all[..10].iter().all(|(inner, _)| inner.is_ok()), "{words}");
            assert!(
                all[10..]
                    .iter()
                    .all(|(inner, _)| *inner == Err(DropReason::Expired))
            );
        }
    }
}
