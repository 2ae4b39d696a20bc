//! What has been said already: a line is written when there is something new to read, however often it happens.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::net::Time;

/// What was last said about each subject.
#[derive(Debug)]
pub(super) struct News<K> {
    told: BTreeMap<K, (String, Time)>,
}

/// What goes on unchanged is said again after this long.
const AGAIN: Duration = Duration::from_secs(300);

/// The most subjects that are remembered; about others nothing is said.
const MOST: usize = 256;

impl<K: Ord> News<K> {
    /// Whether `what` about `subject` should be said now; if so, it counts as said.
    pub(super) fn is_news(&mut self, subject: K, what: &str, now: Time) -> bool {
        let is_known = match self.told.get(&subject) {
            Some((known, last)) => known == what && now.since(*last) < AGAIN,
            None => self.told.len() >= MOST,
        };
        if !is_known {
            self.told.insert(subject, (what.to_owned(), now));
        }
        !is_known
    }

    /// It is over: should it come back, that is news.
    pub(super) fn forget(&mut self, subject: &K) {
        self.told.remove(subject);
    }
}

impl<K> Default for News<K> {
    fn default() -> Self {
        News {
            told: BTreeMap::new(),
        }
    }
}

/// Lines that strangers can cause: one a minute, with the number of those in between.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    last: Option<Time>,
    untold: u64,
}

/// The least time between two lines about strangers.
const PAUSE: Duration = Duration::from_secs(60);

impl Strangers {
    /// Whether to say it, and how many were not said since the last time.
    pub(super) fn is_news(&mut self, now: Time) -> Option<u64> {
        let is_early = self.last.is_some_and(|last| now.since(last) < PAUSE);
        if is_early {
            self.untold = self.untold.saturating_add(1);
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::from_secs(seconds)
    }

    #[test]
    fn the_same_thing_is_said_once_in_five_minutes_and_another_at_once() {
        let mut news = News::default();
        assert!(news.is_news(1, "refused", at(10)));
        assert!(!news.is_news(1, "refused", at(309)));
        assert!(news.is_news(2, "refused", at(309)));
        assert!(news.is_news(1, "refused", at(310)));
        assert!(news.is_news(1, "dead", at(311)));
        assert!(news.is_news(1, "refused", at(312)));
        news.forget(&1);
        assert!(news.is_news(1, "refused", at(313)));
    }

    #[test]
    fn h06_memory_of_what_was_said_is_bounded() {
        let mut news = News::default();
        let said = (0..1000).filter(|n| news.is_news(*n, "x", at(1))).count();
        assert_eq!(said, MOST);
    }

    #[test]
    fn h06_strangers_get_a_line_a_minute() {
        let mut strangers = Strangers::default();
        assert_eq!(strangers.is_news(at(100)), Some(0));
        let said = (0..500).filter_map(|_| strangers.is_news(at(130))).count();
        assert_eq!(said, 0);
        assert_eq!(strangers.is_news(at(160)), Some(500));
        assert_eq!(strangers.is_news(at(230)), Some(0));
    }
}
