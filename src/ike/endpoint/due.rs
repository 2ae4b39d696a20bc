//! Timers: retransmissions, timeouts and reconnection attempts.

use std::time::Duration;

use super::Endpoint;
use super::sas::Sa;
use crate::ike::event::{Event, Lookup};
use crate::ike::exchange::auth::{AuthSent, Purpose};
use crate::ike::exchange::init::InitSent;
use crate::ike::exchange::intermediate::IntermediateSent;
use crate::ike::failure::Failure;
use crate::ike::limits;
use crate::ike::retransmit::Step;
use crate::ike::sa::IkeSa;
use crate::ike::settings::{Peer, TunnelId};
use crate::ike::tunnel::{ConnectState, RESOLVE_INTERVAL, Tunnel};
use crate::net::Time;
use crate::wire::IkeSpi;

impl Endpoint {
    /// Handles every timer that is due at `now`.
    pub fn handle_timeout(&mut self, now: Time) {
        for own in self.sas.due(now) {
            if let Some(sa) = self.sas.remove(&own) {
                self.on_sa_due(now, own, sa);
            }
        }
        self.continue_shutdown(now);
        // Changes of the SAs may make tunnel timers due.
        self.update_states(now);
        let due = self.tunnels.due(now);
        for id in &due {
            self.resolve_peer(now, *id);
        }
        for id in &due {
            self.check_rekeying(now, *id);
        }
        for id in due {
            let Some(connect_state) = self.tunnels.get(&id).map(|tunnel| tunnel.connect_state)
            else {
                continue;
            };
            match connect_state {
                ConnectState::Retry { at } if at <= now => {
                    self.set_connect_state(id, ConnectState::Queued);
                    self.starts.push(id);
                }
                ConnectState::Resolving { until } if until <= now => {
                    self.on_resolved(now, id, Lookup::NoAnswer)
                }
                ConnectState::Retry { .. } | ConnectState::Resolving { .. } => {}
                ConnectState::Idle
                | ConnectState::Queued
                | ConnectState::Connecting
                | ConnectState::Failed => {}
            }
        }
        self.update_states(now);
    }

    /// Connects queued tunnels, as far as the pace of starts allows.
    pub(super) fn start_queued(&mut self, now: Time) {
        while !self.starts.is_idle() {
            let tunnels = &self.tunnels;
            let state = |id| tunnels.get(&id).map(|tunnel| tunnel.connect_state);
            let is_connecting = |id| match state(id) {
                Some(ConnectState::Connecting | ConnectState::Resolving { .. }) => true,
                Some(
                    ConnectState::Idle
                    | ConnectState::Queued
                    | ConnectState::Retry { .. }
                    | ConnectState::Failed,
                )
                | None => false,
            };
            let Some(id) = self.starts.pop(now, is_connecting) else {
                return;
            };
            // It may have been taken down, or connected by command or by its peer.
            if state(id) != Some(ConnectState::Queued) {
                continue;
            }
            match self.is_answered(id) {
                // The answer came after the repetition was planned.
                true => self.set_connect_state(id, ConnectState::Connecting),
                false => self.connect(now, id),
            }
        }
    }

    /// Resolves the peer's name again if that is due, so that a peer with a new address is recognised.
    fn resolve_peer(&mut self, now: Time, id: TunnelId) {
        if let Some(tunnel) = self.tunnels.get_mut(&id)
            && tunnel.next_resolve_due() <= now
            && let Peer::Name(name) = &tunnel.settings.peer
        {
            tunnel.next_resolve = now + RESOLVE_INTERVAL;
            let (tunnel, name) = (id, name.clone());
            self.out.events.push_back(Event::Resolve { tunnel, name });
        }
    }

    fn check_rekeying(&mut self, now: Time, id: TunnelId) {
        let check = self
            .tunnels
            .get_mut(&id)
            .map(|tunnel| &mut tunnel.rekey_check);
        if let Some(check) = check.filter(|check| check.due() <= now)
            && let Some(what) = check.on_due(now)
        {
            self.rekey(now, id, what);
        }
    }

    /// Whether the address of an attempt has been silent for some time while the peer's name has others.
    fn prefers_another_address(&self, now: Time, sent: &InitSent) -> bool {
        const SILENT: Duration = Duration::from_secs(5);
        let tunnel = self.tunnels.get(&sent.conn.tunnel);
        now.since(sent.conn.started) >= SILENT && tunnel.is_some_and(Tunnel::has_another_address)
    }

    /// Whether the attempt of a tunnel has been without an answer for two seconds.
    pub(super) fn is_unanswered(&self, now: Time, id: TunnelId) -> bool {
        const PATIENCE: Duration = Duration::from_secs(2);
        let handshakes = self.sas.handshakes_of(id);
        handshakes.iter().any(|own| match self.sas.get(own) {
            Some(Sa::InitSent(sent)) => now.since(sent.conn.started) >= PATIENCE,
            Some(
                Sa::IntermediateSent(_)
                | Sa::AuthSent(_)
                | Sa::HalfOpen(_)
                | Sa::Established(_)
                | Sa::LastResponse(_),
            )
            | None => false,
        })
    }

    /// Whether an attempt of a tunnel has passed IKE_SA_INIT and still serves it.
    fn is_answered(&self, id: TunnelId) -> bool {
        let handshakes = self.sas.handshakes_of(id);
        handshakes.iter().any(|own| match self.sas.get(own) {
            Some(Sa::IntermediateSent(_)) => true,
            Some(Sa::AuthSent(sent)) => sent.purpose == Purpose::Serve,
            Some(Sa::InitSent(_) | Sa::HalfOpen(_) | Sa::Established(_) | Sa::LastResponse(_))
            | None => false,
        })
    }

    pub(super) fn on_sa_due(&mut self, now: Time, own: IkeSpi, sa: Sa) {
        let jitter = self.jitter();
        match sa {
            Sa::InitSent(sent) => self.on_init_due(now, jitter, own, sent),
            Sa::IntermediateSent(sent) => self.on_intermediate_due(now, jitter, own, sent),
            Sa::AuthSent(sent) => self.on_auth_due(now, jitter, own, sent),
            Sa::HalfOpen(half_open) => {
                let conn = &half_open.init.conn;
                if now < half_open.expires {
                    self.sas.insert(own, Sa::HalfOpen(half_open));
                } else {
                    let failure = limits::no_auth_after_init(now, conn.remote);
                    self.record_failure_unless_up(conn.tunnel, failure);
                }
            }
            Sa::LastResponse(last_response) => {
                if now < last_response.expires {
                    self.sas.insert(own, Sa::LastResponse(last_response));
                }
            }
            Sa::Established(sa) => self.step(now, own, sa, IkeSa::on_timeout),
        }
    }

    /// Repeats an IKE_SA_INIT request, or gives the attempt up.
    fn on_init_due(&mut self, now: Time, jitter: u8, own: IkeSpi, mut sent: Box<InitSent>) {
        let (tunnel, remote) = (sent.conn.tunnel, sent.conn.remote);
        let step = match self.prefers_another_address(now, &sent) {
            true => Step::GiveUp,
            false => sent.retransmit.step(now, jitter),
        };
        let copies = sent.retransmit.sent();
        match step {
            Step::Wait => self.sas.insert(own, Sa::InitSent(sent)),
            Step::Again(transmits) => {
                self.out.transmits.extend(transmits);
                self.sas.insert(own, Sa::InitSent(sent));
                if copies == limits::COPIES_BEFORE_REPORT {
                    self.record_failure(tunnel, limits::no_response_to_init(now, remote));
                }
            }
            Step::GiveUp => {
                let failure = sent
                    .rejection
                    .unwrap_or_else(|| limits::no_response_to_init(now, remote));
                self.on_attempt_failed(tunnel, Failure { at: now, ..failure });
            }
        }
    }

    /// Repeats an IKE_INTERMEDIATE request, or gives the attempt up.
    fn on_intermediate_due(
        &mut self,
        now: Time,
        jitter: u8,
        own: IkeSpi,
        mut sent: Box<IntermediateSent>,
    ) {
        let conn = &sent.init.conn;
        let (tunnel, failure) = (
            conn.tunnel,
            limits::no_response_to_intermediate(now, conn.remote),
        );
        let step = sent.retransmit.step(now, jitter);
        let copies = sent.retransmit.sent();
        match step {
            Step::Wait => self.sas.insert(own, Sa::IntermediateSent(sent)),
            Step::Again(transmits) => {
                self.out.transmits.extend(transmits);
                self.sas.insert(own, Sa::IntermediateSent(sent));
                if copies == limits::COPIES_BEFORE_REPORT {
                    self.record_failure_unless_up(tunnel, failure);
                }
            }
            Step::GiveUp => self.on_attempt_failed(tunnel, failure),
        }
    }

    /// Repeats an IKE_AUTH request, or gives the attempt up.
    fn on_auth_due(&mut self, now: Time, jitter: u8, own: IkeSpi, mut sent: Box<AuthSent>) {
        let conn = &sent.init.conn;
        let (tunnel, failure) = (conn.tunnel, limits::no_response_to_auth(now, conn.remote));
        let step = sent.retransmit.step(now, jitter);
        let (copies, purpose) = (sent.retransmit.sent(), sent.purpose);
        match step {
            Step::Wait => self.sas.insert(own, Sa::AuthSent(sent)),
            Step::Again(transmits) => {
                self.out.transmits.extend(transmits);
                self.sas.insert(own, Sa::AuthSent(sent));
                if copies == limits::COPIES_BEFORE_REPORT && purpose == Purpose::Serve {
                    self.record_failure_unless_up(tunnel, failure);
                }
            }
            Step::GiveUp => self.on_own_attempt_failed(tunnel, purpose, failure),
        }
    }
}
