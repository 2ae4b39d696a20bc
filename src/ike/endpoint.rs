//! The engine's one door: datagrams, commands and time go in; datagrams, events and the next deadline come out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::collision::{self, Closer, Keep, Rival};
use super::event::{Command, Content, Datagram, DownReason, Event, Role, State, Transmit, View};
use super::exchange::auth::{self, Concluded, InitialContact};
use super::exchange::init::{self, Answered};
use super::failure::Failure;
use super::handshake::{AuthSent, Context, HalfOpen, InitSent, Keyed, Output, Place, Remnant};
use super::limits::{self, Bucket};
use super::retransmit::Step;
use super::sa::{Fate, IkeSa};
use super::settings::{Peer, Settings, Start, TunnelId};
use super::timers::earliest;
use super::tunnel::{Aim, Plan, RESOLVE_PATIENCE, Tunnel, Wish};
use super::window;
use super::{CLOSE_AFTER, CLOSE_FOR_PEER_AFTER};
use crate::crypto::Generator;
use crate::net::Time;
use crate::wire::{ChainError, ExchangeType, Header, IkeSpi, Message, Notify, NotifyType};

/// All tunnels and all IKE SAs of one daemon.
#[derive(Debug)]
pub struct Endpoint {
    rng: Generator,
    out: Output,
    tunnels: BTreeMap<TunnelId, Tunnel>,
    /// By our own SPI.
    sas: BTreeMap<IkeSpi, Sa>,
    replies: Bucket,
}

/// An IKE SA, from the first message to the last echo.
#[derive(Debug)]
enum Sa {
    InitSent(Box<InitSent>),
    AuthSent(Box<AuthSent>),
    HalfOpen(Box<HalfOpen>),
    Established(Box<IkeSa>),
    Remnant(Box<Remnant>),
}

impl Endpoint {
    /// An engine without tunnels. All its randomness comes from `rng`.
    pub fn new(rng: Generator) -> Endpoint {
        Endpoint {
            rng,
            out: Output::default(),
            tunnels: BTreeMap::new(),
            sas: BTreeMap::new(),
            replies: Bucket::default(),
        }
    }

    /// Adds a tunnel; with `start = auto` it begins connecting.
    pub fn add_tunnel(&mut self, now: Time, id: TunnelId, settings: Settings) {
        let mut tunnel = Tunnel::new(Arc::new(settings), now);
        match (tunnel.settings.start, &tunnel.settings.peer) {
            (Start::Auto, _) => tunnel.plan = Plan::Retry { at: now },
            (Start::Trap | Start::Add, Peer::Address(_)) => {}
            (Start::Trap | Start::Add, Peer::Name(name)) => {
                tunnel.plan = Plan::Resolving {
                    until: now + RESOLVE_PATIENCE,
                    aim: Aim::Recognise,
                };
                self.out.events.push_back(Event::Resolve {
                    tunnel: id,
                    name: name.clone(),
                });
            }
        }
        self.tunnels.insert(id, tunnel);
        self.handle_timeout(now);
    }

    /// The next datagram to send. Events come first: see [`poll_event`](Self::poll_event).
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.transmits.pop_front()
    }

    /// The next event. All events are to be acted on before datagrams are sent, so that a Child SA is installed before the peer may use it.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.out.events.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) if nothing else happens.
    pub fn poll_timeout(&self) -> Option<Time> {
        let sas = self.sas.values().map(Sa::next_timer);
        let tunnels = self.tunnels.values().map(Tunnel::next_timer);
        let next = earliest(sas.chain(tunnels));
        (next < Time::MAX).then_some(next)
    }

    /// Whether every goodbye has been answered or given up: after [`Command::Shutdown`] there is nothing left to wait for.
    pub fn is_idle(&self) -> bool {
        !self.sas.values().any(|sa| match sa {
            Sa::Established(_) => true,
            Sa::InitSent(_) | Sa::AuthSent(_) | Sa::HalfOpen(_) | Sa::Remnant(_) => false,
        })
    }

    /// A tunnel as status reports show it.
    pub fn view(&self, id: TunnelId) -> Option<View> {
        let tunnel = self.tunnels.get(&id)?;
        let sa = self
            .established(id)
            .max_by_key(|sa| (sa.child().is_some(), !sa.is_leaving(), sa.established()));
        let (state, since) = tunnel.state;
        let waiting = match state {
            State::Connecting | State::Failed => Some(tunnel.waiting()),
            State::Down | State::Up => None,
        };
        Some(View {
            state,
            waiting,
            since,
            remote: sa
                .map(IkeSa::remote)
                .or_else(|| tunnel.ends().map(|(_, remote)| remote)),
            ike: sa.map(IkeSa::view),
            child: sa.and_then(IkeSa::child_view),
            last_failure: tunnel.last_failure.clone(),
        })
    }

    /// The open IKE SAs of a tunnel.
    fn established(&self, id: TunnelId) -> impl Iterator<Item = &IkeSa> {
        self.sas.values().filter_map(move |sa| match sa {
            Sa::Established(sa) if sa.tunnel() == id && sa.is_open() => Some(sa.as_ref()),
            Sa::Established(_)
            | Sa::InitSent(_)
            | Sa::AuthSent(_)
            | Sa::HalfOpen(_)
            | Sa::Remnant(_) => None,
        })
    }

    fn established_mut(&mut self, id: TunnelId) -> impl Iterator<Item = &mut IkeSa> {
        self.sas.values_mut().filter_map(move |sa| match sa {
            Sa::Established(sa) if sa.tunnel() == id && sa.is_open() => Some(sa.as_mut()),
            Sa::Established(_)
            | Sa::InitSent(_)
            | Sa::AuthSent(_)
            | Sa::HalfOpen(_)
            | Sa::Remnant(_) => None,
        })
    }

    // Datagrams.

    /// Takes a received IKE message.
    pub fn handle_datagram(&mut self, now: Time, datagram: Datagram<'_>) {
        let message = match Message::parse(datagram.bytes) {
            Ok(message) => message,
            Err(error) => return self.on_unreadable(now, &error, datagram),
        };
        let header = message.header;
        if header.exchange == ExchangeType::IKE_SA_INIT && !header.flags.response {
            self.on_init_request(now, &message, datagram);
        } else {
            let own = if header.flags.initiator {
                header.spi_r
            } else {
                header.spi_i
            };
            let Some(sa) = self.sas.remove(&own) else {
                return;
            };
            self.on_message(now, own, sa, &message, datagram);
        }
        self.tend(now);
    }

    /// RFC 7296 §2.5: another major version, or a critical payload nobody knows, is worth an answer, at a limited rate; noise is not.
    fn on_unreadable(&mut self, now: Time, error: &ChainError, datagram: Datagram<'_>) {
        let Ok(header) = Header::parse(datagram.bytes) else {
            return;
        };
        if header.flags.response
            || header.exchange != ExchangeType::IKE_SA_INIT && header.major == 2
        {
            return;
        }
        let notify = match error {
            ChainError::Malformed(_) => return,
            ChainError::UnsupportedCritical(kind) => {
                Notify::new(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, vec![kind.0])
            }
            ChainError::MajorVersion(_) => {
                Notify::new(NotifyType::INVALID_MAJOR_VERSION, Vec::new())
            }
        };
        self.reply_in_clear(now, init::refuse(header.spi_i, notify), datagram);
    }

    /// Answers somebody we know nothing about: rarely, and never with more than we got.
    fn reply_in_clear(&mut self, now: Time, answer: Option<Vec<u8>>, datagram: Datagram<'_>) {
        if let Some(bytes) = answer
            && bytes.len() <= datagram.bytes.len()
            && self.replies.take(now)
        {
            self.out.transmits.push_back(Transmit {
                local: datagram.local,
                remote: datagram.remote,
                content: Content::Ike(bytes),
            });
        }
    }

    fn on_init_request(&mut self, now: Time, message: &Message<'_>, datagram: Datagram<'_>) {
        let header = message.header;
        let begins = header.flags.initiator
            && header.message_id.0 == 0
            && header.spi_r.is_zero()
            && !header.spi_i.is_zero()
            && message.sealed.is_none();
        if !begins {
            return;
        }
        let mut census = limits::Census::default();
        for sa in self.sas.values() {
            match sa {
                Sa::HalfOpen(half_open) => {
                    let keyed = &half_open.keyed;
                    if keyed.spi_i == header.spi_i && keyed.place.remote == datagram.remote {
                        // RFC 7296 §2.1: the same bytes get the same bytes back; other bytes under the same SPI get nothing.
                        if keyed.init_request == datagram.bytes {
                            self.out.transmits.push_back(Transmit {
                                local: datagram.local,
                                remote: datagram.remote,
                                content: Content::Ike(keyed.init_response.clone()),
                            });
                        }
                        return;
                    }
                    census.count(keyed.place.remote.ip(), datagram.remote.ip());
                }
                Sa::Established(sa)
                    if sa.role() == Role::Responder && sa.spis().0 == header.spi_i =>
                {
                    return;
                }
                Sa::Established(_) | Sa::InitSent(_) | Sa::AuthSent(_) | Sa::Remnant(_) => {}
            }
        }
        let Some(tunnel) = self.tunnel_between(datagram.local.ip(), datagram.remote.ip()) else {
            let notify = Notify::new(NotifyType::NO_PROPOSAL_CHOSEN, Vec::new());
            if self.replies.peek(now) {
                let failure = limits::unknown_peer(now, datagram);
                self.out.events.push_back(Event::Failed {
                    tunnel: None,
                    failure,
                });
            }
            return self.reply_in_clear(now, init::refuse(header.spi_i, notify), datagram);
        };
        if !census.has_room() {
            return;
        }
        let Some(settings) = self
            .tunnels
            .get(&tunnel)
            .map(|tunnel| tunnel.settings.clone())
        else {
            return;
        };
        let place = Place {
            tunnel,
            settings,
            local: datagram.local,
            remote: datagram.remote,
            started: now,
        };
        let spi_r = self.fresh_spi();
        let mut cx = cx(now, &mut self.rng, &mut self.out);
        match init::respond(place, spi_r, message, datagram.bytes, &mut cx) {
            Answered::HalfOpen(half_open) => {
                self.out.transmits.push_back(Transmit {
                    local: datagram.local,
                    remote: datagram.remote,
                    content: Content::Ike(half_open.keyed.init_response.clone()),
                });
                self.sas.insert(spi_r, Sa::HalfOpen(half_open));
            }
            Answered::Refused { answer, failure } => {
                if let Some(failure) = failure
                    && self.replies.peek(now)
                {
                    self.note(tunnel, failure);
                }
                self.reply_in_clear(now, answer, datagram);
            }
        }
    }

    /// The tunnel of a peer: by both addresses, or by the peer's alone where the tunnel leaves ours open. A tunnel that is down by request is none.
    fn tunnel_between(&self, local: IpAddr, remote: IpAddr) -> Option<TunnelId> {
        let of_peer = || {
            self.tunnels.iter().filter(move |(_, tunnel)| {
                tunnel.address == Some(remote) && tunnel.wish == Wish::Serve
            })
        };
        of_peer()
            .find(|(_, tunnel)| tunnel.settings.local == local)
            .or_else(|| of_peer().find(|(_, tunnel)| tunnel.settings.local.is_unspecified()))
            .map(|(id, _)| *id)
    }

    fn on_message(
        &mut self,
        now: Time,
        own: IkeSpi,
        sa: Sa,
        message: &Message<'_>,
        datagram: Datagram<'_>,
    ) {
        let header = message.header;
        let mut cx = cx(now, &mut self.rng, &mut self.out);
        match sa {
            Sa::InitSent(sent) => {
                let is_answer = header.exchange == ExchangeType::IKE_SA_INIT
                    && header.flags.response
                    && header.message_id.0 == 0
                    && message.sealed.is_none()
                    && datagram.remote == sent.place.remote;
                if !is_answer {
                    self.sas.insert(own, Sa::InitSent(sent));
                    return;
                }
                let tunnel = sent.place.tunnel;
                match sent.on_response(message, datagram, &mut cx) {
                    init::Progress::Waiting(sent) => {
                        let refusal = sent.refusal.clone();
                        self.sas.insert(own, Sa::InitSent(sent));
                        if let Some(failure) = refusal {
                            self.note(tunnel, failure);
                        }
                    }
                    init::Progress::Keyed(keyed) => self.authenticate(now, own, *keyed),
                    init::Progress::Failed(failure) => self.on_attempt_failed(tunnel, failure),
                }
            }
            Sa::AuthSent(sent) => {
                let is_answer = header.exchange == ExchangeType::IKE_AUTH
                    && header.flags.response
                    && header.message_id.0 == 1
                    && header.spi_r == sent.keyed.spi_r;
                if !is_answer {
                    self.sas.insert(own, Sa::AuthSent(sent));
                    return;
                }
                let tunnel = sent.keyed.place.tunnel;
                match sent.on_response(message, &mut cx) {
                    auth::Progress::Waiting(sent) => {
                        self.sas.insert(own, Sa::AuthSent(sent));
                    }
                    auth::Progress::Concluded(concluded) => {
                        self.on_own_attempt_concluded(now, tunnel, own, concluded)
                    }
                }
            }
            Sa::HalfOpen(half_open) => {
                let is_request = header.exchange == ExchangeType::IKE_AUTH
                    && !header.flags.response
                    && header.message_id.0 == 1
                    && header.spi_i == half_open.keyed.spi_i;
                if !is_request {
                    self.sas.insert(own, Sa::HalfOpen(half_open));
                    return;
                }
                let tunnel = half_open.keyed.place.tunnel;
                let spi_in = fresh_child_spi(&self.sas, cx.rng);
                match half_open.on_request(message, datagram, spi_in, &mut cx) {
                    Err(half_open) => {
                        self.sas.insert(own, Sa::HalfOpen(half_open));
                    }
                    Ok(concluded) => self.on_peers_attempt_concluded(now, tunnel, own, concluded),
                }
            }
            Sa::Established(mut sa) => {
                let fate = if sa.spis() == (header.spi_i, header.spi_r) {
                    sa.on_message(message, datagram, &mut cx)
                } else {
                    Fate::Lives
                };
                self.after(now, own, sa, fate);
            }
            Sa::Remnant(remnant) => {
                if let window::Request::Repeated(response) =
                    remnant.received.classify(header.message_id, datagram.bytes)
                {
                    self.out.transmits.push_back(Transmit {
                        local: datagram.local,
                        remote: datagram.remote,
                        content: Content::Ike(response),
                    });
                }
                self.sas.insert(own, Sa::Remnant(remnant));
            }
        }
    }

    // The course of a handshake.

    fn connect(&mut self, now: Time, id: TunnelId) {
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

    fn begin(&mut self, now: Time, id: TunnelId) {
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

    fn authenticate(&mut self, now: Time, own: IkeSpi, keyed: Keyed) {
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
    fn initial_contact(&self, keyed: &Keyed) -> InitialContact {
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

    fn on_own_attempt_concluded(
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

    fn on_peers_attempt_concluded(
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
    fn forget_before(&mut self, tunnel: TunnelId, started: Time) {
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

    fn on_established(&mut self, now: Time, own: IkeSpi, mut sa: Box<IkeSa>) {
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
    fn settle(&mut self, now: Time, newer: &mut IkeSa) {
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
    fn after(&mut self, now: Time, own: IkeSpi, sa: Box<IkeSa>, fate: Fate) {
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
        if was_open
            && !others
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

    fn on_lost(&mut self, now: Time, id: TunnelId, lived: std::time::Duration) {
        let others = self.established(id).next().is_some();
        let jitter = self.jitter();
        if let Some(tunnel) = self.tunnels.get_mut(&id)
            && !others
            && tunnel.plan == Plan::Rest
        {
            tunnel.on_lost(now, lived, jitter);
        }
    }

    fn on_attempt_failed(&mut self, id: TunnelId, failure: Failure) {
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
    fn note(&mut self, id: TunnelId, failure: Failure) {
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

    fn set_plan(&mut self, id: TunnelId, plan: Plan) {
        if let Some(tunnel) = self.tunnels.get_mut(&id) {
            tunnel.plan = plan;
        }
    }

    // Time.

    /// Does everything that is due at `now`.
    pub fn handle_timeout(&mut self, now: Time) {
        let due: Vec<IkeSpi> = self
            .sas
            .iter()
            .filter(|(_, sa)| sa.next_timer() <= now)
            .map(|(spi, _)| *spi)
            .collect();
        for own in due {
            if let Some(sa) = self.sas.remove(&own) {
                self.on_sa_due(now, own, sa);
            }
        }
        let due: Vec<(TunnelId, Plan)> = self
            .tunnels
            .iter()
            .filter(|(_, tunnel)| tunnel.next_timer() <= now)
            .map(|(id, tunnel)| (*id, tunnel.plan))
            .collect();
        for (id, plan) in due {
            match plan {
                Plan::Retry { .. } => self.connect(now, id),
                Plan::Resolving { .. } => self.on_resolved(now, id, None),
                Plan::Rest | Plan::Attempt | Plan::GivenUp => {}
            }
        }
        self.tend(now);
    }

    fn on_sa_due(&mut self, now: Time, own: IkeSpi, sa: Sa) {
        let jitter = self.jitter();
        match sa {
            Sa::InitSent(mut sent) => {
                let (tunnel, remote) = (sent.place.tunnel, sent.place.remote);
                match sent.ladder.step(now, jitter) {
                    Step::Wait => {
                        self.sas.insert(own, Sa::InitSent(sent));
                    }
                    Step::Again(transmit) => {
                        self.out.transmits.push_back(transmit);
                        let copies = sent.ladder.sent();
                        self.sas.insert(own, Sa::InitSent(sent));
                        if copies == limits::COPIES_BEFORE_NEWS {
                            self.note(tunnel, limits::silent_at_init(now, remote));
                        }
                    }
                    Step::GiveUp => {
                        let failure = sent
                            .refusal
                            .unwrap_or_else(|| limits::silent_at_init(now, remote));
                        self.on_attempt_failed(tunnel, Failure { at: now, ..failure });
                    }
                }
            }
            Sa::AuthSent(mut sent) => {
                let (tunnel, remote) = (sent.keyed.place.tunnel, sent.keyed.place.remote);
                match sent.ladder.step(now, jitter) {
                    Step::Wait => {
                        self.sas.insert(own, Sa::AuthSent(sent));
                    }
                    Step::Again(transmit) => {
                        self.out.transmits.push_back(transmit);
                        let copies = sent.ladder.sent();
                        self.sas.insert(own, Sa::AuthSent(sent));
                        if copies == limits::COPIES_BEFORE_NEWS {
                            self.note(tunnel, limits::silent_at_auth(now, remote));
                        }
                    }
                    Step::GiveUp => {
                        self.on_attempt_failed(tunnel, limits::silent_at_auth(now, remote))
                    }
                }
            }
            Sa::HalfOpen(half_open) => {
                if now < half_open.expires {
                    self.sas.insert(own, Sa::HalfOpen(half_open));
                }
            }
            Sa::Remnant(remnant) => {
                if now < remnant.expires {
                    self.sas.insert(own, Sa::Remnant(remnant));
                }
            }
            Sa::Established(mut sa) => {
                let was_open = sa.is_open();
                let (tunnel, lived) = (sa.tunnel(), now.since(sa.established()));
                let mut cx = cx(now, &mut self.rng, &mut self.out);
                let fate = sa.on_timeout(&mut cx);
                let closing = was_open && !sa.is_open();
                self.after(now, own, sa, fate);
                // The traffic is without an SA from the DELETE on, not only from its answer.
                if closing {
                    self.on_lost(now, tunnel, lived);
                }
            }
        }
    }

    // Commands.

    /// Does what the rest of the program asks.
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
                let wants = self.tunnels.get(&id).is_some_and(|tunnel| {
                    tunnel.wish == Wish::Serve
                        && tunnel.settings.start == Start::Trap
                        && tunnel.plan == Plan::Rest
                        && tunnel.not_before <= now
                });
                if wants && self.established(id).next().is_none() {
                    self.connect(now, id);
                }
            }
            Command::Resolved { tunnel, address } => self.on_resolved(now, tunnel, address),
            Command::Heard { tunnel, at } => {
                self.established_mut(tunnel).for_each(|sa| sa.heard(at))
            }
            Command::Sent { tunnel, at } => self.established_mut(tunnel).for_each(|sa| sa.sent(at)),
            Command::InstallFailed {
                tunnel,
                spi_in,
                why,
            } => {
                self.note(tunnel, limits::not_installed(now, why));
                self.give_up_child(now, tunnel, spi_in, DownReason::Useless);
            }
            Command::SequenceExhausted { tunnel, spi_in } => {
                self.give_up_child(now, tunnel, spi_in, DownReason::Expired);
            }
            Command::Shutdown => {
                let all: Vec<TunnelId> = self.tunnels.keys().copied().collect();
                for id in all {
                    self.down(now, id);
                }
            }
        }
        self.tend(now);
    }

    fn up(&mut self, now: Time, id: TunnelId) {
        let Some(tunnel) = self.tunnels.get_mut(&id) else {
            return;
        };
        tunnel.wish = Wish::Serve;
        tunnel.failures = 0;
        let idle = match tunnel.plan {
            Plan::Rest | Plan::Retry { .. } | Plan::GivenUp => true,
            Plan::Resolving { .. } | Plan::Attempt => false,
        };
        if idle && self.established(id).next().is_none() {
            self.connect(now, id);
        }
    }

    fn down(&mut self, now: Time, id: TunnelId) {
        if let Some(tunnel) = self.tunnels.get_mut(&id) {
            tunnel.wish = Wish::Down;
            tunnel.plan = Plan::Rest;
        }
        // An IKE_AUTH on its way may already stand at the peer: it is closed when the answer comes.
        self.sas.retain(|_, sa| match sa {
            Sa::InitSent(sent) => sent.place.tunnel != id,
            Sa::HalfOpen(half_open) => half_open.keyed.place.tunnel != id,
            Sa::AuthSent(_) | Sa::Established(_) | Sa::Remnant(_) => true,
        });
        let mut cx = cx(now, &mut self.rng, &mut self.out);
        for sa in self.sas.values_mut() {
            match sa {
                Sa::Established(sa) if sa.tunnel() == id => {
                    sa.close(DownReason::Asked, None, &mut cx)
                }
                Sa::Established(_)
                | Sa::InitSent(_)
                | Sa::AuthSent(_)
                | Sa::HalfOpen(_)
                | Sa::Remnant(_) => {}
            }
        }
    }

    fn on_resolved(&mut self, now: Time, id: TunnelId, address: Option<IpAddr>) {
        let Some(tunnel) = self.tunnels.get_mut(&id) else {
            return;
        };
        let aim = match tunnel.plan {
            Plan::Resolving { aim, .. } => aim,
            Plan::Rest | Plan::Attempt | Plan::Retry { .. } | Plan::GivenUp => return,
        };
        let peer = tunnel.settings.peer.to_string();
        match (address, aim) {
            (Some(address), Aim::Connect) => {
                tunnel.address = Some(address);
                self.begin(now, id);
            }
            (Some(address), Aim::Recognise) => {
                tunnel.address = Some(address);
                tunnel.plan = Plan::Rest;
            }
            (None, _) => {
                self.on_attempt_failed(id, limits::unresolved(now, &peer));
                if aim == Aim::Recognise {
                    self.set_plan(id, Plan::Rest);
                }
            }
        }
    }

    fn give_up_child(&mut self, now: Time, tunnel: TunnelId, spi_in: u32, reason: DownReason) {
        let mut cx = cx(now, &mut self.rng, &mut self.out);
        for sa in self.sas.values_mut() {
            match sa {
                Sa::Established(sa) if sa.tunnel() == tunnel => {
                    sa.give_up_child(spi_in, reason, &mut cx)
                }
                Sa::Established(_)
                | Sa::InitSent(_)
                | Sa::AuthSent(_)
                | Sa::HalfOpen(_)
                | Sa::Remnant(_) => {}
            }
        }
    }

    /// Brings the states that status reports show up to date.
    fn tend(&mut self, now: Time) {
        let up: std::collections::BTreeSet<TunnelId> = self
            .sas
            .values()
            .filter_map(|sa| match sa {
                Sa::Established(sa) if sa.is_open() && sa.child().is_some() => Some(sa.tunnel()),
                Sa::Established(_)
                | Sa::InitSent(_)
                | Sa::AuthSent(_)
                | Sa::HalfOpen(_)
                | Sa::Remnant(_) => None,
            })
            .collect();
        for (id, tunnel) in &mut self.tunnels {
            let state = tunnel.current_state(up.contains(id));
            if state != tunnel.state.0 {
                tunnel.state = (state, now);
            }
        }
    }

    fn jitter(&mut self) -> u8 {
        let [byte] = self.rng.bytes::<1>();
        byte
    }

    fn fresh_spi(&mut self) -> IkeSpi {
        loop {
            let spi = IkeSpi(self.rng.u64());
            if !spi.is_zero() && !self.sas.contains_key(&spi) {
                return spi;
            }
        }
    }
}

/// An ESP SPI that no SA of ours uses; the first 256 are reserved (RFC 4303 §2.1).
fn fresh_child_spi(sas: &BTreeMap<IkeSpi, Sa>, rng: &mut Generator) -> u32 {
    loop {
        let spi = rng.u32();
        let taken = sas.values().any(|sa| match sa {
            Sa::Established(sa) => sa.child().is_some_and(|child| child.spi_in == spi),
            Sa::AuthSent(sent) => sent.spi_in == spi,
            Sa::InitSent(_) | Sa::HalfOpen(_) | Sa::Remnant(_) => false,
        });
        if spi > 255 && !taken {
            return spi;
        }
    }
}

impl Sa {
    fn next_timer(&self) -> Time {
        match self {
            Sa::InitSent(sent) => sent.ladder.due(),
            Sa::AuthSent(sent) => sent.ladder.due(),
            Sa::HalfOpen(half_open) => half_open.expires,
            Sa::Established(sa) => sa.next_timer(),
            Sa::Remnant(remnant) => remnant.expires,
        }
    }
}

fn cx<'a>(now: Time, rng: &'a mut Generator, out: &'a mut Output) -> Context<'a> {
    Context { now, rng, out }
}

/// For steps that set no timer.
fn cx_without_time<'a>(rng: &'a mut Generator, out: &'a mut Output) -> Context<'a> {
    cx(Time::ZERO, rng, out)
}
