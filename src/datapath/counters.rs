//! Packet counters that the workers write and any thread reads.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::esp::Traffic;
use crate::net::{DropReason, Time};

/// Counters of one tunnel. Each is exact by itself; two of them read together may be a packet apart.
#[derive(Debug, Default)]
pub struct Counters {
    /// Inner packets decapsulated and written into the tunnel's device.
    pub rx: Traffic,
    /// Inner packets sealed and sent.
    pub tx: Traffic,
    /// Packets dropped, by reason.
    pub dropped: PacketDropCounters,
    last_rx: AtomicU64,
    last_tx: AtomicU64,
}

impl Counters {
    /// Time of the last authentic ESP packet from the peer.
    pub fn last_received(&self) -> Option<Time> {
        time(&self.last_rx)
    }

    /// Time of the last ESP packet to the peer.
    pub fn last_sent(&self) -> Option<Time> {
        time(&self.last_tx)
    }

    pub(super) fn received_at(&self, now: Time) {
        self.last_rx.fetch_max(now.as_nanos(), Relaxed);
    }

    pub(super) fn sent_at(&self, now: Time) {
        self.last_tx.fetch_max(now.as_nanos(), Relaxed);
    }
}

/// Zero, the time of boot, means never.
fn time(nanos: &AtomicU64) -> Option<Time> {
    Some(nanos.load(Relaxed))
        .filter(|nanos| *nanos > 0)
        .map(Time::from_nanos)
}

/// Reasons for which packets that belong to no tunnel are dropped.
pub const UNMATCHED_REASONS: [DropReason; 4] = [
    DropReason::UnknownSpi,
    DropReason::Stray,
    DropReason::NoticeFull,
    DropReason::ReceiveFailed,
];

/// Dropped packets, one counter for each reason.
#[derive(Debug)]
pub struct PacketDropCounters([AtomicU64; DropReason::COUNT]);

impl PacketDropCounters {
    /// Packets dropped for this reason.
    pub fn count(&self, reason: DropReason) -> u64 {
        self.0
            .get(reason.index())
            .map_or(0, |count| count.load(Relaxed))
    }

    /// Every reason that has occurred, with its count.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL
            .iter()
            .map(|reason| (*reason, self.count(*reason)))
            .filter(|(_, count)| *count > 0)
    }

    pub(super) fn add(&self, reason: DropReason, packets: u64) {
        // The kernel's own multicast is not traffic of the tunnel.
        if reason == DropReason::Noise {
            return;
        }
        if let Some(count) = self.0.get(reason.index()) {
            count.fetch_add(packets, Relaxed);
        }
    }
}

impl Default for PacketDropCounters {
    fn default() -> Self {
        PacketDropCounters(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}
