//! ESP packets for inbound SAs that are offered to the peer and not installed yet.
//!
//! ```text
//!   announce ──▶ our request ──▶ peer
//!                                 ├── ESP over the new SA ──▶ hold          it may overtake the response (RFC 7296 §2.8)
//!   install  ◀── its response ────┘                            └─▶ opened after `take`, in order
//! ```
//!
//! The packets are not authenticated before they are opened. Packets, octets and time are bounded; what is dropped counts as a loss of the
//! rekey. Packets of an offer that came to nothing are dropped at the next announcement of any tunnel.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::counters::Counters;
use super::outer::OuterMeta;
use crate::net::{DropReason, Time, TunnelId};

/// Maximum number of packets for one SPI.
const MAX_PACKETS: usize = 256;

/// Maximum number of octets for one SPI.
const MAX_OCTETS: usize = 512 << 10;

/// How long a packet waits. Its sender has retransmitted it by then.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// Maximum number of announced SPIs of one tunnel: each of its IKE SAs has one request at a time.
const MAX_ANNOUNCED: usize = 4;

/// All announced SPIs. Only the control plane's thread changes the map.
#[derive(Default)]
pub(super) struct EarlyPackets {
    queues: ArcSwap<HashMap<u32, Arc<EarlyQueue>>>,
}

/// The packets of one announced SPI.
struct EarlyQueue {
    tunnel: TunnelId,
    counters: Arc<Counters>,
    announced: Time,
    held: Mutex<Held>,
}

/// What waits for an SPI.
enum Held {
    Open {
        packets: Vec<EarlyPacket>,
        octets: usize,
    },
    /// The SA is installed, or will not be.
    Closed,
}

/// A packet that waits.
pub(super) struct EarlyPacket {
    pub(super) at: Time,
    pub(super) outer: OuterMeta,
    pub(super) bytes: Vec<u8>,
}

/// What became of packets that no SA opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HoldOutcome {
    /// They wait, or are counted as dropped.
    Held,
    /// Their SPI is not announced.
    Unknown,
    /// Their SA has been installed meanwhile.
    Installed,
}

impl EarlyPackets {
    /// Holds packets for this SPI from now on. An older announcement of the tunnel ends beyond [`MAX_ANNOUNCED`].
    pub(super) fn announce(
        &self,
        spi: u32,
        (tunnel, counters): (TunnelId, &Arc<Counters>),
        now: Time,
    ) {
        let mut queues = HashMap::clone(&self.queues.load());
        for queue in queues.values() {
            queue.expire(now);
        }
        let of_tunnel = queues.iter().filter(|(_, queue)| queue.tunnel == tunnel);
        let mut announced: Vec<(Time, u32)> = of_tunnel
            .map(|(spi, queue)| (queue.announced, *spi))
            .collect();
        announced.sort_unstable();
        let excess = announced
            .len()
            .saturating_sub(MAX_ANNOUNCED.saturating_sub(1));
        for (_, old) in announced.into_iter().take(excess) {
            if let Some(queue) = queues.remove(&old) {
                queue.close();
            }
        }
        let queue = EarlyQueue {
            tunnel,
            counters: Arc::clone(counters),
            announced: now,
            held: Mutex::new(Held::Open {
                packets: Vec::new(),
                octets: 0,
            }),
        };
        queues.insert(spi, Arc::new(queue));
        self.queues.store(Arc::new(queues));
    }

    /// Holds packets of one SPI, in order.
    pub(super) fn hold<'p>(
        &self,
        spi: u32,
        packets: impl Iterator<Item = (OuterMeta, &'p [u8])>,
        now: Time,
    ) -> HoldOutcome {
        let queues = self.queues.load();
        let Some(queue) = queues.get(&spi) else {
            return HoldOutcome::Unknown;
        };
        let mut held = queue.lock();
        let Held::Open {
            packets: all,
            octets,
        } = &mut *held
        else {
            return HoldOutcome::Installed;
        };
        for (outer, bytes) in packets {
            let sum = octets.saturating_add(bytes.len());
            if all.len() >= MAX_PACKETS || sum > MAX_OCTETS {
                queue.counters.dropped.add(DropReason::QueueFull, 1);
                continue;
            }
            *octets = sum;
            all.push(EarlyPacket {
                at: now,
                outer,
                bytes: bytes.to_vec(),
            });
        }
        HoldOutcome::Held
    }

    /// Takes the packets of an SPI whose SA is installed now. Those that have waited too long are dropped.
    pub(super) fn take(&self, spi: u32, now: Time) -> Vec<EarlyPacket> {
        let queues = self.queues.load_full();
        let Some(queue) = queues.get(&spi) else {
            return Vec::new();
        };
        let mut left = HashMap::clone(&queues);
        left.remove(&spi);
        self.queues.store(Arc::new(left));
        queue.expire(now);
        queue.take()
    }

    /// Ends all announcements of a tunnel.
    pub(super) fn forget(&self, tunnel: TunnelId) {
        let mut queues = HashMap::clone(&self.queues.load());
        queues.retain(|_, queue| queue.tunnel != tunnel);
        self.queues.store(Arc::new(queues));
    }
}

impl EarlyQueue {
    /// Drops the packets that have waited too long.
    #[allow(clippy::arithmetic_side_effects, reason = "time saturates")]
    fn expire(&self, now: Time) {
        let mut expired = 0;
        if let Held::Open { packets, octets } = &mut *self.lock() {
            packets.retain(|packet| {
                let waits = now < packet.at + MAX_WAIT;
                if !waits {
                    *octets = octets.saturating_sub(packet.bytes.len());
                    expired = u64::saturating_add(expired, 1);
                }
                waits
            });
            packets.shrink_to_fit();
        }
        self.counters.dropped.add(DropReason::QueueFull, expired);
    }

    /// Ends an announcement that came to nothing.
    fn close(&self) {
        let dropped = self.take().len() as u64;
        self.counters.dropped.add(DropReason::QueueFull, dropped);
    }

    fn take(&self) -> Vec<EarlyPacket> {
        match std::mem::replace(&mut *self.lock(), Held::Closed) {
            Held::Open { packets, .. } => packets,
            Held::Closed => Vec::new(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ingress::IngressContext;
    use super::super::notice;
    use super::super::sa_events::FirstPacket;
    use super::super::testing::{A, B, MTU, NOW, Pair, TUNNEL, half, inbound_entry, to_b};
    use super::*;
    use crate::esp::testing::policy;
    use crate::net::NAT_PORT;
    use std::net::SocketAddr;

    /// SPI of `half(…, 1, …)`.
    const SPI: u32 = 0x1001;

    /// `b` has offered an SA, and `a` sends these packets over it before `b` has it. Installs the SA after `wait`.
    fn sent_early(packets: &[Vec<u8>], wait: Duration) -> Pair {
        let mut pair = Pair::new();
        let (a_out, b_in) = half("aes128-sha1", 1, policy());
        pair.a.open(a_out, B);
        let early = &pair.b.table.early;
        early.announce(SPI, (TUNNEL, &pair.b.tunnel.counters), NOW);
        assert_eq!(pair.a_to_b(packets), Vec::<Vec<u8>>::new());
        assert_eq!(pair.b.notices(), [], "the peer gets no INVALID_SPI");
        assert_eq!(pair.b.unmatched.iter().count(), 0);
        let remote = Some(SocketAddr::new(A, NAT_PORT));
        let entry = inbound_entry(b_in, &pair.b.tunnel, B, remote, FirstPacket::Ordinary);
        pair.b.table.insert(entry);
        let (sender, _notices) = notice::channel(8).unwrap();
        let unmatched = pair.b.unmatched.clone();
        let mut context = IngressContext::new(pair.b.table.clone(), unmatched, sender);
        let held = pair.b.table.early.take(SPI, NOW + wait);
        context.open_held(SPI, held, NOW + wait);
        pair
    }

    fn numbered(count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|number| to_b(60 + number)).collect()
    }

    #[test]
    fn e16_packets_for_an_offered_sa_wait_until_it_is_installed_and_arrive_in_order() {
        let packets = numbered(100);
        let mut pair = sent_early(&packets, Duration::from_millis(800));
        assert_eq!(pair.b.delivered(), packets);
        assert_eq!(pair.b.all_dropped(), []);
        let later = numbered(3);
        assert_eq!(pair.a_to_b(&later), later, "nothing waits any more");
    }

    #[test]
    fn e16_packets_that_wait_are_bounded_in_number_octets_and_time_and_counted() {
        let pair = sent_early(&numbered(MAX_PACKETS + 7), Duration::ZERO);
        assert_eq!(pair.b.delivered().len(), MAX_PACKETS);
        assert_eq!(pair.b.all_dropped(), [(DropReason::QueueFull, 7)]);

        let long = vec![to_b(usize::from(MTU)); MAX_PACKETS];
        let mut pair = sent_early(&long, Duration::ZERO);
        let delivered = pair.b.delivered().len();
        assert!(delivered * usize::from(MTU) <= MAX_OCTETS && delivered > MAX_PACKETS / 2);
        assert_eq!(pair.a_to_b(&numbered(1)).len(), 1);

        let pair = sent_early(&numbered(5), MAX_WAIT);
        assert_eq!(pair.b.delivered().len(), 0);
        assert_eq!(pair.b.all_dropped(), [(DropReason::QueueFull, 5)]);
    }

    #[test]
    fn p05_announcements_of_a_tunnel_are_bounded_and_end_with_it() {
        let pair = Pair::new();
        let early = &pair.b.table.early;
        let counters = &pair.b.tunnel.counters;
        for number in 0..100 {
            let now = NOW + Duration::from_secs(u64::from(number));
            early.announce(SPI + number, (TUNNEL, counters), now);
        }
        early.announce(7, (TunnelId(99), counters), NOW);
        assert_eq!(early.queues.load().len(), MAX_ANNOUNCED + 1);
        let none = || std::iter::empty();
        assert_eq!(early.hold(SPI, none(), NOW), HoldOutcome::Unknown);
        assert_eq!(early.hold(SPI + 99, none(), NOW), HoldOutcome::Held);
        early.forget(TUNNEL);
        assert_eq!(early.hold(SPI + 99, none(), NOW), HoldOutcome::Unknown);
        assert_eq!(early.hold(7, none(), NOW), HoldOutcome::Held);
    }

    #[test]
    fn p05_packets_of_an_offer_that_came_to_nothing_end_with_the_next_one() {
        let pair = Pair::new();
        let early = &pair.b.table.early;
        let counters = &pair.b.tunnel.counters;
        early.announce(SPI, (TUNNEL, counters), NOW);
        let address = SocketAddr::new(A, NAT_PORT);
        let outer = OuterMeta {
            local: address,
            remote: address,
            class: 0,
        };
        let packets = [(outer, &[0u8; 100][..]); 3];
        assert_eq!(early.hold(SPI, packets.into_iter(), NOW), HoldOutcome::Held);
        early.announce(SPI + 1, (TunnelId(99), counters), NOW + MAX_WAIT);
        assert_eq!(counters.dropped.count(DropReason::QueueFull), 3);
        assert!(early.take(SPI, NOW + MAX_WAIT).is_empty());
    }
}
