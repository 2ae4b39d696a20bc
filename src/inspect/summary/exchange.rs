//! A request and its answer in a sentence.

use std::net::IpAddr;

use crate::inspect::names;
use crate::inspect::payload::{hex, offered, selectors};
use crate::wire::{
    Auth, ExchangeType, Id, MessageId, Notify, NotifyType, Payload, Proposal, ProtocolId, Sa,
    TrafficSelectors, TransformType,
};

use super::rejection::ProposalRejection;
use super::sa::CaptureNote;

/// A request.
pub(super) struct RequestView<'a> {
    pub(super) exchange: ExchangeType,
    pub(super) id: MessageId,
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    /// What was in it, unless that is sealed.
    pub(super) payloads: Option<&'a [Payload]>,
}

/// Its answer.
pub(super) struct ResponseView<'a> {
    pub(super) payloads: Option<&'a [Payload]>,
    /// Octets sealed in the answer, and in the request, where they could not be read.
    pub(super) sealed: usize,
    pub(super) asked: usize,
}

/// What the two say together.
pub(super) fn sentence(asked: &RequestView<'_>, reply: &ResponseView<'_>) -> Vec<CaptureNote> {
    let (Some(request), Some(answer)) = (asked.payloads, reply.payloads) else {
        return vec![CaptureNote::Text(closed(asked, reply))];
    };
    let exchange = Exchange {
        asked,
        request: Parts(request),
        answer: Parts(answer),
    };
    let (told, is_told) = match asked.exchange {
        ExchangeType::IKE_SA_INIT => (exchange.init(), true),
        ExchangeType::IKE_AUTH => (exchange.auth(), true),
        ExchangeType::CREATE_CHILD_SA => (exchange.create(), true),
        ExchangeType::INFORMATIONAL => (exchange.informational(), true),
        _ => (exchange.other(), false),
    };
    // What refuses is told in any exchange.
    let mut told = told;
    if !is_told {
        told.extend(exchange.errors());
    }
    told
}

/// Nothing is known of what is inside but how much of it there is.
fn closed(asked: &RequestView<'_>, reply: &ResponseView<'_>) -> String {
    let RequestView {
        exchange,
        id,
        from,
        to,
        ..
    } = asked;
    let start = format!(
        "{exchange} {}: {from} asked, {to} answered; what they said is sealed",
        id.0
    );
    // An identity, a proof and a Child SA take at least 130 octets, a notification alone 8; both wear padding, IV and ICV.
    let is_short = reply.sealed > 0 && reply.sealed <= SHORT && reply.asked > 2 * SHORT;
    if *exchange == ExchangeType::IKE_AUTH && is_short {
        return format!(
            "{start}, but an answer of {} octets holds no identity: {to} refuses (most likely AUTHENTICATION_FAILED: another \
             pre-shared key, or an identity that it does not expect)",
            reply.sealed
        );
    }
    start
}

/// Octets sealed in an answer that is only a notification, under any suite.
const SHORT: usize = 72;

struct Exchange<'a> {
    asked: &'a RequestView<'a>,
    request: Parts<'a>,
    answer: Parts<'a>,
}

/// The payloads of a message, asked for by kind.
#[derive(Clone, Copy)]
struct Parts<'a>(&'a [Payload]);

impl<'a> Parts<'a> {
    fn sa(self) -> Option<&'a Sa> {
        self.0.iter().find_map(|payload| match payload {
            Payload::Sa(sa) => Some(sa),
            _ => None,
        })
    }

    fn group(self) -> Option<u16> {
        self.0.iter().find_map(|payload| match payload {
            Payload::Ke(ke) => Some(ke.group),
            _ => None,
        })
    }

    fn id(self) -> Option<&'a Id> {
        self.0.iter().find_map(|payload| match payload {
            Payload::IdI(id) | Payload::IdR(id) => Some(id),
            _ => None,
        })
    }

    /// Who answers; a request may also name whom it hopes for.
    fn responder(self) -> Option<&'a Id> {
        self.0.iter().find_map(|payload| match payload {
            Payload::IdR(id) => Some(id),
            _ => None,
        })
    }

    fn proof(self) -> Option<&'a Auth> {
        self.0.iter().find_map(|payload| match payload {
            Payload::Auth(auth) => Some(auth),
            _ => None,
        })
    }

    fn selectors(self) -> Option<(&'a TrafficSelectors, &'a TrafficSelectors)> {
        let ts_i = self.0.iter().find_map(|payload| match payload {
            Payload::TsI(ts) => Some(ts),
            _ => None,
        })?;
        let ts_r = self.0.iter().find_map(|payload| match payload {
            Payload::TsR(ts) => Some(ts),
            _ => None,
        })?;
        Some((ts_i, ts_r))
    }

    fn notifies(self) -> impl Iterator<Item = &'a Notify> {
        self.0.iter().filter_map(|payload| match payload {
            Payload::Notify(notify) => Some(notify),
            _ => None,
        })
    }

    fn notify(self, kind: NotifyType) -> Option<&'a Notify> {
        self.notifies().find(|notify| notify.kind == kind)
    }

    fn deletes(self) -> impl Iterator<Item = String> {
        self.0.iter().filter_map(|payload| match payload {
            Payload::Delete(delete) if delete.protocol == ProtocolId::IKE => {
                Some("the IKE SA".to_owned())
            }
            Payload::Delete(delete) => {
                let spis: Vec<String> = delete.spis.iter().map(|s| format!("{s:08x}")).collect();
                Some(format!("{} {}", delete.protocol, spis.join(", ")))
            }
            _ => None,
        })
    }
}

impl Exchange<'_> {
    fn init(&self) -> Vec<CaptureNote> {
        let RequestView { from, to, .. } = self.asked;
        let offer = self.request.sa();
        if let (Some(offer), Some(choice)) = (offer, self.answer.sa()) {
            return vec![self.say(format!(
                "{from} offered {}; {to} chose {}",
                offered(offer, ProtocolId::IKE),
                offered(choice, ProtocolId::IKE)
            ))];
        }
        if self.answer.notify(NotifyType::COOKIE).is_some() {
            return vec![self.say(format!(
                "{to} asked {from} to try again with a cookie (it is busy, or always does)"
            ))];
        }
        self.errors()
    }

    fn auth(&self) -> Vec<CaptureNote> {
        let RequestView { from, to, .. } = self.asked;
        let mut told = Vec::new();
        if let Some(id) = self.request.id() {
            let who = format!("{from} is {id} ({}), {}", id.kind, proved(self.request));
            let other = match self.answer.responder() {
                Some(id) => format!("; {to} is {id} ({}), {}", id.kind, proved(self.answer)),
                None => String::new(),
            };
            told.push(self.say(who + &other));
        }
        told.extend(self.child());
        told.extend(self.errors());
        told
    }

    fn create(&self) -> Vec<CaptureNote> {
        let RequestView { from, to, .. } = self.asked;
        let rekeyed = self.request.notify(NotifyType::REKEY_SA);
        let offer = self.request.sa();
        let is_ike = offer.is_some_and(|sa| has(sa, ProtocolId::IKE));
        let mut told = Vec::new();
        match (offer, self.answer.sa()) {
            (Some(offer), Some(choice)) if is_ike => {
                let spis = [offer, choice].map(|sa| spi_of(sa, ProtocolId::IKE));
                told.push(self.say(format!(
                    "{from} rekeyed the IKE SA: offered {}; {to} chose {}; the new SPIs are {}",
                    offered(offer, ProtocolId::IKE),
                    offered(choice, ProtocolId::IKE),
                    spis.join(" ")
                )));
            }
            (_, _) => {
                if let Some(notify) = rekeyed {
                    let spi = hex(&notify.spi);
                    told.push(self.say(format!("{from} asked to rekey {} {spi}", notify.protocol)));
                } else if is_ike {
                    told.push(self.say(format!("{from} asked to rekey the IKE SA")));
                } else {
                    told.push(self.say(format!("{from} asked for another Child SA")));
                }
                told.extend(self.child());
            }
        }
        told.extend(self.errors());
        told
    }

    /// The Child SA, if there is one.
    fn child(&self) -> Option<CaptureNote> {
        let RequestView { from, to, .. } = self.asked;
        let (offer, choice) = (self.request.sa()?, self.answer.sa()?);
        let mut sentence = format!(
            "Child SA: {from} offered {}; {to} chose {}",
            offered(offer, ProtocolId::ESP),
            offered(choice, ProtocolId::ESP)
        );
        if let (Some(group), true) = (self.answer.group(), !names_a_group(choice)) {
            sentence += &format!(" with {}", names::group_in_words(group));
        }
        let (to_from, to_to) = (
            spi_of(offer, ProtocolId::ESP),
            spi_of(choice, ProtocolId::ESP),
        );
        sentence += &format!("; ESP to {from} carries {to_from}, to {to} {to_to}");
        if let Some((ts_i, ts_r)) = self.answer.selectors() {
            let narrowed = match self.request.selectors() {
                Some(asked) if asked != (ts_i, ts_r) => {
                    let (i, r) = (selectors(asked.0), selectors(asked.1));
                    format!(" (narrowed from {i} === {r})")
                }
                Some(_) | None => String::new(),
            };
            let (i, r) = (selectors(ts_i), selectors(ts_r));
            sentence += &format!("; traffic {i} === {r}{narrowed}");
        }
        Some(self.say(sentence))
    }

    fn informational(&self) -> Vec<CaptureNote> {
        let RequestView { from, .. } = self.asked;
        let mut told: Vec<CaptureNote> = self
            .request
            .deletes()
            .map(|what| self.say(format!("{from} deleted {what}")))
            .collect();
        for notify in self.request.notifies() {
            told.push(self.say(format!("{from} said {}", name(notify))));
        }
        told.extend(self.errors());
        if told.is_empty() && self.request.0.is_empty() {
            told.push(CaptureNote::LivenessCheck);
        }
        told
    }

    fn other(&self) -> Vec<CaptureNote> {
        let RequestView { from, to, .. } = self.asked;
        let what = match (self.request.group(), self.answer.group()) {
            (Some(group), Some(_)) => {
                format!(
                    "{from} and {to} exchanged keys of {}",
                    names::group_in_words(group)
                )
            }
            (_, _) => format!("{from} asked, {to} answered"),
        };
        vec![self.say(what)]
    }

    /// What the answer refuses, and why.
    fn errors(&self) -> Vec<CaptureNote> {
        self.answer
            .notifies()
            .filter(|notify| notify.kind.is_error())
            .map(|notify| self.refusal(notify))
            .collect()
    }

    fn refusal(&self, notify: &Notify) -> CaptureNote {
        let RequestView { from, to, .. } = self.asked;
        let offer = self.request.sa();
        if let (NotifyType::NO_PROPOSAL_CHOSEN, Some(offer)) = (notify.kind, offer) {
            let protocol = if has(offer, ProtocolId::IKE) {
                ProtocolId::IKE
            } else {
                ProtocolId::ESP
            };
            let RequestView { exchange, id, .. } = self.asked;
            return CaptureNote::Rejection(ProposalRejection {
                exchange: format!("{exchange} {}", id.0),
                by: *to,
                to: *from,
                offer: offer.clone(),
                protocol,
            });
        }
        let why = match notify.kind {
            NotifyType::INVALID_KE_PAYLOAD => {
                let wanted = <[u8; 2]>::try_from(notify.data.as_slice()).ok();
                let wanted = wanted.map(u16::from_be_bytes).map(names::group_in_words);
                let used = self.request.group().map(names::group_in_words);
                match (wanted, used) {
                    (Some(wanted), Some(used)) => {
                        format!(": it wants a key exchange of {wanted}, not {used}")
                    }
                    (Some(wanted), None) => format!(": it wants a key exchange of {wanted}"),
                    (None, _) => String::new(),
                }
            }
            NotifyType::AUTHENTICATION_FAILED => {
                let id = self
                    .request
                    .id()
                    .map_or_else(|| from.to_string(), Id::to_string);
                format!(
                    ": another pre-shared key than {from}'s, or it does not expect the identity {id}"
                )
            }
            NotifyType::TS_UNACCEPTABLE => match self.request.selectors() {
                Some((ts_i, ts_r)) => format!(
                    ": {from} asks for {} === {}, which has nothing in common with what {to} allows",
                    selectors(ts_i),
                    selectors(ts_r)
                ),
                None => String::new(),
            },
            NotifyType::TEMPORARY_FAILURE => {
                ": it is busy with the same SA and will be asked again".to_owned()
            }
            NotifyType::CHILD_SA_NOT_FOUND => ": it has no such Child SA (any more)".to_owned(),
            NotifyType::NO_ADDITIONAL_SAS => {
                ": it takes no further SAs on this IKE SA, nor rekeys them".to_owned()
            }
            _ => String::new(),
        };
        self.say(format!("{to} refused with {}{why}", name(notify)))
    }

    fn say(&self, what: String) -> CaptureNote {
        let RequestView { exchange, id, .. } = self.asked;
        CaptureNote::Text(format!("{exchange} {}: {what}", id.0))
    }
}

fn proved(parts: Parts<'_>) -> String {
    match parts.proof() {
        Some(auth) => format!("proved by {}", auth.method),
        None => "without a proof yet".to_owned(),
    }
}

fn name(notify: &Notify) -> String {
    match notify.kind.name() {
        Some(name) => name.to_owned(),
        None => format!("notification {}", notify.kind.0),
    }
}

fn has(sa: &Sa, protocol: ProtocolId) -> bool {
    sa.proposals
        .iter()
        .any(|proposal| proposal.protocol == protocol)
}

fn names_a_group(sa: &Sa) -> bool {
    let is_group = |proposal: &Proposal| {
        proposal
            .transforms
            .iter()
            .any(|transform| transform.kind == TransformType::KE)
    };
    sa.proposals.iter().any(is_group)
}

/// The sender's SPI, which is the same in every proposal of an honest offer.
fn spi_of(sa: &Sa, protocol: ProtocolId) -> String {
    let proposal = sa
        .proposals
        .iter()
        .find(|proposal| proposal.protocol == protocol);
    proposal.map_or_else(|| "none".to_owned(), |proposal| hex(&proposal.spi))
}
