//! Events of a Child SA for the control plane: the first packet, a new address of the peer, the limits of the lifetime.
//!
//! A worker reports once a batch and SA, never once a packet. Each event is sent once, and repeated at intervals while it lasts.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::notice::{ChildSpi, Notice, NoticeSender};
use crate::esp::lifetime::LifetimeState;
use crate::net::{DropReason, Time, TunnelId};

/// Whether the control plane awaits the first packet of an inbound SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstPacket {
    /// The first authentic packet sends a notice.
    Awaited,
    /// The first packet is like any other.
    Ordinary,
}

/// The events of one inbound SA. They outlive the table entries that refer to them.
#[derive(Debug)]
pub(super) struct InboundEvents {
    first_awaited: AtomicBool,
    sent: Mutex<Sent>,
}

/// The last notices of an inbound SA.
#[derive(Debug, Default)]
struct Sent {
    moved: Option<(SocketAddr, Time)>,
    lifetime: LifetimeEvents,
}

/// What a worker has observed in one batch of packets under one inbound SA.
#[derive(Clone, Copy, Debug)]
pub(super) struct InboundSummary {
    pub(super) tunnel: TunnelId,
    pub(super) spi: u32,
    /// Number of authentic packets.
    pub(super) authentic: u64,
    /// The source of the newest packet, if it is not the peer's known address.
    pub(super) moved: Option<SocketAddr>,
    pub(super) lifetime: LifetimeState,
    pub(super) now: Time,
}

/// The least time between two notices of different addresses.
const MOVE_INTERVAL: Duration = Duration::from_secs(1);

/// When the notice of the same address is repeated: the first may have been lost, or the control plane may decide otherwise by then.
const SAME_ADDRESS_INTERVAL: Duration = Duration::from_secs(10);

/// When the notice of a lifetime limit is repeated.
const LIFETIME_INTERVAL: Duration = Duration::from_secs(1);

impl InboundEvents {
    pub(super) fn new(first: FirstPacket) -> InboundEvents {
        InboundEvents {
            first_awaited: AtomicBool::new(first == FirstPacket::Awaited),
            sent: Mutex::default(),
        }
    }

    /// Sends the notices that are due. A notice for which the queue has no room is due again with the next batch.
    pub(super) fn report(
        &self,
        summary: InboundSummary,
        notices: &NoticeSender,
    ) -> Result<(), DropReason> {
        let (tunnel, spi_in) = (summary.tunnel, summary.spi);
        if summary.authentic > 0 && self.first_awaited.load(Relaxed) {
            notices.send(Notice::FirstPacket { tunnel, spi_in })?;
            self.first_awaited.store(false, Relaxed);
        }
        if summary.moved.is_none() && summary.lifetime == LifetimeState::Fresh {
            return Ok(());
        }
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(remote) = summary.moved
            && sent.is_move_due(remote, summary.now)
        {
            let at = summary.now;
            notices.send(Notice::PeerMoved {
                tunnel,
                spi_in,
                remote,
                at,
            })?;
            sent.moved = Some((remote, at));
        }
        sent.lifetime.report(
            tunnel,
            ChildSpi::In(spi_in),
            summary.lifetime,
            summary.now,
            notices,
        )
    }
}

impl Sent {
    fn is_move_due(&self, remote: SocketAddr, now: Time) -> bool {
        self.moved.is_none_or(|(last, at)| {
            let interval = if last == remote {
                SAME_ADDRESS_INTERVAL
            } else {
                MOVE_INTERVAL
            };
            now.since(at) >= interval
        })
    }
}

/// The lifetime limits of one inbound SA, or of the outbound SAs of one tunnel.
#[derive(Debug, Default)]
pub(super) struct LifetimeEvents {
    /// The notices within [`LIFETIME_INTERVAL`].
    sent: Vec<(ChildSpi, LifetimeState, Time)>,
}

impl LifetimeEvents {
    /// Sends the notice of an SA's limit unless the same was sent within [`LIFETIME_INTERVAL`].
    #[inline]
    pub(super) fn report(
        &mut self,
        tunnel: TunnelId,
        sa: ChildSpi,
        state: LifetimeState,
        now: Time,
        notices: &NoticeSender,
    ) -> Result<(), DropReason> {
        let notice = match state {
            LifetimeState::Fresh => return Ok(()),
            LifetimeState::NearEnd => Notice::NearEnd { tunnel, sa },
            LifetimeState::Ended => Notice::Ended { tunnel, sa },
        };
        self.sent
            .retain(|(_, _, at)| now.since(*at) < LIFETIME_INTERVAL);
        let is_same =
            |(spi, reported, _): &(ChildSpi, LifetimeState, Time)| (*spi, *reported) == (sa, state);
        if self.sent.iter().any(is_same) {
            return Ok(());
        }
        notices.send(notice)?;
        self.sent.push((sa, state, now));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::notice;
    use super::super::testing::*;
    use super::*;
    use crate::esp::Inbound;
    use crate::esp::lifetime::Limits;
    use crate::esp::testing::policy;
    use crate::net::NAT_PORT;
    use std::net::IpAddr;

    fn port(port: u16) -> SocketAddr {
        SocketAddr::new(A, port)
    }

    const ELSEWHERE: SocketAddr =
        SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 9)), 1024);

    /// An ESP packet that `a` has sent.
    fn sealed(pair: &mut Pair) -> Vec<u8> {
        assert!(pair.a.device.inject(&to_b(60)));
        pair.a.egress.run_batch(NOW);
        pair.b.nat.take().unwrap().1
    }

    fn arrive(pair: &mut Pair, from: SocketAddr, esp: &[u8], now: Time) -> Vec<Notice> {
        assert!(pair.b.nat.inject(from, esp));
        pair.run(now);
        pair.b.notices()
    }

    fn seen_from(remote: SocketAddr, at: Time) -> Notice {
        Notice::PeerMoved {
            tunnel: TUNNEL,
            spi_in: 0x1001,
            remote,
            at,
        }
    }

    #[test]
    fn p16_a_new_authentic_packet_from_elsewhere_is_reported_once_an_address() {
        let mut pair = Pair::connected("aes128-sha1");
        let known = port(NAT_PORT);
        let packets: Vec<_> = (0..40).map(|_| sealed(&mut pair)).collect();
        let mut next = packets.iter();
        let mut send = |from, now| arrive(&mut pair, from, next.next().unwrap(), now);
        assert_eq!(send(known, NOW), []);
        assert_eq!(send(port(1111), NOW), [seen_from(port(1111), NOW)]);
        for _ in 0..10 {
            assert_eq!(send(port(1111), NOW), []);
        }
        let soon = NOW + Duration::from_millis(500);
        assert_eq!(send(ELSEWHERE, soon), [], "one address a second");
        let later = NOW + Duration::from_secs(1);
        assert_eq!(send(ELSEWHERE, later), [seen_from(ELSEWHERE, later)]);
        assert_eq!(send(known, later), [], "the known address");
        let again = later + SAME_ADDRESS_INTERVAL;
        assert_eq!(send(ELSEWHERE, again), [seen_from(ELSEWHERE, again)]);
    }

    #[test]
    fn p16_forged_replayed_and_delayed_packets_move_no_peer() {
        let mut pair = Pair::connected("aes128-sha1");
        let delayed = sealed(&mut pair);
        let first = sealed(&mut pair);
        let mut forged = sealed(&mut pair);
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(arrive(&mut pair, port(NAT_PORT), &first, NOW), []);
        for (esp, why) in [
            (&first, "replayed"),
            (&forged, "forged"),
            (&delayed, "delayed"),
        ] {
            assert_eq!(arrive(&mut pair, ELSEWHERE, esp, NOW), [], "{why}");
        }
        assert_eq!(pair.b.dropped(DropReason::Replay), 1);
        assert_eq!(pair.b.dropped(DropReason::Auth), 1);
    }

    #[test]
    fn p16_a_batch_whose_newest_packet_came_from_the_known_address_moves_no_peer() {
        let mut pair = Pair::connected("aes128-sha1");
        let packets: Vec<_> = (0..3).map(|_| sealed(&mut pair)).collect();
        for (from, esp) in [port(NAT_PORT), ELSEWHERE, port(NAT_PORT)]
            .iter()
            .zip(&packets)
        {
            assert!(pair.b.nat.inject(*from, esp));
        }
        pair.run(NOW);
        assert_eq!(pair.b.notices(), []);
    }

    #[test]
    fn the_first_authentic_packet_of_an_awaited_sa_is_reported_once() {
        let mut pair = Pair::new();
        let (a_out, b_in) = half("aes128gcm16", 1, policy());
        pair.a.open(a_out, B);
        pair.b.await_first([b_in]);
        let mut forged = sealed(&mut pair);
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(arrive(&mut pair, port(NAT_PORT), &forged, NOW), []);
        let heard = Notice::FirstPacket {
            tunnel: TUNNEL,
            spi_in: 0x1001,
        };
        let esp = sealed(&mut pair);
        assert_eq!(arrive(&mut pair, port(NAT_PORT), &esp, NOW), [heard]);
        let esp = sealed(&mut pair);
        assert_eq!(arrive(&mut pair, port(NAT_PORT), &esp, NOW), []);
    }

    #[test]
    fn a_notice_without_room_in_the_queue_is_sent_with_the_next_batch() {
        let (sender, notices) = notice::channel(1).unwrap();
        sender.send(Notice::Demand(TUNNEL)).unwrap();
        let events = InboundEvents::new(FirstPacket::Awaited);
        let summary = InboundSummary {
            tunnel: TUNNEL,
            spi: 7,
            authentic: 1,
            moved: None,
            lifetime: LifetimeState::Fresh,
            now: NOW,
        };
        assert_eq!(events.report(summary, &sender), Err(DropReason::NoticeFull));
        notices.next();
        assert_eq!(events.report(summary, &sender), Ok(()));
        assert!(matches!(notices.next(), Some(Notice::FirstPacket { .. })));
    }

    #[test]
    fn p19_an_inbound_sa_reports_when_it_reaches_its_hard_limit() {
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
        let mut sent = Vec::new();
        for second in 0..12 {
            let esp = sealed(&mut pair);
            let now = NOW + Duration::from_millis(second * 10);
            sent.extend(arrive(&mut pair, port(NAT_PORT), &esp, now));
        }
        assert_eq!(
            sent,
            [Notice::Ended { tunnel, sa }],
            "9 of 10 is not above 90 %"
        );
        assert_eq!(pair.b.counters().rx.packets(), 10);
        assert_eq!(pair.b.dropped(DropReason::Expired), 2);
    }
}
