//! Log line about dropped packets that belong to no tunnel: at most one a minute, however many packets there are.

use std::time::Duration;

use crate::datapath::UNMATCHED_REASONS;
use crate::net::{DropReason, Time};

/// Minimum interval between two lines.
const INTERVAL: Duration = Duration::from_secs(60);

/// Counters at the last line, and the time of the next look at them.
#[derive(Debug)]
pub(super) struct UnmatchedReport {
    reported: [u64; UNMATCHED_REASONS.len()],
    next: Time,
}

impl UnmatchedReport {
    pub(super) fn new(now: Time) -> UnmatchedReport {
        UnmatchedReport {
            reported: [0; UNMATCHED_REASONS.len()],
            next: now,
        }
    }

    /// Time at which [`UnmatchedReport::check`] looks at the counters again.
    pub(super) fn next_timer(&self) -> Time {
        self.next
    }

    /// The line to log now, if packets were dropped since the last line and a minute has passed. `dropped` is the number of packets
    /// dropped since the start, by reason.
    pub(super) fn check(
        &mut self,
        now: Time,
        dropped: impl Fn(DropReason) -> u64,
    ) -> Option<String> {
        if now < self.next {
            return None;
        }
        self.next = now + INTERVAL;
        let mut parts = Vec::new();
        for (reason, reported) in UNMATCHED_REASONS.iter().zip(&mut self.reported) {
            let count = dropped(*reason);
            let new = count.saturating_sub(std::mem::replace(reported, count));
            if new > 0 {
                parts.push(format!("{new} {} ({reason})", reason.metric()));
            }
        }
        let list = parts.join(", ");
        (!parts.is_empty()).then(|| format!("packets of no tunnel dropped: {list}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_packets_of_no_tunnel_are_logged_once_a_minute_with_their_number() {
        let at = Time::from_secs;
        let mut report = UnmatchedReport::new(at(10));
        let unknown = |count| {
            move |reason| match reason {
                DropReason::UnknownSpi => count,
                _ => 0,
            }
        };
        assert_eq!(report.check(at(10), unknown(0)), None);
        assert_eq!(report.check(at(69), unknown(1_200_000)), None);
        assert_eq!(report.next_timer(), at(70));
        let line = report.check(at(70), unknown(1_200_000)).unwrap();
        assert!(
            line.starts_with("packets of no tunnel dropped: 1200000 unknown-spi ("),
            "{line}"
        );
        assert_eq!(report.check(at(130), unknown(1_200_000)), None, "no more");
        let line = report.check(at(190), unknown(1_200_007)).unwrap();
        assert!(line.contains(": 7 unknown-spi"), "{line}");
    }
}
