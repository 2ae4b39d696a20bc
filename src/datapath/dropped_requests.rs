//! Memory of the IKE_SA_INIT requests that a full queue has dropped, by which a repeated request is distinguished from a new one.
//!
//! ```text
//!   address, port and SPIi ── keyed hash ──▶ slot of 524,288, which holds 32 bits of the hash of the last request there
//! ```
//!
//! An initiator repeats a request that gets no response (RFC 7296 §2.1); a flood of requests in its name that never repeats one does not
//! delay the repetition. The memory is of fixed size, and a new request replaces an old one in its slot: at 100,000 requests a second
//! four of five are still known after a second, when the first repetition comes.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Number of slots, a power of two.
const SLOTS: usize = 1 << 19;

/// Dropped requests, shared by the workers.
#[derive(Debug)]
pub(super) struct DroppedRequests {
    slots: Box<[AtomicU32]>,
    /// Keyed at random: nobody else knows which requests share a slot.
    hasher: RandomState,
}

impl Default for DroppedRequests {
    fn default() -> DroppedRequests {
        DroppedRequests {
            slots: (0..SLOTS).map(|_| AtomicU32::new(0)).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl DroppedRequests {
    /// Remembers a request.
    pub(super) fn insert(&self, remote: SocketAddr, message: &[u8]) {
        if let Some((slot, tag)) = self.slot(remote, message) {
            slot.store(tag, Relaxed);
        }
    }

    /// Whether a request was remembered and not yet replaced.
    pub(super) fn contains(&self, remote: SocketAddr, message: &[u8]) -> bool {
        self.slot(remote, message)
            .is_some_and(|(slot, tag)| slot.load(Relaxed) == tag)
    }

    /// Slot of a request, and the tag that stands for it there; zero stands for none.
    fn slot(&self, remote: SocketAddr, message: &[u8]) -> Option<(&AtomicU32, u32)> {
        let spi_i = message.first_chunk::<8>()?;
        let hash = self.hasher.hash_one((remote, spi_i));
        let tag = (hash >> 32) as u32 | 1;
        let slot = self.slots.get(hash as usize % SLOTS)?;
        Some((slot, tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_known_by_address_port_and_spi_until_they_are_replaced() {
        let dropped = DroppedRequests::default();
        let remote = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let request = |spi: u64| spi.to_be_bytes();
        dropped.insert(remote(500), &request(7));
        assert!(dropped.contains(remote(500), &request(7)));
        assert!(!dropped.contains(remote(501), &request(7)));
        assert!(!dropped.contains(remote(500), &request(8)));
        // Nobody repeats what is too short for an SPI.
        dropped.insert(remote(500), &[1, 2]);
        assert!(!dropped.contains(remote(500), &[1, 2]));
        (1000..101_000).for_each(|spi| dropped.insert(remote(500), &request(spi)));
        let known = (1000..101_000).filter(|spi| dropped.contains(remote(500), &request(*spi)));
        assert!(known.count() > 80_000);
    }
}
