//! Requests of the peer: the window, decryption and the response (RFC 7296 §2.1 to §2.3, §2.25).

use super::ike_sa::{IkeSa, Phase};
use super::outbound_request::Direction;
use super::request_state::{Job, Offer};
use crate::ike::child_sa::PEER_DELETE_TIMEOUT;
use crate::ike::collision::Busy;
use crate::ike::context::Context;
use crate::ike::event::{Datagram, DownReason};
use crate::ike::out_message::{Datagrams, FragmentSize};
use crate::ike::protect::Opened;
use crate::ike::unauthenticated::DropClass;
use crate::ike::window::{self, Mark};
use crate::net::Time;
use crate::wire::{ChainError, ExchangeType, Message, MessageId, Payload};

/// A new, authentic request of the peer, to be answered.
#[derive(Debug)]
pub struct InboundRequest {
    /// Its exchange type.
    pub exchange: ExchangeType,
    id: MessageId,
    mark: Mark,
}

impl IkeSa {
    /// Opens a request and parses its payloads. A repeated request is answered from the cache, and others outside the window are dropped: then the result is
    /// `None`.
    pub fn open_request(
        &mut self,
        message: &Message<'_>,
        datagram: Datagram<'_>,
        cx: &mut Context<'_>,
    ) -> Option<(InboundRequest, Result<Vec<Payload>, ChainError>)> {
        let id = message.header.message_id;
        match self.received.classify(id, datagram.bytes) {
            window::Request::New => {}
            window::Request::Repeated(response) => {
                self.restart_timers(cx.now);
                self.reply(&response, FragmentSize::Configured, datagram, cx);
                return None;
            }
            window::Request::Refragmented(response)
                if self.protector.is_first_fragment(message) =>
            {
                self.reply(&response, FragmentSize::Minimum, datagram, cx);
                return None;
            }
            window::Request::Refragmented(_) | window::Request::Stray => {
                cx.count_drop(DropClass::Stray);
                return None;
            }
        }
        let Opened { mark, payloads, .. } = match self.protector.open(message) {
            Ok(opened) => opened,
            Err(why) => {
                cx.count_unopened(why);
                return None;
            }
        };
        self.idle.on_received(cx.now);
        self.follow(datagram.remote, cx);
        self.confirm_children(cx);
        let exchange = message.header.exchange;
        Some((InboundRequest { exchange, id, mark }, payloads))
    }

    /// Sends the response to a request, and keeps it for repetitions of the request.
    pub fn respond(
        &mut self,
        request: InboundRequest,
        payloads: Vec<Payload>,
        datagram: Datagram<'_>,
        cx: &mut Context<'_>,
    ) {
        let InboundRequest { exchange, id, mark } = request;
        let header = self.header(exchange, id, Direction::Response);
        let (header, payloads) = cx.impaired(header, payloads);
        let Some(response) = self.protector.seal(header, &payloads) else {
            return;
        };
        if !self.received.record_response(mark, response.clone()) {
            self.close(DownReason::Expired, None, cx);
        }
        self.reply(&response, FragmentSize::Configured, datagram, cx);
    }

    /// Sends a response to where its request came from (RFC 7296 §2.11).
    fn reply(
        &mut self,
        response: &Datagrams,
        size: FragmentSize,
        datagram: Datagram<'_>,
        cx: &mut Context<'_>,
    ) {
        let copies = response.transmits(size, datagram.local, datagram.remote);
        cx.out.transmits.extend(copies);
        // A repeated request may have a forged source: a packet to there keeps no NAT mapping of ours alive.
        if datagram.remote == self.conn.remote {
            self.idle.on_sent(cx.now);
        }
    }

    /// Restarts the timers that wait for the peer: it repeats its request, so it has not received our response.
    fn restart_timers(&mut self, now: Time) {
        self.children
            .iter_mut()
            .for_each(|child| child.restart_timer(now));
        match (self.phase, &mut self.close_at) {
            (Phase::Replaced, Some((at, _))) => *at = now + PEER_DELETE_TIMEOUT,
            (Phase::Replaced, None) | (Phase::Open | Phase::Closing(_), _) => {}
        }
    }

    /// What we have under way, for the collision rules (RFC 7296 §2.25).
    pub fn busy(&self) -> Busy {
        if self.phase != Phase::Open {
            return Busy::Closing;
        }
        match self.request.as_ref().map(|out| (&out.offer, &out.job)) {
            Some((Offer::Ike(_), _)) => Busy::Rekeying,
            Some((Offer::Child(_), _) | (Offer::None, Job::DeleteChild { .. })) => Busy::Child,
            Some((Offer::None, _)) | None => Busy::Idle,
        }
    }
}
