//! SIGINT, SIGTERM and SIGHUP as an error of every wait.
//!
//! The signals are blocked in all threads and received by a dedicated one, so no code runs in a signal handler. Every wait of the
//! lab returns [`Interrupted`], which leads to the ordinary teardown.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

/// Whether a termination signal has arrived. Clones share one state.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    state: Arc<(Mutex<bool>, Condvar)>,
}

/// SIGINT, SIGTERM or SIGHUP has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// The blocked signals; [`BlockedSignals::watch`] starts to receive them.
///
/// These are two steps because entering a user namespace needs a process with one thread, and no signal may be lost before.
#[derive(Debug)]
pub struct BlockedSignals(SigSet);

impl BlockedSignals {
    /// Blocks the signals. Must be called while the process has one thread: later threads inherit the mask.
    pub fn new() -> io::Result<BlockedSignals> {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            signals.add(signal);
        }
        signals.thread_block()?;
        Ok(BlockedSignals(signals))
    }

    /// Starts the receiving thread.
    pub fn watch(self) -> io::Result<Interrupt> {
        let interrupt = Interrupt::default();
        let watched = interrupt.clone();
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                // A second signal has no effect: the teardown has begun and takes a bounded time.
                while self.0.wait().is_ok() {
                    watched.set();
                }
            })?;
        Ok(interrupt)
    }
}

impl Interrupt {
    /// Returns an error if a signal has arrived.
    pub fn check(&self) -> Result<(), Interrupted> {
        self.pause(Duration::ZERO)
    }

    /// Waits for `duration`; fails as soon as a signal arrives.
    pub fn pause(&self, duration: Duration) -> Result<(), Interrupted> {
        let (flag, changed) = &*self.state;
        let is_set = flag.lock().unwrap_or_else(PoisonError::into_inner);
        let (is_set, _) = changed
            .wait_timeout_while(is_set, duration, |is_set| !*is_set)
            .unwrap_or_else(PoisonError::into_inner);
        if *is_set { Err(Interrupted) } else { Ok(()) }
    }

    /// Waits for a signal.
    pub fn wait(&self) {
        while self.pause(Duration::from_secs(3600)).is_ok() {}
    }

    fn set(&self) {
        let (flag, changed) = &*self.state;
        *flag.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_ends_all_current_and_later_waits() {
        let interrupt = Interrupt::default();
        assert_eq!(interrupt.check(), Ok(()));
        let waiting = interrupt.clone();
        let waiter = std::thread::spawn(move || waiting.pause(Duration::from_secs(60)));
        interrupt.set();
        assert_eq!(waiter.join().unwrap(), Err(Interrupted));
        assert_eq!(interrupt.check(), Err(Interrupted));
    }
}
