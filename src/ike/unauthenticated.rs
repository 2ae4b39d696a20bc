//! What is refused before its sender has proved anything: counted by class, and reported rarely.
//!
//! ```text
//! datagram ─▶ header ─▶ version ─▶ SPI ─▶ state ─▶ ICV ─▶ believed        IKE_SA_INIT: header ─▶ version ─▶ peer ─▶ limits ─▶ cookie ─▶ offer
//!          malformed │ wrong-version │ unknown-spi │ stray │ forged                             unknown-peer │ half-open-full │ cookie-asked │ declined
//! ```

use std::time::Duration;

use crate::net::Time;

/// Why a message of somebody unproved came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropClass {
    /// It contradicts itself.
    Malformed,
    /// It is not IKEv2.
    WrongVersion,
    /// It wants to begin, but no tunnel has that peer.
    UnknownPeer,
    /// It wants to begin while many do, so its sender has to show first that he receives at his address.
    CookieAsked,
    /// It wants to begin while too many do.
    HalfOpenFull,
    /// It wants to begin something that the tunnel cannot agree to.
    Declined,
    /// It is of an IKE SA that does not exist.
    UnknownSpi,
    /// It has no place in the IKE SA it names: unprotected, out of turn, or with the wrong flags.
    Stray,
    /// Its integrity check fails.
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

    /// The word status reports use.
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

    /// For people: what came.
    pub fn text(self) -> &'static str {
        match self {
            DropClass::Malformed => "an IKE message that contradicts itself",
            DropClass::WrongVersion => "a message of another version of IKE",
            DropClass::UnknownPeer => "a handshake of a peer that no tunnel has",
            DropClass::CookieAsked => "many handshakes at once: cookies are being asked for",
            DropClass::HalfOpenFull => "too many handshakes at once: new ones are dropped",
            DropClass::Declined => "a handshake that its tunnel cannot agree to",
            DropClass::UnknownSpi => "a message for an IKE SA that does not exist",
            DropClass::Stray => "a message out of place in its IKE SA",
            DropClass::Forged => "a forged or damaged message for an IKE SA of ours",
        }
    }

    /// Whether it is reported apart from its being counted, with what it was about.
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

/// How much of each class there was since the start.
#[derive(Clone, Debug)]
pub struct DropCounters {
    rows: [Row; DropClass::ALL.len()],
}

#[derive(Clone, Copy, Debug)]
struct Row {
    class: DropClass,
    count: u64,
    reported: Option<(Time, u64)>,
}

/// The least time between two lines about one class.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

impl Default for DropCounters {
    fn default() -> DropCounters {
        let row = |class| Row {
            class,
            count: 0,
            reported: None,
        };
        DropCounters {
            rows: DropClass::ALL.map(row),
        }
    }
}

impl DropCounters {
    /// One more.
    pub fn count(&mut self, class: DropClass) {
        for row in self.rows.iter_mut().filter(|row| row.class == class) {
            row.count = row.count.saturating_add(1);
        }
    }

    /// Every class with its count.
    pub fn counts(&self) -> impl Iterator<Item = (DropClass, u64)> + '_ {
        self.rows.iter().map(|row| (row.class, row.count))
    }

    /// A class of which something is to be reported now, and how many of it there were since the last time; from then on it counts as reported.
    pub fn poll_report(&mut self, now: Time) -> Option<(DropClass, u64)> {
        let row = self.rows.iter_mut().find(|row| {
            let is_new = match row.reported {
                None => row.count > 0,
                Some((at, count)) => row.count > count && now.since(at) >= REPORT_INTERVAL,
            };
            is_new && !row.class.is_reported_elsewhere()
        })?;
        let before = row.reported.map_or(0, |(_, count)| count);
        row.reported = Some((now, row.count));
        Some((row.class, row.count.saturating_sub(before)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h06_each_class_is_logged_at_once_and_then_once_a_minute_with_its_suppressed_count() {
        let mut tally = DropCounters::default();
        let at = Time::from_secs;
        assert_eq!(tally.poll_report(at(1)), None);
        tally.count(DropClass::Forged);
        assert_eq!(tally.poll_report(at(1)), Some((DropClass::Forged, 1)));
        assert_eq!(tally.poll_report(at(100)), None, "nothing new");
        (0..500).for_each(|_| tally.count(DropClass::Forged));
        assert_eq!(tally.poll_report(at(100)), Some((DropClass::Forged, 500)));
        tally.count(DropClass::Forged);
        tally.count(DropClass::Malformed);
        assert_eq!(tally.poll_report(at(159)), Some((DropClass::Malformed, 1)));
        assert_eq!(tally.poll_report(at(159)), None);
        assert_eq!(tally.poll_report(at(160)), Some((DropClass::Forged, 1)));
    }

    #[test]
    fn every_class_has_a_row_and_a_word_of_its_own() {
        let mut tally = DropCounters::default();
        for class in DropClass::ALL {
            tally.count(class);
        }
        let words: std::collections::BTreeSet<_> =
            tally.counts().map(|(class, _)| class.word()).collect();
        assert_eq!(words.len(), DropClass::ALL.len());
        assert!(tally.counts().all(|(_, count)| count == 1));
    }
}
