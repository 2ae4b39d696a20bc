//! What is measured: something that seals a batch, and opens the batch that it sealed.

use crate::crypto::lanes::{self, Kernel, OpenJob, SealJob};
use crate::crypto::{Esn, EspSuite, SaKeys, Secret};
use crate::esp::{FramedPacket, Inbound, Outbound, OutboundGuard, RxPacket};
use crate::net::{Packet, Policy, Prefix};

use super::BATCH;

/// Seals a batch, then opens it.
pub trait Workload {
    /// Seals the batch.
    fn seal(&mut self);

    /// Opens what was sealed last.
    fn open(&mut self);
}

/// Everything an SA does for a packet.
pub fn whole(suite: EspSuite, size: usize) -> Option<Box<dyn Workload>> {
    let policy = any_to_any()?;
    let keys = keys(suite);
    let outbound = Outbound::new(SPI, suite, &keys, IV_KEY, policy.clone()).ok()?;
    let inbound = Inbound::new(SPI, suite, &keys, policy, 4096).ok()?;
    let len = outbound.padded_len(size, usize::MAX);
    Some(Box::new(SaWorkload {
        outbound,
        inbound,
        inner: udp(size),
        sealed: vec![0; len * BATCH],
        len,
        laid: Vec::with_capacity(OutboundGuard::GROUP),
    }))
}

/// Cipher and ICV in lanes, nothing else; `None` where the suite has none.
pub fn lanes(suite: EspSuite, size: usize) -> Option<Box<dyn Workload>> {
    let keys = keys(suite);
    let (kernel, protection) = (Kernel::best(), suite.protection);
    let sealer = lanes::BatchSealer::new(kernel, protection, &keys, IV_KEY).ok()??;
    let opener = lanes::BatchOpener::new(kernel, protection, &keys).ok()??;
    let policy = any_to_any()?;
    let room = Outbound::new(SPI, suite, &keys, IV_KEY, policy)
        .ok()?
        .sealed_len(size);
    Some(Box::new(LanesWorkload {
        sealer,
        opener,
        esn: suite.esn,
        counter: 0,
        packets: vec![vec![0; room]; BATCH],
    }))
}

const SPI: u32 = 0xc0de_0001;
const IV_KEY: [u8; 16] = [0x55; 16];

struct SaWorkload {
    outbound: Outbound,
    inbound: Inbound,
    inner: Vec<u8>,
    /// The batch, side by side as it would leave.
    sealed: Vec<u8>,
    /// Bytes of each packet in it.
    len: usize,
    /// Those of a group, kept so that nothing is allocated while it is timed.
    laid: Vec<FramedPacket>,
}

/// As the datapath does it: packets are laid out until the lanes are full, then sealed while the cache still holds them.
impl Workload for SaWorkload {
    fn seal(&mut self) {
        let packet = Packet::parse(&self.inner).expect("a packet of our own");
        let mut sealing = self.outbound.lock();
        for room in self.sealed.chunks_mut(self.len * OutboundGuard::GROUP) {
            self.laid.clear();
            for place in room.chunks_mut(self.len) {
                place[self.outbound.payload(self.inner.len())].copy_from_slice(&self.inner);
                let laid = sealing.frame(&packet, self.inner.len(), place);
                self.laid.push(laid.expect("room enough"));
            }
            let sealed = sealing.seal_all(&self.laid, room);
            sealed.expect("they fill the room");
        }
    }

    fn open(&mut self) {
        let mut packets = self.sealed.chunks_mut(self.len);
        let mut batch: [RxPacket<'_>; BATCH] =
            std::array::from_fn(|_| RxPacket::new(packets.next().unwrap_or_default()));
        self.inbound.lock().open_all(&mut batch);
        let opened = batch.iter().all(|arrival| arrival.inner.is_ok());
        assert!(opened, "authentic and new");
    }
}

struct LanesWorkload {
    sealer: lanes::BatchSealer,
    opener: lanes::BatchOpener,
    esn: Esn,
    counter: u64,
    packets: Vec<Vec<u8>>,
}

impl LanesWorkload {
    fn high(&self) -> Option<u32> {
        match self.esn {
            Esn::No => None,
            Esn::Yes => Some(0),
        }
    }
}

impl Workload for LanesWorkload {
    fn seal(&mut self) {
        let esn_high = self.high();
        let mut packets = self.packets.iter_mut();
        let mut batch: [SealJob<'_>; BATCH] = std::array::from_fn(|_| {
            self.counter += 1;
            SealJob {
                bytes: packets.next().map_or(&mut [], Vec::as_mut_slice),
                counter: self.counter,
                esn_high,
            }
        });
        self.sealer.seal(&mut batch).expect("room enough");
    }

    fn open(&mut self) {
        let esn_high = self.high();
        let mut packets = self.packets.iter_mut();
        let mut batch: [OpenJob<'_>; BATCH] = std::array::from_fn(|_| {
            let bytes = packets.next().map_or(&mut [][..], Vec::as_mut_slice);
            OpenJob::new(bytes, esn_high)
        });
        self.opener.open(&mut batch);
        assert!(
            batch.iter().all(|packet| packet.plaintext.is_ok()),
            "authentic"
        );
    }
}

fn any_to_any() -> Option<Policy> {
    let any: Prefix = "0.0.0.0/0".parse().ok()?;
    Some(Policy {
        local: vec![any.into()],
        remote: vec![any.into()],
    })
}

/// Keys that nobody need keep secret.
fn keys(suite: EspSuite) -> SaKeys {
    let key = |length: usize| Secret::new((0..length).map(|at| at as u8 ^ 0x5a).collect());
    SaKeys {
        encryption: key(suite.protection.encryption_key_len()),
        integrity: key(suite.protection.integrity_key_len()),
    }
}

/// A UDP packet of `size` bytes from 10.1.0.2 to 10.2.0.2, with checksums left out: nobody on the way looks at them.
fn udp(size: usize) -> Vec<u8> {
    let length = (size as u16).to_be_bytes();
    let payload = (size as u16).saturating_sub(20).to_be_bytes();
    let mut packet = vec![0x45, 0, length[0], length[1], 0, 0, 0x40, 0, 64, 17, 0, 0];
    packet.extend([10, 1, 0, 2, 10, 2, 0, 2]);
    packet.extend([0x27, 0x10, 0x27, 0x11, payload[0], payload[1], 0, 0]);
    packet.resize(size, 0x5a);
    packet
}

#[cfg(test)]
mod tests {
    use super::super::{SIZES, SUITES, suite};
    use super::*;

    #[test]
    fn what_every_suite_seals_it_opens_again_and_again() {
        for words in SUITES {
            for size in SIZES {
                let suite = suite(words).unwrap();
                let subjects = [whole(suite, size), lanes(suite, size)];
                assert!(subjects[0].is_some(), "{words}");
                assert!(words != "aes128-sha1" || subjects[1].is_some(), "{words}");
                for mut subject in subjects.into_iter().flatten() {
                    for _ in 0..3 {
                        subject.seal();
                        subject.open();
                    }
                }
            }
        }
    }

    #[test]
    fn the_packet_is_one() {
        for size in SIZES {
            let bytes = udp(size);
            assert_eq!(Packet::parse(&bytes).unwrap().len(), size);
        }
    }
}
