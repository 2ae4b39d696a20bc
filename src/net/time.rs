//! Time as a value.
//!
//! Protocol code never reads a clock: its callers pass the time. The daemon reads `CLOCK_BOOTTIME`, which includes suspends, so
//! that expired lifetimes and dead peers are noticed right after a resume.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

/// Time in nanoseconds since boot. Arithmetic saturates.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(u64);

impl Time {
    /// Boot.
    pub const ZERO: Time = Time(0);

    /// Later than any timer.
    pub const MAX: Time = Time(u64::MAX);

    /// Time `nanos` nanoseconds after boot.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Time {
        Time(nanos)
    }

    /// Time `seconds` after boot.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Time {
        Time(seconds.saturating_mul(1_000_000_000))
    }

    /// Nanoseconds since boot.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Seconds since boot, for output.
    #[must_use]
    pub fn as_secs_f64(self) -> f64 {
        Duration::from_nanos(self.0).as_secs_f64()
    }

    /// Duration since `earlier`; zero if it is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, span: Duration) -> Time {
        Time(self.0.saturating_add(nanos(span)))
    }
}

impl AddAssign<Duration> for Time {
    fn add_assign(&mut self, span: Duration) {
        self.0 = self.0.saturating_add(nanos(span));
    }
}

impl Sub<Duration> for Time {
    type Output = Time;

    fn sub(self, span: Duration) -> Time {
        Time(self.0.saturating_sub(nanos(span)))
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}s", self.as_secs_f64())
    }
}

/// Nanoseconds of a duration; 584 years fit, and longer ones saturate.
fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let t = Time::from_secs(5);
        assert_eq!(
            t + Duration::from_millis(1500),
            Time::from_nanos(6_500_000_000)
        );
        assert_eq!(t - Duration::from_secs(6), Time::ZERO);
        assert_eq!(t + Duration::MAX, Time::MAX);
    }

    #[test]
    fn since_never_goes_below_zero() {
        let (early, late) = (Time::from_secs(1), Time::from_secs(3));
        assert_eq!(late.since(early), Duration::from_secs(2));
        assert_eq!(early.since(late), Duration::ZERO);
    }
}
