//! Two gateways back to back in memory, driven a turn at a time by a clock the test holds.
//!
//! ```text
//!   a.device ─ egress ─▶ a.nat ─── network ───▶ b.nat ─ ingress ─▶ b.device        10.1.0.0/16, fd01::/16 behind a
//!   a.device ◀─ ingress ─ a.nat ◀── network ─── b.nat ◀─ egress ─ b.device         10.2.0.0/16, fd02::/16 behind b
//! ```

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::classify::Admits;
use super::counters::{Counters, PacketDropCounters};
use super::egress::{EgressScratch, ReadOutcome, TunnelEgress};
use super::ingress::{Ingress, SocketEntry};
use super::notice::{self, Notice, Notices};
use super::sa_events::{FirstPacket, InboundEvents};
use super::tables::{EgressPath, EgressState, InboundEntry, InboundTable, MssClamp, TunnelShared};
use super::worker_thread::PollOutcome;
use super::{IKE_PORT, NAT_PORT, TunnelId};
use crate::esp::testing::{IV_KEY, header_checksum, ipv4, keys, mirrored, policy, suite, udp6};
use crate::esp::{Inbound, Outbound, Sad};
use crate::net::{DropReason, Dscp, Policy, Time};
use crate::os::memory::{MemoryDevice, MemoryNetwork, MemorySocket};

pub(super) const A: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
pub(super) const B: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
pub(super) const NOW: Time = Time::from_secs(1000);
pub(super) const MTU: u16 = 1390;
pub(super) const TUNNEL: TunnelId = TunnelId(7);

/// Somebody who is no peer.
pub(super) const STRANGER: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 9)), 1024);

/// One gateway with one tunnel.
pub(super) struct Side {
    pub(super) address: IpAddr,
    pub(super) device: Arc<MemoryDevice>,
    pub(super) ike: Arc<MemorySocket>,
    pub(super) nat: Arc<MemorySocket>,
    pub(super) lane: Arc<TunnelShared>,
    pub(super) inlets: Arc<InboundTable>,
    pub(super) unmatched: Arc<PacketDropCounters>,
    pub(super) notices: Notices,
    pub(super) egress: OneRoad,
    pub(super) ingress: Ingress,
    pub(super) dscp: Dscp,
}

impl Side {
    pub(super) fn new(network: &MemoryNetwork, address: IpAddr) -> Side {
        let bind = |port| Arc::new(network.bind(SocketAddr::new(address, port), 1000).unwrap());
        let (ike, nat) = (bind(IKE_PORT), bind(NAT_PORT));
        let (notices_tx, notices) = notice::channel(8).unwrap();
        let device = Arc::new(MemoryDevice::new(1000).unwrap());
        let lane = lane(TUNNEL, &device);
        let (inlets, unmatched) = (
            Arc::<InboundTable>::default(),
            Arc::<PacketDropCounters>::default(),
        );
        let door = |socket: &Arc<_>, admits| SocketEntry {
            socket: Arc::clone(socket) as Arc<dyn crate::os::Socket>,
            admits,
        };
        let doors = vec![door(&ike, Admits::Ike), door(&nat, Admits::IkeAndEsp)];
        let ingress = Ingress::new(
            Arc::new(ArcSwap::from_pointee(doors)),
            inlets.clone(),
            unmatched.clone(),
            notices_tx.clone(),
        );
        let egress = OneRoad(
            TunnelEgress::new(lane.clone(), &notices_tx),
            EgressScratch::new(Arc::default()),
        );
        Side {
            address,
            device,
            ike,
            nat,
            lane,
            inlets,
            unmatched,
            notices,
            egress,
            ingress,
            dscp: Dscp::Copied,
        }
    }

    /// Opens the tunnel towards `remote` under this SA.
    pub(super) fn open(&self, sa: Outbound, remote: IpAddr) -> Arc<Outbound> {
        let sa = Arc::new(sa);
        let remote = SocketAddr::new(remote, NAT_PORT);
        let path = EgressPath {
            sa: sa.clone(),
            socket: self.nat.clone(),
            local: self.address,
            remote,
            mtu: MTU,
            dscp: self.dscp,
        };
        self.lane.outlet.store(Arc::new(EgressState::Open(path)));
        sa
    }

    /// Makes these the inbound SAs.
    pub(super) fn accept(&self, sas: impl IntoIterator<Item = Inbound>) {
        self.install(FirstPacket::Usual, sas);
    }

    /// Makes these the inbound SAs, and waits for the first packet of each.
    pub(super) fn await_first(&self, sas: impl IntoIterator<Item = Inbound>) {
        self.install(FirstPacket::Awaited, sas);
    }

    fn install(&self, first: FirstPacket, sas: impl IntoIterator<Item = Inbound>) {
        let peer = if self.address == A { B } else { A };
        let inlet = || InboundEntry {
            lane: self.lane.clone(),
            local: self.address,
            remote: Some(SocketAddr::new(peer, NAT_PORT)),
            clamp: MssClamp::to(MTU),
            watch: Arc::new(InboundEvents::new(first)),
        };
        let sad: Sad<InboundEntry> = sas.into_iter().map(|sa| (Arc::new(sa), inlet())).collect();
        self.inlets.store(Arc::new(sad));
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.lane.counters
    }

    pub(super) fn refused(&self, reason: DropReason) -> u64 {
        self.counters().refused.count(reason)
    }

    /// Everything refused, by reason.
    pub(super) fn all_refused(&self) -> Vec<(DropReason, u64)> {
        self.counters().refused.iter().collect()
    }

    pub(super) fn notices(&self) -> Vec<Notice> {
        std::iter::from_fn(|| self.notices.next()).collect()
    }

    /// What has come out of the device.
    pub(super) fn delivered(&self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.device.take()).collect()
    }
}

/// A tunnel with a worker to itself, which is the test.
pub(super) struct OneRoad(TunnelEgress, EgressScratch);

impl OneRoad {
    pub(super) fn turn(&mut self, now: Time) -> ReadOutcome {
        self.0.batch(&mut self.1, now)
    }

    pub(super) fn wake_at(&self) -> Option<Time> {
        self.0.wake_at()
    }
}

/// An IKE header that states `length`, in `len` octets.
pub(super) fn message(len: usize, length: u32) -> Vec<u8> {
    let mut message = vec![0x11; len];
    message[24..28].copy_from_slice(&length.to_be_bytes());
    message
}

/// Waits for what another thread is about to do.
pub(super) fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "it never happened");
        std::thread::yield_now();
    }
}

pub(super) fn lane(id: TunnelId, device: &Arc<MemoryDevice>) -> Arc<TunnelShared> {
    let waiter = crate::os::poll::Waiter::new().unwrap();
    Arc::new(TunnelShared {
        id,
        device: device.clone(),
        outlet: ArcSwap::from_pointee(EgressState::Closed),
        counters: Counters::default(),
        waker: waiter.waker(),
    })
}

/// The two gateways.
pub(super) struct Pair {
    pub(super) a: Side,
    pub(super) b: Side,
}

impl Pair {
    pub(super) fn new() -> Pair {
        let network = MemoryNetwork::new();
        let (a, b) = (Side::new(&network, A), Side::new(&network, B));
        Pair { a, b }
    }

    /// With a tunnel between them.
    pub(super) fn connected(words: &str) -> Pair {
        let pair = Pair::new();
        pair.connect(words, 1);
        pair
    }

    /// Puts one generation of SAs in place of whatever was there.
    pub(super) fn connect(&self, words: &str, generation: u8) {
        let (a_out, b_in) = half(words, generation, policy());
        let (b_out, a_in) = half(words, generation ^ 0x80, mirrored(policy()));
        self.a.accept([a_in]);
        self.b.accept([b_in]);
        self.a.open(a_out, B);
        self.b.open(b_out, A);
    }

    /// Every packet there is takes its whole road: out of the devices, over the network, into the devices.
    pub(super) fn turn(&mut self, now: Time) {
        for side in [&mut self.a, &mut self.b] {
            while side.egress.turn(now) == ReadOutcome::More {}
        }
        for side in [&mut self.a, &mut self.b] {
            while side.ingress.all(now) == PollOutcome::More {}
        }
    }

    /// Lays packets into `a`'s device and says what comes out of `b`'s.
    pub(super) fn a_to_b(&mut self, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
        assert!(packets.iter().all(|packet| self.a.device.inject(packet)));
        self.turn(NOW);
        self.b.delivered()
    }
}

/// What seals packets under this policy, and what opens them at the other end.
pub(super) fn half(words: &str, seed: u8, policy: Policy) -> (Outbound, Inbound) {
    let suite = suite(words);
    let keys = keys(suite.protection, seed);
    let spi = 0x1000 + u32::from(seed);
    let outbound = Outbound::new(spi, suite, &keys, &IV_KEY.into(), policy.clone()).unwrap();
    (
        outbound,
        Inbound::new(spi, suite, &keys, mirrored(policy), 4096).unwrap(),
    )
}

/// A UDP packet from behind `a` to behind `b`.
pub(super) fn to_b(len: usize) -> Vec<u8> {
    ipv4([10, 1, 0, 7], [10, 2, 0, 5], len)
}

/// And back.
pub(super) fn to_a(len: usize) -> Vec<u8> {
    ipv4([10, 2, 0, 5], [10, 1, 0, 7], len)
}

/// The same packet with "don't fragment" set.
pub(super) fn whole_only(mut packet: Vec<u8>) -> Vec<u8> {
    packet[6] |= 0x40;
    header_checksum(&mut packet);
    packet
}

/// The UDP packet with another destination port.
pub(super) fn to_port(mut packet: Vec<u8>, port: u16) -> Vec<u8> {
    packet[22..24].copy_from_slice(&port.to_be_bytes());
    packet
}

/// A TCP SYN with this maximum segment size, its checksum right.
pub(super) fn syn(source: [u8; 4], destination: [u8; 4], mss: u16) -> Vec<u8> {
    let mut packet = ipv4(source, destination, 44);
    packet[9] = 6;
    header_checksum(&mut packet);
    packet[20..].fill(0);
    packet[20..24].copy_from_slice(&[0x30, 0x39, 0, 80]);
    (packet[32], packet[33], packet[34]) = (0x60, 0x02, 0xff);
    packet[40..42].copy_from_slice(&[2, 4]);
    packet[42..44].copy_from_slice(&mss.to_be_bytes());
    let checksum = !tcp_sum(&packet);
    packet[36..38].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// The Internet checksum over pseudo-header and TCP segment: all ones where it is right.
pub(super) fn tcp_sum(packet: &[u8]) -> u16 {
    let length = (packet.len() - 20) as u16;
    fold(
        &[
            &packet[12..20],
            &[0, 6],
            &length.to_be_bytes(),
            &packet[20..],
        ]
        .concat(),
    )
}

pub(super) fn mss_of(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[42], packet[43]])
}

/// A router solicitation, as the kernel sends it when a device comes up.
pub(super) fn router_solicitation() -> Vec<u8> {
    let mut packet = udp6(48);
    packet[6..8].copy_from_slice(&[58, 255]);
    packet[8..24].copy_from_slice(&"fe80::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
    packet[24..40].copy_from_slice(&"ff02::2".parse::<std::net::Ipv6Addr>().unwrap().octets());
    packet[40..48].copy_from_slice(&[133, 0, 0, 0, 0, 0, 0, 0]);
    packet
}

/// The TCP packet as the kernel leaves it to a network card: with only the sum of the pseudo-header in the checksum field.
pub(super) fn without_checksum(packet: &[u8]) -> Vec<u8> {
    let mut undone = packet.to_vec();
    let length = (packet.len() - 20) as u16;
    let pseudo = [&packet[12..20], &[0, 6], &length.to_be_bytes()].concat();
    undone[36..38].copy_from_slice(&fold(&pseudo).to_be_bytes());
    undone
}

fn fold(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    let sum: u32 = bytes.chunks(2).map(word).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    ((folded & 0xffff) + (folded >> 16)) as u16
}
