//! From a tunnel's device to its peer. The mirror image is [`ingress`](super::ingress).
//!
//! ```text
//!   device ─▶ 1 finish the checksum ─▶ 2 clamp TCP ─▶ 3 parse; kernel noise? ─▶ 4 pick the SA ─▶ 5 selectors ─▶ 6 loop?
//!          ─▶ 7 size: tell the sender, or cut ─▶ 8 reserve, lay out, commit; seal a group ─▶ … the whole batch ─▶ socket
//! ```
//!
//! One worker does this for a tunnel, from the read to the send, without a queue, a lock, an allocation or a log line per packet.
//! A super-packet of up to 64 KiB takes steps 1 to 7 once, and step 8 with each of its segments.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::classify::is_tunnel;
use super::counters::Counters;
use super::icmp_errors::IcmpErrors;
use super::notice::{ChildSpi, Notice, NoticeSender, RateLimitedNotice};
use super::profile::{ProfileStep, StepTotals};
use super::sa_events::OutboundEvents;
use super::tables::{EgressState, MssClamp, TunnelShared};
use super::trap_queue::TrapQueue;
use super::tx_batch::{ActiveSa, TxBatch};
use crate::net::segment::{GsoPacket, PacketOffload, Segments, segments};
use crate::net::{DropReason, Packet, Policy, Time, fragment, mss};
use crate::os::{MAX_PACKET, ReadBatch, VnetHeader};

/// What a worker uses for one batch after the other, of whichever tunnel.
pub(super) struct EgressScratch {
    arrivals: ReadBatch,
    tools: Tools,
    step_totals: Arc<StepTotals>,
}

struct Tools {
    departures: TxBatch,
    /// Room for one fragment.
    piece: Vec<u8>,
    /// Room for one segment that does not go straight to where it leaves from.
    segment: Vec<u8>,
}

/// What a tunnel needs from one batch to the next.
pub(super) struct TunnelEgress {
    lane: Arc<TunnelShared>,
    hold: TrapQueue,
    answers: IcmpErrors,
    demand: RateLimitedNotice,
    wear: OutboundEvents,
    device_gone: RateLimitedNotice,
    notices_tx: NoticeSender,
}

/// How reading a batch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadOutcome {
    /// The batch was full: there may be more.
    More,
    /// The device was emptied.
    Done,
    /// The device cannot be read, for now or for good.
    Failed,
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

impl EgressScratch {
    pub(super) fn new(step_totals: Arc<StepTotals>) -> EgressScratch {
        EgressScratch {
            arrivals: ReadBatch::new(),
            tools: Tools {
                departures: TxBatch::new(),
                piece: vec![0; MAX_PACKET],
                segment: vec![0; MAX_PACKET],
            },
            step_totals,
        }
    }
}

impl TunnelEgress {
    pub(super) fn new(lane: Arc<TunnelShared>, notices_tx: &NoticeSender) -> TunnelEgress {
        TunnelEgress {
            lane,
            hold: TrapQueue::default(),
            answers: IcmpErrors::new(),
            demand: RateLimitedNotice::every(SECOND, notices_tx),
            wear: OutboundEvents::default(),
            device_gone: RateLimitedNotice::every(MINUTE, notices_tx),
            notices_tx: notices_tx.clone(),
        }
    }

    /// The tunnel.
    pub(super) fn lane(&self) -> &Arc<TunnelShared> {
        &self.lane
    }

    /// Takes one batch from the device to the peer, after what has waited.
    pub(super) fn batch(&mut self, buffers: &mut EgressScratch, now: Time) -> ReadOutcome {
        let lane = Arc::clone(&self.lane);
        let outlet = lane.outlet.load();
        let EgressScratch {
            arrivals,
            tools,
            step_totals,
        } = buffers;
        // What a panic has left without.
        tools.segment.resize(MAX_PACKET, 0);
        let mut way = EgressAction::through(&outlet, &lane.counters);
        let mut batch = Batch { road: self, tools };
        // One that ended in the middle is not gone on with.
        batch.tools.departures.clear();
        batch.tools.departures.watch.start();
        batch.release(&mut way, now);
        batch.tools.departures.watch.lap(ProfileStep::Split);

        let reading = match lane.device.read(arrivals) {
            Ok(_) if arrivals.is_full() => ReadOutcome::More,
            Ok(_) => ReadOutcome::Done,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ReadOutcome::Done,
            Err(error) => {
                if error.kind() == io::ErrorKind::NotConnected {
                    let gone = Notice::DeviceGone(lane.id);
                    let said = batch.road.device_gone.say(gone, now);
                    batch.road.count(said);
                }
                ReadOutcome::Failed
            }
        };
        batch.tools.departures.watch.lap(ProfileStep::Read);
        for arrival in arrivals.iter_mut() {
            let carried = batch.carry(&mut way, arrival.vnet, arrival.bytes, now);
            batch.road.count(carried);
        }
        arrivals.clear();
        batch.finish(&way, now);
        batch.tools.departures.watch.lap(ProfileStep::Split);
        batch.tools.departures.watch.settle(step_totals);
        reading
    }

    /// When it has something to do even if nothing comes in.
    pub(super) fn wake_at(&self) -> Option<Time> {
        self.hold.until()
    }

    /// The device could not be read or waited for.
    pub(super) fn count_failure(&self) {
        self.count(Err(DropReason::DeviceFailed));
    }

    fn count(&self, outcome: Result<(), DropReason>) {
        if let Err(reason) = outcome {
            self.lane.counters.refused.add(reason, 1);
        }
    }
}

/// What becomes of a batch's packets: the outlet there is now, with its SA held.
enum EgressAction<'t> {
    Closed,
    Trap(&'t Policy),
    Open(ActiveSa<'t>),
}

impl<'t> EgressAction<'t> {
    fn through(outlet: &'t EgressState, counters: &'t Counters) -> EgressAction<'t> {
        match outlet {
            EgressState::Closed => EgressAction::Closed,
            EgressState::Trap(policy) => EgressAction::Trap(policy),
            EgressState::Open(path) => EgressAction::Open(ActiveSa::new(path, counters)),
        }
    }
}

/// One batch of a tunnel, with what it takes to carry it.
struct Batch<'a> {
    road: &'a mut TunnelEgress,
    tools: &'a mut Tools,
}

impl Batch<'_> {
    /// Takes one packet from the device as far as the outgoing batch.
    fn carry(
        &mut self,
        way: &mut EgressAction<'_>,
        vnet: VnetHeader,
        bytes: &mut [u8],
        now: Time,
    ) -> Result<(), DropReason> {
        // 1. What the kernel left to a network card that is not there.
        let train = match vnet.offload()? {
            PacketOffload::None => None,
            PacketOffload::Checksum(partial) => {
                partial.complete(bytes)?;
                None
            }
            PacketOffload::Gso(train) => Some(train),
        };

        // 2. A connection that opens learns what fits, before it sends anything that does not.
        if let (EgressAction::Open(exit), None) = (&*way, &train) {
            let clamp = MssClamp::to(exit.path.mtu);
            mss::clamp_mss(bytes, clamp.v4, clamp.v6);
        }

        // 3. From here on the headers hold together.
        let packet = Packet::parse(bytes)?;
        if packet.is_kernel_noise() {
            return Err(DropReason::Noise);
        }

        // 4. The SA there is now.
        let exit = match way {
            EgressAction::Closed => return Err(DropReason::NoSa),
            EgressAction::Trap(policy) => {
                return self.wait(policy, &packet, train.as_ref(), now);
            }
            EgressAction::Open(exit) => exit,
        };
        let path = exit.path;

        // 5. What the selectors do not cover never leaves (RFC 4301 §5.1); its sender is told.
        if !path.sa.permits(&packet) {
            self.road.answers.prohibited(&self.road.lane, &packet, now);
            return Err(DropReason::NoPolicy);
        }

        // 6. Our own tunnel, routed into itself, would grow with every round.
        let ours = path.local.is_unspecified() || packet.source() == path.local;
        if ours && packet.destination() == path.remote.ip() && is_tunnel(&packet) {
            return Err(DropReason::Loop);
        }

        // 7. Too big: cut before it is encrypted, or its sender told what fits (RFC 4301 §8.2.1).
        let segments = train.map(|train| segments(&packet, &train)).transpose()?;
        let longest = segments
            .as_ref()
            .map_or(packet.len(), |segments| segments.longest());
        let fits = longest <= usize::from(path.mtu);
        if !fits && packet.dont_fragment() {
            self.road
                .answers
                .too_big(&self.road.lane, &packet, path.mtu, now);
            return Err(DropReason::TooBig);
        }

        // 8. FramedPacket out in its place in the outgoing batch.
        match (segments, fits) {
            (None, true) => self.lay(exit, &packet),
            (None, false) => self.cut(exit, &packet),
            (Some(segments), true) => {
                self.lay_segments(exit, &packet, segments);
                Ok(())
            }
            (Some(segments), false) => self.each(segments, |batch, bytes| {
                batch.cut(exit, &Packet::parse(bytes)?)
            }),
        }
    }

    /// 8. A whole packet.
    fn lay(&mut self, exit: &mut ActiveSa<'_>, packet: &Packet<'_>) -> Result<(), DropReason> {
        let write = |place: &mut [u8]| {
            place.copy_from_slice(packet.bytes());
            true
        };
        self.tools.departures.lay(exit, packet, packet.len(), write)
    }

    /// 8. A super-packet, each segment written where it leaves from.
    fn lay_segments(
        &mut self,
        exit: &mut ActiveSa<'_>,
        packet: &Packet<'_>,
        segments: Segments<'_>,
    ) {
        let counters = &self.road.lane.counters;
        for segment in segments {
            let write = |place: &mut [u8]| segment.write(place);
            let laid = self
                .tools
                .departures
                .lay(exit, packet, segment.len(), write);
            if let Err(reason) = laid {
                counters.refused.add(reason, 1);
            }
        }
    }

    /// 8. An IPv4 packet in pieces that fit.
    fn cut(&mut self, exit: &mut ActiveSa<'_>, packet: &Packet<'_>) -> Result<(), DropReason> {
        let Tools {
            departures,
            piece: room,
            ..
        } = self.tools;
        fragment::fragments(packet, exit.path.mtu)?.try_for_each(|fragment| {
            let piece = room.get_mut(..fragment.len()).ok_or(DropReason::Overflow)?;
            if !fragment.write(piece) {
                return Err(DropReason::Overflow);
            }
            let piece = Packet::parse(piece)?;
            let write = |place: &mut [u8]| {
                place.copy_from_slice(piece.bytes());
                true
            };
            departures.lay(exit, &piece, piece.len(), write)
        })
    }

    /// Writes each segment by itself and does something with it. Rare: neither path takes super-packets as they are.
    fn each(
        &mut self,
        segments: Segments<'_>,
        mut carry: impl FnMut(&mut Self, &[u8]) -> Result<(), DropReason>,
    ) -> Result<(), DropReason> {
        let mut room = std::mem::take(&mut self.tools.segment);
        for segment in segments {
            let place = room.get_mut(..segment.len()).unwrap_or_default();
            let carried = match segment.write(place) {
                true => carry(self, place),
                false => Err(DropReason::Overflow),
            };
            self.road.count(carried);
        }
        self.tools.segment = room;
        Ok(())
    }

    /// Keeps a packet, or each segment of a super-packet, until there is an SA, and asks for one.
    fn wait(
        &mut self,
        policy: &Policy,
        packet: &Packet<'_>,
        train: Option<&GsoPacket>,
        now: Time,
    ) -> Result<(), DropReason> {
        if !policy.permits_outbound(packet) {
            return Err(DropReason::NoPolicy);
        }
        let said = self.road.demand.say(Notice::Demand(self.road.lane.id), now);
        self.road.count(said);
        match train {
            None => self.road.hold.keep(packet.bytes(), now),
            Some(train) => {
                let segments = segments(packet, train)?;
                self.each(segments, |batch, bytes| batch.road.hold.keep(bytes, now))
            }
        }
    }

    /// What has waited goes first, if there is an SA now.
    fn release(&mut self, way: &mut EgressAction<'_>, now: Time) {
        self.road
            .lane
            .counters
            .refused
            .add(DropReason::QueueFull, self.road.hold.give_up(now));
        match way {
            EgressAction::Trap(_) => {}
            EgressAction::Open(_) | EgressAction::Closed => {
                while let Some(mut packet) = self.road.hold.take() {
                    let carried = self.carry(way, VnetHeader::NONE, &mut packet, now);
                    self.road.count(carried);
                }
            }
        }
    }

    /// The batch leaves; the control plane hears if the SA has not much longer.
    fn finish(&mut self, way: &EgressAction<'_>, now: Time) {
        let EgressAction::Open(exit) = way else {
            return;
        };
        if !self.tools.departures.is_empty() {
            let before = self.road.lane.counters.tx.packets();
            self.tools.departures.send(exit);
            if self.road.lane.counters.tx.packets() > before {
                self.road.lane.counters.sent_at(now);
            }
        }
        let (tunnel, sa) = (self.road.lane.id, ChildSpi::Out(exit.path.sa.spi()));
        let said = self
            .road
            .wear
            .tell(tunnel, sa, exit.stage(), now, &self.road.notices_tx);
        self.road.count(said);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::super::trap_queue::{MOST, PATIENCE};
    use super::super::worker_thread::PollOutcome;
    use super::*;
    use crate::crypto::Esn;
    use crate::esp::lifetime::Lifetime;
    use crate::esp::testing::{SUITES, ipv4, policy, udp6};
    use std::sync::Arc;

    #[test]
    fn every_suite_carries_both_families_both_ways_in_order() {
        for words in SUITES {
            let mut pair = Pair::connected(words);
            let from_a: Vec<_> = [28, 29, 100, 1000, 1389, 1390].map(to_b).into();
            // `udp6` goes from behind b to behind a.
            let from_b = vec![to_a(64), udp6(48), udp6(1390), to_a(1390)];
            from_b
                .iter()
                .for_each(|packet| assert!(pair.b.device.inject(packet)));
            assert_eq!(pair.a_to_b(&from_a), from_a, "{words}");
            assert_eq!(pair.a.delivered(), from_b, "{words}");
            for side in [&pair.a, &pair.b] {
                assert_eq!(side.all_refused(), [], "{words}");
                assert_eq!(
                    (side.counters().last_received(), side.counters().last_sent()),
                    (Some(NOW), Some(NOW))
                );
            }
            assert_eq!(
                (pair.a.counters().tx.packets(), pair.a.counters().tx.bytes()),
                (6, 28 + 29 + 100 + 1000 + 1389 + 1390)
            );
            assert_eq!(
                (pair.a.counters().rx.packets(), pair.a.counters().rx.bytes()),
                (4, 64 + 48 + 1390 + 1390)
            );
        }
    }

    #[test]
    fn more_than_a_batch_passes_in_order() {
        let mut pair = Pair::connected("aes128gcm16");
        let packets: Vec<_> = (0..500).map(|n| to_b(30 + n)).collect();
        packets
            .iter()
            .for_each(|packet| assert!(pair.a.device.inject(packet)));
        while pair.a.egress.turn(NOW) == ReadOutcome::More {}
        while pair.b.ingress.all(NOW) == PollOutcome::More {}
        assert!(pair.b.delivered() == packets);
    }

    #[test]
    fn e09_what_no_selector_covers_is_refused_and_its_sender_told() {
        let mut pair = Pair::connected("aes128-sha1");
        let outside = [
            ipv4([10, 1, 0, 7], [10, 9, 0, 1], 60),
            ipv4([10, 9, 0, 7], [10, 2, 0, 5], 60),
        ];
        assert_eq!(pair.a_to_b(&outside), Vec::<Vec<u8>>::new());
        assert!(pair.b.nat.take().is_none(), "nothing left, sealed or not");
        assert_eq!(pair.a.refused(DropReason::NoPolicy), 2);
        let answers = pair.a.delivered();
        assert_eq!(answers.len(), 2);
        let answer = Packet::parse(&answers[0]).unwrap();
        assert_eq!(answer.destination(), std::net::IpAddr::from([10, 1, 0, 7]));
        assert_eq!(
            answers[0][20..22],
            [3, 13],
            "destination unreachable, administratively prohibited"
        );
    }

    #[test]
    fn e09_without_an_sa_nothing_leaves() {
        let mut pair = Pair::new();
        assert_eq!(pair.a_to_b(&[to_b(60), to_b(61)]), Vec::<Vec<u8>>::new());
        assert!(pair.b.nat.take().is_none());
        assert_eq!(pair.a.all_refused(), [(DropReason::NoSa, 2)]);
    }

    #[test]
    fn e11_garbage_from_the_device_is_refused() {
        let mut pair = Pair::connected("aes128-sha1");
        let mut lying = to_b(60);
        lying[3] = 61;
        let mut no_header = to_b(60);
        no_header[0] = 0x40;
        let mut version = to_b(60);
        version[0] = 0x75;
        let garbage = [
            vec![],
            vec![0x45],
            vec![0x45; 19],
            lying,
            no_header,
            version,
            vec![0x60; 39],
        ];
        assert_eq!(pair.a_to_b(&garbage), Vec::<Vec<u8>>::new());
        assert_eq!(
            pair.a.all_refused(),
            [(DropReason::Malformed, garbage.len() as u64)]
        );
    }

    #[test]
    fn e13_too_big_and_not_to_be_cut_is_answered_with_the_right_mtu() {
        let mut pair = Pair::connected("aes128-sha1");
        // Behind a, IPv6 hosts are in fd01::/16: turn the packet around.
        let mut six = udp6(1391);
        let (source, destination) = (six[8..24].to_vec(), six[24..40].to_vec());
        six[8..24].copy_from_slice(&destination);
        six[24..40].copy_from_slice(&source);
        assert_eq!(
            pair.a_to_b(&[whole_only(to_b(1391)), six]),
            Vec::<Vec<u8>>::new()
        );
        assert_eq!(pair.a.refused(DropReason::TooBig), 2);
        let answers = pair.a.delivered();
        assert_eq!(answers[0][20..22], [3, 4], "fragmentation needed");
        assert_eq!(answers[0][26..28], MTU.to_be_bytes());
        assert_eq!(answers[1][40..42], [2, 0], "packet too big");
        assert_eq!(answers[1][44..48], u32::from(MTU).to_be_bytes());
        assert_eq!(
            answers[0][12..16],
            [10, 2, 0, 5],
            "from where the packet was going"
        );
        assert_eq!(answers[0][16..20], [10, 1, 0, 7]);
    }

    #[test]
    fn e13_answers_are_limited_in_rate_refusals_are_not() {
        let mut pair = Pair::connected("aes128-sha1");
        for round in 0..10u64 {
            pair.a_to_b(&vec![whole_only(to_b(1400)); 64]);
            assert_eq!(pair.a.refused(DropReason::TooBig), (round + 1) * 64);
        }
        assert_eq!(pair.a.delivered().len(), 50);
        assert!(pair.a.device.inject(&whole_only(to_b(1400))));
        pair.turn(NOW + Duration::from_secs(1));
        assert_eq!(pair.a.delivered().len(), 1);
    }

    #[test]
    fn e13_too_big_without_df_is_cut_before_it_is_encrypted() {
        for len in [1391, 1500, 9000, 65_000] {
            let mut pair = Pair::connected("aes256gcm16");
            let pieces = pair.a_to_b(&[to_b(len)]);
            assert!(
                pieces.len() > 1 && pieces.iter().all(|piece| piece.len() <= usize::from(MTU)),
                "{len}"
            );
            let payload: Vec<u8> = pieces
                .iter()
                .flat_map(|piece| piece[20..].to_vec())
                .collect();
            assert!(payload == to_b(len)[20..], "{len}");
            assert_eq!(pair.a.all_refused(), []);
        }
    }

    #[test]
    fn e15_e19_a_packet_that_cannot_be_sent_is_counted_and_the_next_one_goes() {
        let mut pair = Pair::connected("aes128-sha1");
        pair.a.nat.fail_send(io::ErrorKind::ConnectionRefused);
        assert_eq!(pair.a_to_b(&[to_b(60), to_b(61)]), [to_b(61)]);
        assert_eq!(pair.a.all_refused(), [(DropReason::SendFailed, 1)]);

        pair.a.nat.fail_send(io::ErrorKind::WouldBlock);
        assert_eq!(pair.a_to_b(&[to_b(62), to_b(63)]), Vec::<Vec<u8>>::new());
        assert_eq!(pair.a.refused(DropReason::SocketFull), 2);
        assert_eq!(pair.a_to_b(&[to_b(64)]), [to_b(64)]);
        assert_eq!(
            (pair.a.counters().tx.packets(), pair.a.counters().tx.bytes()),
            (2, 61 + 64)
        );
    }

    #[test]
    fn e18_the_tunnel_routed_into_itself_is_refused() {
        let mut pair = Pair::new();
        // Selectors wide enough to cover the gateways themselves.
        let all: Vec<_> = vec!["0.0.0.0/0".parse::<crate::net::Prefix>().unwrap().into()];
        let (a_out, b_in) = half(
            "aes128-sha1",
            1,
            Policy {
                local: all.clone(),
                remote: all,
            },
        );
        pair.a.open(a_out, B);
        pair.b.accept([b_in]);
        let outer = |port| to_port(ipv4([192, 0, 2, 1], [192, 0, 2, 2], 100), port);
        let mut native = outer(1);
        native[9] = 50;
        crate::esp::testing::header_checksum(&mut native);
        assert_eq!(
            pair.a_to_b(&[outer(4500), outer(500), native]),
            Vec::<Vec<u8>>::new()
        );
        assert_eq!(pair.a.all_refused(), [(DropReason::Loop, 3)]);
        assert_eq!(
            pair.a_to_b(&[outer(53)]),
            [outer(53)],
            "other traffic between the gateways is traffic"
        );
    }

    #[test]
    fn tcp_connections_learn_what_fits() {
        let mut pair = Pair::connected("aes128-sha1");
        let (_, b_in) = half("aes128-sha1", 1, policy());
        for (offered, clamped) in [(1460, 1350), (1000, 1000)] {
            assert!(
                pair.a
                    .device
                    .inject(&syn([10, 1, 0, 7], [10, 2, 0, 5], offered))
            );
            pair.a.egress.turn(NOW);
            let (_, mut esp) = pair.b.nat.take().unwrap();
            let mut opening = b_in.lock();
            let left = opening.open(&mut esp).unwrap().packet;
            assert_eq!(
                (mss_of(left.bytes()), tcp_sum(left.bytes())),
                (clamped, 0xffff)
            );
        }
    }

    #[test]
    fn a_checksum_the_kernel_left_undone_is_finished() {
        let mut pair = Pair::connected("aes128-sha1");
        let right = syn([10, 1, 0, 7], [10, 2, 0, 5], 1000);
        let undone = without_checksum(&right);
        let vnet = VnetHeader {
            flags: VnetHeader::NEEDS_CHECKSUM,
            checksum_start: 20,
            checksum_offset: 16,
            ..VnetHeader::NONE
        };
        assert!(pair.a.device.inject_with(vnet, &undone));
        let beyond = VnetHeader {
            checksum_start: 1000,
            ..vnet
        };
        assert!(pair.a.device.inject_with(beyond, &undone));
        pair.turn(NOW);
        assert_eq!(pair.b.delivered(), [right]);
        assert_eq!(pair.a.all_refused(), [(DropReason::Malformed, 1)]);
    }

    #[test]
    fn the_kernels_own_noise_neither_counts_nor_triggers() {
        let mut pair = Pair::new();
        pair.a
            .lane
            .outlet
            .store(Arc::new(EgressState::Trap(policy())));
        pair.a_to_b(&[router_solicitation()]);
        pair.connect("aes128-sha1", 1);
        assert_eq!(pair.a_to_b(&[router_solicitation()]), Vec::<Vec<u8>>::new());
        assert_eq!(
            (pair.a.all_refused(), pair.a.notices(), pair.a.delivered()),
            (vec![], vec![], vec![])
        );
    }

    #[test]
    fn the_first_packets_wait_for_the_sa_and_go_first() {
        let mut pair = Pair::new();
        pair.a
            .lane
            .outlet
            .store(Arc::new(EgressState::Trap(policy())));
        let packets: Vec<_> = (0..70).map(|n| to_b(100 + n)).collect();
        let outside = ipv4([10, 1, 0, 7], [10, 9, 0, 1], 60);
        for packet in [&packets[..], &[outside]].concat() {
            assert!(pair.a.device.inject(&packet));
        }
        while pair.a.egress.turn(NOW) == ReadOutcome::More {}
        assert_eq!(pair.a.notices(), [Notice::Demand(TUNNEL)]);
        assert_eq!(
            pair.a.all_refused(),
            [(DropReason::NoPolicy, 1), (DropReason::QueueFull, 6)]
        );

        pair.connect("aes128-sha1", 1);
        let late = to_b(60);
        let out = pair.a_to_b(std::slice::from_ref(&late));
        assert!(out == [&packets[..MOST], &[late]].concat());
        assert_eq!(pair.a.egress.wake_at(), None);
    }

    #[test]
    fn a_packet_waits_no_longer_than_it_is_worth() {
        let mut pair = Pair::new();
        pair.a
            .lane
            .outlet
            .store(Arc::new(EgressState::Trap(policy())));
        pair.a_to_b(&[to_b(60)]);
        assert_eq!(pair.a.egress.wake_at(), Some(NOW + PATIENCE));
        pair.turn(NOW + PATIENCE);
        assert_eq!(pair.a.all_refused(), [(DropReason::QueueFull, 1)]);
        assert_eq!(pair.a.egress.wake_at(), None);
    }

    #[test]
    fn a_demand_is_said_again_while_there_is_one_once_a_second() {
        let mut pair = Pair::new();
        pair.a
            .lane
            .outlet
            .store(Arc::new(EgressState::Trap(policy())));
        for tenth in 0..20u64 {
            assert!(pair.a.device.inject(&to_b(60)));
            pair.turn(NOW + Duration::from_millis(tenth * 100));
        }
        assert_eq!(pair.a.notices().len(), 2);
    }

    #[test]
    fn p19_the_control_plane_hears_before_the_numbers_run_out_and_then_nothing_is_sent() {
        let mut pair = Pair::connected("aes128-sha1");
        let (a_out, _) = half("aes128-sha1", 1, policy());
        let last = Lifetime::new(Esn::No).last();
        a_out.pretend_used(last - 2);
        let sa = pair.a.open(a_out, B);
        let (tunnel, half) = (TUNNEL, ChildSpi::Out(sa.spi()));
        pair.a_to_b(&[to_b(60)]);
        assert_eq!(pair.a.notices(), [Notice::NearEnd { tunnel, sa: half }]);
        pair.a_to_b(&[to_b(60), to_b(61), to_b(62)]);
        assert_eq!(pair.a.notices(), [Notice::Ended { tunnel, sa: half }]);
        assert_eq!(pair.a.all_refused(), [(DropReason::SequenceExhausted, 2)]);
        assert_eq!(sa.sequence(), last);
    }

    #[test]
    fn a_device_that_cannot_be_read_is_not_read_again_at_once() {
        let mut pair = Pair::connected("aes128-sha1");
        pair.a.device.fail_read(io::ErrorKind::Other);
        assert_eq!(pair.a.egress.turn(NOW), ReadOutcome::Failed);
        assert_eq!(pair.a.egress.turn(NOW), ReadOutcome::Done);
        assert_eq!(pair.a.notices(), []);
    }

    #[test]
    fn a_device_that_was_removed_is_missed_once_a_minute() {
        let mut pair = Pair::connected("aes128-sha1");
        for second in 0..120u64 {
            pair.a.device.fail_read(io::ErrorKind::NotConnected);
            let now = NOW + Duration::from_secs(second);
            assert_eq!(pair.a.egress.turn(now), ReadOutcome::Failed);
        }
        assert_eq!(pair.a.notices(), vec![Notice::DeviceGone(TUNNEL); 2]);
    }
}
