//! The road of a frame: link layer, outer packet, message or ESP, keys, words.
//!
//! ```text
//! Frame ─▶ link ─▶ Packet ─┬─▶ Reassembly ─┬─▶ IKE ─▶ wire::Message ─▶ sealed ─▶ complete? ─┬─▶ Record
//!                          └───────────────┴─▶ ESP ─▶ esp ───────────────────────────────────┤
//!                                                                                            └─▶ Summary
//! ```
//!
//! A frame that cannot be read makes a line that says so; nothing ends the run. What is remembered from one frame to the next is
//! bounded in every table.

use std::net::SocketAddr;

use crate::ike::{Mark, validate};
use crate::net::{FragmentKind, Packet};
use crate::wire::{ChainError, Envelope, Header, Message, Payload, Sealed};

use super::capture::{Damage, Frame, Item};
use super::demux::{HostPort, IpPayload, OuterPacket, OuterPayload, why_not};
use super::esp::EspOpener;
use super::link::{LinkPayload, strip_link_header};
use super::notify::MessageContext;
use super::payload::PayloadView;
use super::reassembly::Reassembly;
use super::record::{IkeView, Record, RecordBody};
use super::sealed::{Decrypted, IkeOpener};
use super::summary::{IkeObservation, Summary};
use super::tables::{EspKeys, IkeKeys};

/// Explains a capture, frame by frame.
#[derive(Debug, Default)]
pub struct Decoder {
    ike: IkeOpener,
    esp: EspOpener,
    reassembly: Reassembly,
    story: Summary,
    began: Option<i128>,
    counts: FrameCounts,
}

/// What the summary says of the frames as such.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FrameCounts {
    pub(super) frames: u64,
    /// Neither IKE nor ESP.
    pub(super) others: u64,
    /// Of a link layer nobody here knows.
    pub(super) unknown_links: u64,
    pub(super) broken: u64,
    pub(super) keepalives: u64,
    /// IP packets of which fragments are missing.
    pub(super) incomplete: u64,
}

impl Decoder {
    /// With the keys of these tables, which may be empty.
    #[must_use]
    pub fn new(ike: IkeKeys, esp: EspKeys) -> Decoder {
        Decoder {
            ike: IkeOpener::new(ike),
            esp: EspOpener::new(esp),
            ..Decoder::default()
        }
    }

    /// Explains what comes next in the capture; `None` if it is no business of ours.
    pub fn item(&mut self, item: &Item) -> Option<Record> {
        self.counts.frames = self.counts.frames.saturating_add(1);
        let line = match item {
            Item::Frame(frame) => self.frame(frame),
            Item::Damage(damage) => Some(broken_file(damage)),
        };
        if line.as_ref().is_some_and(Record::is_error) {
            self.counts.broken = self.counts.broken.saturating_add(1);
        }
        line
    }

    /// What happened, in words, a line each.
    #[must_use]
    pub fn summary(mut self) -> Vec<String> {
        self.counts.incomplete = self.reassembly.incomplete();
        self.story.told(&self.counts)
    }

    fn frame(&mut self, frame: &Frame) -> Option<Record> {
        let line = Record::new(frame.number, self.seconds(frame.time));
        let bytes = match strip_link_header(frame.link, &frame.bytes) {
            Ok(LinkPayload::Ip(bytes)) => bytes,
            Ok(LinkPayload::Other) => return self.not_ours(),
            Ok(LinkPayload::UnknownLink) => {
                self.counts.unknown_links = self.counts.unknown_links.saturating_add(1);
                return None;
            }
            Err(malformed) => return Some(line.error(malformed.to_string())),
        };
        let Ok(packet) = Packet::parse(bytes) else {
            let at = frame.bytes.len().saturating_sub(bytes.len());
            return Some(line.error(format!("{} at octet {at}", why_not(bytes))));
        };
        let transport = if packet.fragment() == FragmentKind::Whole {
            IpPayload::of(&packet)
        } else {
            match self.reassembly.take(&packet) {
                Ok(transport) => transport,
                Err(what) => {
                    let at = frame.bytes.len().saturating_sub(bytes.len());
                    let line = line.between(packet.source(), packet.destination());
                    return Some(line.error(format!("{what} at octet {at}")));
                }
            }
        };
        match transport.and_then(IpPayload::carried) {
            Some(carried) => Some(self.carried(line, &carried)),
            None => self.not_ours(),
        }
    }

    fn carried(&mut self, line: Record, carried: &OuterPacket<'_>) -> Record {
        let line = line.ends(carried.from, carried.to);
        match &carried.content {
            OuterPayload::Ike(bytes) => self.message(line, carried.from, carried.to, bytes),
            OuterPayload::Esp(bytes) => self.esp(line, carried.from, carried.to, bytes),
            OuterPayload::Keepalive => {
                self.counts.keepalives = self.counts.keepalives.saturating_add(1);
                line.saying(RecordBody::Keepalive(true))
            }
            OuterPayload::Broken(what) => line.error(format!("{what} at octet 0 of the datagram")),
        }
    }

    fn esp(&mut self, line: Record, from: HostPort, to: HostPort, bytes: &[u8]) -> Record {
        let Some(seen) = self.esp.look(from.address, to.address, bytes) else {
            let at = bytes.len();
            return line.error(format!("ESP cut inside its header at octet {at}"));
        };
        self.story.esp(from.address, to.address, &seen, bytes.len());
        line.note(seen.note).saying(RecordBody::Esp(seen.view))
    }

    fn message(&mut self, line: Record, from: HostPort, to: HostPort, bytes: &[u8]) -> Record {
        let message = match Message::parse(bytes) {
            Ok(message) => message,
            Err(error) => {
                let refused = format!("groundlink does not read it: {}", refused(&error));
                return match Header::parse(bytes) {
                    Ok(header) => line
                        .saying(RecordBody::Ike(IkeView::new(&header)))
                        .error(refused),
                    Err(_) => line.error(refused),
                };
            }
        };
        let place = MessageContext {
            spi_i: message.header.spi_i,
            spi_r: message.header.spi_r,
            from: SocketAddr::new(from.address, from.port.unwrap_or_default()),
            to: SocketAddr::new(to.address, to.port.unwrap_or_default()),
        };
        let mut view = IkeView::new(&message.header);
        view.payloads = shown(&message.clear, &place);
        match message.sealed {
            None => {
                view.decrypted = true;
                self.read(
                    line,
                    view,
                    &place,
                    &message,
                    &message.clear,
                    Mark::of(bytes),
                )
            }
            Some(sealed) => self.sealed(line, view, &place, &message, sealed),
        }
    }

    /// A message with an encrypted part.
    fn sealed(
        &mut self,
        line: Record,
        mut view: IkeView,
        place: &MessageContext,
        message: &Message<'_>,
        sealed: Sealed,
    ) -> Record {
        let length = message.bytes.len().saturating_sub(sealed.aad_len);
        let envelope = PayloadView::sealed(sealed.envelope, length);
        let inside = self.ike.open(message, sealed);
        let is_fragment = sealed.envelope != Envelope::Whole;
        if is_fragment || !matches!(inside, Decrypted::Read { .. }) {
            view.payloads.push(envelope);
        }
        let (error, note) = match inside {
            Decrypted::Read { payloads, mark } => {
                view.payloads.extend(shown(&payloads, place));
                view.decrypted = true;
                return self.read(line, view, place, message, &payloads, mark);
            }
            Decrypted::Partial => {
                view.decrypted = true;
                let note = "opened; the rest of the message is in other fragments".to_owned();
                return line.saying(RecordBody::Ike(view)).note(Some(note));
            }
            Decrypted::NoKeys => (None, None),
            Decrypted::Unsupported(words) => (
                None,
                Some(format!("{words} is not something groundlink runs")),
            ),
            Decrypted::Forged(forged) => (
                Some(format!(
                    "the keys in the table do not open it: {forged}, at octet {} of the message",
                    sealed.aad_len
                )),
                None,
            ),
            Decrypted::Nonsense(error) => (
                Some(format!(
                    "groundlink does not read what is inside: {}",
                    refused(&error)
                )),
                None,
            ),
        };
        self.story.message(&IkeObservation {
            header: &message.header,
            place,
            payloads: None,
            envelope: Some(sealed.envelope),
            sealed: length,
            mark: Mark::of(message.bytes),
        });
        let line = line.saying(RecordBody::Ike(view)).note(note);
        match error {
            Some(error) => line.error(error),
            None => line,
        }
    }

    /// A message all of whose payloads are known.
    fn read(
        &mut self,
        line: Record,
        view: IkeView,
        place: &MessageContext,
        message: &Message<'_>,
        payloads: &[Payload],
        mark: Mark,
    ) -> Record {
        self.story.message(&IkeObservation {
            header: &message.header,
            place,
            payloads: Some(payloads),
            envelope: message.sealed.map(|sealed| sealed.envelope),
            sealed: 0,
            mark,
        });
        let line = line.saying(RecordBody::Ike(view));
        match validate(&message.header, payloads) {
            Ok(()) => line,
            Err(what) => line.error(format!(
                "groundlink does not accept it: {what}, at octet {} of the message",
                Header::LEN
            )),
        }
    }

    fn not_ours(&mut self) -> Option<Record> {
        self.counts.others = self.counts.others.saturating_add(1);
        None
    }

    /// Since the first frame of the capture that has a time.
    fn seconds(&mut self, time: Option<i128>) -> Option<f64> {
        let time = time?;
        let began = *self.began.get_or_insert(time);
        Some(time.saturating_sub(began) as f64 / 1e9)
    }
}

fn shown(payloads: &[Payload], place: &MessageContext) -> Vec<PayloadView> {
    payloads
        .iter()
        .map(|payload| PayloadView::new(payload, place))
        .collect()
}

/// The parser's verdict, with its place.
fn refused(error: &ChainError) -> String {
    match error {
        ChainError::Malformed(malformed) => format!("{malformed} of the message"),
        ChainError::UnsupportedCritical(_) => error.to_string(),
        ChainError::MajorVersion(version) => {
            format!("it is of IKE version {version}, at octet 17 of the message")
        }
    }
}

fn broken_file(damage: &Damage) -> Record {
    let Damage {
        number,
        what,
        offset,
    } = damage;
    Record::new(*number, None).error(format!("{what}, at octet {offset} of the file"))
}

#[cfg(test)]
mod tests;
