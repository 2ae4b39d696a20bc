//! Ctrl-C, noticed by whatever is waiting.
//!
//! The signals are blocked in every thread and taken by one that does nothing else, so no code runs inside a signal handler and
//! every wait in the lab ends with an error that unwinds through the ordinary teardown.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

/// Says whether the person wants out. Clones share one state.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    state: Arc<(Mutex<bool>, Condvar)>,
}

/// Somebody pressed Ctrl-C, or sent SIGTERM or SIGHUP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// The signals are blocked; [`BlockedSignals::watch`] begins to listen to them.
///
/// Two steps, because entering a user namespace wants a process with one thread, and a signal between here and there must not be
/// lost.
#[derive(Debug)]
pub struct BlockedSignals(SigSet);

impl BlockedSignals {
    /// Blocks the signals that end a lab. Called while there is one thread: those that follow inherit the mask.
    pub fn new() -> io::Result<BlockedSignals> {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            signals.add(signal);
        }
        signals.thread_block()?;
        Ok(BlockedSignals(signals))
    }

    /// Starts the thread that takes them.
    pub fn watch(self) -> io::Result<Interrupt> {
        let interrupt = Interrupt::default();
        let watched = interrupt.clone();
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                // A second Ctrl-C changes nothing: the teardown is under way and bounded.
                while self.0.wait().is_ok() {
                    watched.set();
                }
            })?;
        Ok(interrupt)
    }
}

impl Interrupt {
    /// An error once the person wants out.
    pub fn check(&self) -> Result<(), Interrupted> {
        self.pause(Duration::ZERO)
    }

    /// Waits for `duration`, or fails as soon as the person wants out.
    pub fn pause(&self, duration: Duration) -> Result<(), Interrupted> {
        let (flag, changed) = &*self.state;
        let asked = flag.lock().unwrap_or_else(PoisonError::into_inner);
        let (asked, _) = changed
            .wait_timeout_while(asked, duration, |asked| !*asked)
            .unwrap_or_else(PoisonError::into_inner);
        if *asked { Err(Interrupted) } else { Ok(()) }
    }

    /// Waits until the person wants out.
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
    fn an_interrupt_ends_every_wait_at_once_and_stays() {
        let interrupt = Interrupt::default();
        assert_eq!(interrupt.check(), Ok(()));
        let waiting = interrupt.clone();
        let waiter = std::thread::spawn(move || waiting.pause(Duration::from_secs(60)));
        interrupt.set();
        assert_eq!(waiter.join().unwrap(), Err(Interrupted));
        assert_eq!(interrupt.check(), Err(Interrupted));
    }
}
