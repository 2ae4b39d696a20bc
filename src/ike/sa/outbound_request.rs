//! Our requests, one at a time: the queue of jobs, sending, and the response (RFC 7296 §2.1 to §2.3).

use std::time::Duration;

use super::ike_sa::{IkeSa, Phase};
use super::request_state::{Job, Offer, OutboundRequest};
use crate::ike::context::Context;
use crate::ike::event::{Datagram, DownReason, Role};
use crate::ike::out_message::SentMessage;
use crate::ike::protect::Opened;
use crate::ike::settings::MAX_TRAFFICS;
use crate::ike::unauthenticated::DropClass;
use crate::net::Time;
use crate::wire::{ChainError, ExchangeType, Flags, Header, Message, MessageId, Payload};

/// Upper bound of the queue: one job of each kind, and a creation, a rekey and deletions for each traffic.
const MAX_JOBS: usize = 16 + 4 * MAX_TRAFFICS;

/// Direction of a message, as a header flag.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// A request.
    Request,
    /// A response.
    Response,
}

impl IkeSa {
    /// Queues a request, and sends it if none is outstanding.
    pub fn queue_request(&mut self, job: Job, cx: &mut Context<'_>) {
        let under_way = self.request.as_ref().is_some_and(|out| out.job == job);
        if self.jobs.len() < MAX_JOBS && !self.jobs.contains(&job) && !under_way {
            self.jobs.push_back(job);
        }
        self.send_next(cx);
    }

    /// Sends the next queued request that is still needed, if the window allows one.
    pub fn send_next(&mut self, cx: &mut Context<'_>) {
        while self.request.is_none() && self.phase != Phase::Replaced {
            let Some(job) = self.jobs.pop_front() else {
                return;
            };
            // RFC 7296 §2.2: the SA is closed before its message IDs wrap, so the last one is for the DELETE.
            let is_last = self.next_id.is_some_and(|id| id.next().is_none());
            if is_last && self.is_open() {
                return self.close(DownReason::Expired, None, cx);
            }
            if let Some((payloads, offer)) = self.build_request(&job, cx) {
                self.send_request(job.exchange(), job, payloads, offer, cx);
            }
        }
    }

    /// Sends a request and keeps it until the response.
    pub fn send_request(
        &mut self,
        exchange: ExchangeType,
        job: Job,
        payloads: Vec<Payload>,
        offer: Offer,
        cx: &mut Context<'_>,
    ) {
        let sealed = self.next_id.and_then(|id| {
            let header = self.header(exchange, id, Direction::Request);
            let (header, payloads) = cx.impaired(header, payloads);
            Some((id, self.protector.seal(header, &payloads)?))
        });
        let Some((id, datagrams)) = sealed else {
            // No request can be sent any more. `on_timeout` ends an SA that is closing without one.
            return self.close(DownReason::Expired, None, cx);
        };
        self.next_id = id.next();
        let message = SentMessage {
            local: self.conn.local,
            remote: self.conn.remote,
            datagrams,
        };
        self.idle.on_sent(cx.now);
        self.request = Some(OutboundRequest {
            job,
            offer,
            retransmit: cx.send_request(message, self.conn.settings.dpd.timeout),
            id,
            exchange,
        });
    }

    /// Repeats the outstanding request at this interval.
    pub fn repeat_request_every(&mut self, interval: Duration, now: Time) {
        if let Some(request) = &mut self.request {
            request.retransmit.repeat_every(interval, now);
        }
    }

    /// Opens a response and takes the request that it answers. Any other message is dropped: then the result is `None`.
    pub fn open_response(
        &mut self,
        message: &Message<'_>,
        datagram: Datagram<'_>,
        cx: &mut Context<'_>,
    ) -> Option<(OutboundRequest, Result<Vec<Payload>, ChainError>)> {
        let header = message.header;
        let request = self.request.take_if(|request| {
            request.id == header.message_id && request.exchange == header.exchange
        });
        let Some(request) = request else {
            // The peer answers each copy of a request: a response to an answered one is no fault.
            let is_known = self.next_id.is_none_or(|next| header.message_id.0 < next.0);
            let is_outstanding = |request: &OutboundRequest| request.id == header.message_id;
            if !is_known || self.request.as_ref().is_some_and(is_outstanding) {
                cx.count_drop(DropClass::Stray);
            }
            return None;
        };
        let Opened { payloads, .. } = match self.protector.open(message) {
            Ok(opened) => opened,
            Err(why) => {
                cx.count_unopened(why);
                self.request = Some(request);
                return None;
            }
        };
        self.idle.on_received(cx.now);
        self.follow(datagram.remote, cx);
        self.confirm_first_child(cx);
        Some((request, payloads))
    }

    /// The header of a message of this SA.
    pub fn header(&self, exchange: ExchangeType, id: MessageId, direction: Direction) -> Header {
        let flags = Flags {
            initiator: self.role == Role::Initiator,
            response: direction == Direction::Response,
            version: false,
        };
        Header::new(self.spi_i, self.spi_r, exchange, flags, id)
    }

    /// An inbound ESP SPI that no Child SA of ours has. The first 256 are reserved (RFC 4303 §2.1).
    pub fn fresh_child_spi(&self, cx: &mut Context<'_>) -> u32 {
        loop {
            let spi = cx.rng.u32();
            if spi > 255 && !self.has_child(spi) && !(cx.taken)(spi) {
                return spi;
            }
        }
    }
}
