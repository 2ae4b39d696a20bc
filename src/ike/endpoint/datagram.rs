//! Datagrams: which SA they belong to, and what becomes of those that belong to none.
//!
//! ```text
//!  header ─┬─ another version ──▶ told so, at a limited rate
//!          ├─ IKE_SA_INIT request ──▶ peer? ──▶ the same again? ──▶ room? ──▶ cookie? ──▶ payloads ──▶ key exchange: a half-open SA
//!          └─ anything else ──▶ an SA of ours? ──▶ payloads ──▶ its state ──▶ its keys
//! ```

use std::net::IpAddr;

use super::{Endpoint, Sa, cx, fresh_child_spi};
use crate::ike::census::{Acquaintance, Entrance, Proof};
use crate::ike::cookie::Bearer;
use crate::ike::event::{Content, Datagram, Event, Transmit};
use crate::ike::exchange::auth;
use crate::ike::exchange::init::{self, Answered};
use crate::ike::exchange::intermediate;
use crate::ike::failure::Failure;
use crate::ike::handshake::{Awaits, HalfOpen, Place};
use crate::ike::limits;
use crate::ike::refused::Refused;
use crate::ike::sa::Fate;
use crate::ike::settings::TunnelId;
use crate::ike::tunnel::Wish;
use crate::ike::window;
use crate::net::Time;
use crate::wire::{ChainError, ExchangeType, Header, IkeSpi, Message, Notify, NotifyType, Opening};

impl Endpoint {
    /// Takes a received IKE message.
    pub fn handle_datagram(&mut self, now: Time, datagram: Datagram<'_>) {
        match Header::parse(datagram.bytes) {
            Err(_) => self.out.refused.count(Refused::Malformed),
            Ok(header) if header.major != 2 => self.on_other_version(now, header, datagram),
            Ok(header)
                if header.exchange == ExchangeType::IKE_SA_INIT && !header.flags.response =>
            {
                self.on_init_request(now, header, datagram);
            }
            Ok(header) => self.on_message_of_sa(now, header, datagram),
        }
        if let Some((class, count)) = self.out.refused.news(now) {
            self.out.events.push_back(Event::Refused {
                class,
                remote: datagram.remote,
                count,
            });
        }
    }

    /// RFC 7296 §2.5: a request of another major version is worth an answer, at a limited rate.
    fn on_other_version(&mut self, now: Time, header: Header, datagram: Datagram<'_>) {
        self.out.refused.count(Refused::WrongVersion);
        if !header.flags.response && self.replies.take(now) {
            let notify = Notify::new(NotifyType::INVALID_MAJOR_VERSION, Vec::new());
            self.reply_in_clear(init::refuse(header.spi_i, notify), datagram);
        }
    }

    /// Answers somebody who has proved nothing: never with more than we got.
    fn reply_in_clear(&mut self, answer: Option<Vec<u8>>, datagram: Datagram<'_>) {
        if let Some(bytes) = answer
            && bytes.len() <= datagram.bytes.len()
        {
            self.reply(bytes, datagram);
        }
    }

    fn reply(&mut self, bytes: Vec<u8>, datagram: Datagram<'_>) {
        self.out.transmits.push_back(Transmit {
            local: datagram.local,
            remote: datagram.remote,
            content: Content::Ike(bytes),
        });
    }

    /// Somebody wants to begin. Whoever that is may be forged, so what costs more comes later: lookups, then the limits, then the cookie, and only then the
    /// payloads and the key exchange.
    fn on_init_request(&mut self, now: Time, header: Header, datagram: Datagram<'_>) {
        let begins = header.flags.initiator
            && header.message_id.0 == 0
            && header.spi_r.is_zero()
            && !header.spi_i.is_zero();
        // An SPI that we have drawn ourselves: somebody shows us our own request, and would have us connected with ourselves.
        let reflected = self.sas.contains_key(&header.spi_i);
        if !begins || reflected {
            return self.out.refused.count(Refused::Stray);
        }
        let Some(id) = self.tunnel_between(datagram.local.ip(), datagram.remote.ip()) else {
            return self.on_stranger(now, header.spi_i, datagram);
        };
        if let Some(Sa::HalfOpen(half_open)) = self.sas.half_open(datagram.remote, header.spi_i) {
            // RFC 7296 §2.1: the same bytes get the same bytes back; other bytes under the same SPI get nothing.
            if half_open.keyed.init_request == datagram.bytes {
                let response = half_open.keyed.init_response.clone();
                self.reply(response, datagram);
            } else {
                self.out.refused.count(Refused::Stray);
            }
            return;
        }
        if self.sas.is_past_handshake(header.spi_i) {
            return self.out.refused.count(Refused::Stray);
        }
        match self.tunnels.get(&id).map(|tunnel| tunnel.wish) {
            Some(Wish::Serve) => {}
            // Somebody has asked for that, so it is nothing to tell.
            Some(Wish::Down) | None => {
                return self.decline(now, id, no_proposal_chosen(header.spi_i), None, datagram);
            }
        }
        let Some(proof) = self.admit(now, id, header.spi_i, datagram) else {
            return;
        };
        match Message::parse(datagram.bytes) {
            Ok(message) => self.begin_with_peer(now, id, &message, proof, datagram),
            Err(ChainError::UnsupportedCritical(kind)) => {
                let notify = Notify::new(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, vec![kind.0]);
                let answer = init::refuse(header.spi_i, notify);
                self.decline(now, id, answer, None, datagram);
            }
            Err(ChainError::Malformed(_) | ChainError::MajorVersion(_)) => {
                self.out.refused.count(Refused::Malformed);
            }
        }
    }

    /// Whether there is room for one more handshake from there, and what its sender has shown for it. If he has yet to show that he receives at his address,
    /// he is told how: with a cookie, which costs us nothing to make or to check, so that no limit on answers can keep it from the one who needs it.
    fn admit(
        &mut self,
        now: Time,
        id: TunnelId,
        spi_i: IkeSpi,
        datagram: Datagram<'_>,
    ) -> Option<Proof> {
        let standing = self.sas.standing(id);
        let peer = match standing {
            0 => Acquaintance::New,
            _ => Acquaintance::Established,
        };
        let entrance = match standing {
            limits::MOST_OF_TUNNEL.. => Entrance::Closed,
            _ => self
                .sas
                .census()
                .entrance(datagram.remote.ip().into(), peer),
        };
        match entrance {
            Entrance::Open => return Some(Proof::None),
            Entrance::ForCookies => {}
            Entrance::Closed => {
                self.out.refused.count(Refused::HalfOpenFull);
                return None;
            }
        }
        let Ok(opening) = Opening::read(datagram.bytes) else {
            self.out.refused.count(Refused::Malformed);
            return None;
        };
        let bearer = Bearer {
            remote: datagram.remote,
            spi_i,
            nonce: opening.nonce,
        };
        let cookie = opening.cookie.unwrap_or_default();
        if self.cookies.is_valid(now, cookie, bearer) {
            return Some(Proof::Cookie);
        }
        self.out.refused.count(Refused::CookieAsked);
        let cookie = self.cookies.bake(now, bearer, &mut self.rng);
        let notify = Notify::new(NotifyType::COOKIE, cookie);
        self.reply_in_clear(init::refuse(spi_i, notify), datagram);
        None
    }

    /// Makes a half-open SA of a request, or refuses it.
    fn begin_with_peer(
        &mut self,
        now: Time,
        id: TunnelId,
        message: &Message<'_>,
        proof: Proof,
        datagram: Datagram<'_>,
    ) {
        let Some(tunnel) = self.tunnels.get(&id) else {
            return;
        };
        let place = Place {
            tunnel: id,
            settings: tunnel.settings.clone(),
            local: datagram.local,
            remote: datagram.remote,
            started: now,
        };
        let spi_r = self.fresh_spi();
        let patience = self.sas.census().life(datagram.remote.ip().into());
        let mut cx = cx(now, &mut self.rng, &mut self.out);
        match init::respond(place, spi_r, message, proof, patience, &mut cx) {
            Answered::HalfOpen(half_open) => {
                self.reply(half_open.keyed.init_response.clone(), datagram);
                self.sas.insert(spi_r, Sa::HalfOpen(half_open));
                match proof {
                    Proof::None => self.sas.hurry(),
                    // It came under load, so the others have been hurried before.
                    Proof::Cookie => {}
                }
            }
            Answered::Refused { answer, failure } => {
                self.decline(now, id, answer, failure, datagram);
            }
        }
    }

    /// Refuses a peer's request to begin, at a limited rate.
    fn decline(
        &mut self,
        now: Time,
        id: TunnelId,
        answer: Option<Vec<u8>>,
        failure: Option<Failure>,
        datagram: Datagram<'_>,
    ) {
        self.out.refused.count(Refused::Declined);
        let tunnel = self.tunnels.get_mut(&id);
        if tunnel.is_some_and(|tunnel| tunnel.replies.take(now)) {
            if let Some(failure) = failure {
                self.note_unless_up(id, failure);
            }
            self.reply_in_clear(answer, datagram);
        }
    }

    /// A message of an IKE SA, or said to be.
    fn on_message_of_sa(&mut self, now: Time, header: Header, datagram: Datagram<'_>) {
        let own = if header.flags.initiator {
            header.spi_r
        } else {
            header.spi_i
        };
        let expects_clear = match self.sas.get(&own) {
            None => return self.out.refused.count(Refused::UnknownSpi),
            Some(Sa::InitSent(_)) => true,
            Some(
                Sa::IntermediateSent(_)
                | Sa::AuthSent(_)
                | Sa::HalfOpen(_)
                | Sa::Established(_)
                | Sa::Remnant(_),
            ) => false,
        };
        let Ok(message) = Message::parse(datagram.bytes) else {
            return self.out.refused.count(Refused::Malformed);
        };
        if message.sealed.is_none() != expects_clear {
            return self.out.refused.count(Refused::Stray);
        }
        if let Some(sa) = self.sas.remove(&own) {
            self.on_message(now, own, sa, &message, datagram);
        }
        self.tend(now);
    }

    /// Somebody knocks who belongs to no tunnel.
    fn on_stranger(&mut self, now: Time, spi_i: IkeSpi, datagram: Datagram<'_>) {
        self.out.refused.count(Refused::UnknownPeer);
        if self.replies.take(now) {
            self.out.events.push_back(Event::Failed {
                tunnel: None,
                failure: limits::unknown_peer(now, datagram),
            });
            self.reply_in_clear(no_proposal_chosen(spi_i), datagram);
        }
    }

    /// The tunnel of a peer: by both addresses, or by the peer's alone where the tunnel leaves ours open.
    fn tunnel_between(&self, local: IpAddr, remote: IpAddr) -> Option<TunnelId> {
        let of_peer = || {
            self.tunnels
                .iter()
                .filter(move |(_, tunnel)| tunnel.address == Some(remote))
        };
        of_peer()
            .find(|(_, tunnel)| tunnel.settings.local == local)
            .or_else(|| of_peer().find(|(_, tunnel)| tunnel.settings.local.is_unspecified()))
            .map(|(id, _)| *id)
    }

    pub(super) fn on_message(
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
                    && datagram.remote == sent.place.remote;
                if !is_answer {
                    self.sas.insert(own, Sa::InitSent(sent));
                    return self.out.refused.count(Refused::Stray);
                }
                let tunnel = sent.place.tunnel;
                match sent.on_response(message, datagram, &mut cx) {
                    init::Progress::Waiting(sent) => {
                        let refusal = sent.refusal.clone();
                        self.sas.insert(own, Sa::InitSent(sent));
                        if let Some(failure) = refusal {
                            self.note_unless_up(tunnel, failure);
                        }
                    }
                    init::Progress::Keyed(keyed) => self.go_on(now, own, *keyed),
                    init::Progress::Failed(failure) => self.on_attempt_failed(tunnel, failure),
                }
            }
            Sa::IntermediateSent(sent) => {
                if !sent.awaits(&header) {
                    self.sas.insert(own, Sa::IntermediateSent(sent));
                    return self.out.refused.count(Refused::Stray);
                }
                let tunnel = sent.keyed.place.tunnel;
                match sent.on_response(message, &mut cx) {
                    intermediate::Progress::Waiting(sent) => {
                        self.sas.insert(own, Sa::IntermediateSent(sent));
                    }
                    intermediate::Progress::Keyed(keyed) => self.authenticate(now, own, *keyed),
                    intermediate::Progress::Failed(failure) => {
                        self.on_attempt_failed(tunnel, failure);
                    }
                }
            }
            Sa::AuthSent(sent) => {
                let is_answer = header.exchange == ExchangeType::IKE_AUTH
                    && header.flags.response
                    && header.message_id == sent.keyed.intermediates.auth_id()
                    && header.spi_r == sent.keyed.spi_r;
                if !is_answer {
                    self.sas.insert(own, Sa::AuthSent(sent));
                    return self.out.refused.count(Refused::Stray);
                }
                let (tunnel, purpose) = (sent.keyed.place.tunnel, sent.purpose);
                match sent.on_response(message, &mut cx) {
                    auth::Progress::Waiting(sent) => {
                        self.sas.insert(own, Sa::AuthSent(sent));
                    }
                    auth::Progress::Concluded(concluded) => {
                        self.on_own_attempt_concluded(now, tunnel, own, purpose, concluded)
                    }
                }
            }
            Sa::HalfOpen(half_open) => self.on_handshake(now, own, half_open, message, datagram),
            Sa::Established(sa) => self.step(now, own, sa, |sa, cx| {
                if sa.spis() == (header.spi_i, header.spi_r) {
                    sa.on_message(message, datagram, cx)
                } else {
                    cx.refuse(Refused::Stray);
                    Fate::Lives
                }
            }),
            Sa::Remnant(remnant) => {
                match remnant.received.classify(header.message_id, datagram.bytes) {
                    window::Request::Repeated(response) => {
                        self.out.send(datagram.local, datagram.remote, &response);
                    }
                    // Whether a request cut otherwise is the same could be told only with the keys, which are gone.
                    window::Request::New | window::Request::Recut(_) | window::Request::Stray => {
                        self.out.refused.count(Refused::Stray);
                    }
                }
                self.sas.insert(own, Sa::Remnant(remnant));
            }
        }
    }

    /// A message for a half-open SA: the next request of its handshake, the last one again, or nothing.
    fn on_handshake(
        &mut self,
        now: Time,
        own: IkeSpi,
        half_open: Box<HalfOpen>,
        message: &Message<'_>,
        datagram: Datagram<'_>,
    ) {
        let header = message.header;
        let mut cx = cx(now, &mut self.rng, &mut self.out);
        if header.flags.response || header.spi_i != half_open.keyed.spi_i {
            self.sas.insert(own, Sa::HalfOpen(half_open));
            return self.out.refused.count(Refused::Stray);
        }
        let is_next = half_open
            .received
            .classify(header.message_id, datagram.bytes)
            == window::Request::New;
        let tunnel = half_open.keyed.place.tunnel;
        match half_open.awaits {
            Awaits::Intermediate(method)
                if is_next && header.exchange == ExchangeType::IKE_INTERMEDIATE =>
            {
                match half_open.on_intermediate(method, message, datagram, &mut cx) {
                    intermediate::Answered::HalfOpen(half_open) => {
                        self.sas.insert(own, Sa::HalfOpen(half_open));
                    }
                    intermediate::Answered::Refused { failure, remnant } => {
                        self.on_peers_attempt_refused(tunnel, own, failure, Some(remnant));
                    }
                }
            }
            Awaits::Auth if is_next && header.exchange == ExchangeType::IKE_AUTH => {
                let spi_in = fresh_child_spi(&self.sas, cx.rng);
                match half_open.on_request(message, datagram, spi_in, &mut cx) {
                    Err(half_open) => {
                        self.sas.insert(own, Sa::HalfOpen(half_open));
                    }
                    Ok(concluded) => self.on_peers_attempt_concluded(now, tunnel, own, concluded),
                }
            }
            Awaits::Intermediate(_) | Awaits::Auth => {
                half_open.repeat(message, datagram, &mut cx);
                self.sas.insert(own, Sa::HalfOpen(half_open));
            }
        }
    }
}

fn no_proposal_chosen(spi_i: IkeSpi) -> Option<Vec<u8>> {
    init::refuse(
        spi_i,
        Notify::new(NotifyType::NO_PROPOSAL_CHOSEN, Vec::new()),
    )
}
