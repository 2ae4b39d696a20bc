//! Child SAs of one tunnel in the datapath: which ones send, which only receive, which are being retired.
//!
//! A peer may create one Child SA for each of its networks: each packet leaves under the first in `outbound` whose selectors cover it. A rekey
//! is make-before-break (RFC 7296 §2.8):
//!
//! ```text
//!            ChildUp(new, Later)        ChildPreferred(new)     ChildDown(old, Replaced)
//!   old   ══ sends ═══════════════════════╗                        ┌ outbound SA never used again
//!         ── receives ────────────────────║────────────────────────┴─ retiring ── 5 s ─ removed
//!   new      ┌─ receives ─────────────────║─────────────────────────────────────────────────────
//!            └ outbound ready ············╚══ sends ════════════════════════════════════════════
//! ```
//!
//! While a Child SA is installed there is always an outbound SA, and a retiring one never sends again.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::path_mtu::OuterPath;
use crate::datapath::{ChildSpi, Datapath, EgressPath, FirstPacket, InboundParams, TunnelId};
use crate::esp::Inbound;
use crate::ike::{DownReason, Sends};
use crate::net::{Policy, Time};

/// Child SAs of one tunnel.
pub(super) struct ChildSas {
    tunnel: TunnelId,
    /// Installed Child SAs; the one preferred last is at the end.
    installed: Vec<InstalledChild>,
    /// Inbound SPIs of the Child SAs that send, in the order in which a packet looks for one.
    outbound: Vec<u32>,
    /// Inbound SAs of replaced Child SAs, oldest first.
    retiring: VecDeque<RetiringInbound>,
}

/// Installed Child SA.
pub(super) struct InstalledChild {
    pub(super) spi_in: u32,
    pub(super) inbound: Arc<Inbound>,
    pub(super) path: EgressPath,
    send_state: SendState,
}

/// Whether a Child SA may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SendState {
    /// Only what no other covers: the peer may not have installed it yet.
    Standby,
    /// Yes.
    Ready,
    /// Never again: its sequence numbers or its lifetime are used up.
    Exhausted,
}

/// Inbound SA of a replaced Child SA.
struct RetiringInbound {
    spi_in: u32,
    remove_at: Time,
}

/// Time for which packets sent before a rekey are still accepted on the replaced Child SA.
pub(super) const RETIRE_DELAY: Duration = Duration::from_secs(5);

/// Upper bound on retiring inbound SAs besides one for each installed Child SA (two rekeys a second), so that a peer that rekeys in a loop
/// uses no more memory.
const MAX_RETIRING: usize = 10;

impl ChildSas {
    /// No Child SAs for a tunnel.
    pub(super) fn new(tunnel: TunnelId) -> ChildSas {
        ChildSas {
            tunnel,
            installed: Vec::new(),
            outbound: Vec::new(),
            retiring: VecDeque::new(),
        }
    }

    /// Whether no Child SA is installed.
    pub(super) fn is_empty(&self) -> bool {
        self.installed.is_empty()
    }

    /// Installed Child SA with this inbound SPI.
    pub(super) fn find(&self, spi_in: u32) -> Option<&InstalledChild> {
        self.installed.iter().find(|child| child.spi_in == spi_in)
    }

    /// Inbound SPI of the Child SA that has this SPI in one direction.
    pub(super) fn spi_in_of(&self, spi: ChildSpi) -> Option<u32> {
        let has_spi = |child: &&InstalledChild| match spi {
            ChildSpi::In(spi) => child.spi_in == spi,
            ChildSpi::Out(spi) => child.path.sa.spi() == spi,
        };
        // Outbound SPIs are chosen by the peer and may repeat: prefer an SA that sends.
        let mut sending = self.outbound.iter().filter_map(|spi_in| self.find(*spi_in));
        sending
            .find(has_spi)
            .or_else(|| self.installed.iter().rev().find(has_spi))
            .map(|child| child.spi_in)
    }

    /// Traffic selectors of the Child SAs that send: traffic outside them is not carried.
    pub(super) fn agreed(&self) -> impl Iterator<Item = &Policy> {
        let sending = self.outbound.iter().filter_map(|spi_in| self.find(*spi_in));
        sending.map(|child| child.path.sa.policy())
    }

    /// Inbound SPIs of all installed Child SAs.
    pub(super) fn spis_in(&self) -> Vec<u32> {
        self.installed.iter().map(|child| child.spi_in).collect()
    }

    /// Installs a Child SA: inbound first, since the peer may send as soon as it has our answer.
    pub(super) fn add(
        &mut self,
        inbound: Inbound,
        path: EgressPath,
        sends: Sends,
        datapath: &mut Datapath,
    ) {
        let spi_in = inbound.spi();
        // The SPI may repeat that of a retiring SA, which then ends.
        self.remove_retiring(|retiring| retiring.spi_in == spi_in, datapath);
        let (send_state, first) = match sends {
            Sends::Now => (SendState::Ready, FirstPacket::Ordinary),
            Sends::Later => (SendState::Standby, FirstPacket::Awaited),
        };
        let params = InboundParams {
            local: path.local,
            remote: path.remote,
            mtu: path.mtu,
            first,
        };
        let inbound = Arc::new(inbound);
        datapath.install_inbound(self.tunnel, Arc::clone(&inbound), params);
        self.installed.push(InstalledChild {
            spi_in,
            inbound,
            path,
            send_state,
        });
        self.select_outbound(datapath);
    }

    /// Sends over this Child SA from now on; without effect if it is not installed.
    pub(super) fn prefer(&mut self, spi_in: u32, datapath: &mut Datapath) {
        let position = self.position(spi_in);
        if let Some(mut child) = position.map(|position| self.installed.remove(position)) {
            child.send_state = match child.send_state {
                SendState::Standby | SendState::Ready => SendState::Ready,
                SendState::Exhausted => SendState::Exhausted,
            };
            self.installed.push(child);
            self.select_outbound(datapath);
        }
    }

    /// Never sends over this Child SA again: its sequence numbers or its lifetime are used up.
    pub(super) fn exhaust(&mut self, spi_in: u32, datapath: &mut Datapath) {
        let position = self.position(spi_in);
        if let Some(child) = position.and_then(|position| self.installed.get_mut(position)) {
            child.send_state = SendState::Exhausted;
            self.select_outbound(datapath);
        }
    }

    /// Removes a Child SA. A replaced one still receives for [`RETIRE_DELAY`] what the peer sent before it switched.
    pub(super) fn remove(
        &mut self,
        spi_in: u32,
        reason: DownReason,
        now: Time,
        datapath: &mut Datapath,
    ) {
        let Some(position) = self.position(spi_in) else {
            return;
        };
        self.installed.remove(position);
        // Another Child SA takes over before this one is removed, so that no packet is dropped in between.
        self.select_outbound(datapath);
        let retires = reason.leaves_replacement() && !self.installed.is_empty();
        if retires {
            datapath.retire_inbound(self.tunnel, spi_in);
            let remove_at = now + RETIRE_DELAY;
            self.retiring
                .push_back(RetiringInbound { spi_in, remove_at });
            if self.retiring.len() > MAX_RETIRING.saturating_add(self.installed.len())
                && let Some(oldest) = self.retiring.pop_front()
            {
                datapath.remove_inbound(self.tunnel, oldest.spi_in);
            }
        } else {
            datapath.remove_inbound(self.tunnel, spi_in);
        }
        if self.installed.is_empty() {
            self.remove_retiring(|_| true, datapath);
        }
    }

    /// Changes the peer's address of every Child SA.
    pub(super) fn set_remote(&mut self, remote: SocketAddr, datapath: &mut Datapath) {
        for child in &mut self.installed {
            child.path.remote = remote;
        }
        datapath.set_peer_address(self.tunnel, remote);
        self.outbound.clear();
        self.select_outbound(datapath);
    }

    /// Outer addresses of the Child SA that sends.
    pub(super) fn outer_path(&self) -> Option<OuterPath> {
        let sending = self.outbound.first().and_then(|spi_in| self.find(*spi_in));
        let path = &sending.or(self.installed.last())?.path;
        Some(OuterPath {
            local: path.local,
            peer: path.remote.ip(),
        })
    }

    /// Changes the inner MTU of every Child SA. Returns the least one; `None` without a Child SA.
    pub(super) fn set_mtus(
        &mut self,
        mtu: impl Fn(&EgressPath) -> u16,
        datapath: &mut Datapath,
    ) -> Option<u16> {
        let mut has_changed = false;
        for child in &mut self.installed {
            let new = mtu(&child.path);
            if new != child.path.mtu {
                child.path.mtu = new;
                datapath.set_inbound_mtu(self.tunnel, child.spi_in, new);
                has_changed = true;
            }
        }
        if has_changed {
            self.outbound.clear();
            self.select_outbound(datapath);
        }
        self.installed.iter().map(|child| child.path.mtu).min()
    }

    /// Time at which the oldest retiring SA must be removed.
    pub(super) fn next_timer(&self) -> Option<Time> {
        self.retiring.front().map(|retiring| retiring.remove_at)
    }

    /// Removes retiring SAs whose time has come.
    pub(super) fn on_timeout(&mut self, now: Time, datapath: &mut Datapath) {
        self.remove_retiring(|retiring| retiring.remove_at <= now, datapath);
    }

    /// Selects the outbound SAs of the datapath: the Child SAs preferred last come first, those on standby carry what no other covers.
    fn select_outbound(&mut self, datapath: &mut Datapath) {
        let newest_first = |state| {
            let newest_first = self.installed.iter().rev();
            newest_first.filter(move |child| child.send_state == state)
        };
        let mut chosen: Vec<&InstalledChild> = Vec::new();
        for child in newest_first(SendState::Ready).chain(newest_first(SendState::Standby)) {
            let policy = child.path.sa.policy();
            let is_covered = |chosen: &&InstalledChild| chosen.path.sa.policy().covers(policy);
            if !chosen.iter().any(is_covered) {
                chosen.push(child);
            }
        }
        let outbound: Vec<u32> = chosen.iter().map(|child| child.spi_in).collect();
        if outbound == self.outbound && !outbound.is_empty() {
            return;
        }
        if outbound.is_empty() {
            datapath.clear_outbound(self.tunnel);
        } else {
            let paths = chosen.iter().map(|child| child.path.clone()).collect();
            datapath.set_outbound(self.tunnel, paths);
        }
        self.outbound = outbound;
    }

    fn position(&self, spi_in: u32) -> Option<usize> {
        self.installed
            .iter()
            .position(|child| child.spi_in == spi_in)
    }

    fn remove_retiring(
        &mut self,
        is_over: impl Fn(&RetiringInbound) -> bool,
        datapath: &mut Datapath,
    ) {
        let tunnel = self.tunnel;
        self.retiring.retain(|retiring| {
            let over = is_over(retiring);
            if over {
                datapath.remove_inbound(tunnel, retiring.spi_in);
            }
            !over
        });
    }
}

#[cfg(test)]
mod tests {
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
}
