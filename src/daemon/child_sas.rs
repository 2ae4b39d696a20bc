//! The Child SAs of one tunnel in the datapath: which of them sends, which only receive, which are on their way out. A rekey makes
//! before it breaks (RFC 7296 §2.8):
//!
//! ```text
//!            ChildUp(new, Later)        ChildPreferred(new)     ChildDown(old, Replaced)
//!   old   ══ sends ═══════════════════════╗                        ┌ key never used again
//!         ── receives ────────────────────║────────────────────────┴─ stragglers ─ 5 s ─ gone
//!   new      ┌─ receives ─────────────────║─────────────────────────────────────────────────────
//!            └ outbound ready ············╚══ sends ════════════════════════════════════════════
//! ```
//!
//! There is no moment without an outbound SA while any is at work, and none that is on its way out is ever sent over again.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::datapath::{ChildSpi, Datapath, EgressPath, FirstPacket, InboundParams, TunnelId};
use crate::esp::Inbound;
use crate::ike::{DownReason, Sends};
use crate::net::Time;

/// The Child SAs of one tunnel.
pub(super) struct ChildSas {
    lane: TunnelId,
    /// Those at work, the one preferred last at the end.
    at_work: Vec<Installed>,
    /// What is sent over now, by its inbound SPI.
    sending: Option<u32>,
    /// Inbound halves of Child SAs that were rekeyed, oldest first.
    stragglers: VecDeque<Straggler>,
}

/// A Child SA at work.
pub(super) struct Installed {
    pub(super) spi_in: u32,
    pub(super) path: EgressPath,
    standing: Standing,
}

/// Whether a Child SA may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Only if there is no other: the peer may not have it yet.
    Waits,
    /// It may.
    Ready,
    /// Never again: it has carried as much as it may.
    Spent,
}

/// An inbound half that is still open.
struct Straggler {
    spi_in: u32,
    until: Time,
}

/// How long what the peer sent last over a replaced Child SA may be on its way.
pub(super) const LINGER: Duration = Duration::from_secs(5);

/// How many replaced Child SAs may linger: two rekeys a second. A peer that rekeys in a loop gets no more memory than that.
const MOST_STRAGGLERS: usize = 10;

impl ChildSas {
    /// None yet.
    pub(super) fn of(lane: TunnelId) -> ChildSas {
        ChildSas {
            lane,
            at_work: Vec::new(),
            sending: None,
            stragglers: VecDeque::new(),
        }
    }

    /// Whether none is at work.
    pub(super) fn is_empty(&self) -> bool {
        self.at_work.is_empty()
    }

    /// The one at work with this inbound SPI.
    pub(super) fn find(&self, spi_in: u32) -> Option<&Installed> {
        self.at_work.iter().find(|child| child.spi_in == spi_in)
    }

    /// The inbound SPI of the Child SA that this is a half of.
    pub(super) fn owner(&self, half: ChildSpi) -> Option<u32> {
        let is_it = |child: &&Installed| match half {
            ChildSpi::In(spi) => child.spi_in == spi,
            ChildSpi::Out(spi) => child.path.sa.spi() == spi,
        };
        let sending = self.sending.and_then(|spi_in| self.find(spi_in));
        let owner = sending.filter(is_it);
        owner
            .or_else(|| self.at_work.iter().rev().find(is_it))
            .map(|child| child.spi_in)
    }

    /// The inbound SPIs of all at work.
    pub(super) fn all(&self) -> Vec<u32> {
        self.at_work.iter().map(|child| child.spi_in).collect()
    }

    /// Puts one to work: inbound first, for the peer may send as soon as it has our answer.
    pub(super) fn add(
        &mut self,
        inbound: Inbound,
        path: EgressPath,
        sends: Sends,
        datapath: &mut Datapath,
    ) {
        let spi_in = inbound.spi();
        // A number that is chosen again while its last owner lingers is the new one's alone.
        self.drop_straggler(|straggler| straggler.spi_in == spi_in, datapath);
        let (standing, first) = match sends {
            Sends::Now => (Standing::Ready, FirstPacket::Usual),
            Sends::Later => (Standing::Waits, FirstPacket::Awaited),
        };
        let params = InboundParams {
            local: path.local,
            remote: path.remote,
            mtu: path.mtu,
            first,
        };
        datapath.install_inbound(self.lane, Arc::new(inbound), params);
        self.at_work.push(Installed {
            spi_in,
            path,
            standing,
        });
        self.direct(datapath);
    }

    /// Sends over this one from now on; one that is not at work changes nothing.
    pub(super) fn prefer(&mut self, spi_in: u32, datapath: &mut Datapath) {
        let place = self.place(spi_in);
        if let Some(mut child) = place.map(|place| self.at_work.remove(place)) {
            child.standing = match child.standing {
                Standing::Waits | Standing::Ready => Standing::Ready,
                Standing::Spent => Standing::Spent,
            };
            self.at_work.push(child);
            self.direct(datapath);
        }
    }

    /// Never sends over this one again: it has carried as much as it may.
    pub(super) fn spend(&mut self, spi_in: u32, datapath: &mut Datapath) {
        let place = self.place(spi_in);
        if let Some(child) = place.and_then(|place| self.at_work.get_mut(place)) {
            child.standing = Standing::Spent;
            self.direct(datapath);
        }
    }

    /// Takes one out, whether it is at work or not. What the peer sent over it before it knew of another one is still let in.
    pub(super) fn remove(
        &mut self,
        spi_in: u32,
        reason: DownReason,
        now: Time,
        datapath: &mut Datapath,
    ) {
        let Some(place) = self.place(spi_in) else {
            return;
        };
        self.at_work.remove(place);
        // Another one takes over before this one is gone: nothing is refused in between.
        self.direct(datapath);
        let lingers = match reason {
            DownReason::Replaced | DownReason::Redundant => !self.at_work.is_empty(),
            DownReason::Asked
            | DownReason::PeerDeleted
            | DownReason::PeerDisbelieves
            | DownReason::PeerDead
            | DownReason::Expired
            | DownReason::PeerRestarted
            | DownReason::Useless => false,
        };
        if lingers {
            datapath.retire_inbound(self.lane, spi_in);
            let until = now + LINGER;
            self.stragglers.push_back(Straggler { spi_in, until });
            if self.stragglers.len() > MOST_STRAGGLERS {
                self.drop_first_straggler(datapath);
            }
        } else {
            datapath.remove_inbound(self.lane, spi_in);
        }
        if self.at_work.is_empty() {
            self.drop_straggler(|_| true, datapath);
        }
    }

    /// The peer is somewhere else now, for every Child SA.
    pub(super) fn moved(&mut self, remote: SocketAddr, datapath: &mut Datapath) {
        for child in &mut self.at_work {
            child.path.remote = remote;
        }
        datapath.expect_from(self.lane, remote);
        self.sending = None;
        self.direct(datapath);
    }

    /// When the next straggler goes.
    pub(super) fn next_timer(&self) -> Option<Time> {
        self.stragglers.front().map(|straggler| straggler.until)
    }

    /// Removes what has lingered long enough.
    pub(super) fn on_due(&mut self, now: Time, datapath: &mut Datapath) {
        self.drop_straggler(|straggler| straggler.until <= now, datapath);
    }

    /// Has the datapath send over the one that should: the one preferred last, and while none is ready, the newest that waits.
    fn direct(&mut self, datapath: &mut Datapath) {
        let last = |standing| {
            let mut newest = self.at_work.iter().rev();
            newest.find(|child| child.standing == standing)
        };
        match last(Standing::Ready).or_else(|| last(Standing::Waits)) {
            Some(child) if self.sending == Some(child.spi_in) => {}
            Some(child) => {
                datapath.open(self.lane, child.path.clone());
                self.sending = Some(child.spi_in);
            }
            None => {
                datapath.close(self.lane);
                self.sending = None;
            }
        }
    }

    fn place(&self, spi_in: u32) -> Option<usize> {
        self.at_work.iter().position(|child| child.spi_in == spi_in)
    }

    fn drop_straggler(&mut self, goes: impl Fn(&Straggler) -> bool, datapath: &mut Datapath) {
        for straggler in self.stragglers.iter().filter(|straggler| goes(straggler)) {
            datapath.remove_inbound(self.lane, straggler.spi_in);
        }
        self.stragglers.retain(|straggler| !goes(straggler));
    }

    fn drop_first_straggler(&mut self, datapath: &mut Datapath) {
        if let Some(first) = self.stragglers.pop_front() {
            datapath.remove_inbound(self.lane, first.spi_in);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::{IKE_PORT, NAT_PORT, NoSaAction, Notices};
    use crate::esp::Outbound;
    use crate::esp::testing::{IV_KEY, ipv4, keys, mirrored, policy, seal, suite};
    use crate::net::{DropReason, Policy};
    use crate::os::Socket;
    use crate::os::memory::{MemoryDevice, MemoryNetwork, MemorySocket};
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Instant;

    const LANE: TunnelId = TunnelId(3);
    const NOW: Time = Time::from_secs(1000);
    const A: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const B: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

    /// One gateway with a running datapath.
    struct End {
        datapath: Datapath,
        _notices: Notices,
        device: Arc<MemoryDevice>,
        nat: Arc<MemorySocket>,
        children: ChildSas,
        address: IpAddr,
        peer: IpAddr,
        /// Its view of the selectors.
        policy: Policy,
    }

    /// Two gateways; 10.2.0.0/16 is behind a, 10.1.0.0/16 behind b.
    fn ends() -> (End, End) {
        let network = MemoryNetwork::new();
        let end = |address, peer, policy| {
            let bind = |port| Arc::new(network.bind(SocketAddr::new(address, port), 1000).unwrap());
            let (mut datapath, notices) = Datapath::new().unwrap();
            let device = Arc::new(MemoryDevice::new(1000).unwrap());
            let nat = bind(NAT_PORT);
            let group: [Arc<dyn Socket>; 1] = [nat.clone()];
            datapath.listen(bind(IKE_PORT), &group).unwrap();
            datapath
                .add_tunnel(LANE, device.clone(), NoSaAction::Drop)
                .unwrap();
            End {
                datapath,
                _notices: notices,
                device,
                nat,
                children: ChildSas::of(LANE),
                address,
                peer,
                policy,
            }
        };
        (end(A, B, mirrored(policy())), end(B, A, policy()))
    }

    /// The outbound SA of one end, and the inbound SA of the other.
    fn halves(spi: u32, policy: &Policy) -> (Outbound, Inbound) {
        let suite = suite("aes128gcm16");
        let keys = keys(suite.protection, spi as u8);
        let outbound = Outbound::new(spi, suite, &keys, &IV_KEY.into(), policy.clone()).unwrap();
        let inbound = Inbound::new(spi, suite, &keys, mirrored(policy.clone()), 64).unwrap();
        (outbound, inbound)
    }

    impl End {
        /// Installs generation `n`: inbound SPIs are even at a and odd at b.
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

        /// A packet for the other end.
        fn packet(&self) -> Vec<u8> {
            let hosts = [[10, 2, 0, 5], [10, 1, 0, 7]];
            let [source, destination] = if self.address == A {
                hosts
            } else {
                [hosts[1], hosts[0]]
            };
            ipv4(source, destination, 60)
        }

        /// The generation it sends over.
        fn sends(&self) -> Option<u32> {
            let base = if self.address == A { 0x1000 } else { 0x1001 };
            self.children.sending.map(|spi| (spi - base) / 2)
        }

        fn refused(&self) -> Vec<(DropReason, u64)> {
            self.datapath
                .counters(LANE)
                .unwrap()
                .refused
                .iter()
                .collect()
        }
    }

    /// Waits for what another thread is about to do.
    fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < deadline, "it never happened");
            std::thread::yield_now();
        }
    }

    /// A packet each way arrives.
    fn carry(one: &End, other: &End) {
        let (there, back) = (one.packet(), other.packet());
        assert!(one.device.inject(&there) && other.device.inject(&back));
        assert_eq!(eventually(|| other.device.take()), there);
        assert_eq!(eventually(|| one.device.take()), back);
    }

    #[test]
    fn e16_a_thousand_rekeys_with_packets_between_all_their_steps_lose_none() {
        //  begins ── CREATE_CHILD_SA ──▶ answers   installs the new one, waits with its own packets
        //  begins ◀───────────────────── answers
        //  installs it and sends ──ESP─▶ hears it, sends over it too
        //  begins ── DELETE ───────────▶ takes the old one out
        //  takes the old one out ◀────── answers
        let (mut a, mut b) = ends();
        a.add(0, Sends::Now);
        b.add(0, Sends::Now);
        for n in 1..=1000 {
            let now = NOW + Duration::from_secs(n.into());
            let (begins, answers) = if n % 2 == 0 {
                (&mut a, &mut b)
            } else {
                (&mut b, &mut a)
            };
            carry(begins, answers);
            answers.add(n, Sends::Later);
            carry(begins, answers);
            begins.add(n, Sends::Now);
            carry(begins, answers);
            answers.prefer(n);
            carry(begins, answers);
            answers.remove(n - 1, DownReason::Replaced, now);
            carry(begins, answers);
            begins.remove(n - 1, DownReason::Replaced, now);
            carry(begins, answers);
            for end in [begins, answers] {
                end.children.on_due(now, &mut end.datapath);
                assert!(end.children.stragglers.len() <= 5);
                assert_eq!(end.children.at_work.len(), 1);
            }
        }
        assert_eq!((a.refused(), b.refused()), (vec![], vec![]));
        assert_eq!(a.datapath.unmatched().iter().count(), 0);
        assert_eq!(b.datapath.unmatched().iter().count(), 0);
    }

    #[test]
    fn e16_what_the_peer_sent_last_arrives_for_five_seconds_and_no_longer() {
        let (a, mut b) = ends();
        b.add(0, Sends::Now);
        b.add(1, Sends::Now);
        let packet = a.packet();
        let old = halves(b.spis(0).1, &a.policy).0;
        let late: Vec<Vec<u8>> = (0..2).map(|_| seal(&old, &packet)).collect();
        b.remove(0, DownReason::Replaced, NOW);
        assert_eq!(b.children.next_timer(), Some(NOW + LINGER));
        b.children
            .on_due(NOW + LINGER - Duration::from_nanos(1), &mut b.datapath);
        let home = SocketAddr::new(A, NAT_PORT);
        assert!(b.nat.inject(home, &late[0]));
        assert_eq!(eventually(|| b.device.take()), packet);
        b.children.on_due(NOW + LINGER, &mut b.datapath);
        assert_eq!(b.children.next_timer(), None);
        assert!(b.nat.inject(home, &late[1]));
        let unknown = || b.datapath.unmatched().count(DropReason::UnknownSpi);
        eventually(|| (unknown() == 1).then_some(()));
    }

    #[test]
    fn the_outbound_half_waits_until_it_is_preferred_unless_there_is_no_other() {
        let (mut a, _) = ends();
        a.add(0, Sends::Now);
        a.add(1, Sends::Later);
        assert_eq!(a.sends(), Some(0));
        a.prefer(1);
        assert_eq!(a.sends(), Some(1));
        a.add(2, Sends::Later);
        a.remove(0, DownReason::Replaced, NOW);
        assert_eq!(a.sends(), Some(1));
        a.remove(1, DownReason::PeerDeleted, NOW);
        assert_eq!(a.sends(), Some(2), "better than nothing");
        a.remove(2, DownReason::PeerDead, NOW);
        assert_eq!(a.sends(), None);
    }

    #[test]
    fn a_child_sa_that_is_going_is_never_sent_over_again() {
        for reason in [DownReason::Replaced, DownReason::Redundant] {
            let (mut a, _) = ends();
            a.add(0, Sends::Now);
            a.add(1, Sends::Now);
            a.remove(0, reason, NOW);
            a.prefer(0);
            assert_eq!(a.sends(), Some(1));
            a.remove(1, DownReason::Useless, NOW);
            assert_eq!(a.sends(), None);
            assert!(a.device.inject(&a.packet()));
            eventually(|| (a.refused() == [(DropReason::NoSa, 1)]).then_some(()));
            assert!(a.nat.take().is_none());
        }
    }

    #[test]
    fn of_two_that_were_made_at_once_the_survivor_sends() {
        //  Both ends rekeyed generation 0: 1 and 2. The engine prefers 1 and gives up 2.
        let (mut a, _) = ends();
        a.add(0, Sends::Now);
        a.add(1, Sends::Later);
        a.add(2, Sends::Now);
        assert_eq!(a.sends(), Some(2));
        a.prefer(1);
        a.remove(2, DownReason::Redundant, NOW);
        a.remove(0, DownReason::Replaced, NOW);
        assert_eq!(a.sends(), Some(1));
        assert_eq!(a.children.stragglers.len(), 2);
    }

    #[test]
    fn p19_one_that_is_spent_sends_nothing_more_even_where_it_is_the_last() {
        let (mut a, _) = ends();
        a.add(0, Sends::Now);
        a.add(1, Sends::Later);
        let spent = a.children.owner(ChildSpi::Out(a.spis(0).0)).unwrap();
        assert_eq!(spent, a.spis(0).1);
        a.children.spend(spent, &mut a.datapath);
        assert_eq!(a.sends(), Some(1));
        let spent = a.spis(1).1;
        a.children.spend(spent, &mut a.datapath);
        a.prefer(1);
        assert_eq!(a.sends(), None);
        assert_eq!(a.children.all().len(), 2, "what comes in is welcome");
    }

    #[test]
    fn p05_rekeying_in_a_loop_leaves_a_bounded_number_behind() {
        let (mut a, _) = ends();
        a.add(0, Sends::Now);
        for n in 1..200 {
            a.add(n, Sends::Now);
            a.remove(n - 1, DownReason::Replaced, NOW);
        }
        assert_eq!(a.children.stragglers.len(), MOST_STRAGGLERS);
        a.remove(199, DownReason::Asked, NOW);
        assert_eq!(
            a.children.stragglers.len(),
            0,
            "a tunnel that is down is down"
        );
    }

    #[test]
    fn p16_a_peer_that_has_moved_is_followed_by_every_child_sa() {
        let (mut a, _b) = ends();
        a.add(0, Sends::Now);
        a.add(1, Sends::Later);
        let network_place = SocketAddr::new(B, 40_000);
        a.children.moved(network_place, &mut a.datapath);
        assert_eq!(a.sends(), Some(0));
        for spi_in in a.children.all() {
            assert_eq!(a.children.find(spi_in).unwrap().path.remote, network_place);
        }
    }
}
