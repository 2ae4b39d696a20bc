//! Pace of the connection attempts of many tunnels that are due at once, as after a start or the loss of a path.
//!
//! ```text
//!   due ──▶ fewer than 64 young attempts ──▶ connect        young: without a result, for at most half a second
//!       └─▶ otherwise ──▶ queue ──▶ the next one ends, or is no longer young
//! ```
//!
//! A burst of a thousand IKE_SA_INIT requests would overflow the receive buffer of a peer that they share, and its limit of half-open IKE
//! SAs. Peers that answer free their place at once; those that do not cost the others at most half a second for each 64 of them.

use std::collections::VecDeque;
use std::time::Duration;

use crate::ike::settings::TunnelId;
use crate::net::Time;

/// Maximum of young attempts.
const MAX_YOUNG: usize = 64;

/// Time after which an attempt without a result is no longer young.
const YOUNG: Duration = Duration::from_millis(500);

/// Young attempts, and the tunnels that wait for a place.
#[derive(Debug, Default)]
pub(super) struct Starts {
    young: VecDeque<(Time, TunnelId)>,
    queue: VecDeque<TunnelId>,
}

impl Starts {
    /// Whether no tunnel waits.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Queues a tunnel.
    pub fn push(&mut self, tunnel: TunnelId) {
        self.queue.push_back(tunnel);
    }

    /// Takes the next tunnel that may connect now and records its attempt. `is_connecting` is whether a tunnel's attempt has no result so
    /// far.
    pub fn pop(&mut self, now: Time, is_connecting: impl Fn(TunnelId) -> bool) -> Option<TunnelId> {
        let is_young =
            |(at, tunnel): &(Time, TunnelId)| now.since(*at) < YOUNG && is_connecting(*tunnel);
        self.young.retain(is_young);
        if self.young.len() >= MAX_YOUNG {
            return None;
        }
        let tunnel = self.queue.pop_front()?;
        self.young.push_back((now, tunnel));
        Some(tunnel)
    }

    /// Time at which the next queued tunnel may connect at the latest.
    pub fn next_timer(&self) -> Option<Time> {
        self.queue.front()?;
        Some(self.young.front().map_or(Time::ZERO, |(at, _)| *at + YOUNG))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silent_peers_delay_the_others_by_half_a_second_for_each_64() {
        let mut starts = Starts::default();
        (0..200).for_each(|n| starts.push(TunnelId(n)));
        let mut now = Time::from_secs(10);
        let mut started = Vec::new();
        while let Some(at) = starts.next_timer() {
            now = now.max(at);
            let batch = std::iter::from_fn(|| starts.pop(now, |_| true)).count();
            started.push((now.since(Time::from_secs(10)).as_millis(), batch));
        }
        assert_eq!(started, [(0, 64), (500, 64), (1000, 64), (1500, 8)]);
    }

    #[test]
    fn an_attempt_with_a_result_frees_its_place_at_once() {
        let mut starts = Starts::default();
        (0..100).for_each(|n| starts.push(TunnelId(n)));
        let now = Time::from_secs(10);
        while starts.pop(now, |_| true).is_some() {}
        assert!(starts.pop(now, |_| true).is_none());
        let ended = TunnelId(7);
        assert_eq!(starts.pop(now, |id| id != ended), Some(TunnelId(64)));
        assert_eq!(starts.pop(now, |id| id != ended), None);
    }
}
