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
use super::failure::Failure;
use super::limits::Bucket;
use super::rekey_check::RekeyChecker;
use super::retransmit::back_off;
use super::settings::{Encapsulation, Peer, Settings, Start};
use crate::net::{IKE_PORT, Time, TunnelState, WaitingFor};

/// One tunnel.
#[derive(Debug)]
pub struct Tunnel {
    /// As configured.
    pub settings: Arc<Settings>,
    /// Whether it should be connected at all.
    pub admin: AdminState,
    /// What happens next.
    pub connect_state: ConnectState,
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
    pub rekey_check: RekeyChecker,
    /// The last thing that went wrong.
    pub last_failure: Option<Failure>,
    /// The state and since when, for status reports.
    pub state: (TunnelState, Time),
}

/// What people want of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminState {
    /// As its `start` says.
    Up,
    /// Nothing until they ask again.
    Down,
}

/// What a tunnel does while it has no SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectState {
    /// Nothing: it is connected, or waits for traffic or the peer.
    Idle,
    /// It waits for the name service, or to hear which address of ours leads to the peer, to connect then.
    Resolving {
        /// When that counts as failed.
        until: Time,
    },
    /// A handshake is under way.
    Connecting,
    /// A pause before the next try.
    Retry {
        /// When it ends.
        at: Time,
    },
    /// It will not try again by itself.
    Failed,
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
            rekey_check: RekeyChecker::new(settings.rekey_check),
            rekeys: Rekeys::default(),
            settings,
            admin: AdminState::Up,
            connect_state: ConnectState::Idle,
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
        self.admin == AdminState::Up && self.settings.start == Start::Auto
    }

    /// A try came to nothing.
    pub fn on_failure(&mut self, failure: Failure, jitter: u8) {
        let now = failure.at;
        self.last_failure = Some(failure);
        self.failures = self.failures.saturating_add(1);
        self.not_before = now + back_off(self.failures, jitter);
        self.connect_state = match self.settings.start {
            Start::Auto => ConnectState::Retry {
                at: self.not_before,
            },
            Start::Trap => ConnectState::Idle,
            Start::Add => ConnectState::Failed,
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
        self.connect_state = if self.reconnects() {
            ConnectState::Retry {
                at: self.not_before,
            }
        } else {
            ConnectState::Idle
        };
    }

    /// How it is doing, given whether a Child SA is up.
    pub fn current_state(&self, up: bool) -> TunnelState {
        match (up, self.admin, self.connect_state) {
            (true, _, _) => TunnelState::Up,
            (false, AdminState::Down, _) => TunnelState::Down,
            (false, AdminState::Up, ConnectState::Failed) => TunnelState::Failed,
            (
                false,
                AdminState::Up,
                ConnectState::Idle
                | ConnectState::Resolving { .. }
                | ConnectState::Connecting
                | ConnectState::Retry { .. },
            ) => TunnelState::Connecting,
        }
    }

    /// What it waits for while connecting.
    pub fn waiting(&self) -> WaitingFor {
        match (self.connect_state, self.settings.start) {
            (ConnectState::Retry { .. }, _) => WaitingFor::Retry,
            (ConnectState::Idle, Start::Trap) => WaitingFor::Traffic,
            (ConnectState::Idle | ConnectState::Failed, Start::Add) => WaitingFor::Peer,
            (
                ConnectState::Idle
                | ConnectState::Failed
                | ConnectState::Resolving { .. }
                | ConnectState::Connecting,
                _,
            ) => WaitingFor::Answer,
        }
    }

    /// When it has something to do.
    pub fn next_timer(&self) -> Time {
        let connect_state = match self.connect_state {
            ConnectState::Retry { at } => at,
            ConnectState::Resolving { until } => until,
            ConnectState::Idle | ConnectState::Connecting | ConnectState::Failed => Time::MAX,
        };
        connect_state
            .min(self.next_look())
            .min(self.rekey_check.due())
    }

    /// When it looks its peer's name up just to recognise the peer.
    pub fn next_look(&self) -> Time {
        match self.admin {
            AdminState::Up => self.look_again,
            AdminState::Down => Time::MAX,
        }
    }
}
