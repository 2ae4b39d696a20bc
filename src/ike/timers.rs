//! Silence and what it calls for: a liveness check when the peer says nothing (RFC 7296 §2.4), a NAT keepalive when we say nothing (RFC 3948 §2.3).

use std::time::Duration;

use super::settings::Dpd;
use crate::net::Time;

/// How long we may be silent behind a NAT before its mapping is in danger.
pub const KEEPALIVE: Duration = Duration::from_secs(20);

/// Since when neither side has said anything.
#[derive(Clone, Copy, Debug)]
pub struct IdleTimers {
    heard: Time,
    sent: Time,
    behind_nat: bool,
    dpd: Dpd,
}

impl IdleTimers {
    /// Both sides have just spoken. Only a side behind a NAT keeps its mapping alive.
    pub fn new(now: Time, behind_nat: bool, dpd: Dpd) -> IdleTimers {
        IdleTimers {
            heard: now,
            sent: now,
            behind_nat,
            dpd,
        }
    }

    /// The peer proved at that time that it lives.
    pub fn heard(&mut self, at: Time) {
        self.heard = self.heard.max(at);
    }

    /// A packet left at that time.
    pub fn sent(&mut self, at: Time) {
        self.sent = self.sent.max(at);
    }

    /// When to ask the peer whether it lives.
    pub fn liveness_due(&self) -> Time {
        self.heard + self.dpd.delay
    }

    /// When to keep the NAT's mapping alive.
    pub fn keepalive_due(&self) -> Time {
        if self.behind_nat {
            self.sent + KEEPALIVE
        } else {
            Time::MAX
        }
    }
}

/// The first of several moments.
pub fn earliest(times: impl IntoIterator<Item = Time>) -> Time {
    times.into_iter().min().unwrap_or(Time::MAX)
}
