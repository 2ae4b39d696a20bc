//! Two gateways connected in memory, for benches and tests of the datapath without a kernel.
//!
//! ```text
//!   inject ─▶ device ─ egress ─▶ socket ─── network ───▶ socket ─ ingress ─▶ device ─▶ delivered
//!             └── A: split, frame, seal ──┘              └─ B: open, check, coalesce ─┘
//! ```
//!
//! There is no thread either: [`LoopbackPair::carry`] takes every packet from end to end in the caller's thread.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::counters::{Counters, PacketDropCounters};
use super::egress::{EgressScratch, TunnelEgress};
use super::ingress::{Ingress, Receives, SocketEntry};
use super::notice::{self, Notices};
use super::sa_events::{FirstPacket, InboundEvents};
use super::tables::{
    EgressPath, EgressState, InboundEntry, InboundTable, MssClamp, ReadOutcome, TunnelShared,
};
use crate::esp::{Inbound, Outbound};
use crate::net::NAT_PORT;
use crate::net::{Dscp, Time, TunnelId};
use crate::os::memory::{MemoryDevice, MemoryNetwork};
use crate::os::poll::Waiter;
use crate::os::{GsoSupport, ReceiveOffload, VnetHeader};

/// A tunnel from A to B.
pub struct LoopbackPair {
    a: Arc<TunnelShared>,
    b: Arc<TunnelShared>,
    a_device: Arc<MemoryDevice>,
    b_device: Arc<MemoryDevice>,
    egress: TunnelEgress,
    scratch: EgressScratch,
    ingress: Ingress,
    b_socket: SocketEntry,
    unmatched: Arc<PacketDropCounters>,
    /// Keeps the queue of notices open.
    _notices: Notices,
}

const A: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const B: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

/// Capacity of each queue of packets.
const CAPACITY: usize = 4096;

/// The inner MTU: what every suite carries over a link of 1500 octets.
pub const MTU: u16 = 1408;

impl LoopbackPair {
    /// A tunnel under a pair of SAs. `receiving` says whether the network hands over coalesced datagrams; B's device takes GSO packets
    /// then.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn new(
        outbound: Outbound,
        inbound: Inbound,
        receiving: ReceiveOffload,
    ) -> io::Result<LoopbackPair> {
        let network = MemoryNetwork::with_gro(receiving);
        let [a_address, b_address] = [A, B].map(|address| SocketAddr::new(address, NAT_PORT));
        let a_socket = Arc::new(network.bind(a_address, CAPACITY)?);
        let b_socket = Arc::new(network.bind(b_address, CAPACITY)?);
        let a_device = Arc::new(MemoryDevice::new(CAPACITY)?);
        let b_device = Arc::new(MemoryDevice::new(CAPACITY)?);
        b_device.set_gso_support(match receiving {
            ReceiveOffload::Joined => GsoSupport::TcpAndUdp,
            ReceiveOffload::Single => GsoSupport::None,
        });
        let path = EgressPath {
            sa: Arc::new(outbound),
            socket: a_socket,
            local: A,
            remote: b_address,
            mtu: MTU,
            dscp: Dscp::Copied,
        };
        let a = tunnel(&a_device, EgressState::Open(vec![path]))?;
        let b = tunnel(&b_device, EgressState::Closed)?;
        let table = Arc::new(InboundTable::default());
        table.insert(InboundEntry {
            sa: Arc::new(inbound),
            tunnel: Arc::clone(&b),
            local: B,
            remote: Some(a_address),
            clamp: MssClamp::for_mtu(MTU),
            events: Arc::new(InboundEvents::new(FirstPacket::Ordinary)),
        });
        let (sender, notices) = notice::channel(8)?;
        let unmatched = Arc::<PacketDropCounters>::default();
        Ok(LoopbackPair {
            egress: TunnelEgress::new(Arc::clone(&a), &sender),
            scratch: EgressScratch::new(Arc::default()),
            ingress: Ingress::new(table, Arc::clone(&unmatched), sender, Arc::default()),
            b_socket: SocketEntry {
                socket: b_socket,
                receives: Receives::IkeAndEsp,
            },
            a,
            b,
            a_device,
            b_device,
            unmatched,
            _notices: notices,
        })
    }

    /// Queues a packet or a GSO packet in A's device; `false` if the queue is full.
    pub fn inject(&self, vnet: VnetHeader, packet: &[u8]) -> bool {
        self.a_device.inject_with(vnet, packet)
    }

    /// Takes every packet from A's device to B's.
    pub fn carry(&mut self, now: Time) {
        while self.egress.run_batch(&mut self.scratch, now) == ReadOutcome::More {}
        while self.ingress.run_batch(&self.b_socket, now) == ReadOutcome::More {}
    }

    /// Calls `seen` with everything that B's device holds, oldest first, and returns the number of packets and GSO packets.
    pub fn delivered(&self, seen: impl FnMut(VnetHeader, &[u8])) -> usize {
        self.b_device.drain(seen)
    }

    /// The number of packets that either side has dropped.
    pub fn dropped(&self) -> u64 {
        let sides: [&Counters; 2] = [&self.a.counters, &self.b.counters];
        let dropped = sides.map(|Counters { dropped, .. }| dropped);
        let all = dropped.into_iter().chain([&*self.unmatched]);
        all.flat_map(PacketDropCounters::iter)
            .map(|(_, count)| count)
            .sum()
    }
}

fn tunnel(device: &Arc<MemoryDevice>, state: EgressState) -> io::Result<Arc<TunnelShared>> {
    Ok(Arc::new(TunnelShared {
        id: TunnelId(0),
        device: device.clone(),
        egress: ArcSwap::from_pointee(state),
        counters: Arc::default(),
        icmp: None,
        waker: Waiter::new()?.waker(),
    }))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{NOW, half, to_b};
    use super::*;
    use crate::esp::testing::policy;

    #[test]
    fn a_packet_injected_at_a_is_delivered_at_b() {
        for receiving in [ReceiveOffload::Single, ReceiveOffload::Joined] {
            let (outbound, inbound) = half("aes128-sha1", 1, policy());
            let mut pair = LoopbackPair::new(outbound, inbound, receiving).unwrap();
            for len in [64, 500, 1300] {
                assert!(pair.inject(VnetHeader::NONE, &to_b(len)));
            }
            pair.carry(NOW);
            let mut lengths = Vec::new();
            pair.delivered(|_, packet| lengths.push(packet.len()));
            assert_eq!(lengths, [64, 500, 1300]);
            assert_eq!(pair.dropped(), 0);
        }
    }

    #[test]
    fn equal_packets_are_coalesced_where_the_network_coalesces_datagrams() {
        for (receiving, packets) in [(ReceiveOffload::Single, 32), (ReceiveOffload::Joined, 1)] {
            let (outbound, inbound) = half("aes128gcm16", 1, policy());
            let mut pair = LoopbackPair::new(outbound, inbound, receiving).unwrap();
            let mut packet = Vec::new();
            etherparse::PacketBuilder::ipv4([10, 1, 0, 7], [10, 2, 0, 5], 64)
                .udp(1000, 2000)
                .write(&mut packet, &[7; 1000])
                .unwrap();
            for _ in 0..32 {
                assert!(pair.inject(VnetHeader::NONE, &packet));
            }
            pair.carry(NOW);
            let delivered = pair.delivered(|_, _| ());
            assert_eq!((delivered, pair.dropped()), (packets, 0));
        }
    }

    #[test]
    fn a_packet_outside_the_selectors_is_dropped() {
        let (outbound, inbound) = half("aes128-sha1", 1, policy());
        let mut pair = LoopbackPair::new(outbound, inbound, ReceiveOffload::Single).unwrap();
        let outside = crate::esp::testing::ipv4([10, 1, 0, 7], [10, 9, 0, 5], 100);
        assert!(pair.inject(VnetHeader::NONE, &outside));
        pair.carry(NOW);
        assert_eq!((pair.delivered(|_, _| ()), pair.dropped()), (0, 1));
    }
}
