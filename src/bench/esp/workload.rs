//! Workloads: a batch of packets that is sealed and opened again.

use etherparse::PacketBuilder;

use crate::crypto::lanes::{self, Kernel, OpenJob, SealJob};
use crate::crypto::{Esn, EspSuite, SaKeys, Secret};
use crate::esp::{FramedPacket, Inbound, Outbound, OutboundGuard, RxPacket};
use crate::net::{Packet, Policy, Prefix};

/// Packets per batch.
pub(super) const BATCH: usize = 46;

/// A batch of packets to seal and open.
pub(super) trait Workload {
    /// Seals the batch.
    fn seal(&mut self);

    /// Opens the batch that was sealed last.
    fn open(&mut self);
}

/// All work of an SA.
pub(super) fn whole_sa(suite: EspSuite, size: usize) -> Option<Box<dyn Workload>> {
    let policy = any_to_any()?;
    let keys = keys(suite);
    let outbound = Outbound::new(SPI, suite, &keys, &IV_KEY.into(), policy.clone()).ok()?;
    let inbound = Inbound::new(SPI, suite, &keys, policy, 4096).ok()?;
    let len = outbound.padded_len(size, usize::MAX);
    Some(Box::new(SaWorkload {
        outbound,
        inbound,
        inner: udp(size),
        sealed: vec![0; len * BATCH],
        len,
        framed: Vec::with_capacity(OutboundGuard::GROUP),
    }))
}

/// Only cipher and ICV, in SIMD lanes; `None` for suites that do not run in lanes.
pub(super) fn lanes(suite: EspSuite, size: usize) -> Option<Box<dyn Workload>> {
    let keys = keys(suite);
    let (kernel, protection) = (Kernel::best(), suite.protection);
    let sealer = lanes::BatchSealer::new(kernel, protection, &keys, &IV_KEY.into()).ok()??;
    let opener = lanes::BatchOpener::new(kernel, protection, &keys).ok()??;
    let policy = any_to_any()?;
    let room = Outbound::new(SPI, suite, &keys, &IV_KEY.into(), policy)
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
    /// ESP packets of the batch, one after the other.
    sealed: Vec<u8>,
    /// Length of an ESP packet.
    len: usize,
    /// Framed packets of a group, kept to avoid allocations in the timed part.
    framed: Vec<FramedPacket>,
}

/// Like the datapath: frames as many packets as fill the lanes, then seals them while they are in the cache.
impl Workload for SaWorkload {
    fn seal(&mut self) {
        let packet = Packet::parse(&self.inner).expect("a packet of our own");
        let mut sealing = self.outbound.lock();
        for room in self.sealed.chunks_mut(self.len * OutboundGuard::GROUP) {
            self.framed.clear();
            for place in room.chunks_mut(self.len) {
                place[self.outbound.payload(self.inner.len())].copy_from_slice(&self.inner);
                let framed = sealing.frame(&packet, self.inner.len(), place);
                self.framed.push(framed.expect("room enough"));
            }
            let sealed = sealing.seal_all(&self.framed, room);
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

/// Fixed keys.
fn keys(suite: EspSuite) -> SaKeys {
    let key = |length: usize| Secret::new((0..length).map(|at| at as u8 ^ 0x5a).collect());
    SaKeys {
        encryption: key(suite.protection.encryption_key_len()),
        integrity: key(suite.protection.integrity_key_len()),
    }
}

/// A UDP packet of `size` bytes from 10.1.0.2 to 10.2.0.2.
fn udp(size: usize) -> Vec<u8> {
    let packet = PacketBuilder::ipv4([10, 1, 0, 2], [10, 2, 0, 2], 64).udp(10_000, 10_001);
    let mut bytes = Vec::with_capacity(size);
    let payload = vec![0x5a; size.saturating_sub(packet.size(0))];
    packet
        .write(&mut bytes, &payload)
        .expect("writing to a vector cannot fail");
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::{SIZES, SUITES, suite};
    use super::*;

    #[test]
    fn every_suite_opens_what_it_sealed() {
        for words in SUITES {
            for size in SIZES {
                let suite = suite(words).unwrap();
                let workloads = [whole_sa(suite, size), lanes(suite, size)];
                assert!(workloads[0].is_some(), "{words}");
                assert!(words != "aes128-sha1" || workloads[1].is_some(), "{words}");
                for mut workload in workloads.into_iter().flatten() {
                    for _ in 0..3 {
                        workload.seal();
                        workload.open();
                    }
                }
            }
        }
    }

    #[test]
    fn the_inner_packet_is_valid() {
        for size in SIZES {
            let bytes = udp(size);
            assert_eq!(Packet::parse(&bytes).unwrap().len(), size);
        }
    }
}
