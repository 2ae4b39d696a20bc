//! Misbehaviour on purpose, for tests that play the hostile or broken peer with our own engine (feature `testing`, never in a shipped binary).
//!
//! A [`Rule`] changes messages after they are put together and before they are encoded and sealed, so that what goes out carries valid keys and a valid ICV and
//! is wrong in exactly one way:
//!
//! ```text
//! exchange ──▶ header, payloads ──▶ rules ──▶ encode ──▶ seal ──▶ datagrams
//! ```
//!
//! What a network does (losing, repeating, delaying, replaying) needs no rule: whoever carries the datagrams does it.

use crate::wire::{Critical, ExchangeType, Header, Payload, PayloadType};

/// Which messages are changed, and how.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Of this exchange.
    pub exchange: ExchangeType,
    /// Requests or responses.
    pub which: Which,
    /// What becomes of them.
    pub change: Change,
}

/// Requests or responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// What asks.
    Request,
    /// What answers.
    Response,
}

/// What becomes of a message.
#[derive(Clone, Debug)]
pub enum Change {
    /// Payloads of this kind are left out.
    Omit(PayloadType),
    /// Payloads of this kind hold nothing.
    Empty(PayloadType),
    /// Payloads of this kind hold these octets instead.
    Replace(PayloadType, Vec<u8>),
    /// Payloads of this kind stand twice.
    Duplicate(PayloadType),
    /// These payloads stand in front.
    Prepend(Vec<Payload>),
    /// These payloads follow.
    Append(Vec<Payload>),
    /// These payloads stand there and no others.
    Only(Vec<Payload>),
    /// The last payload comes first.
    Reverse,
    /// The header says something else.
    Header(fn(&mut Header)),
}

/// The rules in force.
#[derive(Clone, Debug, Default)]
pub struct Impair {
    rules: Vec<Rule>,
}

impl Impair {
    /// Puts a rule in force, behind those that are.
    pub fn add(&mut self, rule: Rule) {
        self.rules.push(rule);
    }

    /// Behaves again.
    pub fn clear(&mut self) {
        self.rules.clear();
    }

    /// What goes out in place of this message.
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
