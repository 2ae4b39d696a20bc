//! What rekeying costs: packets refused for want of an SA within five seconds of a rekey, before or after it.
//!
//! ```text
//!   refused so far   120        120   123              123   130
//!                     │   5 s    │     │      5 s       │     │
//!   ──────────────────┴── gap ───┴─ rekey ──────────────┴─────┴──▶      lost: 3
//! ```
//!
//! The datapath counts, whatever the reason; this only looks at the counter when something happens.

use std::time::Duration;

use crate::net::Time;

/// The packets that rekeys of one tunnel have cost.
#[derive(Debug, Default)]
pub(super) struct RekeyLoss {
    /// Of rekeys that are over.
    settled: u64,
    /// A rekey was a moment ago.
    open: Option<Window>,
    /// The last SA has gone, at that time and count.
    gap: Option<(Time, u64)>,
}

/// The time around a rekey, or around several in a row.
#[derive(Debug)]
struct Window {
    /// What had been refused before.
    before: u64,
    until: Time,
}

/// How far from a rekey a loss is blamed on it.
const NEAR: Duration = Duration::from_secs(5);

impl RekeyLoss {
    /// An SA was rekeyed; so many packets have been refused so far.
    pub(super) fn rekeyed(&mut self, now: Time, refused: u64) {
        self.settle(now, refused);
        let until = now + NEAR;
        match &mut self.open {
            Some(window) => window.until = until,
            None => {
                let gap = self.gap.filter(|(since, _)| now.since(*since) <= NEAR);
                let before = gap.map_or(refused, |(_, before)| before);
                self.open = Some(Window { before, until });
            }
        }
        self.gap = None;
    }

    /// The last SA has gone, nobody having asked for that: perhaps a rekey that breaks before it makes.
    pub(super) fn without_sa(&mut self, now: Time, refused: u64) {
        self.gap = Some((now, refused));
    }

    /// The tunnel is down because somebody wants it so: what is refused from now on is not lost.
    pub(super) fn taken_down(&mut self, refused: u64) {
        self.settled = self.lost(refused);
        (self.open, self.gap) = (None, None);
    }

    /// When the count must be looked at.
    pub(super) fn next_timer(&self) -> Option<Time> {
        self.open.as_ref().map(|window| window.until)
    }

    /// Closes the window, if its time has come.
    pub(super) fn settle(&mut self, now: Time, refused: u64) {
        if self.open.as_ref().is_some_and(|window| window.until <= now) {
            self.settled = self.lost(refused);
            self.open = None;
        }
    }

    /// How many packets rekeys have cost.
    pub(super) fn lost(&self, refused: u64) -> u64 {
        let open = self.open.as_ref();
        let lately = open.map_or(0, |window| refused.saturating_sub(window.before));
        self.settled.saturating_add(lately)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::from_secs(seconds)
    }

    #[test]
    fn what_is_refused_up_to_five_seconds_after_a_rekey_is_lost() {
        let mut losses = RekeyLoss::default();
        losses.rekeyed(at(100), 7);
        assert_eq!(losses.lost(7), 0);
        assert_eq!(losses.lost(9), 2);
        losses.settle(at(104), 9);
        assert_eq!(losses.next_timer(), Some(at(105)));
        losses.settle(at(105), 10);
        assert_eq!(losses.lost(500), 3, "later refusals have other reasons");
        losses.rekeyed(at(200), 500);
        assert_eq!(losses.lost(501), 4);
    }

    #[test]
    fn rekeys_in_a_row_count_a_packet_once() {
        let mut losses = RekeyLoss::default();
        losses.rekeyed(at(100), 0);
        losses.rekeyed(at(103), 2);
        losses.settle(at(106), 3);
        losses.rekeyed(at(107), 4);
        losses.settle(at(112), 6);
        assert_eq!(losses.lost(60), 6);
    }

    #[test]
    fn a_rekey_that_breaks_before_it_makes_counts_the_gap() {
        let mut losses = RekeyLoss::default();
        losses.without_sa(at(100), 5);
        losses.rekeyed(at(102), 8);
        assert_eq!(losses.lost(8), 3);

        let mut long = RekeyLoss::default();
        long.without_sa(at(100), 5);
        long.rekeyed(at(106), 8);
        assert_eq!(long.lost(8), 0, "that was no rekey's gap");
    }

    #[test]
    fn a_tunnel_that_was_taken_down_loses_nothing() {
        let mut losses = RekeyLoss::default();
        losses.rekeyed(at(100), 0);
        losses.taken_down(1);
        assert_eq!(losses.lost(1000), 1);
        assert_eq!(losses.next_timer(), None);
    }
}
