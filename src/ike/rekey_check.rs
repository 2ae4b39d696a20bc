//! Whether the peer rekeys at all, tried out soon after a tunnel first came up: a PFS group that it does not want would otherwise show hours later, when the
//! Child SA made in IKE_AUTH, which has no key exchange of its own, comes to its end (RFC 7296 §1.2).
//!
//! ```text
//! up ── 15 to 30 s ──▶ rekey the Child SA ── accepted | refused ──▶ rekey the IKE SA ── accepted | refused ──▶ done
//! ```
//!
//! What the peer rekeys by itself counts too, and TEMPORARY_FAILURE is no verdict. A refusal leaves the running tunnel alone.

use std::time::Duration;

use super::event::{Rekey, RekeyVerdicts};
use super::settings::RekeyCheck;
use crate::net::{RekeyVerdict, Time};

/// A check of the peer's rekeying.
#[derive(Clone, Copy, Debug)]
pub struct RekeyChecker {
    known: Option<RekeyVerdicts>,
    due: Time,
    tries: u8,
}

/// How long after the tunnel came up, at least; jitter may double it.
const FIRST: Duration = Duration::from_secs(15);

/// How long after a try that brought no verdict, or the first one.
const NEXT: Duration = Duration::from_secs(10);

/// Tries in all: a peer that is always busy gets no verdict.
const MOST_TRIES: u8 = 8;

impl RekeyChecker {
    /// A check that waits for the tunnel to come up, or none.
    pub fn new(test: RekeyCheck) -> RekeyChecker {
        let known = match test {
            RekeyCheck::Once => Some(RekeyVerdicts {
                child: RekeyVerdict::Pending,
                ike: RekeyVerdict::Pending,
            }),
            RekeyCheck::Never => None,
        };
        RekeyChecker {
            known,
            due: Time::MAX,
            tries: 0,
        }
    }

    /// What is known; `None` where nobody asks.
    pub fn known(&self) -> Option<RekeyVerdicts> {
        self.known
    }

    /// The tunnel came up.
    pub fn on_up(&mut self, now: Time, jitter: u8) {
        if self.next().is_some() && self.tries < MOST_TRIES {
            self.due = now + FIRST.mul_f64(1.0 + f64::from(jitter) / 256.0);
        }
    }

    /// The tunnel is not up any more.
    pub fn on_down(&mut self) {
        self.due = Time::MAX;
    }

    /// When the next try is due.
    pub fn due(&self) -> Time {
        self.due
    }

    /// What to try now.
    pub fn on_due(&mut self, now: Time) -> Option<Rekey> {
        self.tries = self.tries.saturating_add(1);
        self.due = if self.tries < MOST_TRIES {
            now + NEXT
        } else {
            Time::MAX
        };
        let next = self.next();
        if next.is_none() {
            self.due = Time::MAX;
        }
        next
    }

    /// The peer has rekeyed, or refused to; whether that is news.
    pub fn record(&mut self, what: Rekey, accepted: bool) -> bool {
        let Some(known) = &mut self.known else {
            return false;
        };
        let verdict = match what {
            Rekey::Child => &mut known.child,
            Rekey::Ike => &mut known.ike,
        };
        let is_news =
            *verdict == RekeyVerdict::Pending || (*verdict == RekeyVerdict::Refused && accepted);
        if is_news {
            *verdict = if accepted {
                RekeyVerdict::Accepted
            } else {
                RekeyVerdict::Refused
            };
        }
        is_news
    }

    fn next(&self) -> Option<Rekey> {
        let known = self.known?;
        match (known.child, known.ike) {
            (RekeyVerdict::Pending, _) => Some(Rekey::Child),
            (_, RekeyVerdict::Pending) => Some(Rekey::Ike),
            (
                RekeyVerdict::Accepted | RekeyVerdict::Refused,
                RekeyVerdict::Accepted | RekeyVerdict::Refused,
            ) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_child_sa_is_tried_first_then_the_ike_sa_and_then_no_more() {
        let mut check = RekeyChecker::new(RekeyCheck::Once);
        assert_eq!(check.due(), Time::MAX);
        check.on_up(Time::ZERO, 0);
        let now = check.due();
        assert_eq!(now, Time::ZERO + FIRST);
        assert_eq!(check.on_due(now), Some(Rekey::Child));
        assert!(check.record(Rekey::Child, false));
        assert!(!check.record(Rekey::Child, false), "told once");
        assert_eq!(check.on_due(check.due()), Some(Rekey::Ike));
        assert!(check.record(Rekey::Ike, true));
        assert_eq!(check.on_due(check.due()), None);
        assert_eq!(check.due(), Time::MAX);
        let known = check.known().unwrap();
        assert_eq!(
            (known.child, known.ike),
            (RekeyVerdict::Refused, RekeyVerdict::Accepted)
        );
    }

    #[test]
    fn a_peer_that_never_gives_a_verdict_is_not_asked_for_ever() {
        let mut check = RekeyChecker::new(RekeyCheck::Once);
        check.on_up(Time::ZERO, 0);
        let mut tries = 0;
        while check.due() < Time::MAX {
            check.on_due(check.due());
            tries += 1;
        }
        assert_eq!(tries, u32::from(MOST_TRIES));
    }

    #[test]
    fn nobody_asked_nothing_tried() {
        let mut check = RekeyChecker::new(RekeyCheck::Never);
        check.on_up(Time::ZERO, 0);
        assert_eq!(check.due(), Time::MAX);
        assert!(!check.record(Rekey::Child, true));
    }
}
