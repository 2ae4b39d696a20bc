//! Deliberate protocol deviations, for tests that play a hostile or broken peer with our own engine (feature `testing`, never in
//! a released binary).
//!
//! A [`Rule`] changes a message after it is built and before it is encoded and encrypted. The changed message has valid keys and
//! a valid ICV and deviates in exactly one respect:
//!
//! ```text
//! exchange ──▶ header, payloads ──▶ rules ──▶ encode ──▶ seal ──▶ datagrams
//! ```
//!
//! Faults of the network (loss, duplication, delay, replay) need no rule: the simulated network applies them.

use crate::wire::{Critical, ExchangeType, Header, Payload, PayloadType};

/// A rule: the messages to change, and the change.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The exchange.
    pub exchange: ExchangeType,
    /// Requests or responses.
    pub which: Which,
    /// The change.
    pub change: Change,
}

/// Requests or responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Requests.
    Request,
    /// Responses.
    Response,
}

/// A change to a message.
#[derive(Clone, Debug)]
pub enum Change {
    /// Removes the payloads of this type.
    Omit(PayloadType),
    /// Empties the payloads of this type.
    Empty(PayloadType),
    /// Replaces the bodies of the payloads of this type.
    Replace(PayloadType, Vec<u8>),
    /// Duplicates the payloads of this type.
    Duplicate(PayloadType),
    /// Inserts these payloads in front.
    Prepend(Vec<Payload>),
    /// Appends these payloads.
    Append(Vec<Payload>),
    /// Replaces all payloads by these.
    Only(Vec<Payload>),
    /// Moves the last payload to the front.
    Reverse,
    /// Changes the header.
    Header(fn(&mut Header)),
}

/// The active rules.
#[derive(Clone, Debug, Default)]
pub struct Impair {
    rules: Vec<Rule>,
}

impl Impair {
    /// Adds a rule after the active ones.
    pub fn add(&mut self, rule: Rule) {
        self.rules.push(rule);
    }

    /// Removes all rules.
    pub fn clear(&mut self) {
        self.rules.clear();
    }

    /// The message to send instead of this one.
    pub(super) fn apply(
        &self,
        mut header: Header,
        mut payloads: Vec<Payload>,
    ) -> (Header, Vec<Payload>) {
        let (exchange, response) = (header.exchange, header.flags.response);
        for rule in &self.rules {
            let concerned = match rule.which {
                Which::Request => !response,
                Which::Response => response,
            };
            if rule.exchange == exchange && concerned {
                rule.change.apply(&mut header, &mut payloads);
            }
        }
        (header, payloads)
    }
}

impl Change {
    fn apply(&self, header: &mut Header, payloads: &mut Vec<Payload>) {
        match self {
            Change::Omit(kind) => payloads.retain(|payload| payload.kind() != *kind),
            Change::Empty(kind) => replace(payloads, *kind, &[]),
            Change::Replace(kind, body) => replace(payloads, *kind, body),
            Change::Duplicate(kind) => {
                let again: Vec<Payload> = payloads
                    .iter()
                    .filter(|payload| payload.kind() == *kind)
                    .cloned()
                    .collect();
                payloads.extend(again);
            }
            Change::Prepend(first) => {
                payloads.splice(0..0, first.iter().cloned());
            }
            Change::Append(last) => payloads.extend(last.iter().cloned()),
            Change::Only(these) => these.clone_into(payloads),
            Change::Reverse => payloads.reverse(),
            Change::Header(change) => change(header),
        }
    }
}

fn replace(payloads: &mut [Payload], kind: PayloadType, body: &[u8]) {
    for payload in payloads.iter_mut().filter(|payload| payload.kind() == kind) {
        *payload = Payload::Unknown {
            kind,
            critical: Critical::No,
            body: body.to_vec(),
        };
    }
}
