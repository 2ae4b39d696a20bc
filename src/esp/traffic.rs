//! How much an SA has carried, readable from any thread.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Packets and octets carried. The octets are those of the inner packets.
#[derive(Debug, Default)]
pub struct Traffic {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Traffic {
    /// Adds what a batch, or one packet, has carried. The numbers guard nothing, so no order is asked of the memory.
    pub fn add(&self, packets: u64, bytes: u64) {
        self.packets.fetch_add(packets, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// Packets so far.
    pub fn packets(&self) -> u64 {
        self.packets.load(Relaxed)
    }

    /// Octets of inner packets so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }
}
