//! State of a tunnel apart from its SAs: when to connect, when to wait, when to give up.
//!
//! ```text
//!            ┌──────────── lost or failed: delay, doubling each time  ───────────┐
//!            ▼                                                                   │
//! Idle ──▶ Retry{at} ──▶ Queued ──▶ Resolving (names) ──▶ Connecting ──▶ an SA ──────┘
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::event::Rekeys;
use super::failure::Failure;
use super::limits;
use super::rekey_check::RekeyChecker;
use super::retransmit::back_off;
use super::settings::{Encapsulation, Peer, Settings, Start};
use crate::net::{IKE_PORT, Time, TokenBucket, TunnelState, WaitingFor};

/// One tunnel.
#[derive(Debug)]
pub struct Tunnel {
    /// The settings.
    pub settings: Arc<Settings>,
    /// Whether the tunnel is administratively up.
    pub admin: AdminState,
    /// What the tunnel does while it has no SA.
    pub connect_state: ConnectState,
    /// The peer's address, if known.
    pub address: Option<IpAddr>,
    /// Addresses of the peer's name in the last lookup that this tunnel can use, and those of them that have been tried in vain.
    candidates: Vec<IpAddr>,
    tried: Vec<IpAddr>,
    /// When the peer's name is resolved again, for a tunnel that waits for a peer with a name.
    pub next_resolve: Time,
    /// Rate limit of responses to unauthenticated messages from the peer's address.
    pub replies: TokenBucket,
    /// Number of failed attempts in a row.
    pub failures: u32,
    /// Traffic does not start another attempt before this time.
    pub not_before: Time,
    /// Completed rekeys.
    pub rekeys: Rekeys,
    /// State of the rekey check.
    pub rekey_check: RekeyChecker,
    /// The last failure.
    pub last_failure: Option<Failure>,
    /// The state and its start time, for status reports.
    pub state: (TunnelState, Time),
}

/// Administrative state of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminState {
    /// Connects as `start` configures.
    Up,
    /// Stays down until a command.
    Down,
}

/// What a tunnel does while it has no SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectState {
    /// Nothing: the tunnel is connected, or waits for traffic or the peer.
    Idle,
    /// Due to connect; waits while many other tunnels connect.
    Queued,
    /// Waits for the name service, or for the source address of the route to the peer, and then connects.
    Resolving {
        /// Timeout.
        until: Time,
    },
    /// A handshake is in progress.
    Connecting,
    /// A delay before the next attempt.
    Retry {
        /// End of the delay.
        at: Time,
    },
    /// No further attempt without a command or traffic.
    Failed,
}

/// Timeout of the name service.
pub const RESOLVE_PATIENCE: Duration = Duration::from_secs(10);

/// Upper bound on the addresses of a name that are tried.
const MAX_CANDIDATES: usize = 16;

/// Interval at which a waiting tunnel resolves the peer's name, so that it recognises the peer's requests.
pub const RESOLVE_INTERVAL: Duration = Duration::from_secs(30);

/// A tunnel that was up for this time reconnects with a short delay.
const STABLE_AFTER: Duration = Duration::from_secs(30);

impl Tunnel {
    /// A tunnel without SAs and without attempts.
    pub fn new(settings: Arc<Settings>, now: Time) -> Tunnel {
        let (address, next_resolve) = match (&settings.peer, settings.start) {
            (Peer::Address(address), _) => (Some(*address), Time::MAX),
            // Every attempt resolves the name.
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
            candidates: Vec::new(),
            tried: Vec::new(),
            next_resolve,
            replies: limits::response_limit(),
            failures: 0,
            not_before: now,
            last_failure: None,
            state: (TunnelState::Connecting, now),
        }
    }

    /// The peer's address, if the source address of the route to it must be known before a handshake: NAT detection covers
    /// addresses, and only forced encapsulation does not need them.
    pub fn needs_source(&self) -> Option<IpAddr> {
        let open = self.settings.local.is_unspecified();
        match self.settings.encapsulation {
            Encapsulation::Udp => None,
            Encapsulation::Auto | Encapsulation::Esp => self.address.filter(|_| open),
        }
    }

    /// Local and remote address and port of its handshakes, sent from `local`.
    pub fn ends(&self, local: IpAddr) -> Option<(SocketAddr, SocketAddr)> {
        let remote = SocketAddr::new(self.address?, IKE_PORT);
        let local = match (local.is_unspecified(), remote.is_ipv4()) {
            (true, true) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            (true, false) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            (false, _) => local,
        };
        Some((SocketAddr::new(local, IKE_PORT), remote))
    }

    /// Address of the peer among those of its name: for an attempt the first one that has not been tried in vain. A local address limits
    /// them to its family.
    pub fn choose_address(&mut self, found: &[IpAddr], for_attempt: bool) -> Option<IpAddr> {
        let local = self.settings.local;
        let usable =
            |address: &&IpAddr| local.is_unspecified() || address.is_ipv4() == local.is_ipv4();
        let usable = found.iter().filter(usable).take(MAX_CANDIDATES);
        self.candidates = usable.copied().collect();
        if !for_attempt {
            return self.candidates.first().copied();
        }
        if self.failures == 0 || !self.has_another_address() {
            self.tried.clear();
        }
        let tried = &self.tried;
        let chosen = self.candidates.iter().find(|one| !tried.contains(one));
        let chosen = chosen.copied();
        self.tried.extend(chosen);
        chosen
    }

    /// Whether the peer's name has an address that has not been tried in vain. Without a pause no more are tried than a name may have: one
    /// whose addresses change at each lookup never runs out of them.
    pub fn has_another_address(&self) -> bool {
        if self.tried.len() >= MAX_CANDIDATES {
            return false;
        }
        let is_tried = |one: &IpAddr| self.tried.contains(one);
        !self.candidates.iter().all(is_tried)
    }

    /// Whether the tunnel reconnects without a command.
    pub fn reconnects(&self) -> bool {
        self.admin == AdminState::Up && self.settings.start == Start::Auto
    }

    /// Records a failed attempt.
    pub fn on_failure(&mut self, failure: Failure, jitter: u8) {
        let now = failure.at;
        self.last_failure = Some(failure);
        self.failures = self.failures.saturating_add(1);
        // The other addresses of the peer's name are tried before the pause.
        let pause = match self.has_another_address() {
            true => Duration::ZERO,
            false => back_off(self.failures, jitter),
        };
        self.not_before = now + pause;
        self.connect_state = match self.settings.start {
            Start::Auto => ConnectState::Retry {
                at: self.not_before,
            },
            Start::Trap => ConnectState::Idle,
            Start::Add => ConnectState::Failed,
        };
    }

    /// Schedules the reconnect after the last SA, which was up for `lived`, was removed.
    pub fn on_lost(&mut self, now: Time, lived: Duration, jitter: u8) {
        self.failures = if lived >= STABLE_AFTER {
            0
        } else {
            self.failures.saturating_add(1)
        };
        let pause = match self.failures {
            // Up to half a second: both ends of a lost tunnel reconnect, and jitter keeps them apart.
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

    /// The current state; `up` is whether the tunnel has a Child SA.
    pub fn current_state(&self, up: bool) -> TunnelState {
        match (up, self.admin, self.connect_state) {
            (true, _, _) => TunnelState::Up,
            (false, AdminState::Down, _) => TunnelState::Down,
            (false, AdminState::Up, ConnectState::Failed) => TunnelState::Failed,
            (
                false,
                AdminState::Up,
                ConnectState::Idle
                | ConnectState::Queued
                | ConnectState::Resolving { .. }
                | ConnectState::Connecting
                | ConnectState::Retry { .. },
            ) => TunnelState::Connecting,
        }
    }

    /// What the tunnel waits for while connecting.
    pub fn waiting(&self) -> WaitingFor {
        match (self.connect_state, self.settings.start) {
            (ConnectState::Retry { .. } | ConnectState::Queued, _) => WaitingFor::Retry,
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

    /// When the next timer is due.
    pub fn next_timer(&self) -> Time {
        let connect_state = match self.connect_state {
            ConnectState::Retry { at } => at,
            ConnectState::Resolving { until } => until,
            ConnectState::Idle
            | ConnectState::Queued
            | ConnectState::Connecting
            | ConnectState::Failed => Time::MAX,
        };
        connect_state
            .min(self.next_resolve_due())
            .min(self.rekey_check.due())
    }

    /// When the peer's name is resolved only to recognise the peer.
    pub fn next_resolve_due(&self) -> Time {
        match self.admin {
            AdminState::Up => self.next_resolve,
            AdminState::Down => Time::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ike::settings::tests::settings;

    fn named(local: &str) -> Tunnel {
        let mut settings = settings("aes128-sha1-modp1024", "aes128-sha1");
        settings.peer = Peer::Name("vpn.example.org".to_owned());
        settings.local = local.parse().unwrap();
        Tunnel::new(Arc::new(settings), Time::from_secs(1))
    }

    #[test]
    fn each_attempt_takes_the_next_address_of_the_name_in_both_families() {
        let all = ["192.0.2.1", "2001:db8::1", "192.0.2.2"].map(|one| one.parse().unwrap());
        for (local, expected) in [
            ("0.0.0.0", vec![0, 1, 2, 0, 1]),
            ("::", vec![0, 1, 2, 0, 1]),
            ("192.0.2.9", vec![0, 2, 0, 2]),
            ("2001:db8::9", vec![1, 1]),
        ] {
            let mut tunnel = named(local);
            for index in expected {
                let address = tunnel.choose_address(&all, true);
                assert_eq!(address, Some(all[index]), "{local}");
                tunnel.address = address;
                let (ours, theirs) = tunnel.ends(tunnel.settings.local).unwrap();
                assert_eq!(ours.is_ipv4(), theirs.is_ipv4());
                tunnel.failures += 1;
            }
        }
        // After a success the order of preference holds again.
        let mut tunnel = named("0.0.0.0");
        for _ in 0..3 {
            assert_eq!(tunnel.choose_address(&all, true), Some(all[0]));
        }
    }

    #[test]
    fn a_name_with_other_addresses_at_each_lookup_is_tried_without_a_pause_sixteen_times() {
        let mut tunnel = named("0.0.0.0");
        let mut without_pause = 0;
        for number in 0..4 * MAX_CANDIDATES as u8 {
            let found = [[192, 0, 2, number], [198, 51, 100, number]].map(IpAddr::from);
            assert!(tunnel.choose_address(&found, true).is_some());
            tunnel.failures += 1;
            without_pause += usize::from(tunnel.has_another_address());
            assert!(tunnel.tried.len() <= MAX_CANDIDATES);
        }
        assert_eq!(without_pause, 4 * (MAX_CANDIDATES - 1));
    }
}
