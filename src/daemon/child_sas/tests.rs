//! Tests of the installed Child SAs of a tunnel: who sends, what receives, and for how long.

use super::*;
use crate::datapath::{NoSaAction, Notices};
use crate::esp::Outbound;
use crate::esp::testing::{IV_KEY, ipv4, keys, mirrored, policy, seal, suite};
use crate::net::{DropReason, IKE_PORT, NAT_PORT};
use crate::os::Socket;
use crate::os::memory::{MemoryDevice, MemoryNetwork, MemorySocket};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

const TUNNEL: TunnelId = TunnelId(3);
const NOW: Time = Time::from_secs(1000);
const A: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const B: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

/// Gateway with a running datapath.
struct TestGateway {
    datapath: Datapath,
    _notices: Notices,
    device: Arc<MemoryDevice>,
    nat: Arc<MemorySocket>,
    children: ChildSas,
    address: IpAddr,
    peer: IpAddr,
    /// Selectors as this gateway sees them.
    policy: Policy,
}

/// Two gateways: 10.2.0.0/16 is behind a, 10.1.0.0/16 behind b.
fn gateways() -> (TestGateway, TestGateway) {
    let network = MemoryNetwork::new();
    let gateway = |address, peer, policy| {
        let bind = |port| Arc::new(network.bind(SocketAddr::new(address, port), 1000).unwrap());
        let (mut datapath, notices) = Datapath::new().unwrap();
        let device = Arc::new(MemoryDevice::new(1000).unwrap());
        let nat = bind(NAT_PORT);
        let group: [Arc<dyn Socket>; 1] = [nat.clone()];
        datapath.listen(bind(IKE_PORT), &group).unwrap();
        datapath
            .add_tunnel(TUNNEL, device.clone(), NoSaAction::Drop)
            .unwrap();
        TestGateway {
            datapath,
            _notices: notices,
            device,
            nat,
            children: ChildSas::new(TUNNEL),
            address,
            peer,
            policy,
        }
    };
    (gateway(A, B, mirrored(policy())), gateway(B, A, policy()))
}

/// Outbound SA of one gateway and inbound SA of the other.
fn halves(spi: u32, policy: &Policy) -> (Outbound, Inbound) {
    let suite = suite("aes128gcm16");
    let keys = keys(suite.protection, spi as u8);
    let outbound = Outbound::new(spi, suite, &keys, &IV_KEY.into(), policy.clone()).unwrap();
    let inbound = Inbound::new(spi, suite, &keys, mirrored(policy.clone()), 64).unwrap();
    (outbound, inbound)
}

impl TestGateway {
    /// Installs generation `n`; inbound SPIs are even at a and odd at b.
    fn add(&mut self, n: u32, sends: Sends) {
        let (to, from) = self.spis(n);
        let outbound = halves(to, &self.policy).0;
        let inbound = halves(from, &mirrored(self.policy.clone())).1;
        let path = EgressPath {
            sa: Arc::new(outbound),
            socket: self.nat.clone(),
            local: self.address,
            remote: SocketAddr::new(self.peer, NAT_PORT),
            mtu: 1400,
            dscp: Default::default(),
        };
        self.children.add(inbound, path, sends, &mut self.datapath);
    }

    fn spis(&self, n: u32) -> (u32, u32) {
        let (even, odd) = (0x1000 + 2 * n, 0x1001 + 2 * n);
        if self.address == A {
            (odd, even)
        } else {
            (even, odd)
        }
    }

    fn prefer(&mut self, n: u32) {
        let spi_in = self.spis(n).1;
        self.children.prefer(spi_in, &mut self.datapath);
    }

    fn remove(&mut self, n: u32, reason: DownReason, now: Time) {
        let spi_in = self.spis(n).1;
        self.children
            .remove(spi_in, reason, now, &mut self.datapath);
    }

    /// Inner packet for the other gateway.
    fn packet(&self) -> Vec<u8> {
        let hosts = [[10, 2, 0, 5], [10, 1, 0, 7]];
        let [source, destination] = if self.address == A {
            hosts
        } else {
            [hosts[1], hosts[0]]
        };
        ipv4(source, destination, 60)
    }

    /// Generation of the Child SA that sends.
    fn sends(&self) -> Option<u32> {
        let base = if self.address == A { 0x1000 } else { 0x1001 };
        self.children.outbound.first().map(|spi| (spi - base) / 2)
    }

    fn drops(&self) -> Vec<(DropReason, u64)> {
        self.datapath
            .counters(TUNNEL)
            .unwrap()
            .dropped
            .iter()
            .collect()
    }
}

/// Waits until another thread has done its work.
fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "timed out");
        std::thread::yield_now();
    }
}

/// Sends a packet each way and waits for both.
fn carry(one: &TestGateway, other: &TestGateway) {
    let (there, back) = (one.packet(), other.packet());
    assert!(one.device.inject(&there) && other.device.inject(&back));
    assert_eq!(eventually(|| other.device.take()), there);
    assert_eq!(eventually(|| one.device.take()), back);
}

#[test]
fn e16_a_thousand_rekeys_with_traffic_between_all_steps_lose_no_packet() {
    //  initiator ── CREATE_CHILD_SA ──▶ responder   installs the new one on standby
    //  initiator ◀───────────────────── responder
    //  installs it and sends ───ESP──▶ receives over it, prefers it
    //  initiator ── DELETE ───────────▶ removes the old one
    //  removes the old one ◀────────── responder
    let (mut a, mut b) = gateways();
    a.add(0, Sends::Now);
    b.add(0, Sends::Now);
    for n in 1..=1000 {
        let now = NOW + Duration::from_secs(n.into());
        let (initiator, responder) = if n % 2 == 0 {
            (&mut a, &mut b)
        } else {
            (&mut b, &mut a)
        };
        carry(initiator, responder);
        responder.add(n, Sends::Later);
        carry(initiator, responder);
        initiator.add(n, Sends::Now);
        carry(initiator, responder);
        responder.prefer(n);
        carry(initiator, responder);
        responder.remove(n - 1, DownReason::Replaced, now);
        carry(initiator, responder);
        initiator.remove(n - 1, DownReason::Replaced, now);
        carry(initiator, responder);
        for gateway in [initiator, responder] {
            gateway.children.on_timeout(now, &mut gateway.datapath);
            assert!(gateway.children.retiring.len() <= 5);
            assert_eq!(gateway.children.installed.len(), 1);
        }
    }
    assert_eq!((a.drops(), b.drops()), (vec![], vec![]));
    assert_eq!(a.datapath.unmatched().iter().count(), 0);
    assert_eq!(b.datapath.unmatched().iter().count(), 0);
}

#[test]
fn e16_replaced_child_sa_receives_for_five_seconds_and_no_longer() {
    let (a, mut b) = gateways();
    b.add(0, Sends::Now);
    b.add(1, Sends::Now);
    let packet = a.packet();
    let old = halves(b.spis(0).1, &a.policy).0;
    let late: Vec<Vec<u8>> = (0..2).map(|_| seal(&old, &packet)).collect();
    b.remove(0, DownReason::Replaced, NOW);
    assert_eq!(b.children.next_timer(), Some(NOW + RETIRE_DELAY));
    b.children.on_timeout(
        NOW + RETIRE_DELAY - Duration::from_nanos(1),
        &mut b.datapath,
    );
    let remote = SocketAddr::new(A, NAT_PORT);
    assert!(b.nat.inject(remote, &late[0]));
    assert_eq!(eventually(|| b.device.take()), packet);
    b.children.on_timeout(NOW + RETIRE_DELAY, &mut b.datapath);
    assert_eq!(b.children.next_timer(), None);
    assert!(b.nat.inject(remote, &late[1]));
    let unknown = || b.datapath.unmatched().count(DropReason::UnknownSpi);
    eventually(|| (unknown() == 1).then_some(()));
}

#[test]
fn standby_child_sa_sends_only_when_preferred_or_when_there_is_no_other() {
    let (mut a, _) = gateways();
    a.add(0, Sends::Now);
    a.add(1, Sends::Later);
    assert_eq!(a.sends(), Some(0));
    a.prefer(1);
    assert_eq!(a.sends(), Some(1));
    a.add(2, Sends::Later);
    a.remove(0, DownReason::Replaced, NOW);
    assert_eq!(a.sends(), Some(1));
    a.remove(1, DownReason::PeerDeleted, NOW);
    assert_eq!(a.sends(), Some(2), "the only one left");
    a.remove(2, DownReason::PeerDead, NOW);
    assert_eq!(a.sends(), None);
}

#[test]
fn each_packet_leaves_under_the_child_sa_of_its_network_before_and_after_a_rekey_of_either() {
    //  The peer has a Child SA for each of its networks.
    let (mut a, mut b) = gateways();
    let network = |address: [u8; 4]| {
        let prefix = crate::net::Prefix::containing(IpAddr::from(address), 24);
        Policy {
            local: policy().remote,
            remote: vec![prefix.into()],
        }
    };
    let networks = [network([10, 1, 0, 0]), network([10, 1, 1, 0])];
    let add = |a: &mut TestGateway, b: &mut TestGateway, n: u32, of: usize| {
        a.policy = networks[of].clone();
        b.policy = mirrored(a.policy.clone());
        a.add(n, Sends::Now);
        b.add(n, Sends::Now);
    };
    add(&mut a, &mut b, 0, 0);
    add(&mut a, &mut b, 1, 1);
    assert_eq!(a.children.agreed().count(), 2);
    let carry_all = |a: &TestGateway, b: &TestGateway| {
        for host in [[10, 1, 0, 7], [10, 1, 1, 7]] {
            let packet = ipv4([10, 2, 0, 5], host, 60);
            assert!(a.device.inject(&packet));
            assert_eq!(eventually(|| b.device.take()), packet);
        }
    };
    carry_all(&a, &b);
    add(&mut a, &mut b, 2, 0);
    a.remove(0, DownReason::Replaced, NOW);
    carry_all(&a, &b);
    add(&mut a, &mut b, 3, 1);
    a.remove(1, DownReason::Replaced, NOW);
    carry_all(&a, &b);
    a.remove(2, DownReason::PeerDeleted, NOW);
    assert_eq!(a.children.agreed().count(), 1);
    assert!(a.device.inject(&ipv4([10, 2, 0, 5], [10, 1, 0, 7], 60)));
    eventually(|| (a.drops() == [(DropReason::NoPolicy, 1)]).then_some(()));
}

#[test]
fn replaced_child_sa_never_sends_again() {
    for reason in [DownReason::Replaced, DownReason::Redundant] {
        let (mut a, _) = gateways();
        a.add(0, Sends::Now);
        a.add(1, Sends::Now);
        a.remove(0, reason, NOW);
        a.prefer(0);
        assert_eq!(a.sends(), Some(1));
        a.remove(1, DownReason::Useless, NOW);
        assert_eq!(a.sends(), None);
        assert!(a.device.inject(&a.packet()));
        eventually(|| (a.drops() == [(DropReason::NoSa, 1)]).then_some(()));
        assert!(a.nat.take().is_none());
    }
}

#[test]
fn preferred_child_sa_of_simultaneous_rekeys_sends() {
    //  Both gateways rekeyed generation 0, to 1 and 2; the IKE endpoint prefers 1 and deletes 2.
    let (mut a, _) = gateways();
    a.add(0, Sends::Now);
    a.add(1, Sends::Later);
    a.add(2, Sends::Now);
    assert_eq!(a.sends(), Some(2));
    a.prefer(1);
    a.remove(2, DownReason::Redundant, NOW);
    a.remove(0, DownReason::Replaced, NOW);
    assert_eq!(a.sends(), Some(1));
    assert_eq!(a.children.retiring.len(), 2);
}

#[test]
fn p19_exhausted_child_sa_never_sends_even_if_it_is_the_last() {
    let (mut a, _) = gateways();
    a.add(0, Sends::Now);
    a.add(1, Sends::Later);
    let exhausted = a.children.spi_in_of(ChildSpi::Out(a.spis(0).0)).unwrap();
    assert_eq!(exhausted, a.spis(0).1);
    a.children.exhaust(exhausted, &mut a.datapath);
    assert_eq!(a.sends(), Some(1));
    let exhausted = a.spis(1).1;
    a.children.exhaust(exhausted, &mut a.datapath);
    a.prefer(1);
    assert_eq!(a.sends(), None);
    assert_eq!(a.children.spis_in().len(), 2, "both still receive");
}

#[test]
fn p05_rekeying_in_a_loop_leaves_a_bounded_number_of_retiring_sas() {
    let (mut a, _) = gateways();
    a.add(0, Sends::Now);
    for n in 1..200 {
        a.add(n, Sends::Now);
        a.remove(n - 1, DownReason::Replaced, NOW);
    }
    assert_eq!(a.children.retiring.len(), MAX_RETIRING + 1);
    a.remove(199, DownReason::Requested, NOW);
    assert_eq!(
        a.children.retiring.len(),
        0,
        "a tunnel that is down retires nothing"
    );
}

#[test]
fn p16_every_child_sa_follows_a_peer_that_has_moved() {
    let (mut a, _b) = gateways();
    a.add(0, Sends::Now);
    a.add(1, Sends::Later);
    let moved_to = SocketAddr::new(B, 40_000);
    a.children.set_remote(moved_to, &mut a.datapath);
    assert_eq!(a.sends(), Some(0));
    for spi_in in a.children.spis_in() {
        assert_eq!(a.children.find(spi_in).unwrap().path.remote, moved_to);
    }
}
