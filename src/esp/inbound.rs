//! Inbound SAs: an ESP packet is checked and decrypted in place, in the order of RFC 4303 §3.4 and RFC 4301 §5.2.
//!
//! ```text
//!  1 lengths ─▶ 2 replay? ─▶ 3 ICV, then decrypt ─▶ 4 window moves ─▶ 5 padding ─▶ 6 next header ─▶ 7 inner packet ─▶ 8 selectors
//!  └── unauthenticated ─────┘                      └── authenticated ────────────────────────────────────────────────────────┘
//! ```
//!
//! Only the ICV authenticates a packet. Later errors are mistakes of the peer, so distinct drop reasons reveal nothing to an
//! attacker.
//!
//! [`InboundGuard`] is an inbound SA locked for a batch. It opens packets one by one, or several in parallel:
//!
//! ```text
//!            one by one                 several in parallel
//!   packet 1   1 2 3 4 5 6 7 8          1 2  ┐           4 5 6 7 8
//!   packet 2            1 2 3 …         1 2  ├─ 3 at once   4 5 6 7 8     the steps above
//!   packet 3                            1 2  ┘              4 5 6 7 8
//! ```
//!
//! The results are equal: step 4 checks the window again, since earlier packets of the batch have moved it.

use std::fmt;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::lifetime::{Lifetime, LifetimeState, Limits, Usage};
use super::replay::{self, Window};
use super::{HEADER, Traffic, alignment, trailer};
use crate::crypto::lanes::{self, Kernel, MAX_LANES, OpenJob};
use crate::crypto::{Esn, EspSuite, OpenError, Opener, SaKeys, WrongKeyLength};
use crate::net::{DropReason, Packet, Policy};

/// Inbound SA: keys, selectors and replay window.
pub struct Inbound {
    spi: u32,
    suite: EspSuite,
    pub(super) opener: Opener,
    /// Multi-buffer kernel, for suites that have one.
    pub(super) lanes: Option<lanes::BatchOpener>,
    policy: Policy,
    pub(super) lifetime: Lifetime,
    window: Mutex<Window>,
    pub(super) received: Traffic,
}

impl Inbound {
    /// Creates an SA with a replay window of `window` packets ([`replay::SIZES`](super::replay::SIZES)).
    ///
    /// # Errors
    /// The keys have the wrong length for the suite.
    pub fn new(
        spi: u32,
        suite: EspSuite,
        keys: &SaKeys,
        policy: Policy,
        window: u32,
    ) -> Result<Inbound, WrongKeyLength> {
        let opener = Opener::new(suite.protection, keys)?;
        let lanes = lanes::BatchOpener::new(Kernel::best(), suite.protection, keys)?;
        let window = Mutex::new(Window::new(window));
        Ok(Inbound {
            spi,
            suite,
            opener,
            lanes,
            policy,
            lifetime: Lifetime::new(suite.esn),
            window,
            received: Traffic::default(),
        })
    }

    /// The same SA with limits.
    #[must_use]
    pub fn limited(mut self, limits: Limits) -> Inbound {
        self.lifetime = Lifetime::limited(self.suite.esn, limits);
        self
    }

    /// SPI.
    pub fn spi(&self) -> u32 {
        self.spi
    }

    /// Algorithms.
    pub fn suite(&self) -> EspSuite {
        self.suite
    }

    /// Packets and octets opened and inside the selectors.
    pub fn received(&self) -> &Traffic {
        &self.received
    }

    /// Locks the SA for a batch.
    pub fn lock(&self) -> InboundGuard<'_> {
        // The window is consistent after every step, so a poisoned lock is usable.
        let window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        InboundGuard::new(self, window)
    }

    /// Sets the window as if everything up to `sequence` was received.
    #[cfg(test)]
    pub(crate) fn pretend_seen(&self, sequence: u64) {
        self.lock().pretend_seen(sequence);
    }
}

impl Inbound {
    /// Checks the length of an ESP packet for this suite and returns its sequence number. The minimum payload is a trailer,
    /// padded to a block.
    pub(super) fn parse_header(&self, esp: &[u8]) -> Result<u32, DropReason> {
        let protection = self.suite.protection;
        let envelope = [HEADER, protection.iv_len(), protection.icv_len()]
            .iter()
            .sum();
        let align = alignment(protection);
        match esp.len().checked_sub(envelope) {
            Some(encrypted) if encrypted >= align && encrypted.checked_rem(align) == Some(0) => {}
            Some(_) | None => return Err(DropReason::Short),
        }
        let (_spi, rest) = esp.split_first_chunk::<4>().ok_or(DropReason::Short)?;
        let (sequence, _) = rest.split_first_chunk::<4>().ok_or(DropReason::Short)?;
        Ok(u32::from_be_bytes(*sequence))
    }

    /// Steps 5 to 8: checks an authentic plaintext and returns the length of the inner packet.
    #[inline]
    pub(super) fn decapsulate(&self, plaintext: &[u8]) -> Result<usize, DropReason> {
        // 5. and 6. Padding and next header.
        let (inner, version) = trailer::read(plaintext)?;

        // 7. Inner packet. Octets behind it hide its length (RFC 4303 §2.7) and are removed.
        let packet = Packet::parse(inner)?;
        if packet.version() != version {
            return Err(DropReason::NextHeader);
        }
        if packet.is_martian() {
            return Err(DropReason::Martian);
        }

        // 8. The selectors (RFC 4301 §5.2).
        if self.policy.permits_inbound(&packet) {
            Ok(packet.len())
        } else {
            Err(DropReason::Inner)
        }
    }
}

impl fmt::Debug for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Inbound {{ spi: {:08x}, suite: {} }}",
            self.spi, self.suite
        )
    }
}

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
mod guard_tests;
#[cfg(test)]
mod tests;
