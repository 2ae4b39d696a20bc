//! Traffic counters of one SA, readable from any thread.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Packets, and octets of inner packets.
#[derive(Debug, Default)]
pub struct Traffic {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Traffic {
    /// Adds a packet or a batch. The counters order no other memory access, so relaxed ordering suffices.
    pub fn add(&self, packets: u64, bytes: u64) {
        self.packets.fetch_add(packets, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// Number of packets.
    pub fn packets(&self) -> u64 {
        self.packets.load(Relaxed)
    }

    /// Octets of inner packets.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }
}
