//! What an SA tells the control plane beside the packets it carries: that the peer has begun to use it, that the peer is somewhere
//! else now, that it has carried nearly as much as it may. Each is said once, and again now and then as long as it holds.
//!
//! A worker looks here once a run of packets, never once a packet.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::TunnelId;
use super::notice::{ChildSpi, Notice, NoticeSender};
use crate::esp::lifetime::LifetimeState;
use crate::net::{DropReason, Time};

/// What is still to be told about one inbound SA. It belongs to the SA, so it outlives the tables that name it.
#[derive(Debug)]
pub(super) struct InboundEvents {
    awaited: AtomicBool,
    told: Mutex<Told>,
}

/// Whether the control plane waits for the first packet of an inbound SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstPacket {
    /// It does, and hears of it.
    Awaited,
    /// It is nothing special.
    Usual,
}

#[derive(Debug, Default)]
struct Told {
    moved: Option<(SocketAddr, Time)>,
    wear: OutboundEvents,
}

/// What was seen in a run of packets under one SA.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) tunnel: TunnelId,
    pub(super) spi: u32,
    /// Packets that were the peer's own.
    pub(super) authentic: u64,
    /// Another place than where the peer was, from which the newest of all packets came.
    pub(super) moved: Option<SocketAddr>,
    pub(super) stage: LifetimeState,
    pub(super) now: Time,
}

/// The least time between two notices that the peer is somewhere else.
const MOVES_APART: Duration = Duration::from_secs(1);

/// When the same place is told again: a notice may have been lost, or the control plane may think otherwise of it by then.
const SAME_PLACE_AGAIN: Duration = Duration::from_secs(10);

/// When an SA that is nearly worn out is mentioned again.
const WEAR_AGAIN: Duration = Duration::from_secs(1);

impl InboundEvents {
    pub(super) fn new(first: FirstPacket) -> InboundEvents {
        InboundEvents {
            awaited: AtomicBool::new(first == FirstPacket::Awaited),
            told: Mutex::default(),
        }
    }

    /// Passes on what is new. What the queue has no room for is said another time.
    pub(super) fn tell(&self, seen: Seen, notices_tx: &NoticeSender) -> Result<(), DropReason> {
        let (tunnel, spi_in) = (seen.tunnel, seen.spi);
        if seen.authentic > 0 && self.awaited.load(Relaxed) {
            notices_tx.send(Notice::ChildHeard { tunnel, spi_in })?;
            self.awaited.store(false, Relaxed);
        }
        if seen.moved.is_none() && seen.stage == LifetimeState::Fresh {
            return Ok(());
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(remote) = seen.moved.filter(|remote| told.is_move(*remote, seen.now)) {
            let at = seen.now;
            notices_tx.send(Notice::SeenFrom {
                tunnel,
                spi_in,
                remote,
                at,
            })?;
            told.moved = Some((remote, at));
        }
        told.wear.tell(
            tunnel,
            ChildSpi::In(spi_in),
            seen.stage,
            seen.now,
            notices_tx,
        )
    }
}

impl Told {
    fn is_move(&self, remote: SocketAddr, now: Time) -> bool {
        self.moved.is_none_or(|(known, at)| {
            let pause = if known == remote {
                SAME_PLACE_AGAIN
            } else {
                MOVES_APART
            };
            now.since(at) >= pause
        })
    }
}

/// What was last said about SAs that wear out.
#[derive(Debug, Default)]
pub(super) struct OutboundEvents(Option<(ChildSpi, LifetimeState, Time)>);

impl OutboundEvents {
    /// Says that an SA has come to this stage, unless that was said a moment ago.
    pub(super) fn tell(
        &mut self,
        tunnel: TunnelId,
        sa: ChildSpi,
        stage: LifetimeState,
        now: Time,
        notices_tx: &NoticeSender,
    ) -> Result<(), DropReason> {
        let notice = match stage {
            LifetimeState::Fresh => return Ok(()),
            LifetimeState::NearEnd => Notice::NearEnd { tunnel, sa },
            LifetimeState::Ended => Notice::Ended { tunnel, sa },
        };
        let is_old = |(known, was, at)| (known, was) == (sa, stage) && now.since(at) < WEAR_AGAIN;
        if self.0.is_some_and(is_old) {
            return Ok(());
        }
        notices_tx.send(notice)?;
        self.0 = Some((sa, stage, now));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::super::{NAT_PORT, notice};
    use super::*;
    use crate::esp::Inbound;
    use crate::esp::lifetime::Limits;
    use crate::esp::testing::policy;
    use std::net::IpAddr;

    fn port(port: u16) -> SocketAddr {
        SocketAddr::new(A, port)
    }

    const ELSEWHERE: SocketAddr =
        SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 9)), 1024);

    /// An ESP packet as `a` seals it, on its way.
    fn sealed(pair: &mut Pair) -> Vec<u8> {
        assert!(pair.a.device.inject(&to_b(60)));
        pair.a.egress.turn(NOW);
        pair.b.nat.take().unwrap().1
    }

    fn arrive(pair: &mut Pair, from: SocketAddr, esp: &[u8], now: Time) -> Vec<Notice> {
        assert!(pair.b.nat.inject(from, esp));
        pair.turn(now);
        pair.b.notices()
    }

    fn seen_from(remote: SocketAddr, at: Time) -> Notice {
        Notice::SeenFrom {
            tunnel: TUNNEL,
            spi_in: 0x1001,
            remote,
            at,
        }
    }

    #[test]
    fn p16_a_fresh_authentic_packet_from_elsewhere_is_told_once_a_place() {
        let mut pair = Pair::connected("aes128-sha1");
        let home = port(NAT_PORT);
        let packets: Vec<_> = (0..40).map(|_| sealed(&mut pair)).collect();
        let mut next = packets.iter();
        let mut send = |from, now| arrive(&mut pair, from, next.next().unwrap(), now);
        assert_eq!(send(home, NOW), []);
        assert_eq!(send(port(1111), NOW), [seen_from(port(1111), NOW)]);
        for _ in 0..10 {
            assert_eq!(send(port(1111), NOW), []);
        }
        let soon = NOW + Duration::from_millis(500);
        assert_eq!(send(ELSEWHERE, soon), [], "not two places in a second");
        let later = NOW + Duration::from_secs(1);
        assert_eq!(send(ELSEWHERE, later), [seen_from(ELSEWHERE, later)]);
        assert_eq!(send(home, later), [], "where it is known to be");
        let again = later + SAME_PLACE_AGAIN;
        assert_eq!(send(ELSEWHERE, again), [seen_from(ELSEWHERE, again)]);
    }

    #[test]
    fn p16_forged_replayed_and_held_back_packets_move_nobody() {
        let mut pair = Pair::connected("aes128-sha1");
        let held_back = sealed(&mut pair);
        let first = sealed(&mut pair);
        let mut forged = sealed(&mut pair);
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(arrive(&mut pair, port(NAT_PORT), &first, NOW), []);
        for (esp, why) in [
            (&first, "replayed"),
            (&forged, "forged"),
            (&held_back, "held back"),
        ] {
            assert_eq!(arrive(&mut pair, ELSEWHERE, esp, NOW), [], "{why}");
        }
        assert_eq!(pair.b.refused(DropReason::Replay), 1);
        assert_eq!(pair.b.refused(DropReason::Auth), 1);
    }

    #[test]
    fn p16_a_run_whose_newest_packet_came_from_home_moves_nobody() {
        let mut pair = Pair::connected("aes128-sha1");
        let packets: Vec<_> = (0..3).map(|_| sealed(&mut pair)).collect();
        for (from, esp) in [port(NAT_PORT), ELSEWHERE, port(NAT_PORT)]
            .iter()
            .zip(&packets)
        {
            assert!(pair.b.nat.inject(*from, esp));
        }
        pair.turn(NOW);
        assert_eq!(pair.b.notices(), []);
    }

    #[test]
    fn the_first_authentic_packet_of_an_awaited_sa_is_told_once() {
        let mut pair = Pair::new();
        let (a_out, b_in) = half("aes128gcm16", 1, policy());
        pair.a.open(a_out, B);
        pair.b.await_first([b_in]);
        let mut forged = sealed(&mut pair);
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(arrive(&mut pair, port(NAT_PORT), &forged, NOW), []);
        let heard = Notice::ChildHeard {
            tunnel: TUNNEL,
            spi_in: 0x1001,
        };
        let esp = sealed(&mut pair);
        assert_eq!(arrive(&mut pair, port(NAT_PORT), &esp, NOW), [heard]);
        let esp = sealed(&mut pair);
        assert_eq!(arrive(&mut pair, port(NAT_PORT), &esp, NOW), []);
    }

    #[test]
    fn what_the_queue_had_no_room_for_is_told_with_the_next_packet() {
        let (notices_tx, notices) = notice::channel(1).unwrap();
        notices_tx.send(Notice::Demand(TUNNEL)).unwrap();
        let watch = InboundEvents::new(FirstPacket::Awaited);
        let seen = Seen {
            tunnel: TUNNEL,
            spi: 7,
            authentic: 1,
            moved: None,
            stage: LifetimeState::Fresh,
            now: NOW,
        };
        assert_eq!(watch.tell(seen, &notices_tx), Err(DropReason::NoticeFull));
        notices.next();
        assert_eq!(watch.tell(seen, &notices_tx), Ok(()));
        assert!(matches!(notices.next(), Some(Notice::ChildHeard { .. })));
    }

    #[test]
    fn p19_an_inbound_sa_that_has_carried_enough_says_so_before_and_when_it_stops() {
        let mut pair = Pair::new();
        let (a_out, b_in) = half("aes128gcm16", 1, policy());
        let limits = Limits {
            bytes: None,
            packets: Some(10),
            jitter: 0,
        };
        pair.a.open(a_out, B);
        let b_in: Inbound = b_in.limited(limits);
        pair.b.accept([b_in]);
        let (tunnel, sa) = (TUNNEL, ChildSpi::In(0x1001));
        let mut told = Vec::new();
        for second in 0..12 {
            let esp = sealed(&mut pair);
            let now = NOW + Duration::from_millis(second * 10);
            told.extend(arrive(&mut pair, port(NAT_PORT), &esp, now));
        }
        assert_eq!(
            told,
            [Notice::Ended { tunnel, sa }],
            "9 of 10 is not above 90 %"
        );
        assert_eq!(pair.b.counters().rx.packets(), 10);
        assert_eq!(pair.b.refused(DropReason::Expired), 2);
    }
}
