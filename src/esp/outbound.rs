//! Outbound SAs: keys, selectors and counts.
//!
//! ```text
//!   Outbound ──lock──▶ OutboundGuard     one worker at a time, for a batch; the counts are published at its end
//! ```

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use super::lifetime::{Lifetime, LifetimeState, Limits, Usage};
use super::outbound_guard::{Counted, OutboundGuard};
use super::{HEADER, Traffic, alignment, trailer};
use crate::crypto::lanes::{self, Kernel};
use crate::crypto::{EspSuite, IvKey, SaKeys, Sealer, WrongKeyLength};
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Esn;
    use crate::esp::testing::{SUITES, pair, udp4, udp6};
    use std::collections::HashSet;

    fn seal(sa: &Outbound, packet: &[u8]) -> Result<Vec<u8>, DropReason> {
        let packet = Packet::parse(packet).unwrap();
        let mut room = vec![0; sa.sealed_len(packet.len())];
        sa.seal(&packet, &mut room).map(|len| {
            assert_eq!(len, room.len());
            room
        })
    }

    #[test]
    fn the_header_is_the_spi_and_a_sequence_number_from_one() {
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
    fn every_length_is_padded_to_whole_blocks_and_opens() {
        for words in SUITES {
            let (sa, inbound) = pair(words);
            let mut guard = inbound.lock();
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
                    guard.open(&mut sealed).unwrap().packet.bytes(),
                    packet,
                    "{words} {len}"
                );
            }
        }
    }

    #[test]
    fn the_next_header_of_ipv6_is_41() {
        let (sa, inbound) = pair("aes128-sha1");
        let mut sealed = seal(&sa, &udp6(100)).unwrap();
        assert_eq!(
            inbound.lock().open(&mut sealed).unwrap().packet.version(),
            6
        );
    }

    #[test]
    fn e17_concurrent_seals_never_share_a_sequence_number() {
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
    fn p19_sending_stops_before_a_sequence_number_repeats() {
        let (sa, _) = pair("aes128-sha1");
        let last = Lifetime::new(Esn::No).last();
        sa.pretend_used(last - 1);
        assert_eq!(sa.stage(), LifetimeState::NearEnd);
        assert_eq!(
            seal(&sa, &udp4(60)).unwrap()[4..8],
            (last as u32).to_be_bytes()
        );
        for _ in 0..3 {
            assert_eq!(seal(&sa, &udp4(60)), Err(DropReason::SequenceExhausted));
        }
        assert_eq!(sa.sequence(), last);
    }

    #[test]
    fn p19_extended_numbers_end_before_they_repeat_too() {
        let (sa, _) = pair("aes128gcm16-esn");
        let last = Lifetime::new(Esn::Yes).last();
        sa.pretend_used(last - 1);
        assert_eq!(sa.stage(), LifetimeState::NearEnd);
        assert!(seal(&sa, &udp4(60)).is_ok());
        assert_eq!(sa.stage(), LifetimeState::Ended);
        assert_eq!(seal(&sa, &udp4(60)), Err(DropReason::SequenceExhausted));
        assert_eq!(sa.sequence(), last);
    }

    #[test]
    fn p19_limits_in_packets_and_bytes_are_exact() {
        let limits = |bytes, packets| Limits {
            bytes,
            packets,
            jitter: 0,
        };
        let (sa, _) = pair("aes128gcm16");
        let sa = sa.limited(limits(None, Some(1000)));
        let sealed = (0..1200).filter(|_| seal(&sa, &udp4(60)).is_ok()).count();
        assert_eq!((sealed, sa.sent().packets()), (1000, 1000));
        assert_eq!(seal(&sa, &udp4(60)), Err(DropReason::Expired));

        let (sa, _) = pair("aes128gcm16");
        let sa = sa.limited(limits(Some(1_000_000), None));
        let mut stages = vec![sa.stage()];
        while seal(&sa, &udp4(1400)).is_ok() {
            stages.push(sa.stage());
        }
        stages.dedup();
        assert_eq!(
            stages,
            [
                LifetimeState::Fresh,
                LifetimeState::NearEnd,
                LifetimeState::Ended
            ]
        );
        let carried = sa.sent().bytes();
        assert!((930_000..=1_000_000).contains(&carried), "{carried}");
        assert_eq!(seal(&sa, &udp4(28)), Err(DropReason::Expired));
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
            let mut guard = inbound.lock();
            for packet in &mut packets {
                assert!(guard.open(packet).is_ok(), "{words}");
            }
            for mut packet in again {
                assert_eq!(
                    guard.open(&mut packet).err(),
                    Some(DropReason::Replay),
                    "{words}: across the wrap"
                );
            }
        }
    }

    #[test]
    fn a_buffer_that_is_too_small_uses_no_sequence_number() {
        let (sa, _) = pair("aes128-sha1");
        let bytes = udp4(100);
        let packet = Packet::parse(&bytes).unwrap();
        let mut room = vec![0; sa.sealed_len(100) - 1];
        assert_eq!(sa.seal(&packet, &mut room), Err(DropReason::Overflow));
        assert_eq!(sa.sequence(), 0);
    }

    #[test]
    fn only_aes_gcm_is_padded_beyond_what_the_cipher_needs() {
        for words in SUITES.iter().filter(|words| !words.contains("gcm")) {
            let (sa, _) = pair(words);
            for len in 28..60 {
                let padded = sa.padded_len(len, usize::MAX);
                assert_eq!(padded, sa.sealed_len(len), "{words} {len}");
            }
        }
    }

    #[test]
    fn aes_gcm_is_padded_to_whole_blocks_where_there_is_room() {
        let (sa, inbound) = pair("aes128gcm16");
        let inner = udp4(1001);
        let packet = Packet::parse(&inner).unwrap();
        let envelope = HEADER + 8 + 16;
        assert_eq!(sa.sealed_len(1001), envelope + 1004);
        assert_eq!(sa.padded_len(1001, envelope + 1008), envelope + 1008);
        assert_eq!(sa.padded_len(1001, envelope + 1007), envelope + 1004);
        let mut room = vec![0; sa.padded_len(1001, usize::MAX)];
        room[sa.payload(1001)].copy_from_slice(&inner);
        let mut guard = sa.lock();
        let laid = guard.frame(&packet, 1001, &mut room).unwrap();
        guard.seal_all(&[laid], &mut room).unwrap();
        let mut guard = inbound.lock();
        assert_eq!(guard.open(&mut room).unwrap().packet.bytes(), inner);
    }
}
