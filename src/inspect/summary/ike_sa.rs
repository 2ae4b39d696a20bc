//! The summary of one IKE SA: its requests, and a note for each response.

use std::collections::VecDeque;
use std::net::IpAddr;

use crate::ike::Mark;
use crate::inspect::notify::MessageContext;
use crate::inspect::record::spi;
use crate::wire::{Envelope, ExchangeType, Header, IkeSpi, MessageId, Payload};

use super::exchange::{CaptureNote, RequestView, ResponseView, describe};
use super::rejection::OfferTable;

/// An IKE message and what was decoded of it.
#[derive(Debug)]
pub(in crate::inspect) struct IkeObservation<'a> {
    /// IKE header.
    pub(in crate::inspect) header: &'a Header,
    /// SPIs and addresses.
    pub(in crate::inspect) context: &'a MessageContext,
    /// Payloads, unless they are encrypted.
    pub(in crate::inspect) payloads: Option<&'a [Payload]>,
    /// Type of the encrypted payload, if there is one.
    pub(in crate::inspect) envelope: Option<Envelope>,
    /// Length of an encrypted payload that could not be decrypted.
    pub(in crate::inspect) encrypted_len: usize,
    /// Digest that identifies a retransmission.
    pub(in crate::inspect) mark: Mark,
}

impl IkeObservation<'_> {
    /// Length of the message, or of its last fragment.
    fn octets(&self) -> usize {
        self.header.length as usize
    }

    /// Whether this is a later fragment of an encrypted message, which is counted with its first fragment.
    pub(super) fn is_later_fragment(&self) -> bool {
        let later = matches!(self.envelope, Some(Envelope::Fragment { number, .. }) if number > 1);
        self.payloads.is_none() && later
    }
}

/// An IKE SA or a failed attempt.
#[derive(Debug)]
pub(super) struct IkeSaSummary {
    spi_i: IkeSpi,
    spi_r: IkeSpi,
    initiator: IpAddr,
    responder: IpAddr,
    /// Requests, the oldest first.
    requests: VecDeque<Request>,
    notes: Vec<CaptureNote>,
    liveness: u64,
    retransmitted: u64,
    /// Notes beyond the limits.
    omitted: u64,
}

/// The most requests kept for an SA; with a window size of one there are two at a time.
const MAX_REQUESTS: usize = 4;

/// The longest request whose payloads are kept until its response.
const MAX_REQUEST_LEN: usize = 4096;

/// The most notes of an SA.
const MAX_NOTES: usize = 64;

/// The most characters of a note.
const MAX_NOTE_LEN: usize = 1500;

/// The most proposal rejections of an SA.
const MAX_REJECTIONS: usize = 2;

#[derive(Debug)]
struct Request {
    id: MessageId,
    exchange: ExchangeType,
    from: IpAddr,
    to: IpAddr,
    /// Sent by the original initiator.
    initiator: bool,
    mark: Mark,
    payloads: Option<Vec<Payload>>,
    encrypted_len: usize,
    response: Option<Mark>,
}

impl IkeSaSummary {
    pub(super) fn new(seen: &IkeObservation<'_>) -> IkeSaSummary {
        let (from, to) = (seen.context.from.ip(), seen.context.to.ip());
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
            notes: Vec::new(),
            liveness: 0,
            retransmitted: 0,
            omitted: 0,
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
            self.retransmitted = self.retransmitted.saturating_add(1);
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
            from: seen.context.from.ip(),
            to: seen.context.to.ip(),
            initiator: seen.header.flags.initiator,
            mark: seen.mark,
            payloads: seen
                .payloads
                .filter(|_| seen.octets() <= MAX_REQUEST_LEN)
                .map(<[Payload]>::to_vec),
            encrypted_len: seen.encrypted_len,
            response: None,
        });
    }

    fn response(&mut self, seen: &IkeObservation<'_>) {
        let header = seen.header;
        // The latest request: one repeated with a cookie or another group has the same message ID.
        let request = self.requests.iter_mut().rev().find(|request| {
            request.id == header.message_id
                && request.exchange == header.exchange
                && request.initiator != header.flags.initiator
        });
        let Some(request) = request else {
            let exchange = header.exchange;
            let id = header.message_id.0;
            let from = seen.context.from.ip();
            self.add(CaptureNote::Text(format!(
                "{exchange} {id}: {from} responded to a request that is not in this capture"
            )));
            return;
        };
        if request.response == Some(seen.mark) {
            self.retransmitted = self.retransmitted.saturating_add(1);
            return;
        }
        request.response = Some(seen.mark);
        let request_view = RequestView {
            exchange: request.exchange,
            id: request.id,
            from: request.from,
            to: request.to,
            payloads: request.payloads.as_deref(),
        };
        let response_view = ResponseView {
            payloads: seen.payloads,
            encrypted_len: seen.encrypted_len,
            request_encrypted_len: request.encrypted_len,
        };
        let notes = describe(&request_view, &response_view);
        request.payloads = None;
        notes.into_iter().for_each(|note| self.add(note));
    }

    fn unanswered(&mut self, request: &Request) {
        if request.response.is_none() {
            let Request {
                exchange, id, from, ..
            } = request;
            self.add(CaptureNote::Text(format!(
                "{exchange} {}: the request from {from} has no response in this capture",
                id.0
            )));
        }
    }

    fn add(&mut self, note: CaptureNote) {
        match note {
            CaptureNote::LivenessCheck => self.liveness = self.liveness.saturating_add(1),
            CaptureNote::Text(_) | CaptureNote::Rejection(_) if self.notes.len() >= MAX_NOTES => {
                self.omitted = self.omitted.saturating_add(1);
            }
            CaptureNote::Rejection(_) if self.rejections() >= MAX_REJECTIONS => {
                self.omitted = self.omitted.saturating_add(1);
            }
            CaptureNote::Text(text) => {
                let short: String = text.chars().take(MAX_NOTE_LEN).collect();
                let is_truncated = short.len() < text.len();
                let text = if is_truncated { short + " …" } else { text };
                self.notes.push(CaptureNote::Text(text));
            }
            CaptureNote::Rejection(_) => self.notes.push(note),
        }
    }

    fn rejections(&self) -> usize {
        let is_rejection = |note: &&CaptureNote| matches!(note, CaptureNote::Rejection(_));
        self.notes.iter().filter(is_rejection).count()
    }

    /// The summary, one string a line.
    pub(super) fn lines(mut self, offers: &OfferTable) -> Vec<String> {
        for request in std::mem::take(&mut self.requests) {
            self.unanswered(&request);
        }
        let (initiator, responder) = (self.initiator, self.responder);
        let (spi_i, spi_r) = (spi(self.spi_i), spi(self.spi_r));
        let mut lines = vec![format!(
            "IKE SA {spi_i} {spi_r}, initiator {initiator}, responder {responder}:"
        )];
        let mut add = |line: String| lines.push(format!("  {line}"));
        for note in &self.notes {
            match note {
                CaptureNote::Text(text) => add(text.clone()),
                CaptureNote::Rejection(rejection) => add(rejection.describe(offers)),
                CaptureNote::LivenessCheck => {}
            }
        }
        for (count, what) in [
            (self.liveness, "liveness checks"),
            (self.retransmitted, "retransmitted messages"),
            (self.omitted, "more exchanges are not in the summary"),
        ] {
            if count > 0 {
                add(format!("{count} {what}"));
            }
        }
        lines
    }
}
