//! Timers of many subjects in order of time: the next one is found without visiting all.

use std::collections::{BTreeMap, BTreeSet};

use super::Time;

/// One timer for each subject, ordered by time. [`Time::MAX`] stands for no timer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimerQueue<K: Ord> {
    by_subject: BTreeMap<K, Time>,
    by_time: BTreeSet<(Time, K)>,
}

impl<K: Ord + Copy> TimerQueue<K> {
    /// Sets the timer of a subject, in place of its earlier one.
    pub fn set(&mut self, subject: K, at: Time) {
        let old = if at < Time::MAX {
            self.by_subject.insert(subject, at)
        } else {
            self.by_subject.remove(&subject)
        };
        if old == Some(at) {
            return;
        }
        if let Some(old) = old {
            self.by_time.remove(&(old, subject));
        }
        if at < Time::MAX {
            self.by_time.insert((at, subject));
        }
    }

    /// Time of the first timer.
    pub fn next(&self) -> Option<Time> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Subjects whose timers have expired at `now`, first timer first.
    pub fn due(&self, now: Time) -> Vec<K> {
        let due = self.by_time.iter().take_while(|(at, _)| *at <= now);
        due.map(|(_, subject)| *subject).collect()
    }
}

impl<K: Ord> Default for TimerQueue<K> {
    fn default() -> Self {
        TimerQueue {
            by_subject: BTreeMap::new(),
            by_time: BTreeSet::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_are_due_in_order_of_time_and_replaced_by_subject() {
        let at = Time::from_secs;
        let mut timers = TimerQueue::default();
        for (subject, seconds) in [(1, 30), (2, 10), (3, 20)] {
            timers.set(subject, at(seconds));
        }
        assert_eq!(timers.next(), Some(at(10)));
        assert!(timers.due(at(9)).is_empty());
        assert_eq!(timers.due(at(20)), [2, 3]);
        timers.set(2, at(40));
        timers.set(3, Time::MAX);
        assert_eq!(timers.due(at(100)), [1, 2]);
        timers.set(1, Time::MAX);
        timers.set(2, Time::MAX);
        assert_eq!(timers, TimerQueue::default());
    }
}
