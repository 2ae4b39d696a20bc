//! What happened, from all the packets together: who offered what, who chose what, who refused whom and why.
//!
//! ```text
//! message ─▶ its IKE SA (initiator's SPI) ─▶ request remembered ─▶ answer with its number ─▶ a sentence
//! ESP     ─▶ its flow (addresses, SPI)    ─▶ counted
//! ```
//!
//! Packets of a capture prove nothing, so a stranger can make this tell lies about an SA, but never more of them than fit the bounds.

mod exchange;
mod flows;
mod rejection;
mod sa;

use std::collections::HashMap;
use std::net::IpAddr;

use crate::ike::Mark;
use crate::wire::{Envelope, Header, IkeSpi, Payload};

use super::decoder::FrameCounts;
use super::esp;
use super::notify::MessageContext;
use flows::Flows;
use rejection::Offers;
use sa::IkeSaSummary;

/// What has been seen so far.
#[derive(Debug, Default)]
pub(super) struct Summary {
    sas: Vec<IkeSaSummary>,
    places: HashMap<IkeSpi, usize>,
    offers: Offers,
    flows: Flows,
    /// Messages of IKE SAs beyond [`MAX_SAS`].
    untold: u64,
}

/// IKE SAs that are told of.
const MAX_SAS: usize = 512;

/// A message, and what is known of it.
#[derive(Debug)]
pub(super) struct IkeObservation<'a> {
    /// Its header.
    pub(super) header: &'a Header,
    /// Where it was seen.
    pub(super) place: &'a MessageContext,
    /// What is in it, unless that is sealed.
    pub(super) payloads: Option<&'a [Payload]>,
    /// How it was sealed, if it was.
    pub(super) envelope: Option<Envelope>,
    /// Octets of what is sealed and could not be read.
    pub(super) sealed: usize,
    /// By which it is known when it comes again.
    pub(super) mark: Mark,
}

impl IkeObservation<'_> {
    /// How long the datagram is, or the last one of several.
    fn octets(&self) -> usize {
        self.header.length as usize
    }

    /// Whether this is more of a message that was counted with its first fragment.
    fn is_later_fragment(&self) -> bool {
        let later = matches!(self.envelope, Some(Envelope::Fragment { number, .. }) if number > 1);
        self.payloads.is_none() && later
    }
}

impl Summary {
    /// Takes note of a message.
    pub(super) fn message(&mut self, seen: &IkeObservation<'_>) {
        if seen.is_later_fragment() {
            return;
        }
        if let Some(payloads) = seen.payloads.filter(|_| !seen.header.flags.response) {
            self.offers.note(seen.place.from.ip(), payloads);
        }
        let spi_i = seen.header.spi_i;
        let place = match self.places.get(&spi_i) {
            Some(place) => *place,
            None if self.sas.len() >= MAX_SAS => {
                self.untold = self.untold.saturating_add(1);
                return;
            }
            None => {
                self.sas.push(IkeSaSummary::new(seen));
                let place = self.sas.len().saturating_sub(1);
                self.places.insert(spi_i, place);
                place
            }
        };
        if let Some(sa) = self.sas.get_mut(place) {
            sa.message(seen);
        }
    }

    /// Takes note of an ESP packet of so many octets.
    pub(super) fn esp(
        &mut self,
        from: IpAddr,
        to: IpAddr,
        seen: &esp::EspObservation,
        octets: usize,
    ) {
        self.flows.count(from, to, seen, octets);
    }

    /// The whole story.
    pub(super) fn told(self, counts: &FrameCounts) -> Vec<String> {
        let mut lines = Vec::new();
        for sa in self.sas {
            lines.extend(sa.told(&self.offers));
        }
        if self.untold > 0 {
            lines.push(format!(
                "{} messages of further IKE SAs are not summed up",
                self.untold
            ));
        }
        lines.extend(self.flows.told());
        lines.extend(counted(counts));
        lines
    }
}

fn counted(counts: &FrameCounts) -> Vec<String> {
    let mut lines = Vec::new();
    let mut say = |count: u64, what: &str| {
        if count > 0 {
            lines.push(format!("{count} {what}"));
        }
    };
    say(counts.keepalives, "NAT keepalives");
    say(counts.broken, "packets with an error, see above");
    say(
        counts.incomplete,
        "IP packets whose fragments are not all in the capture, or do not fit",
    );
    say(counts.others, "frames are neither IKE nor ESP");
    say(
        counts.unknown_links,
        "frames of a link type that decode does not know",
    );
    if counts.frames == 0 {
        lines.push("the capture holds no frames".to_owned());
    }
    lines
}
