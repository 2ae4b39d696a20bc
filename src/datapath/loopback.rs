//! Two gateways back to back in memory, for benches: every line a packet passes on its way, and no kernel.
//!
//! ```text
//!   inject ─▶ device ─ egress ─▶ socket ─── network ───▶ socket ─ ingress ─▶ device ─▶ delivered
//!             └─ A: cut, lay out, seal ─┘                └─ B: open, check, join ─┘
//! ```
//!
//! No thread either: [`LoopbackPair::carry`] takes everything there is from end to end, so that what it costs is the datapath's own.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::classify::Admits;
use super::counters::{Counters, PacketDropCounters};
use super::egress::{EgressScratch, ReadOutcome, TunnelEgress};
use super::ingress::{Ingress, SocketEntry};
use super::notice::{self, Notices};
use super::sa_events::{FirstPacket, InboundEvents};
use super::tables::{EgressPath, EgressState, InboundEntry, InboundTable, MssClamp, TunnelShared};
use super::worker_thread::{PollOutcome, Work};
use super::{NAT_PORT, TunnelId};
use crate::esp::{Inbound, Outbound, Sad};
use crate::net::{Dscp, Time};
use crate::os::memory::{MemoryDevice, MemoryNetwork};
use crate::os::poll::{Ready, Waiter};
use crate::os::{GsoSupport, ReceiveOffload, VnetHeader};

/// A tunnel from A to B.
pub struct LoopbackPair {
    a: Arc<TunnelShared>,
    b: Arc<TunnelShared>,
    from: Arc<MemoryDevice>,
    to: Arc<MemoryDevice>,
    road: TunnelEgress,
    buffers: EgressScratch,
    ingress: Ingress,
    unmatched: Arc<PacketDropCounters>,
    /// Nobody reads them, and the workers would count that.
    _notices: Notices,
}

const A: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const B: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

/// What a queue holds.
const ROOM: usize = 4096;

/// The largest inner packet: one that any suite takes through a link of 1500 octets.
pub const MTU: u16 = 1408;

impl LoopbackPair {
    /// A tunnel under these SAs, of which one opens what the other seals. `receiving` says whether trains stay together on the way, and
    /// B's device takes super-packets if they do.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn under(
        outbound: Outbound,
        inbound: Inbound,
        receiving: ReceiveOffload,
    ) -> io::Result<LoopbackPair> {
        let network = MemoryNetwork::with_gro(receiving);
        let [near, far] = [A, B].map(|address| SocketAddr::new(address, NAT_PORT));
        let (near_socket, far_socket) = (network.bind(near, ROOM)?, network.bind(far, ROOM)?);
        let (from, to) = (MemoryDevice::new(ROOM)?, MemoryDevice::new(ROOM)?);
        let (from, to) = (Arc::new(from), Arc::new(to));
        to.set_gso_support(match receiving {
            ReceiveOffload::Joined => GsoSupport::TcpAndUdp,
            ReceiveOffload::Single => GsoSupport::None,
        });
        let path = EgressPath {
            sa: Arc::new(outbound),
            socket: Arc::new(near_socket),
            local: A,
            remote: far,
            mtu: MTU,
            dscp: Dscp::Copied,
        };
        let a = lane(&from, EgressState::Open(path))?;
        let b = lane(&to, EgressState::Closed)?;
        let inlet = InboundEntry {
            lane: Arc::clone(&b),
            local: B,
            remote: Some(near),
            clamp: MssClamp::to(MTU),
            watch: Arc::new(InboundEvents::new(FirstPacket::Usual)),
        };
        let sad: Sad<InboundEntry> = [(Arc::new(inbound), inlet)].into_iter().collect();
        let inlets: Arc<InboundTable> = Arc::new(ArcSwap::from_pointee(sad));
        let door = SocketEntry {
            socket: Arc::new(far_socket),
            admits: Admits::IkeAndEsp,
        };
        let (notices_tx, notices) = notice::channel(8)?;
        let unmatched = Arc::<PacketDropCounters>::default();
        Ok(LoopbackPair {
            road: TunnelEgress::new(Arc::clone(&a), &notices_tx),
            buffers: EgressScratch::new(Arc::default()),
            ingress: Ingress::new(
                Arc::new(ArcSwap::from_pointee(vec![door])),
                inlets,
                Arc::clone(&unmatched),
                notices_tx,
            ),
            a,
            b,
            from,
            to,
            unmatched,
            _notices: notices,
        })
    }

    /// Lays a packet, or a super-packet, into A's device; `false` when that is full.
    pub fn inject(&self, vnet: VnetHeader, packet: &[u8]) -> bool {
        self.from.inject_with(vnet, packet)
    }

    /// Takes everything that is in A's device to B's.
    pub fn carry(&mut self, now: Time) {
        while self.road.batch(&mut self.buffers, now) == ReadOutcome::More {}
        // The only socket there is.
        let ready = Ready::of(&[0]);
        while self.ingress.turn(&ready, now) == PollOutcome::More {}
    }

    /// Hands everything that has come out of B's device to `seen`, oldest first; says how many packets or super-packets.
    pub fn delivered(&self, seen: impl FnMut(VnetHeader, &[u8])) -> usize {
        self.to.drain(seen)
    }

    /// How many packets either side has refused.
    pub fn refused(&self) -> u64 {
        let sides = [&self.a.counters, &self.b.counters];
        let refused = sides.map(|Counters { refused, .. }| refused);
        let all = refused.into_iter().chain([&*self.unmatched]);
        all.flat_map(PacketDropCounters::iter)
            .map(|(_, count)| count)
            .sum()
    }
}

fn lane(device: &Arc<MemoryDevice>, outlet: EgressState) -> io::Result<Arc<TunnelShared>> {
    Ok(Arc::new(TunnelShared {
        id: TunnelId(0),
        device: device.clone(),
        outlet: ArcSwap::from_pointee(outlet),
        counters: Counters::default(),
        waker: Waiter::new()?.waker(),
    }))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{NOW, half, to_b};
    use super::*;
    use crate::esp::testing::policy;

    #[test]
    fn what_is_injected_at_a_is_delivered_at_b() {
        for receiving in [ReceiveOffload::Single, ReceiveOffload::Joined] {
            let (outbound, inbound) = half("aes128-sha1", 1, policy());
            let mut pair = LoopbackPair::under(outbound, inbound, receiving).unwrap();
            for len in [64, 500, 1300] {
                assert!(pair.inject(VnetHeader::NONE, &to_b(len)));
            }
            pair.carry(NOW);
            let mut lengths = Vec::new();
            pair.delivered(|_, packet| lengths.push(packet.len()));
            assert_eq!(lengths, [64, 500, 1300]);
            assert_eq!(pair.refused(), 0);
        }
    }

    #[test]
    fn equal_packets_are_joined_where_trains_stay_together() {
        for (receiving, pieces) in [(ReceiveOffload::Single, 32), (ReceiveOffload::Joined, 1)] {
            let (outbound, inbound) = half("aes128gcm16", 1, policy());
            let mut pair = LoopbackPair::under(outbound, inbound, receiving).unwrap();
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
            assert_eq!((delivered, pair.refused()), (pieces, 0));
        }
    }

    #[test]
    fn what_the_selectors_do_not_cover_is_refused() {
        let (outbound, inbound) = half("aes128-sha1", 1, policy());
        let mut pair = LoopbackPair::under(outbound, inbound, ReceiveOffload::Single).unwrap();
        let stray = crate::esp::testing::ipv4([10, 1, 0, 7], [10, 9, 0, 5], 100);
        assert!(pair.inject(VnetHeader::NONE, &stray));
        pair.carry(NOW);
        assert_eq!((pair.delivered(|_, _| ()), pair.refused()), (0, 1));
    }
}
