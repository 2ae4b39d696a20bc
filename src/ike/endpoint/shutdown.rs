//! Shutdown: DELETE requests for all IKE SAs (RFC 7296 §1.4.1), in batches, each repeated until it is answered.
//!
//! ```text
//!   0 ms    10 ms   20 ms            200 ms   210 ms              the process ends after a second
//!   batch 1 batch 2 batch 3   …      batch 1  batch 2  …   again, without the SAs whose DELETE was answered
//! ```
//!
//! One burst for a thousand SAs would overflow the receive buffer of a peer, or of a router, that they share.

use std::time::Duration;

use crate::net::Time;
use crate::wire::IkeSpi;

/// Interval between two copies of a DELETE.
pub(super) const REPEAT_INTERVAL: Duration = Duration::from_millis(200);

/// Interval between two batches.
const BATCH_INTERVAL: Duration = Duration::from_millis(10);

/// Batches in which the first copies are sent, so that all have left before the first is repeated.
const BATCHES: usize = 20;

/// Size of the smallest batch.
const MIN_BATCH: usize = 16;

/// IKE SAs that are still to be closed.
#[derive(Debug)]
pub(super) struct Shutdown {
    open: Vec<IkeSpi>,
    batch: usize,
    next: Time,
}

impl Shutdown {
    /// Shutdown of these SAs, the first batch at once.
    pub fn new(open: Vec<IkeSpi>, now: Time) -> Shutdown {
        Shutdown {
            batch: open.len().div_ceil(BATCHES).max(MIN_BATCH),
            open,
            next: now,
        }
    }

    /// Time of the next batch.
    pub fn next_timer(&self) -> Option<Time> {
        (!self.open.is_empty()).then_some(self.next)
    }

    /// Takes the next batch if it is due.
    pub fn take_due(&mut self, now: Time) -> Vec<IkeSpi> {
        if self.next > now {
            return Vec::new();
        }
        self.next = now + BATCH_INTERVAL;
        let rest = self.open.len().saturating_sub(self.batch);
        self.open.split_off(rest)
    }

    /// Adds SAs that were created meanwhile, once all others are closed.
    pub fn refill(&mut self, open: impl FnOnce() -> Vec<IkeSpi>) {
        if self.open.is_empty() {
            self.open = open();
        }
    }
}
