//! Datagrams: which SA they belong to, and what becomes of those that belong to none.

use std::net::IpAddr;

use super::{Endpoint, Sa, cx, fresh_child_spi};
use crate::ike::event::{Content, Datagram, Event, Role, Transmit};
use crate::ike::exchange::auth;
use crate::ike::exchange::init::{self, Answered};
use crate::ike::handshake::Place;
use crate::ike::limits;
use crate::ike::sa::Fate;
use crate::ike::settings::TunnelId;
use crate::ike::tunnel::Wish;
use crate::ike::window;
use crate::net::Time;
use crate::wire::{ChainError, ExchangeType, Header, IkeSpi, Message, Notify, NotifyType};

impl Endpoint {
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
    pub(super) fn on_unreadable(&mut self, now: Time, error: &ChainError, datagram: Datagram<'_>) {
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
        if self.replies.take(now) {
            self.reply_in_clear(init::refuse(header.spi_i, notify), datagram);
        }
    }

    /// Answers somebody who has proved nothing: never with more than we got, and only for a token of a [`limits::Bucket`].
    fn reply_in_clear(&mut self, answer: Option<Vec<u8>>, datagram: Datagram<'_>) {
        if let Some(bytes) = answer
            && bytes.len() <= datagram.bytes.len()
        {
            self.out.transmits.push_back(Transmit {
                local: datagram.local,
                remote: datagram.remote,
                content: Content::Ike(bytes),
            });
        }
    }

    pub(super) fn on_init_request(
        &mut self,
        now: Time,
        message: &Message<'_>,
        datagram: Datagram<'_>,
    ) {
        let header = message.header;
        let begins = header.flags.initiator
            && header.message_id.0 == 0
            && header.spi_r.is_zero()
            && !header.spi_i.is_zero()
            && message.sealed.is_none();
        if !begins {
            return;
        }
        let tunnel = self.tunnel_between(datagram.local.ip(), datagram.remote.ip());
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
                Sa::Established(sa) if Some(sa.tunnel()) == tunnel => census.count_established(),
                Sa::Established(_) | Sa::InitSent(_) | Sa::AuthSent(_) | Sa::Remnant(_) => {}
            }
        }
        let Some((id, tunnel)) = tunnel.and_then(|id| Some((id, self.tunnels.get_mut(&id)?)))
        else {
            return self.on_stranger(now, header.spi_i, datagram);
        };
        match tunnel.wish {
            Wish::Serve if census.has_room() => {}
            Wish::Serve => return,
            // Somebody has asked for that, so it is nothing to tell.
            Wish::Down => {
                if tunnel.replies.take(now) {
                    self.reply_in_clear(no_proposal_chosen(header.spi_i), datagram);
                }
                return;
            }
        }
        let place = Place {
            tunnel: id,
            settings: tunnel.settings.clone(),
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
                let tunnel = self.tunnels.get_mut(&id);
                if tunnel.is_some_and(|tunnel| tunnel.replies.take(now)) {
                    if let Some(failure) = failure {
                        self.note_unless_up(id, failure);
                    }
                    self.reply_in_clear(answer, datagram);
                }
            }
        }
    }

    /// Somebody knocks who belongs to no tunnel.
    fn on_stranger(&mut self, now: Time, spi_i: IkeSpi, datagram: Datagram<'_>) {
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
                            self.note_unless_up(tunnel, failure);
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
            Sa::Established(sa) => self.step(now, own, sa, |sa, cx| {
                if sa.spis() == (header.spi_i, header.spi_r) {
                    sa.on_message(message, datagram, cx)
                } else {
                    Fate::Lives
                }
            }),
            Sa::Remnant(remnant) => {
                if let window::Request::Repeated(response) =
                    remnant.received.classify(header.message_id, datagram.bytes)
                {
                    self.out.send(datagram.local, datagram.remote, &response);
                }
                self.sas.insert(own, Sa::Remnant(remnant));
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
