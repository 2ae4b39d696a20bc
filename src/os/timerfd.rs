//! An alarm clock for an event loop: a timerfd on the clock our [`Time`] comes from (timerfd_create(2)).
//!
//! A runtime's own timers stand still while the machine sleeps; this one is due the moment it wakes, so that a peer that has
//! given us up meanwhile is noticed at once.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::net::Time;

/// An alarm: readable once its time has come.
#[derive(Debug)]
pub struct Timer {
    timer: TimerFd,
    set: Option<Time>,
}

impl Timer {
    /// An alarm that is not set.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn new() -> io::Result<Timer> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, flags)?;
        Ok(Timer { timer, set: None })
    }

    /// Sets it to a time, which may have passed already; `None` is never.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn set(&mut self, at: Option<Time>) -> io::Result<()> {
        if at == self.set {
            return Ok(());
        }
        match at {
            None => self.timer.unset()?,
            Some(at) => {
                // Zero would mean never.
                let nanos = at.as_nanos().max(1);
                let (seconds, nanos) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
                let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
                let at = TimeSpec::new(seconds, nanos.cast_signed());
                self.timer.set(
                    Expiration::OneShot(at),
                    TimerSetTimeFlags::TFD_TIMER_ABSTIME,
                )?;
            }
        }
        self.set = at;
        Ok(())
    }

    /// After it has gone off: it is not set any more.
    pub fn clear(&mut self) {
        // Setting a timerfd anew, or disarming it, also takes back that it has gone off.
        if self.timer.unset().is_ok() {
            self.set = None;
        }
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::clock;
    use super::super::poll::Waiter;
    use super::*;

    fn is_due(alarm: &Timer, within: Duration) -> bool {
        let waiter = Waiter::new().unwrap();
        waiter.watch(alarm.as_fd(), 0).unwrap();
        !waiter.wait(Some(within)).unwrap().tokens().is_empty()
    }

    #[test]
    fn it_goes_off_at_its_time_and_stays_so_until_cleared() {
        let mut alarm = Timer::new().unwrap();
        assert!(!is_due(&alarm, Duration::ZERO));
        alarm
            .set(Some(clock::now() + Duration::from_millis(5)))
            .unwrap();
        assert!(is_due(&alarm, Duration::from_secs(20)) && is_due(&alarm, Duration::ZERO));
        alarm.clear();
        assert!(!is_due(&alarm, Duration::ZERO));
    }

    #[test]
    fn a_time_that_has_passed_is_due_and_none_takes_it_back() {
        let mut alarm = Timer::new().unwrap();
        for past in [Time::ZERO, clock::now()] {
            alarm.set(Some(past)).unwrap();
            assert!(is_due(&alarm, Duration::from_secs(20)), "{past:?}");
            alarm.set(None).unwrap();
            assert!(!is_due(&alarm, Duration::ZERO));
        }
        alarm.set(Some(Time::MAX)).unwrap();
        assert!(!is_due(&alarm, Duration::ZERO));
    }
}
