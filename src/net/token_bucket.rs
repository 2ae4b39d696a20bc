//! A token bucket: how often something may be said that anyone can provoke (ICMP errors, notices about unknown SPIs).

use std::time::Duration;

use super::Time;

/// Allows `burst` at once and one more every `interval`.
#[derive(Debug)]
pub struct TokenBucket {
    interval: Duration,
    burst: u32,
    tokens: u32,
    /// When the last whole token was added.
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
    fn a_burst_passes_then_one_an_interval() {
        let mut limiter = TokenBucket::new(3, Duration::from_millis(100));
        let start = Time::from_secs(50);
        assert_eq!((0..10).filter(|_| limiter.allow(start)).count(), 3);
        let mut passed = 0;
        for step in 1..=100u64 {
            passed += u32::from(limiter.allow(start + Duration::from_millis(step * 10)));
        }
        assert_eq!(passed, 10);
    }

    #[test]
    fn a_long_rest_fills_the_bucket_once() {
        let mut limiter = TokenBucket::new(3, Duration::from_millis(100));
        assert_eq!(
            (0..10)
                .filter(|_| limiter.allow(Time::from_secs(1)))
                .count(),
            3
        );
        assert_eq!(
            (0..10)
                .filter(|_| limiter.allow(Time::from_secs(1_000_000)))
                .count(),
            3
        );
    }

    #[test]
    fn a_clock_that_stands_still_gives_nothing_more() {
        let mut limiter = TokenBucket::new(1, Duration::from_secs(1));
        assert!(limiter.allow(Time::ZERO));
        assert!((0..100).all(|_| !limiter.allow(Time::ZERO)));
    }
}
