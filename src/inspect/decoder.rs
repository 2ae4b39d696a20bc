//! The path of a frame: link layer, outer packet, IKE message or ESP packet, decryption, record.
//!
//! ```text
//! Frame ─▶ link layer ─▶ IP ─┬─▶ Reassembly ─┬─▶ IKE ─▶ wire::Message ─▶ IkeDecrypter ─▶ validate ─┬─▶ Record
//!                            └───────────────┴─▶ ESP ─▶ EspDecrypter ──────────────────────────────┤
//!                                                                                                  └─▶ Summary
//! ```
//!
//! A frame that cannot be read produces a record with an error and never ends the run. All state kept between frames is bounded.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::capture::{CaptureItem, Damage, Frame};
use super::decrypt::{Decrypted, IkeDecrypter};
use super::demux::{
    self, HostPort, IpPayload, LinkPayload, OuterPacket, OuterPayload, parse_ip, strip_link_header,
};
use super::esp::EspDecrypter;
use super::key_tables::{EspKeys, IkeKeys};
use super::names;
use super::notify::MessageContext;
use super::payload::PayloadView;
use super::reassembly::Reassembly;
use super::record::{IkeView, Protection, Record, RecordBody};
use super::summary::{FrameCounts, IkeObservation, Summary};
use crate::ike::{Mark, validate};
use crate::wire::{ChainError, Envelope, Header, Message, Payload, Sealed};

/// Decoder of one capture, frame by frame.
#[derive(Debug, Default)]
pub struct Decoder {
    ike: IkeDecrypter,
    esp: EspDecrypter,
    reassembly: Reassembly,
    summary: Summary,
    first_frame: Option<i128>,
    last_frame: Option<i128>,
    recent: VecDeque<(Mark, u64)>,
    counts: FrameCounts,
}

/// Number of messages among which a repetition is recognized.
const MAX_RECENT: usize = 256;

/// Number of truncated packets with a record each.
const MAX_TRUNCATED: u64 = 3;

impl Decoder {
    /// Creates a decoder with key tables, which may be empty.
    #[must_use]
    pub fn new(ike: IkeKeys, esp: EspKeys) -> Decoder {
        Decoder {
            ike: IkeDecrypter::new(ike),
            esp: EspDecrypter::new(esp),
            ..Decoder::default()
        }
    }

    /// Decodes the next item of the capture; `None` if it does not belong to IPsec.
    pub fn item(&mut self, item: &CaptureItem) -> Option<Record> {
        self.counts.frames = self.counts.frames.saturating_add(1);
        let record = match item {
            CaptureItem::Frame(frame) => self.frame(frame),
            CaptureItem::Damage(Damage {
                number,
                what,
                offset,
            }) => {
                let error = format!("{what}, at octet {offset} of the file");
                Some(Record::new(*number, None).error(error))
            }
        };
        if record.as_ref().is_some_and(Record::is_error) {
            self.counts.errors = self.counts.errors.saturating_add(1);
        }
        record
    }

    /// Summarizes the capture, one string a line.
    #[must_use]
    pub fn summary(mut self) -> Vec<String> {
        self.counts.incomplete = self.reassembly.incomplete();
        let times = self.first_frame.zip(self.last_frame);
        self.counts.times = times.map(|(first, last)| (time_of_day(first), time_of_day(last)));
        self.summary.lines(&self.counts)
    }

    fn frame(&mut self, frame: &Frame) -> Option<Record> {
        let record =
            Record::new(frame.number, self.seconds(frame.time)).at(frame.time.map(time_of_day));
        let bytes = match strip_link_header(frame.link, &frame.bytes) {
            Ok(LinkPayload::Ip(bytes)) => bytes,
            Ok(LinkPayload::Other) => return self.not_ipsec(),
            Ok(LinkPayload::UnknownLink) => {
                self.counts.unknown_links = self.counts.unknown_links.saturating_add(1);
                return None;
            }
            Err(malformed) => return Some(record.error(malformed.to_string())),
        };
        let at = frame.bytes.len().saturating_sub(bytes.len());
        let ip = match parse_ip(bytes) {
            Ok(ip) => ip,
            Err(what) => {
                let record = match demux::addresses(bytes) {
                    Some((from, to)) => record.between(from, to),
                    None => record,
                };
                if what == demux::SNAPPED {
                    self.counts.truncated = self.counts.truncated.saturating_add(1);
                    if self.counts.truncated > MAX_TRUNCATED {
                        return None;
                    }
                }
                return Some(record.error(format!("{what} at octet {at}")));
            }
        };
        let payload = if ip.is_fragmenting_payload() {
            match self.reassembly.add(&ip) {
                Ok(Some(payload)) => payload,
                Ok(None) => {
                    self.counts.fragments = self.counts.fragments.saturating_add(1);
                    return None;
                }
                Err(what) => {
                    let record = record.between(ip.source_addr(), ip.destination_addr());
                    return Some(record.error(format!("{what} at octet {at}")));
                }
            }
        } else {
            IpPayload::unfragmented(&ip)
        };
        match payload.demux() {
            Some(packet) => Some(self.packet(record, &packet)),
            None => self.not_ipsec(),
        }
    }

    fn packet(&mut self, record: Record, packet: &OuterPacket<'_>) -> Record {
        let (from, to) = (packet.from, packet.to);
        let record = record.between(from, to);
        match packet.payload {
            OuterPayload::Ike(bytes) => self.message(record, from, to, bytes),
            OuterPayload::Esp(bytes) => self.esp(record, from, to, bytes),
            OuterPayload::Keepalive => {
                self.counts.keepalives = self.counts.keepalives.saturating_add(1);
                record.body(RecordBody::Keepalive(true))
            }
            OuterPayload::Malformed(what) => {
                record.error(format!("{what} at octet 0 of the datagram"))
            }
        }
    }

    fn esp(&mut self, record: Record, from: HostPort, to: HostPort, bytes: &[u8]) -> Record {
        let Some(packet) = self.esp.decrypt(from.address, to.address, bytes) else {
            let at = bytes.len();
            return record.error(format!("ESP header truncated at octet {at}"));
        };
        self.summary
            .esp(from.address, to.address, &packet, bytes.len());
        record.note(packet.note).body(RecordBody::Esp(packet.view))
    }

    fn message(&mut self, record: Record, from: HostPort, to: HostPort, bytes: &[u8]) -> Record {
        let repetition = self.repetition(bytes, &record);
        let record = record.note(repetition);
        let message = match Message::parse(bytes) {
            Ok(message) => message,
            Err(ChainError::MajorVersion(1)) => return self.ikev1(record, bytes),
            Err(error) => {
                let error = format!("groundlink cannot parse it: {}", reason(&error));
                let record = match Header::parse(bytes) {
                    Ok(header) => record.body(RecordBody::Ike(IkeView::new(&header))),
                    Err(_) => record,
                };
                return record.error(error);
            }
        };
        let context = MessageContext {
            spi_i: message.header.spi_i,
            spi_r: message.header.spi_r,
            from: SocketAddr::new(from.address, from.port.unwrap_or_default()),
            to: SocketAddr::new(to.address, to.port.unwrap_or_default()),
        };
        let mut view = IkeView::new(&message.header);
        view.payloads = views(&message.clear, &context);
        match message.sealed {
            None => {
                view.decrypted = true;
                let mark = Mark::of(bytes);
                self.readable(record, view, &context, &message, &message.clear, mark)
            }
            Some(sealed) => self.encrypted(record, view, &context, &message, sealed),
        }
    }

    /// A remark on a message that the capture has already shown.
    fn repetition(&mut self, bytes: &[u8], record: &Record) -> Option<String> {
        let mark = Mark::of(bytes);
        if let Some((_, first)) = self.recent.iter().find(|(seen, _)| *seen == mark) {
            return Some(format!("a repetition of #{first}"));
        }
        if self.recent.len() >= MAX_RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((mark, record.number()));
        None
    }

    /// Names an IKEv1 message.
    fn ikev1(&mut self, record: Record, bytes: &[u8]) -> Record {
        self.counts.ikev1 = self.counts.ikev1.saturating_add(1);
        let note = "groundlink speaks IKEv2 only".to_owned();
        let Ok(header) = Header::parse(bytes) else {
            return record.note(Some(note));
        };
        let mut view = IkeView::new(&header);
        view.exchange = names::ikev1_exchange(header.exchange.0);
        view.is_ikev1 = true;
        view.flags.clear();
        record.body(RecordBody::Ike(view)).note(Some(note))
    }

    /// Decodes a message with an encrypted payload.
    fn encrypted(
        &mut self,
        record: Record,
        mut view: IkeView,
        context: &MessageContext,
        message: &Message<'_>,
        sealed: Sealed,
    ) -> Record {
        let length = message.bytes.len().saturating_sub(sealed.aad_len);
        let decrypted = self.ike.decrypt(message, sealed);
        let is_fragment = sealed.envelope != Envelope::Whole;
        if is_fragment || !matches!(decrypted, Decrypted::Payloads { .. }) {
            view.payloads
                .push(PayloadView::encrypted(sealed.envelope, length));
        }
        view.protection = Protection::encrypted(match &decrypted {
            Decrypted::Payloads { .. } | Decrypted::Fragment | Decrypted::Malformed(_) => {
                Some(true)
            }
            Decrypted::Forged(_) => Some(false),
            Decrypted::NoKeys | Decrypted::Unsupported(_) => None,
        });
        let (error, note) = match decrypted {
            Decrypted::Payloads { payloads, mark } => {
                view.payloads.extend(views(&payloads, context));
                view.decrypted = true;
                let empty = "it holds no payload".to_owned();
                let record = record.note(payloads.is_empty().then_some(empty));
                return self.readable(record, view, context, message, &payloads, mark);
            }
            Decrypted::Fragment => {
                view.decrypted = true;
                let note = "decrypted; the rest of the message is in other fragments".to_owned();
                return record.body(RecordBody::Ike(view)).note(Some(note));
            }
            Decrypted::NoKeys => (None, None),
            Decrypted::Unsupported(algorithms) => (
                None,
                Some(format!("groundlink does not support {algorithms}")),
            ),
            Decrypted::Forged(error) => (
                Some(format!(
                    "the keys in the table do not decrypt it: {error}, at octet {} of the message",
                    sealed.aad_len
                )),
                None,
            ),
            Decrypted::Malformed(error) => (
                Some(format!(
                    "groundlink cannot parse the decrypted payloads: {}",
                    reason(&error)
                )),
                None,
            ),
        };
        self.summary.message(&IkeObservation {
            header: &message.header,
            context,
            payloads: None,
            envelope: Some(sealed.envelope),
            encrypted_len: length,
            mark: Mark::of(message.bytes),
        });
        let record = record.body(RecordBody::Ike(view)).note(note);
        match error {
            Some(error) => record.error(error),
            None => record,
        }
    }

    /// Decodes a message whose payloads are all known.
    fn readable(
        &mut self,
        record: Record,
        view: IkeView,
        context: &MessageContext,
        message: &Message<'_>,
        payloads: &[Payload],
        mark: Mark,
    ) -> Record {
        self.summary.message(&IkeObservation {
            header: &message.header,
            context,
            payloads: Some(payloads),
            envelope: message.sealed.map(|sealed| sealed.envelope),
            encrypted_len: 0,
            mark,
        });
        let record = record.body(RecordBody::Ike(view));
        match validate(&message.header, payloads) {
            Ok(()) => record,
            Err(what) => record.error(format!(
                "groundlink rejects it: {what}, at octet {} of the message",
                Header::LEN
            )),
        }
    }

    fn not_ipsec(&mut self) -> Option<Record> {
        self.counts.others = self.counts.others.saturating_add(1);
        None
    }

    /// Seconds since the first frame of the capture that has a time.
    fn seconds(&mut self, time: Option<i128>) -> Option<f64> {
        let time = time?;
        let first = *self.first_frame.get_or_insert(time);
        self.last_frame = Some(time);
        Some(time.saturating_sub(first) as f64 / 1e9)
    }
}

/// Nanoseconds since 1970 as RFC 3339 in UTC, with microseconds.
#[allow(
    clippy::arithmetic_side_effects,
    reason = "divisions come first, so every number is far below the limits of 128 bits"
)]
fn time_of_day(time: i128) -> String {
    let seconds = time.div_euclid(1_000_000_000);
    let micros = time.rem_euclid(1_000_000_000) / 1000;
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Howard Hinnant's civil_from_days: the year begins in March, so that a leap day is its last day.
    let days = days.saturating_add(719_468);
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era.saturating_mul(400) + year_of_era + i128::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

fn views(payloads: &[Payload], context: &MessageContext) -> Vec<PayloadView> {
    payloads
        .iter()
        .map(|payload| PayloadView::new(payload, context))
        .collect()
}

/// The parser's error, with its offset.
fn reason(error: &ChainError) -> String {
    match error {
        ChainError::Malformed(malformed) => format!("{malformed} of the message"),
        ChainError::UnsupportedCritical(_) => error.to_string(),
        ChainError::MajorVersion(version) => {
            format!("it has IKE version {version}, at octet 17 of the message")
        }
    }
}

#[cfg(test)]
mod tests;
