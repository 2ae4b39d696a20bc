//! Two gateways connected in memory, driven a batch at a time under the test's own clock.
//!
//! ```text
//!   a.device ─ egress ─▶ a.nat ─── network ───▶ b.nat ─ ingress ─▶ b.device        10.1.0.0/16, fd01::/16 behind a
//!   a.device ◀─ ingress ─ a.nat ◀── network ─── b.nat ◀─ egress ─ b.device         10.2.0.0/16, fd02::/16 behind b
//! ```

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::counters::{Counters, PacketDropCounters};
use super::egress::{EgressScratch, TunnelEgress};
use super::ingress::{Ingress, Receives, SocketEntry};
use super::notice::{self, Notice, Notices};
use super::sa_events::{FirstPacket, InboundEvents};
use super::tables::{
    EgressPath, EgressState, InboundEntry, InboundTable, MssClamp, ReadOutcome, TunnelShared,
};
use crate::esp::testing::{IV_KEY, header_checksum, ipv4, keys, mirrored, policy, suite, udp6};
use crate::esp::{Inbound, Outbound};
use crate::net::{DropReason, Dscp, Policy, Time, TunnelId};
use crate::net::{IKE_PORT, NAT_PORT};
use crate::os::Socket;
use crate::os::memory::{MemoryDevice, MemoryNetwork, MemorySocket};

pub(super) const A: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
pub(super) const B: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
pub(super) const NOW: Time = Time::from_secs(1000);
pub(super) const MTU: u16 = 1390;
pub(super) const TUNNEL: TunnelId = TunnelId(7);

/// An address that is not the peer's.
pub(super) const OTHER_ADDRESS: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 9)), 1024);

/// One gateway with one tunnel.
pub(super) struct Side {
    pub(super) address: IpAddr,
    pub(super) device: Arc<MemoryDevice>,
    pub(super) ike: Arc<MemorySocket>,
    pub(super) nat: Arc<MemorySocket>,
    pub(super) tunnel: Arc<TunnelShared>,
    pub(super) table: Arc<InboundTable>,
    pub(super) unmatched: Arc<PacketDropCounters>,
    pub(super) notices: Notices,
    pub(super) egress: DrivenEgress,
    pub(super) ingress: DrivenIngress,
    pub(super) dscp: Dscp,
    spis: std::cell::RefCell<Vec<u32>>,
}

impl Side {
    pub(super) fn new(network: &MemoryNetwork, address: IpAddr) -> Side {
        let bind = |port| Arc::new(network.bind(SocketAddr::new(address, port), 1000).unwrap());
        let (ike, nat) = (bind(IKE_PORT), bind(NAT_PORT));
        let (sender, notices) = notice::channel(128).unwrap();
        let device = Arc::new(MemoryDevice::new(1000).unwrap());
        let tunnel = tunnel(TUNNEL, &device);
        let table = Arc::<InboundTable>::default();
        let unmatched = Arc::<PacketDropCounters>::default();
        let sockets = vec![
            socket_entry(&ike, Receives::Ike),
            socket_entry(&nat, Receives::IkeAndEsp),
        ];
        let ingress = Ingress::new(
            table.clone(),
            unmatched.clone(),
            sender.clone(),
            Arc::default(),
        );
        let egress = TunnelEgress::new(tunnel.clone(), &sender);
        Side {
            address,
            device,
            ike,
            nat,
            tunnel,
            table,
            unmatched,
            notices,
            egress: DrivenEgress(egress, EgressScratch::new(Arc::default())),
            ingress: DrivenIngress(ingress, sockets),
            dscp: Dscp::Copied,
            spis: Default::default(),
        }
    }

    /// Sends the tunnel's packets to `remote` under this SA.
    pub(super) fn open(&self, sa: Outbound, remote: IpAddr) -> Arc<Outbound> {
        let sa = Arc::new(sa);
        self.set_egress(EgressState::Open(vec![self.path(&sa, remote)]));
        sa
    }

    pub(super) fn path(&self, sa: &Arc<Outbound>, remote: IpAddr) -> EgressPath {
        EgressPath {
            sa: sa.clone(),
            socket: self.nat.clone(),
            local: self.address,
            remote: SocketAddr::new(remote, NAT_PORT),
            mtu: MTU,
            dscp: self.dscp,
        }
    }

    pub(super) fn set_egress(&self, state: EgressState) {
        self.tunnel.egress.store(Arc::new(state));
    }

    /// Replaces the inbound SAs.
    pub(super) fn accept(&self, sas: impl IntoIterator<Item = Inbound>) {
        self.install(FirstPacket::Ordinary, sas);
    }

    /// Replaces the inbound SAs, and awaits the first packet of each.
    pub(super) fn await_first(&self, sas: impl IntoIterator<Item = Inbound>) {
        self.install(FirstPacket::Awaited, sas);
    }

    fn install(&self, first: FirstPacket, sas: impl IntoIterator<Item = Inbound>) {
        let peer = if self.address == A { B } else { A };
        let remote = Some(SocketAddr::new(peer, NAT_PORT));
        for spi in self.spis.take() {
            self.table.remove(spi, &self.tunnel);
        }
        for sa in sas {
            self.spis.borrow_mut().push(sa.spi());
            let local = self.address;
            let entry = inbound_entry(sa, &self.tunnel, local, remote, first);
            self.table.insert(entry);
        }
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.tunnel.counters
    }

    pub(super) fn dropped(&self, reason: DropReason) -> u64 {
        self.counters().dropped.count(reason)
    }

    /// Every drop reason that has occurred, with its count.
    pub(super) fn all_dropped(&self) -> Vec<(DropReason, u64)> {
        self.counters().dropped.iter().collect()
    }

    pub(super) fn notices(&self) -> Vec<Notice> {
        std::iter::from_fn(|| self.notices.next()).collect()
    }

    /// The packets that were written into the device.
    pub(super) fn delivered(&self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.device.take()).collect()
    }
}

/// The egress of one tunnel, driven by the test instead of a worker.
pub(super) struct DrivenEgress(TunnelEgress, EgressScratch);

impl DrivenEgress {
    pub(super) fn run_batch(&mut self, now: Time) -> ReadOutcome {
        self.0.run_batch(&mut self.1, now)
    }

    pub(super) fn wake_at(&self) -> Option<Time> {
        self.0.wake_at()
    }
}

/// The ingress of some sockets, driven by the test instead of a worker.
pub(super) struct DrivenIngress(Ingress, Vec<SocketEntry>);

impl DrivenIngress {
    pub(super) fn new(ingress: Ingress, sockets: Vec<SocketEntry>) -> DrivenIngress {
        DrivenIngress(ingress, sockets)
    }

    /// Takes one batch of each socket; `true` if any was full.
    pub(super) fn run_batches(&mut self, now: Time) -> bool {
        let DrivenIngress(ingress, sockets) = self;
        sockets.iter().fold(false, |more, entry| {
            more | (ingress.run_batch(entry, now) == ReadOutcome::More)
        })
    }
}

pub(super) fn socket_entry(socket: &Arc<MemorySocket>, receives: Receives) -> SocketEntry {
    SocketEntry {
        socket: socket.clone() as Arc<dyn Socket>,
        receives,
    }
}

pub(super) fn inbound_entry(
    sa: Inbound,
    tunnel: &Arc<TunnelShared>,
    local: IpAddr,
    remote: Option<SocketAddr>,
    first: FirstPacket,
) -> InboundEntry {
    InboundEntry {
        sa: Arc::new(sa),
        tunnel: tunnel.clone(),
        local,
        remote,
        clamp: MssClamp::for_mtu(MTU),
        events: Arc::new(InboundEvents::new(first)),
    }
}

/// An IKE header that states `length`, in `len` octets.
pub(super) fn message(len: usize, length: u32) -> Vec<u8> {
    let mut message = vec![0x11; len];
    message[24..28].copy_from_slice(&length.to_be_bytes());
    message
}

/// Waits for another thread, with a deadline.
pub(super) fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within 20 seconds");
        std::thread::yield_now();
    }
}

pub(super) fn tunnel(id: TunnelId, device: &Arc<MemoryDevice>) -> Arc<TunnelShared> {
    let waiter = crate::os::poll::Waiter::new().unwrap();
    Arc::new(TunnelShared {
        id,
        device: device.clone(),
        egress: ArcSwap::from_pointee(EgressState::Closed),
        counters: Arc::default(),
        icmp: None,
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

    /// Two gateways with a tunnel between them.
    pub(super) fn connected(words: &str) -> Pair {
        let pair = Pair::new();
        pair.connect(words, 1);
        pair
    }

    /// Replaces the SAs of both gateways.
    pub(super) fn connect(&self, words: &str, generation: u8) {
        let (a_out, b_in) = half(words, generation, policy());
        let (b_out, a_in) = half(words, generation ^ 0x80, mirrored(policy()));
        self.a.accept([a_in]);
        self.b.accept([b_in]);
        self.a.open(a_out, B);
        self.b.open(b_out, A);
    }

    /// Takes every packet from device to device.
    pub(super) fn run(&mut self, now: Time) {
        for side in [&mut self.a, &mut self.b] {
            while side.egress.run_batch(now) == ReadOutcome::More {}
        }
        for side in [&mut self.a, &mut self.b] {
            while side.ingress.run_batches(now) {}
        }
    }

    /// Injects packets into the device of `a`, and returns what comes out of the device of `b`.
    pub(super) fn a_to_b(&mut self, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
        assert!(packets.iter().all(|packet| self.a.device.inject(packet)));
        self.run(NOW);
        self.b.delivered()
    }
}

/// An outbound SA with this policy, and the peer's inbound SA.
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

/// A UDP packet from behind `b` to behind `a`.
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

/// The TCP packet as the kernel hands it to a device that offloads checksums: with the sum of the pseudo-header in the checksum field.
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
