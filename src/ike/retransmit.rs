//! Retransmission schedule (RFC 7296 §2.1, §2.4): identical bytes at exponentially growing intervals until the timeout. After a
//! few copies, every second copy of a long message has smaller fragments (RFC 7383 §2.5.1). The copies between keep the
//! configured size, since a peer that has responded may recognise only the first fragmentation.
//!
//! ```text
//! sent ──1 s──▶ again ──1.8 s──▶ again ──3.2 s──▶ again ──5.8 s──▶ … up to `patience` after the first
//! ```
//!
//! At shutdown the interval is constant and short: the process waits a second for the answers.

use std::time::Duration;

use super::event::Transmit;
use super::out_message::{FragmentSize, SentMessage};
use crate::net::Time;

/// Interval between the first and the second copy.
const FIRST: Duration = Duration::from_secs(1);

/// Copies sent in the configured size before smaller fragments are tried.
const COPIES_BEFORE_SMALLER: u32 = 3;

/// How long a handshake message is retransmitted before the attempt fails.
pub const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(45);

/// Interval after copy number `attempt` (0 for the first): 1.8 times the previous one, plus up to a quarter by `jitter`.
pub fn pause(attempt: u32, jitter: u8) -> Duration {
    let attempt = attempt.min(12);
    let factor = 1.8f64.powi(i32::try_from(attempt).unwrap_or(12));
    FIRST.mul_f64(factor * (1.0 + f64::from(jitter) / 1024.0))
}

/// Retransmission state of a request.
#[derive(Clone, Debug)]
pub struct Retransmit {
    message: SentMessage,
    sent: u32,
    due: Time,
    deadline: Time,
    /// Constant interval instead of the growing one.
    interval: Option<Duration>,
}

/// Result of a timer of the schedule.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Not due yet.
    Wait,
    /// Send these datagrams again.
    Again(Vec<Transmit>),
    /// The timeout has expired.
    GiveUp,
}

impl Retransmit {
    /// The schedule of a message sent at `now` that times out after `patience`.
    pub fn new(now: Time, message: SentMessage, patience: Duration, jitter: u8) -> Retransmit {
        let deadline = now + patience;
        Retransmit {
            message,
            sent: 1,
            due: (now + pause(0, jitter)).min(deadline),
            deadline,
            interval: None,
        }
    }

    /// Sends all further copies at this constant interval.
    pub fn repeat_every(&mut self, interval: Duration, now: Time) {
        self.interval = Some(interval);
        self.due = self.due.min(now + interval);
    }

    /// When to call [`step`](Self::step) next.
    pub fn due(&self) -> Time {
        self.due
    }

    /// Sends further copies to another address, because the peer has moved.
    pub fn redirect(&mut self, remote: std::net::SocketAddr) {
        self.message.remote = remote;
    }

    /// Number of copies sent.
    pub fn sent(&self) -> u32 {
        self.sent
    }

    /// Shortens the timeout: the peer has rejected the request, and the response is awaited only in case the rejection was forged
    /// (RFC 7296 §2.21.1).
    pub fn expect_end_by(&mut self, end: Time) {
        self.deadline = self.deadline.min(end);
        self.due = self.due.min(self.deadline);
    }

    /// The action due at `now`.
    pub fn step(&mut self, now: Time, jitter: u8) -> Step {
        if now < self.due {
            return Step::Wait;
        }
        if now >= self.deadline {
            return Step::GiveUp;
        }
        let interval = self.interval.unwrap_or_else(|| pause(self.sent, jitter));
        self.due = (now + interval).min(self.deadline);
        let size = self.next_size();
        self.sent = self.sent.saturating_add(1);
        Step::Again(self.message.transmits_in(size).collect())
    }

    /// The fragment size of the next copy.
    fn next_size(&self) -> FragmentSize {
        match self.sent.checked_sub(COPIES_BEFORE_SMALLER) {
            Some(after) if after.is_multiple_of(2) => FragmentSize::Minimum,
            Some(_) | None => FragmentSize::Configured,
        }
    }
}

/// Delay before the next attempt after `failed` failures in a row: 1 s doubling to a minute. Jitter shortens the delay by up to
/// half, so that many tunnels that failed together do not reconnect together.
pub fn back_off(failed: u32, jitter: u8) -> Duration {
    let ceiling = Duration::from_secs(60);
    let full = Duration::from_secs(1)
        .saturating_mul(2u32.saturating_pow(failed.saturating_sub(1).min(6)))
        .min(ceiling);
    full.mul_f64(1.0 - f64::from(jitter) / 512.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ike::out_message::Datagrams;

    fn message() -> SentMessage {
        SentMessage {
            local: "192.0.2.1:500".parse().unwrap(),
            remote: "192.0.2.2:500".parse().unwrap(),
            datagrams: Datagrams::whole(vec![1, 2, 3]),
        }
    }

    #[test]
    fn copies_are_identical_at_growing_intervals_until_the_timeout() {
        let mut now = Time::ZERO;
        let mut retransmit = Retransmit::new(now, message(), Duration::from_secs(30), 0);
        let mut gaps = Vec::new();
        loop {
            let before = now;
            now = retransmit.due();
            gaps.push(now.since(before));
            match retransmit.step(now, 0) {
                Step::Again(copy) => assert_eq!(copy, message().transmits().collect::<Vec<_>>()),
                Step::GiveUp => break,
                Step::Wait => panic!("the timer was due"),
            }
        }
        assert_eq!(now.since(Time::ZERO), Duration::from_secs(30));
        let full = &gaps[..gaps.len() - 1];
        assert!(full.windows(2).all(|pair| pair[1] > pair[0]), "{gaps:?}");
        assert!(full.len() >= 4, "{gaps:?}");
    }

    #[test]
    fn after_three_copies_every_second_one_has_smaller_fragments() {
        let datagrams = Datagrams::fragmented(vec![vec![1; 9]], vec![vec![1; 5], vec![2; 4]]);
        let message = SentMessage {
            datagrams,
            ..message()
        };
        let mut retransmit =
            Retransmit::new(Time::ZERO, message.clone(), Duration::from_secs(90), 0);
        let mut datagrams = Vec::new();
        while let Step::Again(copy) = retransmit.step(retransmit.due(), 0) {
            datagrams.push(copy.len());
        }
        assert_eq!(datagrams[..6], [1, 1, 2, 1, 2, 1]);
    }

    #[test]
    fn a_step_before_the_timer_is_due_waits() {
        let mut retransmit = Retransmit::new(Time::ZERO, message(), Duration::from_secs(30), 0);
        assert_eq!(retransmit.step(Time::ZERO, 0), Step::Wait);
    }

    #[test]
    fn back_off_doubles_to_a_minute_and_jitter_only_shortens() {
        let pauses: Vec<u64> = (1..10)
            .map(|failed| back_off(failed, 0).as_secs())
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert!(back_off(9, 255) >= Duration::from_secs(30));
        assert!(back_off(9, 255) < Duration::from_secs(31));
    }
}
