//! Connection attempts: initiate, authenticate, resolve duplicates, and what follows an attempt that fails.

use std::net::IpAddr;

use super::sas::Sa;
use super::{Endpoint, cx, cx_without_time, fresh_child_spi};
use crate::ike::child_sa::{ChildSa, ChildState};
use crate::ike::event::{DownReason, Event, Sends};
use crate::ike::exchange::auth::Purpose;
use crate::ike::exchange::auth::{self, Concluded, InitialContact};
use crate::ike::exchange::init::InitSent;
use crate::ike::exchange::intermediate;
use crate::ike::failure::Failure;
use crate::ike::init_result::{Connection, InitResult};
use crate::ike::limits;
use crate::ike::sa::IkeSa;
use crate::ike::settings::{Peer, TunnelId};
use crate::ike::tunnel::{ConnectState, RESOLVE_PATIENCE};
use crate::ike::window::LastResponse;
use crate::net::Time;
use crate::wire::IkeSpi;

impl Endpoint {
    pub(super) fn connect(&mut self, now: Time, id: TunnelId) {
        let Some(tunnel) = self.tunnels.get_mut(&id) else {
            return;
        };
        if let Peer::Name(name) = &tunnel.settings.peer {
            tunnel.connect_state = ConnectState::Resolving {
                until: now + RESOLVE_PATIENCE,
            };
            let name = name.clone();
            self.out
                .events
                .push_back(Event::Resolve { tunnel: id, name });
            return;
        }
        self.initiate(now, id);
    }

    /// Continues once the peer's address is known. If the local address is unspecified and NAT detection needs it,
    /// [`Event::Source`] requests it first.
    pub(super) fn initiate(&mut self, now: Time, id: TunnelId) {
        let Some(tunnel) = self.tunnels.get_mut(&id) else {
            return;
        };
        let Some(peer) = tunnel.needs_source() else {
            let local = tunnel.settings.local;
            return self.initiate_from(now, id, local);
        };
        tunnel.connect_state = ConnectState::Resolving {
            until: now + RESOLVE_PATIENCE,
        };
        self.out
            .events
            .push_back(Event::Source { tunnel: id, peer });
    }

    /// Handles the response to [`Event::Source`]. Without an address the kernel selects the source, and the peer detects a NAT.
    pub(super) fn on_source(&mut self, now: Time, id: TunnelId, local: Option<IpAddr>) {
        let Some(tunnel) = self.tunnels.get(&id) else {
            return;
        };
        match tunnel.connect_state {
            ConnectState::Resolving { .. } => {
                let local = local.unwrap_or(tunnel.settings.local);
                self.initiate_from(now, id, local);
            }
            ConnectState::Idle
            | ConnectState::Queued
            | ConnectState::Connecting
            | ConnectState::Retry { .. }
            | ConnectState::Failed => {}
        }
    }

    fn initiate_from(&mut self, now: Time, id: TunnelId, local: IpAddr) {
        self.abandon_attempts(id);
        let spi = self.fresh_spi();
        let Some(tunnel) = self.tunnels.get_mut(&id) else {
            return;
        };
        let Some((local, remote)) = tunnel.ends(local) else {
            return;
        };
        let conn = Connection {
            tunnel: id,
            settings: tunnel.settings.clone(),
            local,
            remote,
            started: now,
        };
        tunnel.connect_state = ConnectState::Connecting;
        let mut cx = cx(now, &mut self.rng, &mut self.out);
        match InitSent::initiate(conn, spi, &mut cx) {
            Some(sent) => {
                self.sas.insert(spi, Sa::InitSent(Box::new(sent)));
                self.out
                    .events
                    .push_back(Event::Connecting { tunnel: id, remote });
            }
            None => self.on_attempt_failed(id, limits::too_long(now, "IKE_SA_INIT")),
        }
    }

    /// Abandons the attempts of a tunnel. The peer may already have established the SA of a pending IKE_AUTH, so that SA is
    /// closed when the response arrives.
    pub(super) fn abandon_attempts(&mut self, id: TunnelId) {
        self.sas.remove_handshakes(id, is_before_auth);
        for own in self.sas.handshakes_of(id) {
            match self.sas.remove(&own) {
                Some(Sa::AuthSent(mut sent)) => {
                    sent.purpose = Purpose::Close;
                    self.sas.insert(own, Sa::AuthSent(sent));
                }
                Some(other) => self.sas.insert(own, other),
                None => {}
            }
        }
    }

    /// Starts the exchange after IKE_SA_INIT: IKE_INTERMEDIATE if the suite has an additional key exchange, IKE_AUTH otherwise.
    pub(super) fn continue_handshake(&mut self, now: Time, own: IkeSpi, init: InitResult) {
        let Some(method) = init.suite.additional else {
            return self.authenticate(now, own, init);
        };
        let tunnel = init.conn.tunnel;
        let mut cx = cx(now, &mut self.rng, &mut self.out);
        match intermediate::initiate(init, method, &mut cx) {
            Some(sent) => self.sas.insert(own, Sa::IntermediateSent(Box::new(sent))),
            None => self.on_attempt_failed(tunnel, limits::too_long(now, "IKE_INTERMEDIATE")),
        }
    }

    pub(super) fn authenticate(&mut self, now: Time, own: IkeSpi, init: InitResult) {
        let tunnel = init.conn.tunnel;
        let spi_in = fresh_child_spi(&self.sas, &mut self.rng);
        let contact = self.initial_contact(&init);
        let mut cx = cx(now, &mut self.rng, &mut self.out);
        match auth::initiate(init, spi_in, contact, &mut cx) {
            Some(sent) => {
                self.sas.insert(own, Sa::AuthSent(Box::new(sent)));
            }
            None => self.on_attempt_failed(tunnel, limits::too_long(now, "IKE_AUTH")),
        }
    }

    /// INITIAL_CONTACT states that no other IKE SA exists between two identities. The notification is omitted while any SA or
    /// attempt with the same peer exists: two tunnels to one peer, or two simultaneous attempts, must not delete each other's
    /// SAs.
    pub(super) fn initial_contact(&self, init: &InitResult) -> InitialContact {
        let (id, peer) = (&init.conn.settings.id, init.conn.remote.ip());
        if self.sas.is_known_peer(id, peer) {
            InitialContact::Omit
        } else {
            InitialContact::Send
        }
    }

    pub(super) fn on_own_attempt_concluded(
        &mut self,
        now: Time,
        tunnel: TunnelId,
        own: IkeSpi,
        purpose: Purpose,
        concluded: Concluded,
    ) {
        match concluded {
            Concluded::Established { sa, .. } if purpose == Purpose::Close => {
                self.close_unwanted(now, own, sa);
            }
            Concluded::Established { sa, failure, .. } => {
                match failure {
                    Some(failure) => self.on_attempt_failed(tunnel, failure),
                    None => self.set_connect_state(tunnel, ConnectState::Idle),
                }
                self.on_established(now, own, sa);
            }
            Concluded::Rejected {
                mut sa,
                failure,
                notify,
            } => {
                let mut cx = cx(now, &mut self.rng, &mut self.out);
                sa.close(DownReason::Useless, Some(notify), &mut cx);
                self.sas.insert(own, Sa::Established(sa));
                self.on_own_attempt_failed(tunnel, purpose, failure);
            }
            Concluded::Failed { failure, .. } => {
                self.on_own_attempt_failed(tunnel, purpose, failure);
            }
        }
    }

    pub(super) fn on_own_attempt_failed(
        &mut self,
        tunnel: TunnelId,
        purpose: Purpose,
        failure: Failure,
    ) {
        match purpose {
            Purpose::Serve => self.on_attempt_failed(tunnel, failure),
            Purpose::Close => {}
        }
    }

    /// Closes an SA that was established after its attempt was abandoned.
    fn close_unwanted(&mut self, now: Time, own: IkeSpi, mut sa: Box<IkeSa>) {
        let mut cx = cx(now, &mut self.rng, &mut self.out);
        sa.announce(Sends::Now, &mut cx);
        sa.close(DownReason::Requested, None, &mut cx);
        self.sas.insert(own, Sa::Established(sa));
    }

    pub(super) fn on_peers_attempt_concluded(
        &mut self,
        now: Time,
        tunnel: TunnelId,
        own: IkeSpi,
        concluded: Concluded,
    ) {
        match concluded {
            Concluded::Established {
                sa,
                failure,
                initial_contact,
            } => {
                if let Some(failure) = failure {
                    self.record_failure(tunnel, failure);
                }
                if initial_contact {
                    self.remove_sas_before(tunnel, sa.started());
                }
                if sa.child().is_some() {
                    self.abandon_unproven_attempts(tunnel);
                }
                self.on_established(now, own, sa);
            }
            // `Rejected` occurs only as the initiator: a responder rejects before an SA exists.
            Concluded::Rejected { failure, .. } => self.record_failure_unless_up(tunnel, failure),
            Concluded::Failed {
                failure,
                last_response,
            } => {
                self.on_peers_attempt_refused(tunnel, own, failure, last_response);
            }
        }
    }

    pub(super) fn on_peers_attempt_refused(
        &mut self,
        tunnel: TunnelId,
        own: IkeSpi,
        failure: Failure,
        last_response: Option<Box<LastResponse>>,
    ) {
        if let Some(last_response) = last_response {
            self.keep_last_response(own, last_response);
        }
        // The peer is unauthenticated.
        self.record_failure_unless_up(tunnel, failure);
    }

    /// Abandons our attempts, because the peer has connected. An attempt before IKE_AUTH leaves no SA at the peer; an attempt in
    /// IKE_AUTH is resolved as a duplicate when its response arrives.
    fn abandon_unproven_attempts(&mut self, tunnel: TunnelId) {
        self.sas.remove_handshakes(tunnel, is_before_auth);
        self.set_connect_state(tunnel, ConnectState::Idle);
    }

    /// Keeps the last response of a removed SA. At [`limits::MAX_LAST_RESPONSES`] the oldest one is discarded.
    pub(super) fn keep_last_response(&mut self, own: IkeSpi, last_response: Box<LastResponse>) {
        let (oldest, count) = self.sas.oldest_last_response();
        if count >= limits::MAX_LAST_RESPONSES
            && let Some(oldest) = oldest
        {
            self.sas.remove(&oldest);
        }
        self.sas.insert(own, Sa::LastResponse(last_response));
    }

    /// Removes the SAs established before the handshake of a restarted peer (INITIAL_CONTACT, RFC 7296 §2.4). Only SAs of the
    /// same tunnel are removed, since several tunnels may connect the same identities over different addresses.
    pub(super) fn remove_sas_before(&mut self, tunnel: TunnelId, started: Time) {
        for own in self.sas.of_tunnel(tunnel).collect::<Vec<_>>() {
            let older = self.sas.established(own);
            if older.is_some_and(|sa| sa.established() < started)
                && let Some(Sa::Established(mut sa)) = self.sas.remove(&own)
            {
                let mut cx = cx_without_time(&mut self.rng, &mut self.out);
                sa.emit_down(DownReason::PeerRestarted, &mut cx);
            }
        }
    }

    pub(super) fn on_established(&mut self, now: Time, own: IkeSpi, mut sa: Box<IkeSa>) {
        let works = |child: &ChildSa| child.state == ChildState::Active;
        let serves = |sa: &IkeSa| sa.child().is_some_and(works);
        let sends = match sa.is_confirmed() || !self.established(sa.tunnel()).any(serves) {
            true => Sends::Now,
            false => Sends::Later,
        };
        let mut cx = cx(now, &mut self.rng, &mut self.out);
        sa.announce(sends, &mut cx);
        if sa.child().is_some() {
            self.resolve_duplicates(now, &mut sa);
        }
        self.sas.insert(own, Sa::Established(sa));
    }

    /// Handles the failure of the attempt that a tunnel waits for. The failure of an attempt superseded by the peer's is not
    /// reported.
    pub(super) fn on_attempt_failed(&mut self, id: TunnelId, failure: Failure) {
        let jitter = self.jitter();
        if let Some(tunnel) = self.tunnels.get_mut(&id) {
            match tunnel.connect_state {
                ConnectState::Connecting | ConnectState::Resolving { .. } => {}
                ConnectState::Idle
                | ConnectState::Queued
                | ConnectState::Retry { .. }
                | ConnectState::Failed => return,
            }
            self.out.events.push_back(Event::Failed {
                tunnel: Some(id),
                failure: failure.clone(),
            });
            tunnel.on_failure(failure, jitter);
        }
    }

    /// Records and reports a failure that does not end an attempt. Repetitions of the same failure are suppressed for
    /// [`limits::REPORT_AGAIN_AFTER`].
    pub(super) fn record_failure(&mut self, id: TunnelId, failure: Failure) {
        let Some(tunnel) = self.tunnels.get_mut(&id) else {
            return;
        };
        let repeated = tunnel.last_failure.as_ref().is_some_and(|last| {
            last.text == failure.text && failure.at.since(last.at) < limits::REPORT_AGAIN_AFTER
        });
        if !repeated {
            tunnel.last_failure = Some(failure.clone());
            self.out.events.push_back(Event::Failed {
                tunnel: Some(id),
                failure,
            });
        }
    }

    /// Records a failure only while the tunnel is down: unauthenticated messages must not change the status of a tunnel that is
    /// up.
    pub(super) fn record_failure_unless_up(&mut self, id: TunnelId, failure: Failure) {
        if !self.is_up(id) {
            self.record_failure(id, failure);
        }
    }

    pub(super) fn set_connect_state(&mut self, id: TunnelId, connect_state: ConnectState) {
        if let Some(tunnel) = self.tunnels.get_mut(&id) {
            tunnel.connect_state = connect_state;
        }
    }
}

/// Whether a handshake is ours and before IKE_AUTH, so that the peer has no SA of it.
fn is_before_auth(sa: &Sa) -> bool {
    matches!(sa, Sa::InitSent(_) | Sa::IntermediateSent(_))
}
