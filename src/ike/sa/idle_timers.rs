//! Idle timers of an IKE SA: the liveness check when the peer is silent (RFC 7296 §2.4) and the NAT keepalive when we are (RFC 3948 §2.3).

use std::time::Duration;

use crate::ike::settings::Dpd;
use crate::net::Time;

/// How long we may be silent behind a NAT before its mapping may expire.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// When the last packet was received and sent.
#[derive(Clone, Copy, Debug)]
pub struct IdleTimers {
    received: Time,
    sent: Time,
    behind_nat: bool,
    dpd: Dpd,
}

impl IdleTimers {
    /// Timers that start now. Only a side behind a NAT sends keepalives.
    pub fn new(now: Time, behind_nat: bool, dpd: Dpd) -> IdleTimers {
        IdleTimers {
            received: now,
            sent: now,
            behind_nat,
            dpd,
        }
    }

    /// Records an authentic packet received at that time.
    pub fn on_received(&mut self, at: Time) {
        self.received = self.received.max(at);
    }

    /// Records a packet sent at that time.
    pub fn on_sent(&mut self, at: Time) {
        self.sent = self.sent.max(at);
    }

    /// When a liveness check is due.
    pub fn liveness_due(&self) -> Time {
        self.received + self.dpd.delay
    }

    /// When a NAT keepalive is due.
    pub fn keepalive_due(&self) -> Time {
        if self.behind_nat {
            self.sent + KEEPALIVE
        } else {
            Time::MAX
        }
    }
}
