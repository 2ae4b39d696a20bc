//! One IKE SA: its requests, and a sentence for each when its answer comes.

use std::collections::VecDeque;
use std::net::IpAddr;

use crate::ike::Mark;
use crate::inspect::line::spi;
use crate::wire::{ExchangeType, IkeSpi, MessageId, Payload};

use super::Seen;
use super::exchange::{Asked, Reply, sentence};
use super::refusal::{Offers, Refusal};

/// An IKE SA, or an attempt at one.
#[derive(Debug)]
pub(super) struct IkeStory {
    spi_i: IkeSpi,
    spi_r: IkeSpi,
    initiator: IpAddr,
    responder: IpAddr,
    /// Requests, the oldest first.
    requests: VecDeque<Request>,
    told: Vec<Told>,
    liveness: u64,
    repeated: u64,
    /// Sentences that found no place.
    left_out: u64,
}

/// Requests that are remembered of an SA; with windows of one there are two at a time.
const MOST_REQUESTS: usize = 4;

/// The longest request whose payloads are remembered until its answer comes.
const LONGEST_REQUEST: usize = 4096;

/// Sentences that are told of an SA.
const MOST_SENTENCES: usize = 64;

/// Characters of a sentence that are told.
const LONGEST_SENTENCE: usize = 1500;

/// Refusals of an SA whose proposals are kept for the end.
const MOST_REFUSALS: usize = 2;

/// What is told of an SA; a refusal becomes a sentence at the end, when every offer has been seen.
#[derive(Debug)]
pub(super) enum Told {
    /// A sentence.
    Sentence(String),
    /// A refusal.
    Refusal(Refusal),
    /// A liveness check.
    Alive,
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

impl IkeStory {
    pub(super) fn new(seen: &Seen<'_>) -> IkeStory {
        let (from, to) = (seen.place.from.ip(), seen.place.to.ip());
        let (initiator, responder) = if seen.header.flags.initiator {
            (from, to)
        } else {
            (to, from)
        };
        IkeStory {
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

    pub(super) fn message(&mut self, seen: &Seen<'_>) {
        if seen.header.spi_r != IkeSpi::default() {
            self.spi_r = seen.header.spi_r;
        }
        if seen.header.flags.response {
            self.response(seen);
        } else {
            self.request(seen);
        }
    }

    fn request(&mut self, seen: &Seen<'_>) {
        if self.requests.iter().any(|known| known.mark == seen.mark) {
            self.repeated = self.repeated.saturating_add(1);
            return;
        }
        if self.requests.len() >= MOST_REQUESTS
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
                .filter(|_| seen.octets() <= LONGEST_REQUEST)
                .map(<[Payload]>::to_vec),
            sealed: seen.sealed,
            answer: None,
        });
    }

    fn response(&mut self, seen: &Seen<'_>) {
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
            self.tell(Told::Sentence(format!(
                "{exchange} {id}: {from} answered a request that is not in this capture"
            )));
            return;
        };
        if request.answer == Some(seen.mark) {
            self.repeated = self.repeated.saturating_add(1);
            return;
        }
        request.answer = Some(seen.mark);
        let asked = Asked {
            exchange: request.exchange,
            id: request.id,
            from: request.from,
            to: request.to,
            payloads: request.payloads.as_deref(),
        };
        let reply = Reply {
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
            self.tell(Told::Sentence(format!(
                "{exchange} {}: the request of {from} has no answer in this capture",
                id.0
            )));
        }
    }

    fn tell(&mut self, told: Told) {
        match told {
            Told::Alive => self.liveness = self.liveness.saturating_add(1),
            Told::Sentence(_) | Told::Refusal(_) if self.told.len() >= MOST_SENTENCES => {
                self.left_out = self.left_out.saturating_add(1);
            }
            Told::Refusal(_) if self.refusals() >= MOST_REFUSALS => {
                self.left_out = self.left_out.saturating_add(1);
            }
            Told::Sentence(sentence) => {
                let short: String = sentence.chars().take(LONGEST_SENTENCE).collect();
                let cut = short.len() < sentence.len();
                let told = if cut { short + " …" } else { sentence };
                self.told.push(Told::Sentence(told));
            }
            Told::Refusal(_) => self.told.push(told),
        }
    }

    fn refusals(&self) -> usize {
        let is_refusal = |told: &&Told| matches!(told, Told::Refusal(_));
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
                Told::Sentence(sentence) => say(sentence.clone()),
                Told::Refusal(refusal) => say(refusal.told(offers)),
                Told::Alive => {}
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
