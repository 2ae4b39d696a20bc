//! Counters and rate-limited reports of messages dropped before authentication.
//!
//! ```text
//! datagram ─▶ header ─▶ version ─▶ SPI ─▶ state ─▶ ICV ─▶ accepted        IKE_SA_INIT: header ─▶ version ─▶ peer ─▶ limits ─▶ cookie ─▶ offer
//!          malformed │ wrong-version │ unknown-spi │ stray │ forged                             unknown-peer │ half-open-full │ cookie-asked │ declined
//! ```

use std::time::Duration;

use crate::net::{LogLimit, Time};

/// Why an unauthenticated message was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropClass {
    /// The message is malformed.
    Malformed,
    /// The message is not IKEv2.
    WrongVersion,
    /// An IKE_SA_INIT request from an address that no tunnel has as its peer.
    UnknownPeer,
    /// An IKE_SA_INIT request under load without a valid cookie: the response is a cookie.
    CookieAsked,
    /// An IKE_SA_INIT request while the limit of half-open IKE SAs is reached.
    HalfOpenFull,
    /// An IKE_SA_INIT request that the tunnel's configuration rejects.
    Declined,
    /// A message with SPIs of no IKE SA.
    UnknownSpi,
    /// A message that is invalid in the state of its IKE SA: unprotected, out of order, or with wrong flags.
    Stray,
    /// A message whose integrity check fails.
    Forged,
}

impl DropClass {
    /// Every class.
    pub const ALL: [DropClass; 9] = [
        DropClass::Malformed,
        DropClass::WrongVersion,
        DropClass::UnknownPeer,
        DropClass::CookieAsked,
        DropClass::HalfOpenFull,
        DropClass::Declined,
        DropClass::UnknownSpi,
        DropClass::Stray,
        DropClass::Forged,
    ];

    /// The key in status reports.
    pub fn word(self) -> &'static str {
        match self {
            DropClass::Malformed => "malformed",
            DropClass::WrongVersion => "wrong-version",
            DropClass::UnknownPeer => "unknown-peer",
            DropClass::CookieAsked => "cookie-asked",
            DropClass::HalfOpenFull => "half-open-full",
            DropClass::Declined => "declined",
            DropClass::UnknownSpi => "unknown-spi",
            DropClass::Stray => "stray",
            DropClass::Forged => "forged",
        }
    }

    /// Description for the log.
    pub fn text(self) -> &'static str {
        match self {
            DropClass::Malformed => "a malformed IKE message",
            DropClass::WrongVersion => "a message of another IKE version",
            DropClass::UnknownPeer => "an IKE_SA_INIT request from an address of no tunnel",
            DropClass::CookieAsked => {
                "many half-open IKE SAs: IKE_SA_INIT requests must return a cookie"
            }
            DropClass::HalfOpenFull => {
                "too many half-open IKE SAs: new IKE_SA_INIT requests are dropped"
            }
            DropClass::Declined => "an IKE_SA_INIT request that the tunnel rejects",
            DropClass::UnknownSpi => "a message for an unknown IKE SA",
            DropClass::Stray => "a message that is unexpected in its IKE SA",
            DropClass::Forged => "a forged or corrupted message for an IKE SA",
        }
    }

    /// Whether another event reports the message in detail.
    fn is_reported_elsewhere(self) -> bool {
        match self {
            DropClass::UnknownPeer | DropClass::Declined => true,
            DropClass::Malformed
            | DropClass::WrongVersion
            | DropClass::CookieAsked
            | DropClass::HalfOpenFull
            | DropClass::UnknownSpi
            | DropClass::Stray
            | DropClass::Forged => false,
        }
    }
}

/// Counters of each class since the start.
#[derive(Clone, Debug)]
pub struct DropCounters {
    rows: [Row; DropClass::ALL.len()],
    reports: LogLimit<DropClass>,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    class: DropClass,
    count: u64,
    /// Count at the last report.
    reported: u64,
}

/// Minimum interval between two reports of one class.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

impl Default for DropCounters {
    fn default() -> DropCounters {
        let row = |class| Row {
            class,
            count: 0,
            reported: 0,
        };
        DropCounters {
            rows: DropClass::ALL.map(row),
            reports: LogLimit::new(REPORT_INTERVAL, DropClass::ALL.len()),
        }
    }
}

impl DropCounters {
    /// Counts a message.
    pub fn count(&mut self, class: DropClass) {
        for row in self.rows.iter_mut().filter(|row| row.class == class) {
            row.count = row.count.saturating_add(1);
        }
    }

    /// All classes with their counters.
    pub fn counts(&self) -> impl Iterator<Item = (DropClass, u64)> + '_ {
        self.rows.iter().map(|row| (row.class, row.count))
    }

    /// A class whose report is due, with the number of messages since its last report. The call marks the class as reported.
    pub fn poll_report(&mut self, now: Time) -> Option<(DropClass, u64)> {
        let reports = &mut self.reports;
        let row = self.rows.iter_mut().find(|row| {
            row.count > row.reported
                && !row.class.is_reported_elsewhere()
                && reports.check(row.class, "", now).is_some()
        })?;
        let before = std::mem::replace(&mut row.reported, row.count);
        Some((row.class, row.count.saturating_sub(before)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h06_each_class_is_logged_at_once_and_then_once_a_minute_with_its_suppressed_count() {
        let mut counters = DropCounters::default();
        let at = Time::from_secs;
        assert_eq!(counters.poll_report(at(1)), None);
        counters.count(DropClass::Forged);
        assert_eq!(counters.poll_report(at(1)), Some((DropClass::Forged, 1)));
        assert_eq!(counters.poll_report(at(100)), None, "nothing new");
        (0..500).for_each(|_| counters.count(DropClass::Forged));
        assert_eq!(
            counters.poll_report(at(100)),
            Some((DropClass::Forged, 500))
        );
        counters.count(DropClass::Forged);
        counters.count(DropClass::Malformed);
        assert_eq!(
            counters.poll_report(at(159)),
            Some((DropClass::Malformed, 1))
        );
        assert_eq!(counters.poll_report(at(159)), None);
        assert_eq!(counters.poll_report(at(160)), Some((DropClass::Forged, 1)));
    }

    #[test]
    fn every_class_has_a_row_and_a_distinct_word() {
        let mut counters = DropCounters::default();
        for class in DropClass::ALL {
            counters.count(class);
        }
        let words: std::collections::BTreeSet<_> =
            counters.counts().map(|(class, _)| class.word()).collect();
        assert_eq!(words.len(), DropClass::ALL.len());
        assert!(counters.counts().all(|(_, count)| count == 1));
    }
}
