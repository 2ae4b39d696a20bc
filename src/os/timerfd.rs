//! timerfd on `CLOCK_BOOTTIME`, the clock of [`Time`] (timerfd_create(2)).
//!
//! The timers of an async runtime stop while the machine is suspended. This timer expires right after a resume, so that dead
//! peers are noticed at once.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::net::Time;

/// A timerfd; readable once its time has come.
#[derive(Debug)]
pub struct Timer {
    timer: TimerFd,
    set: Option<Time>,
}

impl Timer {
    /// Creates a disarmed timer.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn new() -> io::Result<Timer> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, flags)?;
        Ok(Timer { timer, set: None })
    }

    /// Arms the timer for a time, which may be in the past, or disarms it (`None`).
    ///
    /// # Errors
    /// Error of timerfd_settime(2).
    pub fn set(&mut self, at: Option<Time>) -> io::Result<()> {
        if at == self.set {
            return Ok(());
        }
        match at {
            None => self.timer.unset()?,
            Some(at) => {
                // Zero would disarm the timer.
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

    /// Disarms the timer after it has expired.
    pub fn clear(&mut self) {
        // Disarming a timerfd also clears its expirations.
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

    fn is_due(timer: &Timer, within: Duration) -> bool {
        let waiter = Waiter::new().unwrap();
        waiter.watch(timer.as_fd(), 0).unwrap();
        !waiter.wait(Some(within)).unwrap().tokens().is_empty()
    }

    #[test]
    fn a_timer_is_readable_from_its_time_until_cleared() {
        let mut timer = Timer::new().unwrap();
        assert!(!is_due(&timer, Duration::ZERO));
        timer
            .set(Some(clock::now() + Duration::from_millis(5)))
            .unwrap();
        assert!(is_due(&timer, Duration::from_secs(20)) && is_due(&timer, Duration::ZERO));
        timer.clear();
        assert!(!is_due(&timer, Duration::ZERO));
    }

    #[test]
    fn a_time_in_the_past_expires_at_once_and_none_disarms() {
        let mut timer = Timer::new().unwrap();
        for past in [Time::ZERO, clock::now()] {
            timer.set(Some(past)).unwrap();
            assert!(is_due(&timer, Duration::from_secs(20)), "{past:?}");
            timer.set(None).unwrap();
            assert!(!is_due(&timer, Duration::ZERO));
        }
        timer.set(Some(Time::MAX)).unwrap();
        assert!(!is_due(&timer, Duration::ZERO));
    }
}
