//! ESP, counted by SPI.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use crate::inspect::esp::{EspObservation, Icv};

/// What was seen of each SPI, in the order of appearance.
#[derive(Debug, Default)]
pub(super) struct Flows {
    places: HashMap<(IpAddr, IpAddr, u32), usize>,
    flows: Vec<Flow>,
    /// Packets of flows beyond [`MAX_FLOWS`].
    untold: u64,
}

/// Flows that are told of.
const MAX_FLOWS: usize = 1024;

/// Pairs of inner addresses that are told of for a flow.
const MAX_PAIRS: usize = 4;

#[derive(Debug)]
struct Flow {
    from: IpAddr,
    to: IpAddr,
    spi: u32,
    packets: u64,
    octets: u64,
    ok: u64,
    bad: u64,
    /// Authentic, and not to be carried.
    refused: u64,
    /// A number that was seen before or is behind one that was.
    late: u64,
    first: u64,
    highest: u64,
    pairs: BTreeSet<(IpAddr, IpAddr)>,
}

impl Flows {
    pub(super) fn count(&mut self, from: IpAddr, to: IpAddr, seen: &EspObservation, octets: usize) {
        let key = (from, to, seen.spi);
        let place = match self.places.get(&key) {
            Some(place) => *place,
            None if self.flows.len() >= MAX_FLOWS => {
                self.untold = self.untold.saturating_add(1);
                return;
            }
            None => {
                self.flows.push(Flow::new(from, to, seen));
                let place = self.flows.len().saturating_sub(1);
                self.places.insert(key, place);
                place
            }
        };
        if let Some(flow) = self.flows.get_mut(place) {
            flow.count(seen, octets);
        }
    }

    pub(super) fn told(self) -> Vec<String> {
        let mut lines: Vec<String> = self.flows.iter().map(Flow::told).collect();
        if self.untold > 0 {
            lines.push(format!(
                "{} packets of further SPIs are not summed up",
                self.untold
            ));
        }
        lines
    }
}

impl Flow {
    fn new(from: IpAddr, to: IpAddr, seen: &EspObservation) -> Flow {
        Flow {
            from,
            to,
            spi: seen.spi,
            packets: 0,
            octets: 0,
            ok: 0,
            bad: 0,
            refused: 0,
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
            Icv::Ok => add(&mut self.ok),
            Icv::Bad => add(&mut self.bad),
            Icv::Unknown => {}
        }
        match &seen.inner {
            Some(Ok(pair)) if self.pairs.len() < MAX_PAIRS => {
                self.pairs.insert(*pair);
            }
            Some(Ok(_)) | None => {}
            Some(Err(_)) => add(&mut self.refused),
        }
    }

    fn told(&self) -> String {
        let Flow {
            from,
            to,
            spi,
            packets,
            octets,
            first,
            highest,
            ..
        } = self;
        let mut parts = vec![format!(
            "ESP {spi:08x}, {from} → {to}: {packets} packets, {octets} octets, sequence numbers {first} to {highest}"
        )];
        match (self.ok, self.bad) {
            (0, 0) => parts.push("no keys to open them".to_owned()),
            (_, 0) if self.ok == self.packets => parts.push("all authentic".to_owned()),
            (ok, bad) => parts.push(format!("{ok} authentic, {bad} not")),
        }
        if self.refused > 0 {
            parts.push(format!("{} of them not to be carried", self.refused));
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
            parts.push(format!("inside: {}", pairs.join(", ")));
        }
        parts.join("; ")
    }
}
