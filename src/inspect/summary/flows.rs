//! Counters of ESP packets by SPI.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use crate::inspect::esp::{EspObservation, IcvCheck};
use crate::net::counted;

/// Counters of each SPI, in order of appearance.
#[derive(Debug, Default)]
pub(super) struct EspFlows {
    indices: HashMap<(IpAddr, IpAddr, u32), usize>,
    flows: Vec<EspFlow>,
    /// Packets of flows beyond [`MAX_FLOWS`].
    skipped: u64,
}

/// The most flows in a summary.
const MAX_FLOWS: usize = 1024;

/// The most pairs of inner addresses in the summary of a flow.
const MAX_PAIRS: usize = 4;

#[derive(Debug)]
struct EspFlow {
    from: IpAddr,
    to: IpAddr,
    spi: u32,
    packets: u64,
    octets: u64,
    ok: u64,
    bad: u64,
    /// Authentic packets that groundlink drops.
    dropped: u64,
    /// Packets with a sequence number not above the highest one before.
    late: u64,
    first: u64,
    highest: u64,
    pairs: BTreeSet<(IpAddr, IpAddr)>,
}

impl EspFlows {
    pub(super) fn count(&mut self, from: IpAddr, to: IpAddr, seen: &EspObservation, octets: usize) {
        let key = (from, to, seen.spi);
        let index = match self.indices.get(&key) {
            Some(index) => *index,
            None if self.flows.len() >= MAX_FLOWS => {
                self.skipped = self.skipped.saturating_add(1);
                return;
            }
            None => {
                self.flows.push(EspFlow::new(from, to, seen));
                let index = self.flows.len().saturating_sub(1);
                self.indices.insert(key, index);
                index
            }
        };
        if let Some(flow) = self.flows.get_mut(index) {
            flow.count(seen, octets);
        }
    }

    pub(super) fn lines(self) -> Vec<String> {
        let mut lines: Vec<String> = self.flows.iter().map(EspFlow::line).collect();
        if self.skipped > 0 {
            lines.push(format!(
                "{} of further SPIs not in the summary",
                counted(self.skipped, "packet")
            ));
        }
        lines
    }
}

impl EspFlow {
    fn new(from: IpAddr, to: IpAddr, seen: &EspObservation) -> EspFlow {
        EspFlow {
            from,
            to,
            spi: seen.spi,
            packets: 0,
            octets: 0,
            ok: 0,
            bad: 0,
            dropped: 0,
            late: 0,
            first: seen.sequence,
            highest: 0,
            pairs: BTreeSet::new(),
        }
    }

    fn count(&mut self, seen: &EspObservation, octets: usize) {
        let add = |counter: &mut u64| *counter = counter.saturating_add(1);
        if self.packets > 0 && seen.sequence <= self.highest {
            add(&mut self.late);
        }
        add(&mut self.packets);
        self.octets = self.octets.saturating_add(octets as u64);
        self.highest = self.highest.max(seen.sequence);
        match seen.icv {
            IcvCheck::Ok => add(&mut self.ok),
            IcvCheck::Bad => add(&mut self.bad),
            IcvCheck::Unknown => {}
        }
        match &seen.inner {
            Some(Ok(pair)) if self.pairs.len() < MAX_PAIRS => {
                self.pairs.insert(*pair);
            }
            Some(Ok(_)) | None => {}
            Some(Err(_)) => add(&mut self.dropped),
        }
    }

    fn line(&self) -> String {
        let EspFlow {
            from,
            to,
            spi,
            packets,
            octets,
            first,
            highest,
            ..
        } = self;
        let sequence = if first == highest {
            format!("sequence number {first}")
        } else {
            format!("sequence numbers {first} to {highest}")
        };
        let mut parts = vec![format!(
            "ESP {spi:08x}, {from} → {to}: {}, {}, {sequence}",
            counted(*packets, "packet"),
            counted(*octets, "octet"),
        )];
        match (self.ok, self.bad) {
            (0, 0) => parts.push("no keys".to_owned()),
            (_, 0) if self.ok == self.packets => parts.push("all authentic".to_owned()),
            (ok, bad) => parts.push(format!("{ok} authentic, {bad} with a wrong ICV")),
        }
        if self.dropped > 0 {
            parts.push(format!("{} of them dropped", self.dropped));
        }
        if self.late > 0 {
            parts.push(format!("{} late or repeated", self.late));
        }
        if !self.pairs.is_empty() {
            let pairs: Vec<String> = self
                .pairs
                .iter()
                .map(|(from, to)| format!("{from} → {to}"))
                .collect();
            parts.push(format!("inner: {}", pairs.join(", ")));
        }
        parts.join("; ")
    }
}
