//! What the workers have done, readable from any thread at any time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::esp::Traffic;
use crate::net::{DropReason, Time};

/// The counters of one tunnel. Each number is right by itself; two of them read together may be a packet apart.
#[derive(Debug, Default)]
pub struct Counters {
    /// Inner packets that came out of the tunnel and went into its device.
    pub rx: Traffic,
    /// Inner packets that were sealed and sent.
    pub tx: Traffic,
    /// Packets not carried, by reason.
    pub refused: PacketDropCounters,
    heard: AtomicU64,
    said: AtomicU64,
}

impl Counters {
    /// When the last authentic ESP packet of the peer came in.
    pub fn last_received(&self) -> Option<Time> {
        moment(&self.heard)
    }

    /// When the last ESP packet left.
    pub fn last_sent(&self) -> Option<Time> {
        moment(&self.said)
    }

    pub(super) fn heard_at(&self, now: Time) {
        self.heard.fetch_max(now.as_nanos(), Relaxed);
    }

    pub(super) fn sent_at(&self, now: Time) {
        self.said.fetch_max(now.as_nanos(), Relaxed);
    }
}

/// Zero, the moment of boot, stands for never.
fn moment(nanos: &AtomicU64) -> Option<Time> {
    Some(nanos.load(Relaxed))
        .filter(|nanos| *nanos > 0)
        .map(Time::from_nanos)
}

/// Packets not carried, one counter a reason.
#[derive(Debug)]
pub struct PacketDropCounters([AtomicU64; DropReason::COUNT]);

impl PacketDropCounters {
    /// How many packets were refused for this reason.
    pub fn count(&self, reason: DropReason) -> u64 {
        self.0
            .get(reason.index())
            .map_or(0, |count| count.load(Relaxed))
    }

    /// Every reason that has occurred, and how often.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL
            .iter()
            .map(|reason| (*reason, self.count(*reason)))
            .filter(|(_, count)| *count > 0)
    }

    pub(super) fn add(&self, reason: DropReason, packets: u64) {
        // What the kernel says to itself was never going to be carried.
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
