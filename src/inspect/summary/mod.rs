//! The summary of a capture: what was offered, chosen and rejected in each IKE SA, and what each ESP SA carried.
//!
//! ```text
//! message ─▶ IKE SA (initiator's SPI)   ─▶ request is kept ─▶ response with the same message ID ─▶ CaptureNote
//! ESP     ─▶ ESP flow (addresses, SPI) ─▶ counters
//! ```
//!
//! Packets in a capture are not authenticated, so forged packets can falsify the summary of an SA. All state is bounded.

mod exchange;
mod flows;
mod ike_sa;
mod rejection;

use std::collections::HashMap;
use std::net::IpAddr;

use super::esp::EspObservation;
use crate::net::counted;
use crate::wire::IkeSpi;

use flows::EspFlows;
use ike_sa::IkeSaSummary;
use rejection::OfferTable;

pub(super) use ike_sa::IkeObservation;

/// The state of a summary.
#[derive(Debug, Default)]
pub(super) struct Summary {
    sas: Vec<IkeSaSummary>,
    indices: HashMap<IkeSpi, usize>,
    offers: OfferTable,
    flows: EspFlows,
    /// Messages of IKE SAs beyond [`MAX_SAS`].
    skipped: u64,
}

/// The most IKE SAs in a summary.
const MAX_SAS: usize = 512;

/// Counters of frames.
#[derive(Clone, Debug, Default)]
pub(super) struct FrameCounts {
    /// All frames, and damaged parts of the file.
    pub(super) frames: u64,
    /// Frames that are neither IKE nor ESP.
    pub(super) others: u64,
    /// Frames of an unsupported link type.
    pub(super) unknown_links: u64,
    /// Records with an error.
    pub(super) errors: u64,
    /// NAT keepalives.
    pub(super) keepalives: u64,
    /// IP packets with missing or overlapping fragments.
    pub(super) incomplete: u64,
    /// IP fragments whose packet another frame completes.
    pub(super) fragments: u64,
    /// Frames of which the capture holds only a part.
    pub(super) truncated: u64,
    /// IKEv1 messages.
    pub(super) ikev1: u64,
    /// Times of the first and the last frame.
    pub(super) times: Option<(String, String)>,
}

impl Summary {
    /// Records an IKE message.
    pub(super) fn message(&mut self, seen: &IkeObservation<'_>) {
        if seen.is_later_fragment() {
            return;
        }
        if let Some(payloads) = seen.payloads.filter(|_| !seen.header.flags.response) {
            self.offers.record(seen.context.from.ip(), payloads);
        }
        let spi_i = seen.header.spi_i;
        let index = match self.indices.get(&spi_i) {
            Some(index) => *index,
            None if self.sas.len() >= MAX_SAS => {
                self.skipped = self.skipped.saturating_add(1);
                return;
            }
            None => {
                self.sas.push(IkeSaSummary::new(seen));
                let index = self.sas.len().saturating_sub(1);
                self.indices.insert(spi_i, index);
                index
            }
        };
        if let Some(sa) = self.sas.get_mut(index) {
            sa.message(seen);
        }
    }

    /// Records an ESP packet of `octets` octets.
    pub(super) fn esp(&mut self, from: IpAddr, to: IpAddr, seen: &EspObservation, octets: usize) {
        self.flows.count(from, to, seen, octets);
    }

    /// The summary, one string a line.
    pub(super) fn lines(self, counts: &FrameCounts) -> Vec<String> {
        let mut lines = Vec::new();
        for sa in self.sas {
            lines.extend(sa.lines(&self.offers));
        }
        if self.skipped > 0 {
            lines.push(format!(
                "{} of further IKE SAs not in the summary",
                counted(self.skipped, "message")
            ));
        }
        lines.extend(self.flows.lines());
        lines.extend(count_lines(counts));
        lines
    }
}

fn count_lines(counts: &FrameCounts) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = |count: u64, noun: &str, more: &str| {
        if count > 0 {
            lines.push(format!("{}{more}", counted(count, noun)));
        }
    };
    line(counts.keepalives, "NAT keepalive", "");
    line(counts.errors, "packet", " with an error, shown above");
    line(
        counts.incomplete,
        "IP packet",
        " with missing or overlapping fragments",
    );
    line(
        counts.fragments,
        "IP fragment",
        " of packets that are shown where they are complete",
    );
    line(
        counts.truncated,
        "packet",
        " of which the capture holds only a part: capture whole packets with `tcpdump -s 0`",
    );
    line(
        counts.ikev1,
        "message",
        " of IKEv1: groundlink speaks IKEv2 only, so the peer has to be set to IKEv2",
    );
    line(counts.others, "frame", " of neither IKE nor ESP");
    line(
        counts.unknown_links,
        "frame",
        " of an unsupported link type",
    );
    if let Some((first, last)) = &counts.times {
        lines.push(format!("captured from {first} to {last}"));
    }
    if counts.frames == 0 {
        lines.push("the capture holds no frames".to_owned());
    }
    lines
}
