//! Token bucket that limits the rate of responses and log messages caused by unauthenticated packets.

use std::time::Duration;

use super::Time;

/// A token bucket of `burst` tokens that gains one token an `interval`.
#[derive(Debug)]
pub struct TokenBucket {
    interval: Duration,
    burst: u32,
    tokens: u32,
    /// When the last whole token was added; the remainder of an interval is kept.
    counted: Time,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(burst: u32, interval: Duration) -> TokenBucket {
        TokenBucket {
            interval,
            burst,
            tokens: burst,
            counted: Time::ZERO,
        }
    }

    /// Takes a token if there is one.
    #[allow(clippy::arithmetic_side_effects, reason = "time saturates")]
    pub fn allow(&mut self, now: Time) -> bool {
        let fresh = now
            .since(self.counted)
            .as_nanos()
            .checked_div(self.interval.as_nanos())
            .unwrap_or(0);
        let fresh = u32::try_from(fresh).unwrap_or(u32::MAX);
        if fresh >= self.burst.saturating_sub(self.tokens) {
            (self.tokens, self.counted) = (self.burst, now);
        } else {
            self.tokens = self.tokens.saturating_add(fresh);
            self.counted += self.interval.saturating_mul(fresh);
        }
        let allowed = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_allowed_and_then_one_an_interval() {
        let mut bucket = TokenBucket::new(3, Duration::from_millis(100));
        let start = Time::from_secs(50);
        assert_eq!((0..10).filter(|_| bucket.allow(start)).count(), 3);
        let mut passed = 0;
        for step in 1..=100u64 {
            passed += u32::from(bucket.allow(start + Duration::from_millis(step * 10)));
        }
        assert_eq!(passed, 10);
    }

    #[test]
    fn a_long_pause_fills_the_bucket_once() {
        let mut bucket = TokenBucket::new(3, Duration::from_millis(100));
        assert_eq!(
            (0..10).filter(|_| bucket.allow(Time::from_secs(1))).count(),
            3
        );
        assert_eq!(
            (0..10)
                .filter(|_| bucket.allow(Time::from_secs(1_000_000)))
                .count(),
            3
        );
    }

    #[test]
    fn a_clock_that_does_not_advance_adds_no_token() {
        let mut bucket = TokenBucket::new(1, Duration::from_secs(1));
        assert!(bucket.allow(Time::ZERO));
        assert!((0..100).all(|_| !bucket.allow(Time::ZERO)));
    }
}
