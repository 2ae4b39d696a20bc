//! Received datagrams: lookup of the IKE SA, IKE_SA_INIT requests, and messages without an SA.
//!
//! ```text
//!  header ─┬─ another version ──▶ INVALID_MAJOR_VERSION, rate-limited
//!          ├─ IKE_SA_INIT request ──▶ peer? ──▶ repeated? ──▶ limits? ──▶ cookie? ──▶ payloads ──▶ key exchange: a half-open SA
//!          └─ anything else ──▶ IKE SA? ──▶ payloads ──▶ its state ──▶ its keys
//! ```

use super::sas::Sa;
use super::{Endpoint, cx, fresh_child_spi};
use crate::ike::cookie::CookieInput;
use crate::ike::event::{Content, Datagram, Event, Transmit};
use crate::ike::exchange::auth::{self, AuthSent};
use crate::ike::exchange::init::{self, InitSent};
use crate::ike::exchange::init_responder::{self, Awaits, HalfOpen, RequestOutcome};
use crate::ike::exchange::intermediate::{self, IntermediateSent};
use crate::ike::failure::Failure;
use crate::ike::half_open::{Admission, PeerStatus, ReturnRoutability, Source};
use crate::ike::init_result::Connection;
use crate::ike::limits;
use crate::ike::settings::TunnelId;
use crate::ike::tunnel::AdminState;
use crate::ike::unauthenticated::DropClass;
use crate::ike::window::{self, LastResponse};
use crate::net::Time;
use crate::wire::{
    ChainError, ExchangeType, Header, IkeSpi, InitPeek, Message, Notify, NotifyType,
};

impl Endpoint {
    /// Takes a received IKE message.
    pub fn handle_datagram(&mut self, now: Time, datagram: Datagram<'_>) {
        match Header::parse(datagram.bytes) {
            Err(_) => self.out.drops.count(DropClass::Malformed),
            Ok(header) if header.major != 2 => self.on_other_version(now, header, datagram),
            Ok(header)
                if header.exchange == ExchangeType::IKE_SA_INIT && !header.flags.response =>
            {
                self.on_init_request(now, header, datagram);
            }
            Ok(header) => self.on_message_of_sa(now, header, datagram),
        }
        if let Some((class, count)) = self.out.drops.poll_report(now) {
            self.out.events.push_back(Event::Dropped {
                class,
                remote: datagram.remote,
                count,
            });
        }
    }

    /// Answers a request of another major version, at a limited rate (RFC 7296 §2.5).
    fn on_other_version(&mut self, now: Time, header: Header, datagram: Datagram<'_>) {
        self.out.drops.count(DropClass::WrongVersion);
        if !header.flags.response && self.replies.allow(now) {
            let notify = Notify::new(NotifyType::INVALID_MAJOR_VERSION, Vec::new());
            self.reply_in_clear(init_responder::rejection(header.spi_i, notify), datagram);
        }
    }

    /// Answers an unauthenticated message. The answer is never longer than the message.
    fn reply_in_clear(&mut self, response: Option<Vec<u8>>, datagram: Datagram<'_>) {
        if let Some(bytes) = response
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

    /// Handles an IKE_SA_INIT request. The source may be spoofed, so the checks are ordered by cost: lookups, limits, cookie,
    /// payloads, key exchange.
    fn on_init_request(&mut self, now: Time, header: Header, datagram: Datagram<'_>) {
        let is_valid = header.flags.initiator
            && header.message_id.0 == 0
            && header.spi_r.is_zero()
            && !header.spi_i.is_zero();
        // The SPI is one of ours: our own request was reflected to us, and answering it would connect us with ourselves.
        let reflected = self.sas.contains_key(&header.spi_i);
        if !is_valid || reflected {
            return self.out.drops.count(DropClass::Stray);
        }
        let Some(id) = self
            .tunnels
            .between(datagram.local.ip(), datagram.remote.ip())
        else {
            return self.on_unknown_peer(now, header.spi_i, datagram);
        };
        if let Some(Sa::HalfOpen(half_open)) = self.sas.half_open(datagram.remote, header.spi_i) {
            // RFC 7296 §2.1: identical bytes get the identical response; other bytes with the same SPI are dropped.
            if half_open.init.init_request == datagram.bytes {
                let response = half_open.init.init_response.clone();
                self.reply(response, datagram);
            } else {
                self.out.drops.count(DropClass::Stray);
            }
            return;
        }
        if self.sas.is_past_handshake(header.spi_i) {
            return self.out.drops.count(DropClass::Stray);
        }
        match self.tunnels.get(&id).map(|tunnel| tunnel.admin) {
            Some(AdminState::Up) => {}
            // The operator has disconnected the tunnel: no failure is reported. NO_PROPOSAL_CHOSEN would have the peer's operator compare proposals.
            Some(AdminState::Down) | None => {
                let notify = Notify::new(NotifyType::TEMPORARY_FAILURE, Vec::new());
                let response = init_responder::rejection(header.spi_i, notify);
                return self.reject_init(now, id, response, None, datagram);
            }
        }
        let Some(routability) = self.admit(now, id, header.spi_i, datagram) else {
            return;
        };
        match Message::parse(datagram.bytes) {
            Ok(message) => self.create_half_open(now, id, &message, routability, datagram),
            Err(ChainError::UnsupportedCritical(kind)) => {
                let notify = Notify::new(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, vec![kind.0]);
                let response = init_responder::rejection(header.spi_i, notify);
                self.reject_init(now, id, response, None, datagram);
            }
            Err(ChainError::Malformed(_) | ChainError::MajorVersion(_)) => {
                self.out.drops.count(DropClass::Malformed);
            }
        }
    }

    /// Admission of an IKE_SA_INIT request, and the return routability that it has shown. If a cookie is required, the response
    /// carries one. Generating and checking a cookie needs no state, so cookie responses are not rate-limited.
    fn admit(
        &mut self,
        now: Time,
        id: TunnelId,
        spi_i: IkeSpi,
        datagram: Datagram<'_>,
    ) -> Option<ReturnRoutability> {
        let established_count = self.sas.established_count(id);
        let peer = match established_count {
            0 => PeerStatus::New,
            _ => PeerStatus::Established,
        };
        let source = Source::from(datagram.remote.ip());
        let admission = match established_count {
            limits::MAX_OF_TUNNEL.. => Admission::Reject,
            _ => {
                self.sas
                    .half_open_table()
                    .admission(source, peer, self.tunnels.configured(source))
            }
        };
        match admission {
            Admission::Accept => return Some(ReturnRoutability::None),
            Admission::RequireCookie => {}
            Admission::Reject => {
                self.out.drops.count(DropClass::HalfOpenFull);
                return None;
            }
        }
        let Ok(peek) = InitPeek::read(datagram.bytes) else {
            self.out.drops.count(DropClass::Malformed);
            return None;
        };
        let input = CookieInput {
            remote: datagram.remote,
            spi_i,
            nonce: peek.nonce,
        };
        let cookie = peek.cookie.unwrap_or_default();
        if self.cookies.is_valid(now, cookie, input) {
            return Some(ReturnRoutability::Cookie);
        }
        self.out.drops.count(DropClass::CookieAsked);
        let cookie = self.cookies.generate(now, input, &mut self.rng);
        let notify = Notify::new(NotifyType::COOKIE, cookie);
        self.reply_in_clear(init_responder::rejection(spi_i, notify), datagram);
        None
    }

    /// Creates a half-open SA for a request, or rejects the request.
    fn create_half_open(
        &mut self,
        now: Time,
        id: TunnelId,
        message: &Message<'_>,
        routability: ReturnRoutability,
        datagram: Datagram<'_>,
    ) {
        let Some(tunnel) = self.tunnels.get(&id) else {
            return;
        };
        let conn = Connection {
            tunnel: id,
            settings: tunnel.settings.clone(),
            local: datagram.local,
            remote: datagram.remote,
            started: now,
        };
        let spi_r = self.fresh_spi();
        let patience = self.sas.half_open_table().life(datagram.remote.ip().into());
        let mut cx = cx(now, &mut self.rng, &mut self.out);
        match init_responder::respond(conn, spi_r, message, routability, patience, &mut cx) {
            RequestOutcome::HalfOpen(half_open) => {
                self.reply(half_open.init.init_response.clone(), datagram);
                self.sas.insert(spi_r, Sa::HalfOpen(half_open));
                match routability {
                    ReturnRoutability::None => self.sas.shorten_lifetimes(),
                    // The request arrived under load, so the lifetimes of the others have already been shortened.
                    ReturnRoutability::Cookie => {}
                }
            }
            RequestOutcome::Rejected { response, failure } => {
                self.reject_init(now, id, response, failure, datagram);
            }
        }
    }

    /// Rejects an IKE_SA_INIT request, at a limited rate.
    fn reject_init(
        &mut self,
        now: Time,
        id: TunnelId,
        response: Option<Vec<u8>>,
        failure: Option<Failure>,
        datagram: Datagram<'_>,
    ) {
        self.out.drops.count(DropClass::Declined);
        let tunnel = self.tunnels.get_mut(&id);
        if tunnel.is_some_and(|tunnel| tunnel.replies.allow(now)) {
            if let Some(failure) = failure {
                self.record_failure_unless_up(id, failure);
            }
            self.reply_in_clear(response, datagram);
        }
    }

    /// Handles a message that carries the SPIs of an IKE SA.
    fn on_message_of_sa(&mut self, now: Time, header: Header, datagram: Datagram<'_>) {
        let own = if header.flags.initiator {
            header.spi_r
        } else {
            header.spi_i
        };
        let expects_clear = match self.sas.get(&own) {
            None => return self.out.drops.count(DropClass::UnknownSpi),
            Some(Sa::InitSent(_)) => true,
            Some(
                Sa::IntermediateSent(_)
                | Sa::AuthSent(_)
                | Sa::HalfOpen(_)
                | Sa::Established(_)
                | Sa::LastResponse(_),
            ) => false,
        };
        let Ok(message) = Message::parse(datagram.bytes) else {
            return self.out.drops.count(DropClass::Malformed);
        };
        if message.sealed.is_none() != expects_clear {
            // A peer answers each copy of a request: a second response is no fault.
            let is_repeated = !expects_clear && is_response_of(&header, ExchangeType::IKE_SA_INIT);
            if !is_repeated {
                self.out.drops.count(DropClass::Stray);
            }
            return;
        }
        if let Some(sa) = self.sas.remove(&own) {
            self.on_message(now, own, sa, &message, datagram);
        }
        self.update_states(now);
    }

    /// Reports an IKE_SA_INIT request from an address that belongs to no tunnel.
    fn on_unknown_peer(&mut self, now: Time, spi_i: IkeSpi, datagram: Datagram<'_>) {
        self.out.drops.count(DropClass::UnknownPeer);
        if self.replies.allow(now) {
            self.out.events.push_back(Event::Failed {
                tunnel: None,
                failure: limits::unknown_peer(now, datagram),
            });
            self.reply_in_clear(no_proposal_chosen(spi_i), datagram);
        }
    }

    pub(super) fn on_message(
        &mut self,
        now: Time,
        own: IkeSpi,
        sa: Sa,
        message: &Message<'_>,
        datagram: Datagram<'_>,
    ) {
        match sa {
            Sa::InitSent(sent) => self.on_init_response(now, own, sent, message, datagram),
            Sa::IntermediateSent(sent) => self.on_intermediate_response(now, own, sent, message),
            Sa::AuthSent(sent) => self.on_auth_response(now, own, sent, message),
            Sa::HalfOpen(half_open) => self.on_handshake(now, own, half_open, message, datagram),
            Sa::Established(sa) => {
                self.step(now, own, sa, |sa, cx| sa.on_message(message, datagram, cx));
            }
            Sa::LastResponse(last) => self.on_message_after_end(own, last, message, datagram),
        }
    }

    /// Handles a message for an SA that waits for its IKE_SA_INIT response.
    fn on_init_response(
        &mut self,
        now: Time,
        own: IkeSpi,
        sent: Box<InitSent>,
        message: &Message<'_>,
        datagram: Datagram<'_>,
    ) {
        let header = message.header;
        let is_response = is_response_of(&header, ExchangeType::IKE_SA_INIT)
            && header.message_id.0 == 0
            && datagram.remote == sent.conn.remote;
        if !is_response {
            self.sas.insert(own, Sa::InitSent(sent));
            return self.out.drops.count(DropClass::Stray);
        }
        let tunnel = sent.conn.tunnel;
        let mut cx = cx(now, &mut self.rng, &mut self.out);
        match sent.on_response(message, datagram, &mut cx) {
            init::Progress::Waiting(sent) => {
                let rejection = sent.rejection.clone();
                self.sas.insert(own, Sa::InitSent(sent));
                if let Some(failure) = rejection {
                    self.record_failure_unless_up(tunnel, failure);
                }
            }
            init::Progress::Done(init) => self.continue_handshake(now, own, *init),
            init::Progress::Failed(failure) => self.on_attempt_failed(tunnel, failure),
        }
    }

    /// Handles a message for an SA that waits for an IKE_INTERMEDIATE response.
    fn on_intermediate_response(
        &mut self,
        now: Time,
        own: IkeSpi,
        sent: Box<IntermediateSent>,
        message: &Message<'_>,
    ) {
        if !sent.awaits(&message.header) {
            self.sas.insert(own, Sa::IntermediateSent(sent));
            return self.out.drops.count(DropClass::Stray);
        }
        let tunnel = sent.init.conn.tunnel;
        let mut cx = cx(now, &mut self.rng, &mut self.out);
        match sent.on_response(message, &mut cx) {
            intermediate::Progress::Waiting(sent) => {
                self.sas.insert(own, Sa::IntermediateSent(sent));
            }
            intermediate::Progress::Done(init) => self.authenticate(now, own, *init),
            intermediate::Progress::Failed(failure) => self.on_attempt_failed(tunnel, failure),
        }
    }

    /// Handles a message for an SA that waits for its IKE_AUTH response.
    fn on_auth_response(
        &mut self,
        now: Time,
        own: IkeSpi,
        sent: Box<AuthSent>,
        message: &Message<'_>,
    ) {
        let header = message.header;
        let is_response = is_response_of(&header, ExchangeType::IKE_AUTH)
            && header.message_id == sent.init.intermediates.auth_id()
            && header.spi_r == sent.init.spi_r;
        if !is_response {
            self.sas.insert(own, Sa::AuthSent(sent));
            if !is_response_of(&header, ExchangeType::IKE_INTERMEDIATE) {
                self.out.drops.count(DropClass::Stray);
            }
            return;
        }
        let (tunnel, purpose) = (sent.init.conn.tunnel, sent.purpose);
        let mut cx = cx(now, &mut self.rng, &mut self.out);
        match sent.on_response(message, &mut cx) {
            auth::Progress::Waiting(sent) => {
                self.sas.insert(own, Sa::AuthSent(sent));
            }
            auth::Progress::Concluded(concluded) => {
                self.on_own_attempt_concluded(now, tunnel, own, purpose, concluded);
            }
        }
    }

    /// Handles a message for an SA that has ended: only a copy of its last request is answered. Recognising the same request in another
    /// fragmentation needs the keys, which have been deleted.
    fn on_message_after_end(
        &mut self,
        own: IkeSpi,
        last: Box<LastResponse>,
        message: &Message<'_>,
        datagram: Datagram<'_>,
    ) {
        match last
            .received
            .classify(message.header.message_id, datagram.bytes)
        {
            window::Request::Repeated(response) => {
                self.out.send(datagram.local, datagram.remote, &response);
            }
            window::Request::New | window::Request::Refragmented(_) | window::Request::Stray => {
                self.out.drops.count(DropClass::Stray);
            }
        }
        self.sas.insert(own, Sa::LastResponse(last));
    }

    /// Handles a message for a half-open SA: the next request of its handshake, or a repeated one.
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
        if header.flags.response || header.spi_i != half_open.init.spi_i {
            self.sas.insert(own, Sa::HalfOpen(half_open));
            return self.out.drops.count(DropClass::Stray);
        }
        let is_next = half_open
            .received
            .classify(header.message_id, datagram.bytes)
            == window::Request::New;
        let tunnel = half_open.init.conn.tunnel;
        match half_open.awaits {
            Awaits::Intermediate(method)
                if is_next && header.exchange == ExchangeType::IKE_INTERMEDIATE =>
            {
                match half_open.on_intermediate(method, message, datagram, &mut cx) {
                    intermediate::RequestOutcome::HalfOpen(half_open) => {
                        self.sas.insert(own, Sa::HalfOpen(half_open));
                    }
                    intermediate::RequestOutcome::Rejected {
                        failure,
                        last_response,
                    } => {
                        self.on_peers_attempt_refused(tunnel, own, failure, Some(last_response));
                    }
                }
            }
            Awaits::Auth if is_next && header.exchange == ExchangeType::IKE_AUTH => {
                let spi_in = fresh_child_spi(&self.sas, cx.rng);
                match half_open.on_auth(message, datagram, spi_in, &mut cx) {
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

fn is_response_of(header: &Header, exchange: ExchangeType) -> bool {
    header.flags.response && header.exchange == exchange
}

fn no_proposal_chosen(spi_i: IkeSpi) -> Option<Vec<u8>> {
    init_responder::rejection(
        spi_i,
        Notify::new(NotifyType::NO_PROPOSAL_CHOSEN, Vec::new()),
    )
}
