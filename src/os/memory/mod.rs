//! In-memory implementations of [`Device`](super::Device) and [`Socket`](super::Socket): bounded queues and injected errors, no
//! privileges.
//!
//! ```text
//!   test ── inject ──▶ MemoryDevice ── read ──▶ datapath      MemoryNetwork
//!   test ◀── take ──── MemoryDevice ◀── write ── datapath       bind(a) ◀── send to a ── bind(b)
//! ```

mod device;
mod network;

pub use device::MemoryDevice;
pub use network::{MemoryNetwork, MemorySocket};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex. A poisoned lock is usable: no panic leaves the state inconsistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::fd::BorrowedFd;
    use std::time::Duration;

    use super::super::poll::Waiter;

    pub(super) fn readable(fd: BorrowedFd<'_>) -> bool {
        let waiter = Waiter::new().unwrap();
        waiter.watch(fd, 0).unwrap();
        !waiter
            .wait(Some(Duration::ZERO))
            .unwrap()
            .tokens()
            .is_empty()
    }
}
