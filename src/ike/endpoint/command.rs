//! Commands from the daemon.

use std::net::SocketAddr;
use std::time::Duration;

use super::Endpoint;
use super::sas::Sa;
use super::shutdown::{REPEAT_INTERVAL, Shutdown};
use crate::ike::context::Context;
use crate::ike::event::{Command, DownReason, Lookup, Rekey};
use crate::ike::exchange::auth::Purpose;
use crate::ike::failure::Failure;
use crate::ike::limits;
use crate::ike::sa::{IkeSa, SaOutcome};
use crate::ike::settings::{Start, TunnelId};
use crate::ike::tunnel::{AdminState, ConnectState};
use crate::net::Time;
use crate::wire::IkeSpi;

impl Endpoint {
    /// Executes a command.
    pub fn handle_command(&mut self, now: Time, command: Command) {
        match command {
            Command::Up(id) => self.up(now, id),
            Command::Down(id) => {
                self.down(now, id);
            }
            Command::Reset(id) => {
                self.down(now, id);
                if let Some(tunnel) = self.tunnels.get_mut(&id) {
                    tunnel.last_failure = None;
                }
                self.up(now, id);
            }
            Command::Demand(id) => {
                let connects = self.tunnels.get(&id).is_some_and(|tunnel| {
                    tunnel.admin == AdminState::Up
                        && tunnel.settings.start == Start::Trap
                        && tunnel.connect_state == ConnectState::Idle
                        && tunnel.not_before <= now
                });
                if connects && !self.is_up(id) {
                    self.connect(now, id);
                }
            }
            Command::Resolved { tunnel, lookup } => self.on_resolved(now, tunnel, lookup),
            Command::NetworkChanged => self.on_network_changed(now),
            Command::Source { tunnel, local } => self.on_source(now, tunnel, local),
            Command::EspReceived { tunnel, at } => {
                self.for_each_established(tunnel, |sa| sa.on_esp_received(at));
            }
            Command::EspSent { tunnel, at } => {
                self.for_each_established(tunnel, |sa| sa.on_esp_sent(at));
            }
            Command::Rekey { tunnel, what } => self.rekey(now, tunnel, what),
            Command::SoftLimit { tunnel, spi_in } => {
                self.with_child(now, tunnel, spi_in, |sa, cx| sa.on_soft_limit(spi_in, cx));
            }
            Command::ChildConfirmed { tunnel, spi_in } => {
                self.with_child(now, tunnel, spi_in, |sa, cx| {
                    sa.on_child_confirmed(spi_in, cx)
                });
            }
            Command::EspSource {
                tunnel,
                spi_in,
                remote,
                at,
            } => self.with_child(now, tunnel, spi_in, |sa, cx| {
                sa.on_esp_received(at);
                sa.follow(remote, cx);
            }),
            Command::UnknownSpi { remote, spi } => self.notify_invalid_spi(now, remote, spi),
            Command::InstallFailed {
                tunnel,
                spi_in,
                why,
            } => {
                self.record_failure(tunnel, limits::not_installed(now, why));
                self.give_up_child(now, tunnel, spi_in, DownReason::Useless);
            }
            Command::SequenceExhausted { tunnel, spi_in } => {
                self.give_up_child(now, tunnel, spi_in, DownReason::Expired);
            }
            Command::Shutdown => self.shut_down(now),
        }
        self.update_states(now);
    }

    pub(super) fn up(&mut self, now: Time, id: TunnelId) {
        let Some(tunnel) = self.tunnels.get_mut(&id) else {
            return;
        };
        tunnel.admin = AdminState::Up;
        tunnel.failures = 0;
        let idle = match tunnel.connect_state {
            ConnectState::Idle
            | ConnectState::Queued
            | ConnectState::Retry { .. }
            | ConnectState::Failed => true,
            ConnectState::Resolving { .. } | ConnectState::Connecting => false,
        };
        if idle && !self.is_up(id) {
            self.connect(now, id);
        }
    }

    pub(super) fn down(&mut self, now: Time, id: TunnelId) {
        if let Some(tunnel) = self.tunnels.get_mut(&id) {
            tunnel.admin = AdminState::Down;
            tunnel.connect_state = ConnectState::Idle;
        }
        self.abandon_attempts(id);
        self.sas
            .remove_handshakes(id, |sa| matches!(sa, Sa::HalfOpen(_)));
        for own in self.sas.of_tunnel(id).collect::<Vec<_>>() {
            self.with(now, own, |sa, cx| sa.close(DownReason::Requested, None, cx));
        }
    }

    pub(super) fn on_resolved(&mut self, now: Time, id: TunnelId, lookup: Lookup) {
        let Some(tunnel) = self.tunnels.get_mut(&id) else {
            return;
        };
        let connects = match tunnel.connect_state {
            ConnectState::Resolving { .. } => true,
            ConnectState::Idle
            | ConnectState::Queued
            | ConnectState::Connecting
            | ConnectState::Retry { .. }
            | ConnectState::Failed => false,
        };
        let found = match &lookup {
            Lookup::Found(found) => found.as_slice(),
            Lookup::NoAddress | Lookup::NoAnswer => &[],
        };
        match tunnel.choose_address(found, connects) {
            Some(address) => {
                tunnel.address = Some(address);
                if connects {
                    self.initiate(now, id);
                }
            }
            None => {
                let name = tunnel.settings.peer.to_string();
                let failure = match lookup {
                    Lookup::NoAnswer => limits::name_server_silent(now, &name),
                    Lookup::Found(_) | Lookup::NoAddress => limits::unresolved(now, &name),
                };
                if connects {
                    self.on_attempt_failed(id, failure);
                } else {
                    self.record_failure_unless_up(id, failure);
                }
            }
        }
    }

    /// Ends the pauses of the tunnels whose peers were silent, and repeats attempts that nobody has answered.
    fn on_network_changed(&mut self, now: Time) {
        const SOON: Duration = Duration::from_secs(1);
        let all: Vec<TunnelId> = self.tunnels.keys().copied().collect();
        for id in all {
            let tunnel = self.tunnels.get(&id);
            let failure = tunnel.and_then(|tunnel| tunnel.last_failure.as_ref());
            let is_due = match tunnel.map(|tunnel| tunnel.connect_state) {
                Some(ConnectState::Retry { at }) => {
                    at > now + SOON && failure.is_none_or(Failure::is_silence)
                }
                Some(ConnectState::Connecting) => self.is_unanswered(now, id),
                Some(
                    ConnectState::Idle
                    | ConnectState::Queued
                    | ConnectState::Resolving { .. }
                    | ConnectState::Failed,
                )
                | None => false,
            };
            if is_due {
                // Both ends of a path may see the same change: jitter keeps them apart.
                let pause = Duration::from_millis(u64::from(self.jitter()).saturating_mul(2));
                self.set_connect_state(id, ConnectState::Retry { at: now + pause });
            }
        }
    }

    fn give_up_child(&mut self, now: Time, tunnel: TunnelId, spi_in: u32, reason: DownReason) {
        self.with_child(now, tunnel, spi_in, |sa, cx| {
            sa.give_up_child(spi_in, reason, cx)
        });
    }

    /// Rekeys the SA that carries the traffic of a tunnel.
    pub(super) fn rekey(&mut self, now: Time, id: TunnelId, what: Rekey) {
        let serving = self
            .established(id)
            .filter(|sa| sa.child().is_some() && !sa.will_close())
            .max_by_key(|sa| sa.established());
        let Some(own) = serving.map(IkeSa::own_spi) else {
            return;
        };
        self.with(now, own, |sa, cx| match what {
            Rekey::Child => {
                for spi_in in sa.sending() {
                    sa.rekey_child(spi_in, cx);
                }
            }
            Rekey::Ike => sa.rekey_ike(cx),
        });
    }

    /// Sends INVALID_SPI. Only a peer with an established IKE SA can receive an authenticated notification.
    fn notify_invalid_spi(&mut self, now: Time, remote: SocketAddr, spi: u32) {
        // A peer may send over a new SA before its response, which creates the SA here, has arrived.
        if self.sas.has_child(spi) {
            return;
        }
        // IP protocol 50 has no ports.
        let is_peer = |known: SocketAddr| match remote.port() {
            0 => known.ip() == remote.ip(),
            _ => known == remote,
        };
        let with_peer = self.sas.iter().filter_map(|(own, sa)| match sa {
            Sa::Established(sa) if sa.is_open() && is_peer(sa.remote()) => {
                Some((sa.established(), *own))
            }
            Sa::Established(_)
            | Sa::InitSent(_)
            | Sa::IntermediateSent(_)
            | Sa::AuthSent(_)
            | Sa::HalfOpen(_)
            | Sa::LastResponse(_) => None,
        });
        if let Some((_, own)) = with_peer.max() {
            self.with(now, own, |sa, cx| sa.notify_invalid_spi(spi, cx));
        }
    }

    /// Takes every tunnel down, ends every handshake, and starts to close the established SAs.
    fn shut_down(&mut self, now: Time) {
        for id in self.tunnels.keys().copied().collect::<Vec<_>>() {
            if let Some(tunnel) = self.tunnels.get_mut(&id) {
                tunnel.admin = AdminState::Down;
                tunnel.connect_state = ConnectState::Idle;
            }
        }
        self.out.repeat_interval = Some(REPEAT_INTERVAL);
        self.sas.retain(|_, sa| match sa {
            Sa::InitSent(_) | Sa::IntermediateSent(_) | Sa::HalfOpen(_) => false,
            Sa::AuthSent(_) | Sa::Established(_) | Sa::LastResponse(_) => true,
        });
        let mut open = Vec::new();
        let all = self.sas.iter().map(|(own, _)| *own).collect::<Vec<_>>();
        for own in all {
            match self.sas.remove(&own) {
                // The peer may have established the SA already: it is closed when the response arrives.
                Some(Sa::AuthSent(mut sent)) => {
                    sent.purpose = Purpose::Close;
                    sent.retransmit.repeat_every(REPEAT_INTERVAL, now);
                    self.sas.insert(own, Sa::AuthSent(sent));
                }
                // The DELETE waits for the answer to an outstanding request (window of one).
                Some(Sa::Established(mut sa)) => {
                    sa.repeat_request_every(REPEAT_INTERVAL, now);
                    self.sas.insert(own, Sa::Established(sa));
                    open.push(own);
                }
                Some(other) => self.sas.insert(own, other),
                None => {}
            }
        }
        self.shutdown = Some(Shutdown::new(open, now));
        self.continue_shutdown(now);
    }

    /// Closes the next batch of SAs of a shutdown, if it is due.
    pub(super) fn continue_shutdown(&mut self, now: Time) {
        let Some(shutdown) = &mut self.shutdown else {
            return;
        };
        let batch = shutdown.take_due(now);
        for own in &batch {
            self.with(now, *own, |sa, cx| {
                sa.close(DownReason::Requested, None, cx);
            });
        }
        if let Some(shutdown) = self.shutdown.as_mut().filter(|_| !batch.is_empty()) {
            let sas = &self.sas;
            let is_open = |own: &IkeSpi| sas.established(*own).is_some_and(IkeSa::is_open);
            shutdown.refill(|| sas.iter().map(|(own, _)| *own).filter(is_open).collect());
        }
    }

    /// Runs a step of the IKE SA that has this Child SA.
    fn with_child(
        &mut self,
        now: Time,
        tunnel: TunnelId,
        spi_in: u32,
        step: impl FnOnce(&mut IkeSa, &mut Context<'_>),
    ) {
        let has_child = |own: &IkeSpi| {
            let sa = self.sas.established(*own);
            sa.is_some_and(|sa| sa.has_child(spi_in))
        };
        let owner = self.sas.of_tunnel(tunnel).find(has_child);
        if let Some(own) = owner {
            self.with(now, own, step);
        }
    }

    pub(super) fn with(
        &mut self,
        now: Time,
        own: IkeSpi,
        step: impl FnOnce(&mut IkeSa, &mut Context<'_>),
    ) {
        match self.sas.remove(&own) {
            Some(Sa::Established(sa)) => self.step(now, own, sa, |sa, cx| {
                step(sa, cx);
                SaOutcome::Open
            }),
            Some(other) => {
                self.sas.insert(own, other);
            }
            None => {}
        }
    }
}
