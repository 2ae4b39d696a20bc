//! What a tunnel wants and where it stands, apart from its SAs: when to try, when to pause, when to give up.
//!
//! ```text
//!            ┌──────────── lost, or refused: pause, longer each time ───────────┐
//!            ▼                                                                   │
//! Rest ──▶ Retry{at} ──▶ Resolving (peers given by name) ──▶ Attempt ──▶ an SA ──┘
//! ```

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::event::Rekeys;
use super::exchange::init::IKE_PORT;
use super::failure::Failure;
use super::limits::Bucket;
use super::rekey_trial::RekeyTrial;
use super::retransmit::back_off;
use super::settings::{Encapsulation, Peer, Settings, Start};
use crate::net::{Time, TunnelState, WaitingFor};

/// One tunnel.
#[derive(Debug)]
pub struct Tunnel {
    /// As configured.
    pub settings: Arc<Settings>,
    /// Whether it should be connected at all.
    pub wish: Wish,
    /// What happens next.
    pub plan: Plan,
    /// Where the peer is, as far as known.
    pub address: Option<IpAddr>,
    /// When to look the peer's name up again, for a tunnel that waits for a peer with a name.
    pub look_again: Time,
    /// Answers to unauthenticated messages from the peer's address.
    pub replies: Bucket,
    /// How many tries in a row came to nothing.
    pub failures: u32,
    /// Before this, traffic does not start another attempt.
    pub not_before: Time,
    /// Completed rekeys.
    pub rekeys: Rekeys,
    /// Whether the peer rekeys, where somebody wants to know.
    pub test: RekeyTrial,
    /// The last thing that went wrong.
    pub last_failure: Option<Failure>,
    /// The state and since when, for status reports.
    pub state: (TunnelState, Time),
}

/// What people want of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// As its `start` says.
    Serve,
    /// Nothing until they ask again.
    Down,
}

/// What a tunnel does while it has no SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing: it is connected, or waits for traffic or the peer.
    Rest,
    /// It waits for the name service, or to hear which address of ours leads to the peer, to connect then.
    Resolving {
        /// When that counts as failed.
        until: Time,
    },
    /// A handshake is under way.
    Attempt,
    /// A pause before the next try.
    Retry {
        /// When it ends.
        at: Time,
    },
    /// It will not try again by itself.
    GivenUp,
}

/// How long the name service may take.
pub const RESOLVE_PATIENCE: Duration = Duration::from_secs(10);

/// How often a peer's name is looked up by a tunnel that waits, to recognise the peer when it begins.
pub const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// A tunnel that was up this long starts again with a short pause.
const SETTLED: Duration = Duration::from_secs(30);

impl Tunnel {
    /// A tunnel that has not done anything yet.
    pub fn new(settings: Arc<Settings>, now: Time) -> Tunnel {
        let (address, look_again) = match (&settings.peer, settings.start) {
            (Peer::Address(address), _) => (Some(*address), Time::MAX),
            // Every attempt looks the name up.
            (Peer::Name(_), Start::Auto) => (None, Time::MAX),
            (Peer::Name(_), Start::Trap | Start::Add) => (None, now),
        };
        Tunnel {
            test: RekeyTrial::new(settings.rekey_test),
            rekeys: Rekeys::default(),
            settings,
            wish: Wish::Serve,
            plan: Plan::Rest,
            address,
            look_again,
            replies: Bucket::default(),
            failures: 0,
            not_before: now,
            last_failure: None,
            state: (TunnelState::Connecting, now),
        }
    }

    /// The peer, if it must be asked which of our addresses leads there before a handshake can begin: NAT detection speaks of addresses, and forced
    /// encapsulation is the only thing that needs none.
    pub fn needs_source(&self) -> Option<IpAddr> {
        let open = self.settings.local.is_unspecified();
        match self.settings.encapsulation {
            Encapsulation::Udp => None,
            Encapsulation::Auto | Encapsulation::Esp => self.address.filter(|_| open),
        }
    }

    /// Where its handshakes begin, sent from `local`.
    pub fn ends(&self, local: IpAddr) -> Option<(SocketAddr, SocketAddr)> {
        let remote = SocketAddr::new(self.address?, IKE_PORT);
        Some((SocketAddr::new(local, IKE_PORT), remote))
    }

    /// Whether it keeps trying without being asked.
    pub fn reconnects(&self) -> bool {
        self.wish == Wish::Serve && self.settings.start == Start::Auto
    }

    /// A try came to nothing.
    pub fn on_failure(&mut self, failure: Failure, jitter: u8) {
        let now = failure.at;
        self.last_failure = Some(failure);
        self.failures = self.failures.saturating_add(1);
        self.not_before = now + back_off(self.failures, jitter);
        self.plan = match self.settings.start {
            Start::Auto => Plan::Retry {
                at: self.not_before,
            },
            Start::Trap => Plan::Rest,
            Start::Add => Plan::GivenUp,
        };
    }

    /// Its last SA is gone after having been up for `lived`.
    pub fn on_lost(&mut self, now: Time, lived: Duration, jitter: u8) {
        self.failures = if lived >= SETTLED {
            0
        } else {
            self.failures.saturating_add(1)
        };
        let pause = match self.failures {
            // Half a second at most: both ends of a lost tunnel come back, and rather not in the same instant.
            0 => Duration::from_millis(u64::from(jitter).saturating_mul(2)),
            failures => back_off(failures, jitter),
        };
        self.not_before = now + pause;
        self.plan = if self.reconnects() {
            Plan::Retry {
                at: self.not_before,
            }
        } else {
            Plan::Rest
        };
    }

    /// How it is doing, given whether a Child SA is up.
    pub fn current_state(&self, up: bool) -> TunnelState {
        match (up, self.wish, self.plan) {
            (true, _, _) => TunnelState::Up,
            (false, Wish::Down, _) => TunnelState::Down,
            (false, Wish::Serve, Plan::GivenUp) => TunnelState::Failed,
            (
                false,
                Wish::Serve,
                Plan::Rest | Plan::Resolving { .. } | Plan::Attempt | Plan::Retry { .. },
            ) => TunnelState::Connecting,
        }
    }

    /// What it waits for while connecting.
    pub fn waiting(&self) -> WaitingFor {
        match (self.plan, self.settings.start) {
            (Plan::Retry { .. }, _) => WaitingFor::Retry,
            (Plan::Rest, Start::Trap) => WaitingFor::Traffic,
            (Plan::Rest | Plan::GivenUp, Start::Add) => WaitingFor::Peer,
            (Plan::Rest | Plan::GivenUp | Plan::Resolving { .. } | Plan::Attempt, _) => {
                WaitingFor::Answer
            }
        }
    }

    /// When it has something to do.
    pub fn next_timer(&self) -> Time {
        let plan = match self.plan {
            Plan::Retry { at } => at,
            Plan::Resolving { until } => until,
            Plan::Rest | Plan::Attempt | Plan::GivenUp => Time::MAX,
        };
        plan.min(self.next_look()).min(self.test.due())
    }

    /// When it looks its peer's name up just to recognise the peer.
    pub fn next_look(&self) -> Time {
        match self.wish {
            Wish::Serve => self.look_again,
            Wish::Down => Time::MAX,
        }
    }
}
