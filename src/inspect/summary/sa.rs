//! One IKE SA: its requests, and a sentence for each when its answer comes.

use std::collections::VecDeque;
use std::net::IpAddr;

use crate::ike::Mark;
use crate::inspect::record::spi;
use crate::wire::{ExchangeType, IkeSpi, MessageId, Payload};

use super::IkeObservation;
use super::exchange::{RequestView, ResponseView, sentence};
use super::rejection::{Offers, ProposalRejection};

/// An IKE SA, or an attempt at one.
#[derive(Debug)]
pub(super) struct IkeSaSummary {
    spi_i: IkeSpi,
    spi_r: IkeSpi,
    initiator: IpAddr,
    responder: IpAddr,
    /// Requests, the oldest first.
    requests: VecDeque<Request>,
    told: Vec<CaptureNote>,
    liveness: u64,
    repeated: u64,
    /// Sentences that found no place.
    left_out: u64,
}

/// Requests that are remembered of an SA; with windows of one there are two at a time.
const MAX_REQUESTS: usize = 4;

/// The longest request whose payloads are remembered until its answer comes.
const MAX_REQUEST_LEN: usize = 4096;

/// Sentences that are told of an SA.
const MAX_SENTENCES: usize = 64;

/// Characters of a sentence that are told.
const MAX_SENTENCE_LEN: usize = 1500;

/// Refusals of an SA whose proposals are kept for the end.
const MAX_REFUSALS: usize = 2;

/// What is told of an SA; a refusal becomes a sentence at the end, when every offer has been seen.
#[derive(Debug)]
pub(super) enum CaptureNote {
    /// A sentence.
    Text(String),
    /// A refusal.
    Rejection(ProposalRejection),
    /// A liveness check.
    LivenessCheck,
}

#[derive(Debug)]
struct Request {
    id: MessageId,
    exchange: ExchangeType,
    from: IpAddr,
    to: IpAddr,
    /// Of the side that initiated the SA.
    initiator: bool,
    mark: Mark,
    payloads: Option<Vec<Payload>>,
    sealed: usize,
    answer: Option<Mark>,
}

impl IkeSaSummary {
    pub(super) fn new(seen: &IkeObservation<'_>) -> IkeSaSummary {
        let (from, to) = (seen.place.from.ip(), seen.place.to.ip());
        let (initiator, responder) = if seen.header.flags.initiator {
            (from, to)
        } else {
            (to, from)
        };
        IkeSaSummary {
            spi_i: seen.header.spi_i,
            spi_r: seen.header.spi_r,
            initiator,
            responder,
            requests: VecDeque::new(),
            told: Vec::new(),
            liveness: 0,
            repeated: 0,
            left_out: 0,
        }
    }

    pub(super) fn message(&mut self, seen: &IkeObservation<'_>) {
        if seen.header.spi_r != IkeSpi::default() {
            self.spi_r = seen.header.spi_r;
        }
        if seen.header.flags.response {
            self.response(seen);
        } else {
            self.request(seen);
        }
    }

    fn request(&mut self, seen: &IkeObservation<'_>) {
        if self.requests.iter().any(|known| known.mark == seen.mark) {
            self.repeated = self.repeated.saturating_add(1);
            return;
        }
        if self.requests.len() >= MAX_REQUESTS
            && let Some(oldest) = self.requests.pop_front()
        {
            self.unanswered(&oldest);
        }
        self.requests.push_back(Request {
            id: seen.header.message_id,
            exchange: seen.header.exchange,
            from: seen.place.from.ip(),
            to: seen.place.to.ip(),
            initiator: seen.header.flags.initiator,
            mark: seen.mark,
            payloads: seen
                .payloads
                .filter(|_| seen.octets() <= MAX_REQUEST_LEN)
                .map(<[Payload]>::to_vec),
            sealed: seen.sealed,
            answer: None,
        });
    }

    fn response(&mut self, seen: &IkeObservation<'_>) {
        let header = seen.header;
        // The latest: a request that asks again with a cookie or another group has the number of the first.
        let asked = self.requests.iter_mut().rev().find(|request| {
            request.id == header.message_id
                && request.exchange == header.exchange
                && request.initiator != header.flags.initiator
        });
        let Some(request) = asked else {
            let exchange = header.exchange;
            let id = header.message_id.0;
            let from = seen.place.from.ip();
            self.tell(CaptureNote::Text(format!(
                "{exchange} {id}: {from} answered a request that is not in this capture"
            )));
            return;
        };
        if request.answer == Some(seen.mark) {
            self.repeated = self.repeated.saturating_add(1);
            return;
        }
        request.answer = Some(seen.mark);
        let asked = RequestView {
            exchange: request.exchange,
            id: request.id,
            from: request.from,
            to: request.to,
            payloads: request.payloads.as_deref(),
        };
        let reply = ResponseView {
            payloads: seen.payloads,
            sealed: seen.sealed,
            asked: request.sealed,
        };
        let told = sentence(&asked, &reply);
        request.payloads = None;
        told.into_iter().for_each(|told| self.tell(told));
    }

    fn unanswered(&mut self, request: &Request) {
        if request.answer.is_none() {
            let Request {
                exchange, id, from, ..
            } = request;
            self.tell(CaptureNote::Text(format!(
                "{exchange} {}: the request of {from} has no answer in this capture",
                id.0
            )));
        }
    }

    fn tell(&mut self, told: CaptureNote) {
        match told {
            CaptureNote::LivenessCheck => self.liveness = self.liveness.saturating_add(1),
            CaptureNote::Text(_) | CaptureNote::Rejection(_)
                if self.told.len() >= MAX_SENTENCES =>
            {
                self.left_out = self.left_out.saturating_add(1);
            }
            CaptureNote::Rejection(_) if self.refusals() >= MAX_REFUSALS => {
                self.left_out = self.left_out.saturating_add(1);
            }
            CaptureNote::Text(sentence) => {
                let short: String = sentence.chars().take(MAX_SENTENCE_LEN).collect();
                let cut = short.len() < sentence.len();
                let told = if cut { short + " …" } else { sentence };
                self.told.push(CaptureNote::Text(told));
            }
            CaptureNote::Rejection(_) => self.told.push(told),
        }
    }

    fn refusals(&self) -> usize {
        let is_refusal = |told: &&CaptureNote| matches!(told, CaptureNote::Rejection(_));
        self.told.iter().filter(is_refusal).count()
    }

    /// The story of this SA, a line each.
    pub(super) fn told(mut self, offers: &Offers) -> Vec<String> {
        for request in std::mem::take(&mut self.requests) {
            self.unanswered(&request);
        }
        let (initiator, responder) = (self.initiator, self.responder);
        let (spi_i, spi_r) = (spi(self.spi_i), spi(self.spi_r));
        let mut lines = vec![format!(
            "IKE SA {spi_i} {spi_r}, begun by {initiator} with {responder}:"
        )];
        let mut say = |line: String| lines.push(format!("  {line}"));
        for told in &self.told {
            match told {
                CaptureNote::Text(sentence) => say(sentence.clone()),
                CaptureNote::Rejection(refusal) => say(refusal.told(offers)),
                CaptureNote::LivenessCheck => {}
            }
        }
        for (count, what) in [
            (
                self.liveness,
                "exchanges only asked whether the other side lives",
            ),
            (self.repeated, "messages were sent again"),
            (self.left_out, "more exchanges are not summed up"),
        ] {
            if count > 0 {
                say(format!("{count} {what}"));
            }
        }
        lines
    }
}
