//! Rate limit for log lines: a subject is logged at once, then again when its text changes or an interval has passed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Time;

/// Rate limit for log lines about many subjects, bounded in memory.
#[derive(Clone, Debug)]
pub struct LogLimit<K> {
    interval: Duration,
    capacity: usize,
    subjects: BTreeMap<K, LastLine>,
}

/// Line logged last about a subject.
#[derive(Clone, Debug)]
struct LastLine {
    text: String,
    at: Time,
    suppressed: u64,
}

impl<K: Ord + Clone> LogLimit<K> {
    /// Limit of one line per subject, text and `interval`. When more than `capacity` subjects are remembered, the oldest gives way.
    pub const fn new(interval: Duration, capacity: usize) -> LogLimit<K> {
        LogLimit {
            interval,
            capacity,
            subjects: BTreeMap::new(),
        }
    }

    /// Decides whether to log `text` about `subject` now: `Some(n)` to log it, where `n` lines about the subject were suppressed since the
    /// last one; `None` to suppress it.
    pub fn check(&mut self, subject: K, text: &str, now: Time) -> Option<u64> {
        let suppressed = match self.subjects.get_mut(&subject) {
            Some(last) if last.text == text && now.since(last.at) < self.interval => {
                last.suppressed = last.suppressed.saturating_add(1);
                return None;
            }
            Some(last) => last.suppressed,
            None => 0,
        };
        let line = LastLine {
            text: text.to_owned(),
            at: now,
            suppressed: 0,
        };
        self.subjects.insert(subject, line);
        if self.subjects.len() > self.capacity {
            self.drop_oldest();
        }
        Some(suppressed)
    }

    /// Forgets a subject whose cause is over, so that its next line is logged at once.
    pub fn forget(&mut self, subject: &K) {
        self.subjects.remove(subject);
    }

    fn drop_oldest(&mut self) {
        let oldest = self.subjects.iter().min_by_key(|(_, last)| last.at);
        if let Some(oldest) = oldest.map(|(subject, _)| subject.clone()) {
            self.subjects.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(300);

    fn at(seconds: u64) -> Time {
        Time::from_secs(seconds)
    }

    #[test]
    fn same_text_is_logged_once_an_interval_and_another_text_at_once() {
        let mut limit = LogLimit::new(INTERVAL, 8);
        assert_eq!(limit.check(1, "rejected", at(10)), Some(0));
        assert_eq!(limit.check(1, "rejected", at(309)), None);
        assert_eq!(limit.check(2, "rejected", at(309)), Some(0));
        assert_eq!(limit.check(1, "rejected", at(310)), Some(1));
        assert_eq!(limit.check(1, "dead", at(311)), Some(0));
        limit.forget(&1);
        assert_eq!(limit.check(1, "dead", at(312)), Some(0));
    }

    #[test]
    fn suppressed_lines_are_counted() {
        let mut limit = LogLimit::new(Duration::from_secs(60), 8);
        assert_eq!(limit.check((), "", at(100)), Some(0));
        assert!((0..500).all(|_| limit.check((), "", at(130)).is_none()));
        assert_eq!(limit.check((), "", at(160)), Some(500));
        assert_eq!(limit.check((), "", at(230)), Some(0));
    }

    #[test]
    fn every_new_subject_is_logged_and_memory_stays_bounded() {
        let mut limit = LogLimit::new(INTERVAL, 256);
        let logged = (0..1000).filter(|n| limit.check(*n, "x", at(*n)).is_some());
        assert_eq!(logged.count(), 1000);
        assert_eq!(limit.subjects.len(), 256);
    }

    #[test]
    fn the_oldest_subject_is_evicted_when_the_limit_is_full() {
        let mut limit = LogLimit::new(INTERVAL, 2);
        for (subject, seconds) in [("a", 1), ("b", 2), ("c", 3)] {
            assert_eq!(limit.check(subject, "x", at(seconds)), Some(0));
        }
        assert_eq!(limit.check("b", "x", at(4)), None);
        assert_eq!(limit.check("c", "x", at(4)), None);
        assert_eq!(limit.check("a", "x", at(4)), Some(0));
    }
}
