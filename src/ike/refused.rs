//! What is refused before its sender has proved anything: counted by class, and told rarely.
//!
//! ```text
//! datagram ─▶ header ─▶ version ─▶ SPI ─▶ state ─▶ ICV ─▶ believed        IKE_SA_INIT: header ─▶ version ─▶ peer ─▶ limits ─▶ cookie ─▶ offer
//!          malformed │ wrong-version │ unknown-spi │ stray │ forged                             unknown-peer │ half-open-full │ cookie-asked │ declined
//! ```

use std::time::Duration;

use crate::net::Time;

/// Why a message of somebody unproved came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
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

impl Refused {
    /// Every class.
    pub const ALL: [Refused; 9] = [
        Refused::Malformed,
        Refused::WrongVersion,
        Refused::UnknownPeer,
        Refused::CookieAsked,
        Refused::HalfOpenFull,
        Refused::Declined,
        Refused::UnknownSpi,
        Refused::Stray,
        Refused::Forged,
    ];

    /// The word status reports use.
    pub fn word(self) -> &'static str {
        match self {
            Refused::Malformed => "malformed",
            Refused::WrongVersion => "wrong-version",
            Refused::UnknownPeer => "unknown-peer",
            Refused::CookieAsked => "cookie-asked",
            Refused::HalfOpenFull => "half-open-full",
            Refused::Declined => "declined",
            Refused::UnknownSpi => "unknown-spi",
            Refused::Stray => "stray",
            Refused::Forged => "forged",
        }
    }

    /// For people: what came.
    pub fn text(self) -> &'static str {
        match self {
            Refused::Malformed => "an IKE message that contradicts itself",
            Refused::WrongVersion => "a message of another version of IKE",
            Refused::UnknownPeer => "a handshake of a peer that no tunnel has",
            Refused::CookieAsked => "many handshakes at once: cookies are being asked for",
            Refused::HalfOpenFull => "too many handshakes at once: new ones are dropped",
            Refused::Declined => "a handshake that its tunnel cannot agree to",
            Refused::UnknownSpi => "a message for an IKE SA that does not exist",
            Refused::Stray => "a message out of place in its IKE SA",
            Refused::Forged => "a forged or damaged message for an IKE SA of ours",
        }
    }

    /// Whether it is told apart from its being counted, with what it was about.
    fn is_told_elsewhere(self) -> bool {
        match self {
            Refused::UnknownPeer | Refused::Declined => true,
            Refused::Malformed
            | Refused::WrongVersion
            | Refused::CookieAsked
            | Refused::HalfOpenFull
            | Refused::UnknownSpi
            | Refused::Stray
            | Refused::Forged => false,
        }
    }
}

/// How much of each class there was since the start.
#[derive(Clone, Debug)]
pub struct Tally {
    rows: [Row; Refused::ALL.len()],
}

#[derive(Clone, Copy, Debug)]
struct Row {
    class: Refused,
    count: u64,
    told: Option<(Time, u64)>,
}

/// The least time between two lines about one class.
const PAUSE: Duration = Duration::from_secs(60);

impl Default for Tally {
    fn default() -> Tally {
        let row = |class| Row {
            class,
            count: 0,
            told: None,
        };
        Tally {
            rows: Refused::ALL.map(row),
        }
    }
}

impl Tally {
    /// One more.
    pub fn count(&mut self, class: Refused) {
        for row in self.rows.iter_mut().filter(|row| row.class == class) {
            row.count = row.count.saturating_add(1);
        }
    }

    /// Every class with its count.
    pub fn counts(&self) -> impl Iterator<Item = (Refused, u64)> + '_ {
        self.rows.iter().map(|row| (row.class, row.count))
    }

    /// A class of which something is to be told now, and how many of it there were since the last time; from then on it counts as told.
    pub fn news(&mut self, now: Time) -> Option<(Refused, u64)> {
        let row = self.rows.iter_mut().find(|row| {
            let is_new = match row.told {
                None => row.count > 0,
                Some((at, count)) => row.count > count && now.since(at) >= PAUSE,
            };
            is_new && !row.class.is_told_elsewhere()
        })?;
        let before = row.told.map_or(0, |(_, count)| count);
        row.told = Some((now, row.count));
        Some((row.class, row.count.saturating_sub(before)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h06_each_class_is_told_at_once_and_then_once_a_minute_with_what_was_not() {
        let mut tally = Tally::default();
        let at = Time::from_secs;
        assert_eq!(tally.news(at(1)), None);
        tally.count(Refused::Forged);
        assert_eq!(tally.news(at(1)), Some((Refused::Forged, 1)));
        assert_eq!(tally.news(at(100)), None, "nothing new");
        (0..500).for_each(|_| tally.count(Refused::Forged));
        assert_eq!(tally.news(at(100)), Some((Refused::Forged, 500)));
        tally.count(Refused::Forged);
        tally.count(Refused::Malformed);
        assert_eq!(tally.news(at(159)), Some((Refused::Malformed, 1)));
        assert_eq!(tally.news(at(159)), None);
        assert_eq!(tally.news(at(160)), Some((Refused::Forged, 1)));
    }

    #[test]
    fn every_class_has_a_row_and_a_word_of_its_own() {
        let mut tally = Tally::default();
        for class in Refused::ALL {
            tally.count(class);
        }
        let words: std::collections::BTreeSet<_> =
            tally.counts().map(|(class, _)| class.word()).collect();
        assert_eq!(words.len(), Refused::ALL.len());
        assert!(tally.counts().all(|(_, count)| count == 1));
    }
}
