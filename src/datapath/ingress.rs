//! From the peers to the tunnels' devices. The mirror image is [`egress`](super::egress).
//!
//! ```text
//!   socket ─▶ 1 what is it? keepalive · IKE ─▶ notice · ESP ─▶ 2 sad[spi] ─▶ 3 open: lengths, replay, ICV, padding, selectors
//!          ─▶ 4 congestion marks ─▶ 5 clamp TCP ─▶ 6 loop? ─▶ join with others of its flow ─▶ device
//! ```
//!
//! One worker does this for the sockets of all addresses, more where several sockets share port 4500
//! ([`reception`](super::socket_workers)). A packet belongs to the SA that its SPI names, whichever socket it came to and whoever seems to have sent it
//! (RFC 4301 §4.1); the SA is taken for a run of packets at a time.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::classify::{Admits, Content, classify};
use super::counters::PacketDropCounters;
use super::inbound_batch::{OuterMeta, Run};
use super::notice::{Notice, NoticeSender};
use super::profile::{ProfileStep, StepTimer, StepTotals};
use super::tables::InboundTable;
use super::tun_writer::TunWriter;
use super::unmatched::Desk;
use super::worker_thread::{PollOutcome, Work};
use crate::net::segment::Coalescer;
use crate::net::{DropReason, Time};
use crate::os::poll::Ready;
use crate::os::{RecvBatch, Socket};

/// A worker of some sockets.
pub(super) struct Ingress {
    doors: Arc<SocketTable>,
    arrivals: RecvBatch,
    road: IngressContext,
}

/// The sockets of one worker, each in the place that its token says.
pub(super) type SocketTable = ArcSwap<Vec<SocketEntry>>;

/// One socket and what may come to it.
#[derive(Clone)]
pub(super) struct SocketEntry {
    pub(super) socket: Arc<dyn Socket>,
    pub(super) admits: Admits,
}

/// What one packet after the other needs on its way.
struct IngressContext {
    inlets: Arc<InboundTable>,
    desk: Desk,
    joiner: Coalescer,
    watch: StepTimer,
    step_totals: Arc<StepTotals>,
}

impl Ingress {
    /// The worker of these sockets, and of those that are added.
    pub(super) fn new(
        doors: Arc<SocketTable>,
        inlets: Arc<InboundTable>,
        unmatched: Arc<PacketDropCounters>,
        notices_tx: NoticeSender,
    ) -> Ingress {
        Ingress {
            doors,
            arrivals: RecvBatch::new(),
            road: IngressContext {
                inlets,
                desk: Desk::new(unmatched, notices_tx),
                joiner: Coalescer::new(),
                watch: StepTimer::default(),
                step_totals: Arc::default(),
            },
        }
    }

    /// The same, which tells what it spends.
    pub(super) fn timed(mut self, step_totals: Arc<StepTotals>) -> Ingress {
        self.road.step_totals = step_totals;
        self
    }
}

impl Work for Ingress {
    fn turn(&mut self, ready: &Ready, now: Time) -> PollOutcome {
        let (mut turn, mut heard, mut failed) = (PollOutcome::Done, false, false);
        let doors = self.doors.load();
        let ready = ready.tokens().iter();
        for door in ready.filter_map(|token| doors.get(*token as usize)) {
            self.road.watch.start();
            match door.socket.recv(&mut self.arrivals) {
                Ok(count) => {
                    heard = true;
                    if count >= self.arrivals.limit() {
                        turn = PollOutcome::More;
                    }
                }
                Err(error) => failed |= self.road.desk.is_trouble(&error),
            }
            self.road.watch.lap(ProfileStep::Receive);
            self.road.carry_all(door, &mut self.arrivals, now);
            self.arrivals.clear();
            self.road.watch.lap(ProfileStep::Join);
            self.road.watch.settle(&self.road.step_totals);
        }
        // A socket in trouble stays readable, and would be asked without end; while others bring something, that is no waste.
        if failed && !heard {
            PollOutcome::Backoff
        } else {
            turn
        }
    }

    fn wake_at(&self) -> Option<Time> {
        None
    }
}

#[cfg(test)]
impl Ingress {
    /// A turn in which every socket is ready.
    pub(super) fn all(&mut self, now: Time) -> PollOutcome {
        self.turn(&Ready::of(&[0, 1, 2]), now)
    }
}

impl IngressContext {
    /// Takes a batch from one socket into the devices.
    fn carry_all(&mut self, door: &SocketEntry, arrivals: &mut RecvBatch, now: Time) {
        let IngressContext {
            inlets,
            desk,
            joiner,
            watch,
            step_totals: _,
        } = self;
        let sad = inlets.load();
        let mut run: Option<Run<'_, '_>> = None;
        let mut out = TunWriter::new(joiner, watch);
        for arrival in arrivals.iter_mut() {
            let local = SocketAddr::new(arrival.local, door.socket.local().port());
            let outer = OuterMeta {
                remote: arrival.remote,
                class: arrival.class,
            };
            if arrival.bytes.is_empty() {
                desk.refuse(DropReason::Stray);
            }
            for bytes in arrival.bytes.chunks_mut(arrival.segment.max(1)) {
                // 1. What it is.
                let spi = match classify(door.admits, bytes) {
                    Content::Keepalive => continue,
                    Content::Ike(message) => {
                        desk.pass_up(Notice::Ike {
                            local,
                            remote: arrival.remote,
                            bytes: message.to_vec(),
                        });
                        continue;
                    }
                    Content::Stray => {
                        desk.refuse(DropReason::Stray);
                        continue;
                    }
                    Content::Esp(spi) => spi,
                };

                // 2. Whose it is.
                let Some(entry) = sad.find(spi) else {
                    desk.unknown_spi(spi, local, arrival.remote, now);
                    continue;
                };
                if run.as_ref().is_none_or(|run| !run.is_under(entry)) {
                    // The old SA is given back before the new one is taken: no worker ever holds two.
                    desk.end(run.take(), &mut out, now);
                }

                // 3. to 6.
                let run = run.get_or_insert_with(|| Run::begin(entry));
                run.push(bytes, outer, &mut out);
            }
        }
        desk.end(run, &mut out, now);
        out.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::super::notice::MAX_IKE_MESSAGE;
    use super::super::sa_events::{FirstPacket, InboundEvents};
    use super::super::tables::{InboundEntry, TunnelShared};
    use super::super::testing::*;
    use super::*;
    use crate::esp::testing::policy;
    use crate::net::{Policy, PortRange, Prefix, Selector};
    use crate::os::memory::MemoryDevice;
    use std::io;
    use std::time::Duration;

    /// An ESP packet as `a` seals it.
    fn sealed(pair: &mut Pair, packet: &[u8]) -> Vec<u8> {
        assert!(pair.a.device.inject(packet));
        pair.a.egress.turn(NOW);
        pair.b.nat.take().unwrap().1
    }

    #[test]
    fn ike_goes_up_from_both_ports_without_its_marker() {
        let mut pair = Pair::new();
        let request = message(60, 60);
        assert!(pair.b.ike.inject(STRANGER, &request));
        assert!(
            pair.b
                .nat
                .inject(STRANGER, &[&[0; 4], &request[..]].concat())
        );
        pair.turn(NOW);
        let from = |port| Notice::Ike {
            local: SocketAddr::new(B, port),
            remote: STRANGER,
            bytes: request.clone(),
        };
        assert_eq!(pair.b.notices(), [from(500), from(4500)]);
        assert_eq!(pair.b.unmatched.iter().count(), 0);
    }

    #[test]
    fn p17_neither_ike_nor_esp_changes_nothing() {
        let cases: &[(u16, Vec<u8>, Option<DropReason>)] = &[
            (4500, vec![0xff], None),
            (4500, vec![], Some(DropReason::Stray)),
            (4500, vec![0xfe], Some(DropReason::Stray)),
            (4500, vec![0xff, 0xff], Some(DropReason::Stray)),
            (4500, vec![0, 0, 0], Some(DropReason::Stray)),
            (4500, vec![0, 0, 0, 0], Some(DropReason::Stray)),
            (
                4500,
                [vec![0; 4], vec![1; 27]].concat(),
                Some(DropReason::Stray),
            ),
            // IKE without its marker reads as an SPI nobody has.
            (4500, message(60, 60), Some(DropReason::UnknownSpi)),
            (500, vec![0xff], Some(DropReason::Stray)),
            (500, vec![], Some(DropReason::Stray)),
            // ESP does not belong here.
            (500, vec![0xc0; 100], Some(DropReason::Stray)),
        ];
        for (port, bytes, reason) in cases {
            let mut pair = Pair::connected("aes128-sha1");
            let socket = if *port == 500 {
                &pair.b.ike
            } else {
                &pair.b.nat
            };
            assert!(socket.inject(STRANGER, bytes));
            pair.turn(NOW);
            let unmatched: Vec<_> = pair.b.unmatched.iter().map(|(reason, _)| reason).collect();
            assert_eq!(
                unmatched,
                reason.iter().copied().collect::<Vec<_>>(),
                "{port} {bytes:02x?}"
            );
            assert!(
                !pair
                    .b
                    .notices()
                    .iter()
                    .any(|notice| matches!(notice, Notice::Ike { .. }))
            );
            assert_eq!(
                pair.b.counters().last_received(),
                None,
                "a keepalive is no sign of life"
            );
        }
    }

    #[test]
    fn p17_a_flood_of_keepalives_neither_counts_nor_keeps_a_packet_out() {
        let mut pair = Pair::connected("aes128-sha1");
        let packet = sealed(&mut pair, &to_b(60));
        for _ in 0..20 {
            for _ in 0..50 {
                assert!(pair.b.nat.inject(STRANGER, &[0xff]));
            }
            pair.turn(NOW);
        }
        assert_eq!(pair.b.counters().last_received(), None);
        assert_eq!((pair.b.all_refused(), pair.b.notices().len()), (vec![], 0));
        assert_eq!(pair.b.unmatched.iter().count(), 0);
        assert!(pair.b.nat.inject(STRANGER, &packet));
        pair.turn(NOW);
        assert_eq!(pair.b.delivered(), [to_b(60)]);
    }

    #[test]
    fn n01_a_message_that_lies_about_its_length_does_not_reach_the_control_plane() {
        let mut pair = Pair::new();
        for (len, stated) in [
            (60, 0),
            (60, 27),
            (60, 59),
            (60, 61),
            (60, u32::MAX),
            (MAX_IKE_MESSAGE + 1, MAX_IKE_MESSAGE as u32 + 1),
        ] {
            assert!(pair.b.ike.inject(STRANGER, &message(len, stated)));
            assert!(
                pair.b
                    .nat
                    .inject(STRANGER, &[&[0; 4], &message(len, stated)[..]].concat())
            );
        }
        pair.turn(NOW);
        assert_eq!(pair.b.notices(), []);
        assert_eq!(pair.b.unmatched.count(DropReason::Stray), 12);
    }

    #[test]
    fn e01_a_packet_of_the_right_spi_and_any_length_never_panics() {
        for words in crate::esp::testing::SUITES {
            let mut pair = Pair::connected(words);
            let whole = sealed(&mut pair, &to_b(60));
            for len in 4..whole.len() {
                assert!(pair.b.nat.inject(STRANGER, &whole[..len]));
            }
            while pair.b.ingress.all(NOW) == PollOutcome::More {}
            let refused = pair.b.refused(DropReason::Short) + pair.b.refused(DropReason::Auth);
            assert_eq!(refused, whole.len() as u64 - 4, "{words}");
            assert_eq!(pair.b.counters().last_received(), None, "{words}");
        }
    }

    #[test]
    fn e05_a_replayed_packet_is_refused_whoever_sends_it() {
        let mut pair = Pair::connected("aes128-sha1");
        let packet = sealed(&mut pair, &to_b(60));
        // From another address than the peer's: only the SPI and the ICV count (RFC 4301 §4.1).
        for _ in 0..3 {
            assert!(pair.b.nat.inject(STRANGER, &packet));
        }
        pair.turn(NOW);
        assert_eq!(pair.b.delivered(), [to_b(60)]);
        assert_eq!(pair.b.all_refused(), [(DropReason::Replay, 2)]);
    }

    #[test]
    fn e08_a_peers_packet_reaches_only_its_own_tunnels_device_and_only_from_its_own_network() {
        let mut pair = Pair::connected("aes128-sha1");
        // b has a second tunnel, to a peer with 10.77.0.0/16 behind it.
        let other_device = Arc::new(MemoryDevice::new(10).unwrap());
        let other_lane = lane(super::super::TunnelId(8), &other_device);
        let theirs = Policy {
            local: vec!["10.77.0.0/16".parse::<Prefix>().unwrap().into()],
            remote: policy().remote,
        };
        let (other_out, other_in) = half("aes128gcm16", 0x33, theirs);
        let (a_out, a_in) = half("aes128-sha1", 1, policy());
        pair.a.open(a_out, B);
        let inlet = |lane: &Arc<TunnelShared>| InboundEntry {
            lane: lane.clone(),
            local: B,
            remote: None,
            clamp: super::super::tables::MssClamp::to(MTU),
            watch: Arc::new(InboundEvents::new(FirstPacket::Usual)),
        };
        let sad = [
            (Arc::new(a_in), inlet(&pair.b.lane)),
            (Arc::new(other_in), inlet(&other_lane)),
        ];
        pair.b.inlets.store(Arc::new(sad.into_iter().collect()));

        let from = |source| crate::esp::testing::ipv4(source, [10, 2, 0, 5], 60);
        let other = |packet: &[u8]| crate::esp::testing::seal(&other_out, packet);
        let batch = [
            other(&from([10, 77, 0, 1])),
            other(&from([10, 1, 0, 7])),
            sealed(&mut pair, &to_b(99)),
            other(&from([10, 77, 0, 2])),
        ];
        batch
            .iter()
            .for_each(|esp| assert!(pair.b.nat.inject(STRANGER, esp)));
        pair.turn(NOW);
        assert_eq!(pair.b.delivered(), [to_b(99)]);
        let others: Vec<_> = std::iter::from_fn(|| other_device.take()).collect();
        assert_eq!(others, [from([10, 77, 0, 1]), from([10, 77, 0, 2])]);
        assert_eq!(
            other_lane.counters.refused.iter().collect::<Vec<_>>(),
            [(DropReason::Inner, 1)]
        );
        assert_eq!(pair.b.all_refused(), []);
        for lane in [&pair.b.lane, &other_lane] {
            assert_eq!(lane.counters.last_received(), Some(NOW));
        }
    }

    #[test]
    fn e10_a_fragment_without_ports_passes_only_selectors_without_ports() {
        let mut later = to_b(60);
        later[7] = 5;
        crate::esp::testing::header_checksum(&mut later);
        let mut pair = Pair::connected("aes128-sha1");
        assert_eq!(pair.a_to_b(&[later.clone()]), [later.clone()]);

        // The receiver agreed on one port only; this sender does not care.
        let one_port = |selector: Selector| selector.with_protocol(17, PortRange::one(2000));
        let strict = Policy {
            local: policy().local,
            remote: policy().remote.into_iter().map(one_port).collect(),
        };
        pair.b.accept([half("aes128-sha1", 1, strict).1]);
        pair.a.open(half("aes128-sha1", 1, policy()).0, B);
        assert_eq!(pair.a_to_b(&[to_b(60), later]), [to_b(60)]);
        assert_eq!(pair.b.all_refused(), [(DropReason::Inner, 1)]);
    }

    #[test]
    fn e16_a_new_sa_takes_over_and_the_old_one_loses_nothing() {
        //  a ── sealed under the old SA ──▶ (on the wire)
        //  b installs the new inbound SA beside the old; a switches its outbound SA
        //  a ── sealed under the new SA ──▶ overtakes
        let mut pair = Pair::connected("aes128-sha1");
        let old: Vec<_> = (0..5).map(|n| sealed(&mut pair, &to_b(100 + n))).collect();
        let (_, old_in) = half("aes128-sha1", 1, policy());
        let (new_out, new_in) = half("aes256gcm16", 2, policy());
        pair.b.accept([old_in, new_in]);
        pair.a.open(new_out, B);
        assert_eq!(pair.a_to_b(&[to_b(200)]), [to_b(200)]);
        old.iter()
            .for_each(|esp| assert!(pair.b.nat.inject(STRANGER, esp)));
        pair.turn(NOW + Duration::from_secs(5));
        assert_eq!(
            pair.b.delivered(),
            (0..5).map(|n| to_b(100 + n)).collect::<Vec<_>>()
        );
        assert_eq!(pair.b.all_refused(), []);

        // Once the old SA is deleted, its SPI is nobody's.
        let (_, new_in) = half("aes256gcm16", 2, policy());
        pair.b.accept([new_in]);
        assert!(pair.b.nat.inject(STRANGER, &old[0]));
        pair.turn(NOW);
        assert_eq!(
            pair.b.unmatched.iter().collect::<Vec<_>>(),
            [(DropReason::UnknownSpi, 1)]
        );
    }

    #[test]
    fn e18_what_would_open_another_layer_of_this_tunnel_is_refused() {
        let mut pair = Pair::new();
        let all: Vec<_> = vec!["0.0.0.0/0".parse::<Prefix>().unwrap().into()];
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
        let inner =
            |source, port| to_port(crate::esp::testing::ipv4(source, [192, 0, 2, 2], 100), port);
        let check_inner = inner([10, 1, 0, 7], 53);
        let packets = [
            inner([10, 1, 0, 7], 4500),
            inner([10, 1, 0, 7], 500),
            inner([192, 0, 2, 2], 53),
            check_inner.clone(),
        ];
        assert_eq!(pair.a_to_b(&packets), [check_inner]);
        assert_eq!(
            pair.b.all_refused(),
            [(DropReason::Martian, 1), (DropReason::Loop, 2)]
        );
    }

    #[test]
    fn e19_a_full_device_is_counted_and_does_not_stop_the_next_packet() {
        let mut pair = Pair::connected("aes128-sha1");
        pair.b.device.fail_write(io::ErrorKind::WouldBlock);
        assert_eq!(pair.a_to_b(&[to_b(60), to_b(61)]), [to_b(61)]);
        assert_eq!(pair.b.all_refused(), [(DropReason::DeviceFull, 1)]);
        pair.b.device.fail_write(io::ErrorKind::InvalidInput);
        assert_eq!(pair.a_to_b(&[to_b(62), to_b(63)]), [to_b(63)]);
        assert_eq!(pair.b.refused(DropReason::SendFailed), 1);
        assert_eq!(
            (pair.b.counters().rx.packets(), pair.b.counters().rx.bytes()),
            (2, 61 + 63)
        );
    }

    #[test]
    fn esp_is_opened_however_it_came_and_moves_nobody() {
        let mut pair = Pair::connected("aes128-sha1");
        let network = crate::os::memory::MemoryNetwork::new();
        let raw = Arc::new(network.bind(SocketAddr::new(B, 0), 100).unwrap());
        let (notices_tx, notices) = super::super::notice::channel(8).unwrap();
        let (inlets, unmatched) = (pair.b.inlets.clone(), pair.b.unmatched.clone());
        let door = SocketEntry {
            socket: raw.clone(),
            admits: Admits::Esp,
        };
        let doors = Arc::new(ArcSwap::from_pointee(vec![door]));
        let mut native = Ingress::new(doors, inlets, unmatched, notices_tx);
        let bare = SocketAddr::new(STRANGER.ip(), 0);

        // What was agreed on is UDP; bare it is as good, and says nothing about ports.
        let packet = sealed(&mut pair, &to_b(60));
        assert!(raw.inject(bare, &packet));
        assert_eq!(native.all(NOW), PollOutcome::Done);
        assert_eq!(pair.b.delivered(), [to_b(60)]);
        // The same once more, by the other road: one window for both.
        assert!(pair.b.nat.inject(STRANGER, &packet));
        assert!(raw.inject(bare, &packet));
        pair.turn(NOW);
        native.all(NOW);
        assert_eq!(pair.b.delivered(), Vec::<Vec<u8>>::new());
        assert_eq!(pair.b.all_refused(), [(DropReason::Replay, 2)]);
        assert_eq!(notices.next(), None);

        // Neither a marker nor a keepalive means anything here.
        for stray in [vec![], vec![0xff], vec![0, 0, 0]] {
            assert!(raw.inject(bare, &stray));
        }
        assert!(raw.inject(bare, &[&[0; 4], &message(60, 60)[..]].concat()));
        native.all(NOW);
        let unmatched: Vec<_> = pair.b.unmatched.iter().collect();
        assert_eq!(
            unmatched,
            [(DropReason::UnknownSpi, 1), (DropReason::Stray, 3)]
        );
        let unknown = Notice::UnknownSpi {
            spi: 0,
            local: SocketAddr::new(B, 0),
            remote: bare,
        };
        assert_eq!(notices.next(), Some(unknown));
        assert_eq!(notices.next(), None);
    }

    #[test]
    fn a_joined_train_is_taken_apart() {
        let mut pair = Pair::connected("aes128gcm16");
        let train: Vec<u8> = [100, 100, 60]
            .iter()
            .flat_map(|len| sealed(&mut pair, &to_b(*len)))
            .collect();
        let segment = sealed(&mut Pair::connected("aes128gcm16"), &to_b(100)).len();
        assert!(pair.b.nat.inject_gro(STRANGER, segment, &train));
        pair.turn(NOW);
        assert_eq!(pair.b.delivered(), [to_b(100), to_b(100), to_b(60)]);
    }

    #[test]
    fn the_far_ends_connections_learn_what_fits_too() {
        // The peer does not clamp: seal a SYN as it is.
        let mut pair = Pair::connected("aes128-sha1");
        let (a_out, _) = half("aes128-sha1", 1, policy());
        let esp = crate::esp::testing::seal(&a_out, &syn([10, 1, 0, 7], [10, 2, 0, 5], 1460));
        assert!(pair.b.nat.inject(STRANGER, &esp));
        pair.turn(NOW);
        let out = pair.b.delivered();
        assert_eq!((mss_of(&out[0]), tcp_sum(&out[0])), (1350, 0xffff));
    }
}
