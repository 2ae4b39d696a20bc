//! The course of an attempt: connect, authenticate, settle with what stands already; and what follows when it fails or when an SA goes.

use std::time::Duration;

use super::{Endpoint, Sa, cx, cx_without_time, fresh_child_spi};
use crate::ike::collision::{self, Closer, Keep, Rival};
use crate::ike::event::{DownReason, Event};
use crate::ike::exchange::auth::{self, Concluded, InitialContact};
use crate::ike::failure::Failure;
use crate::ike::handshake::{InitSent, Keyed, Place};
use crate::ike::limits;
use crate::ike::sa::{Fate, IkeSa};
use crate::ike::settings::{Peer, TunnelId};
use crate::ike::tunnel::{Aim, Plan, RESOLVE_PATIENCE, Wish};
use crate::ike::{CLOSE_AFTER, CLOSE_FOR_PEER_AFTER};
use crate::net::Time;
use crate::wire::IkeSpi;

impl Endpoint {
    pub(super) fn connect(&mut self, now: Time, id: TunnelId) {
        let Some(tunnel) = self.tunnels.get_mut(&id) else {
            return;
        };
        if let Peer::Name(name) = &tunnel.settings.peer {
            tunnel.plan = Plan::Resolving {
                until: now + RESOLVE_PATIENCE,
                aim: Aim::Connect,
            };
            let name = name.clone();
            self.out
                .events
                .push_back(Event::Resolve { tunnel: id, name });
            return;
        }
        self.begin(now, id);
    }

    pub(super) fn begin(&mut self, now: Time, id: TunnelId) {
        let spi = self.fresh_spi();
        let Some(tunnel) = self.tunnels.get_mut(&id) else {
            return;
        };
        let Some((local, remote)) = tunnel.ends() else {
            return;
        };
        let place = Place {
            tunnel: id,
            settings: tunnel.settings.clone(),
            local,
            remote,
            started: now,
        };
        let mut cx = cx(now, &mut self.rng, &mut self.out);
        if let Some(sent) = InitSent::begin(place, spi, &mut cx) {
            tunnel.plan = Plan::Attempt;
            self.sas.insert(spi, Sa::InitSent(Box::new(sent)));
            self.out
                .events
                .push_back(Event::Connecting { tunnel: id, remote });
        }
    }

    pub(super) fn authenticate(&mut self, now: Time, own: IkeSpi, keyed: Keyed) {
        let tunnel = keyed.place.tunnel;
        let spi_in = fresh_child_spi(&self.sas, &mut self.rng);
        let contact = self.initial_contact(&keyed);
        let mut cx = cx(now, &mut self.rng, &mut self.out);
        match auth::begin(keyed, spi_in, contact, &mut cx) {
            Some(sent) => {
                self.sas.insert(own, Sa::AuthSent(Box::new(sent)));
            }
            None => {
                let failure = limits::too_long(now);
                self.on_attempt_failed(tunnel, failure);
            }
        }
    }

    /// INITIAL_CONTACT says that no other IKE SA exists between two identities. It is left out while any SA or attempt with the same peer exists: two tunnels to
    /// one peer must not push each other out, nor two attempts that cross.
    pub(super) fn initial_contact(&self, keyed: &Keyed) -> InitialContact {
        let (id, peer) = (&keyed.place.settings.id, keyed.place.remote.ip());
        let same = |place: &Place| place.settings.id == *id && place.remote.ip() == peer;
        let another = self.sas.values().any(|sa| match sa {
            Sa::InitSent(sent) => same(&sent.place),
            Sa::AuthSent(sent) => same(&sent.keyed.place),
            Sa::HalfOpen(half_open) => same(&half_open.keyed.place),
            Sa::Established(sa) => same(sa.place()),
            Sa::Remnant(_) => false,
        });
        if another {
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
        concluded: Concluded,
    ) {
        match concluded {
            Concluded::Established { sa, failure, .. } => {
                match failure {
                    Some(failure) => self.on_attempt_failed(tunnel, failure),
                    None => self.set_plan(tunnel, Plan::Rest),
                }
                self.on_established(now, own, sa);
            }
            Concluded::Disowned {
                mut sa,
                failure,
                notify,
            } => {
                let mut cx = cx(now, &mut self.rng, &mut self.out);
                sa.close(DownReason::Useless, Some(notify), &mut cx);
                self.sas.insert(own, Sa::Established(sa));
                self.on_attempt_failed(tunnel, failure);
            }
            Concluded::Failed { failure, .. } => self.on_attempt_failed(tunnel, failure),
        }
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
                    self.note(tunnel, failure);
                }
                if initial_contact {
                    self.forget_before(tunnel, sa.started());
                }
                // Our own attempt has not shown the peer any proof yet, so nothing of it stands there: the peer's has come first.
                let attempts = self.sas.len();
                self.sas.retain(|_, sa| match sa {
                    Sa::InitSent(sent) => sent.place.tunnel != tunnel,
                    Sa::AuthSent(_) | Sa::HalfOpen(_) | Sa::Established(_) | Sa::Remnant(_) => true,
                });
                if self.sas.len() < attempts {
                    self.set_plan(tunnel, Plan::Rest);
                }
                self.on_established(now, own, sa);
            }
            // Only an initiator disowns: a responder refuses before anything stands.
            Concluded::Disowned { failure, .. } => self.note(tunnel, failure),
            Concluded::Failed { failure, remnant } => {
                if let Some(remnant) = remnant {
                    self.sas.insert(own, Sa::Remnant(remnant));
                }
                self.note(tunnel, failure);
            }
        }
    }

    /// The peer has started anew (RFC 7296 §2.4): what stood before its handshake began is gone at its end. Scoped to the tunnel, since several tunnels may
    /// join the same identities over different addresses.
    pub(super) fn forget_before(&mut self, tunnel: TunnelId, started: Time) {
        let mut cx = cx_without_time(&mut self.rng, &mut self.out);
        self.sas.retain(|_, sa| match sa {
            Sa::Established(sa) if sa.tunnel() == tunnel && sa.established() < started => {
                sa.drop_child(DownReason::PeerRestarted, &mut cx);
                cx.out.events.push_back(Event::IkeDown {
                    tunnel,
                    spis: sa.spis(),
                    reason: DownReason::PeerRestarted,
                });
                false
            }
            Sa::Established(_)
            | Sa::InitSent(_)
            | Sa::AuthSent(_)
            | Sa::HalfOpen(_)
            | Sa::Remnant(_) => true,
        });
    }

    pub(super) fn on_established(&mut self, now: Time, own: IkeSpi, mut sa: Box<IkeSa>) {
        let tunnel = sa.tunnel();
        let mut cx = cx(now, &mut self.rng, &mut self.out);
        sa.announce(&mut cx);
        if self
            .tunnels
            .get(&tunnel)
            .is_none_or(|tunnel| tunnel.wish == Wish::Down)
        {
            sa.close(DownReason::Asked, None, &mut cx);
        } else if sa.child().is_some() {
            self.settle(now, &mut sa);
        }
        self.sas.insert(own, Sa::Established(sa));
    }

    /// Decides between a new SA and those the tunnel already has.
    pub(super) fn settle(&mut self, now: Time, newer: &mut IkeSa) {
        let mut preferred = None;
        let (nonces, peer) = (newer.nonces().clone(), newer.peer());
        let newest = Rival {
            nonces: &nonces,
            role: newer.role(),
            started: newer.started(),
            established: newer.established(),
        };
        for older in self.established_mut(newer.tunnel()) {
            let Some(spi_in) = older.child().map(|child| child.spi_in) else {
                continue;
            };
            let rival = Rival {
                nonces: older.nonces(),
                role: older.role(),
                started: older.started(),
                established: older.established(),
            };
            let (keep, closer) = collision::settle(rival, newest, peer);
            let at = match closer {
                Closer::Us => now + CLOSE_AFTER,
                Closer::Peer => now + CLOSE_FOR_PEER_AFTER,
            };
            match keep {
                Keep::Older => {
                    preferred = Some(spi_in);
                    newer.close_later(at, DownReason::Redundant);
                }
                Keep::Newer => older.close_later(at, DownReason::Redundant),
            }
        }
        if let Some(spi_in) = preferred {
            self.out.events.push_back(Event::ChildPreferred {
                tunnel: newer.tunnel(),
                spi_in,
            });
        }
    }

    /// Puts an SA back, or buries it.
    pub(super) fn after(&mut self, now: Time, own: IkeSpi, sa: Box<IkeSa>, fate: Fate) {
        let reason = match fate {
            Fate::Lives => {
                self.sas.insert(own, Sa::Established(sa));
                return;
            }
            Fate::Gone(reason) => reason,
        };
        let (tunnel, was_open) = (sa.tunnel(), sa.is_open());
        self.out.events.push_back(Event::IkeDown {
            tunnel,
            spis: sa.spis(),
            reason,
        });
        let others = self.established(tunnel).any(|sa| sa.child().is_some());
        // Why a useless SA is useless has been said, and says more.
        if was_open
            && !others
            && !sa.is_useless()
            && let Some(failure) = limits::lost(now, reason, sa.remote())
        {
            self.note(tunnel, failure);
        }
        let lived = now.since(sa.established());
        self.sas
            .insert(own, Sa::Remnant(Box::new(sa.into_remnant(now))));
        if was_open {
            self.on_lost(now, tunnel, lived);
        }
    }

    pub(super) fn on_lost(&mut self, now: Time, id: TunnelId, lived: Duration) {
        let others = self.established(id).next().is_some();
        let jitter = self.jitter();
        if let Some(tunnel) = self.tunnels.get_mut(&id)
            && !others
            && tunnel.plan == Plan::Rest
        {
            tunnel.on_lost(now, lived, jitter);
        }
    }

    pub(super) fn on_attempt_failed(&mut self, id: TunnelId, failure: Failure) {
        let jitter = self.jitter();
        if let Some(tunnel) = self.tunnels.get_mut(&id) {
            self.out.events.push_back(Event::Failed {
                tunnel: Some(id),
                failure: failure.clone(),
            });
            tunnel.on_failure(failure, jitter);
        }
    }

    /// Remembers and reports something that went wrong without ending an attempt. The same thing twice in a row is not news.
    pub(super) fn note(&mut self, id: TunnelId, failure: Failure) {
        let Some(tunnel) = self.tunnels.get_mut(&id) else {
            return;
        };
        let known = tunnel.last_failure.as_ref().is_some_and(|last| {
            last.text == failure.text && failure.at.since(last.at) < limits::NEWS_AGAIN
        });
        if !known {
            tunnel.last_failure = Some(failure.clone());
            self.out.events.push_back(Event::Failed {
                tunnel: Some(id),
                failure,
            });
        }
    }

    pub(super) fn set_plan(&mut self, id: TunnelId, plan: Plan) {
        if let Some(tunnel) = self.tunnels.get_mut(&id) {
            tunnel.plan = plan;
        }
    }
}
