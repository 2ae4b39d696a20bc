//! Packets lost by rekeys: those dropped for lack of an SA within five seconds of a rekey, before or after it.
//!
//! ```text
//!   drops so far     120        120   123              123   130
//!                     │   5 s    │     │      5 s       │     │
//!   ──────────────────┴── gap ───┴─ rekey ──────────────┴─────┴──▶      lost: 3
//! ```
//!
//! The datapath counts all drops for lack of an SA; `drops` below is that counter.

use std::time::Duration;

use crate::net::Time;

/// Loss counter of one tunnel's rekeys.
#[derive(Debug, Default)]
pub(super) struct RekeyLoss {
    /// Packets lost by rekeys whose window is closed.
    closed: u64,
    /// Window after the latest rekey, while it is open.
    window: Option<Window>,
    /// Time and counter when the last SA went away, or when a rekey began.
    gap: Option<(Time, u64)>,
}

/// Time around one rekey, or around several in a row.
#[derive(Debug)]
struct Window {
    /// Counter at its start.
    drops: u64,
    end: Time,
}

/// Largest distance between a rekey and a drop counted as its loss.
const WINDOW: Duration = Duration::from_secs(5);

impl RekeyLoss {
    /// Notes that an SA was rekeyed.
    pub(super) fn rekeyed(&mut self, now: Time, drops: u64) {
        self.close_window(now, drops);
        let end = now + WINDOW;
        match &mut self.window {
            Some(window) => window.end = end,
            None => {
                let gap = self.gap.filter(|(since, _)| now.since(*since) <= WINDOW);
                let drops = gap.map_or(drops, |(_, drops)| drops);
                self.window = Some(Window { drops, end });
            }
        }
        self.gap = None;
    }

    /// Notes that a rekey has begun: what is dropped from now on is its loss.
    pub(super) fn begun(&mut self, now: Time, drops: u64) {
        let earlier = self.gap.filter(|(since, _)| now.since(*since) <= WINDOW);
        self.gap = earlier.or(Some((now, drops)));
    }

    /// Notes that the last SA went away without a request to take the tunnel down: a break-before-make rekey may follow.
    pub(super) fn without_sa(&mut self, now: Time, drops: u64) {
        self.gap = Some((now, drops));
    }

    /// Notes that the tunnel was taken down by request: later drops are no loss.
    pub(super) fn taken_down(&mut self, drops: u64) {
        self.closed = self.lost(drops);
        (self.window, self.gap) = (None, None);
    }

    /// End of the open window.
    pub(super) fn next_timer(&self) -> Option<Time> {
        self.window.as_ref().map(|window| window.end)
    }

    /// Closes the window once its end has passed.
    pub(super) fn close_window(&mut self, now: Time, drops: u64) {
        if self.window.as_ref().is_some_and(|window| window.end <= now) {
            self.closed = self.lost(drops);
            self.window = None;
        }
    }

    /// Packets lost by rekeys so far.
    pub(super) fn lost(&self, drops: u64) -> u64 {
        let window = self.window.as_ref();
        let open = window.map_or(0, |window| drops.saturating_sub(window.drops));
        self.closed.saturating_add(open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::from_secs(seconds)
    }

    #[test]
    fn drops_up_to_five_seconds_after_a_rekey_are_lost() {
        let mut loss = RekeyLoss::default();
        loss.rekeyed(at(100), 7);
        assert_eq!(loss.lost(7), 0);
        assert_eq!(loss.lost(9), 2);
        loss.close_window(at(104), 9);
        assert_eq!(loss.next_timer(), Some(at(105)));
        loss.close_window(at(105), 10);
        assert_eq!(loss.lost(500), 3, "later drops have other reasons");
        loss.rekeyed(at(200), 500);
        assert_eq!(loss.lost(501), 4);
    }

    #[test]
    fn rekeys_in_a_row_count_a_packet_once() {
        let mut loss = RekeyLoss::default();
        loss.rekeyed(at(100), 0);
        loss.rekeyed(at(103), 2);
        loss.close_window(at(106), 3);
        loss.rekeyed(at(107), 4);
        loss.close_window(at(112), 6);
        assert_eq!(loss.lost(60), 6);
    }

    #[test]
    fn break_before_make_rekey_counts_the_gap() {
        let mut loss = RekeyLoss::default();
        loss.without_sa(at(100), 5);
        loss.rekeyed(at(102), 8);
        assert_eq!(loss.lost(8), 3);

        let mut long = RekeyLoss::default();
        long.without_sa(at(100), 5);
        long.rekeyed(at(106), 8);
        assert_eq!(long.lost(8), 0, "too long a gap for a rekey");
    }

    #[test]
    fn drops_between_the_request_of_a_rekey_and_its_response_are_lost() {
        let mut loss = RekeyLoss::default();
        loss.begun(at(100), 5);
        loss.begun(at(102), 6);
        loss.rekeyed(at(103), 9);
        assert_eq!(loss.lost(9), 4);
    }

    #[test]
    fn tunnel_taken_down_by_request_loses_nothing() {
        let mut loss = RekeyLoss::default();
        loss.rekeyed(at(100), 0);
        loss.taken_down(1);
        assert_eq!(loss.lost(1000), 1);
        assert_eq!(loss.next_timer(), None);
    }
}
