//! Rekey check: a rekey of both SAs soon after a tunnel first comes up. A PFS group that the peer rejects would otherwise show
//! hours later, since the Child SA of IKE_AUTH has no key exchange of its own (RFC 7296 §1.2).
//!
//! ```text
//! up ── 15 to 30 s ──▶ rekey the Child SA ── accepted | rejected ──▶ rekey the IKE SA ── accepted | rejected ──▶ done
//! ```
//!
//! A rekey by the peer counts too. TEMPORARY_FAILURE is no verdict. A rejection leaves the tunnel up.

use std::time::Duration;

use super::event::{Rekey, RekeyVerdicts};
use super::settings::RekeyCheck;
use crate::net::{RekeyVerdict, Time};

/// State of the rekey check of a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct RekeyChecker {
    known: Option<RekeyVerdicts>,
    due: Time,
    tries: u8,
}

/// Delay of the first attempt after the tunnel came up; jitter may double it.
const FIRST: Duration = Duration::from_secs(15);

/// Delay of the next attempt.
const NEXT: Duration = Duration::from_secs(10);

/// Upper bound of attempts: a peer that always answers TEMPORARY_FAILURE gets no verdict.
const MAX_ATTEMPTS: u8 = 8;

impl RekeyChecker {
    /// A check that starts when the tunnel comes up, or none.
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

    /// The verdicts; `None` without a check.
    pub fn verdicts(&self) -> Option<RekeyVerdicts> {
        self.known
    }

    /// Schedules the first attempt: the tunnel is up.
    pub fn on_up(&mut self, now: Time, jitter: u8) {
        if self.next().is_some() && self.tries < MAX_ATTEMPTS {
            self.due = now + FIRST.mul_f64(1.0 + f64::from(jitter) / 256.0);
        }
    }

    /// Stops the check: the tunnel is down.
    pub fn on_down(&mut self) {
        self.due = Time::MAX;
    }

    /// When the next attempt is due.
    pub fn due(&self) -> Time {
        self.due
    }

    /// Returns the SA to rekey now, and schedules the next attempt.
    pub fn on_due(&mut self, now: Time) -> Option<Rekey> {
        self.tries = self.tries.saturating_add(1);
        self.due = if self.tries < MAX_ATTEMPTS {
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

    /// Records whether the peer has accepted a rekey. Returns whether the verdict has changed.
    pub fn record(&mut self, what: Rekey, accepted: bool) -> bool {
        let Some(known) = &mut self.known else {
            return false;
        };
        let verdict = match what {
            Rekey::Child => &mut known.child,
            Rekey::Ike => &mut known.ike,
        };
        let changed =
            *verdict == RekeyVerdict::Pending || (*verdict == RekeyVerdict::Refused && accepted);
        if changed {
            *verdict = if accepted {
                RekeyVerdict::Accepted
            } else {
                RekeyVerdict::Refused
            };
        }
        changed
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
        assert!(!check.record(Rekey::Child, false), "recorded once");
        assert_eq!(check.on_due(check.due()), Some(Rekey::Ike));
        assert!(check.record(Rekey::Ike, true));
        assert_eq!(check.on_due(check.due()), None);
        assert_eq!(check.due(), Time::MAX);
        let known = check.verdicts().unwrap();
        assert_eq!(
            (known.child, known.ike),
            (RekeyVerdict::Refused, RekeyVerdict::Accepted)
        );
    }

    #[test]
    fn the_check_stops_after_the_maximum_of_attempts_without_a_verdict() {
        let mut check = RekeyChecker::new(RekeyCheck::Once);
        check.on_up(Time::ZERO, 0);
        let mut tries = 0;
        while check.due() < Time::MAX {
            check.on_due(check.due());
            tries += 1;
        }
        assert_eq!(tries, u32::from(MAX_ATTEMPTS));
    }

    #[test]
    fn without_a_check_nothing_is_rekeyed() {
        let mut check = RekeyChecker::new(RekeyCheck::Never);
        check.on_up(Time::ZERO, 0);
        assert_eq!(check.due(), Time::MAX);
        assert!(!check.record(Rekey::Child, true));
    }
}
