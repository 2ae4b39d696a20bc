//! A request and its response described in text.

use std::net::IpAddr;

use data_encoding::HEXLOWER;

use crate::inspect::names;
use crate::inspect::payload::{offered, selectors};
use crate::wire::{
    Auth, ExchangeType, Id, MessageId, Notify, NotifyType, Payload, Proposal, ProtocolId, Sa,
    TrafficSelectors, TransformType,
};

use super::rejection::ProposalRejection;

/// A line of the summary.
#[derive(Debug)]
pub(super) enum CaptureNote {
    /// Text.
    Text(String),
    /// Rejected proposals; described at the end, when every offer of the capture is known.
    Rejection(ProposalRejection),
    /// A liveness check.
    LivenessCheck,
}

/// A request.
pub(super) struct RequestView<'a> {
    pub(super) exchange: ExchangeType,
    pub(super) id: MessageId,
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    /// Payloads, unless they are encrypted.
    pub(super) payloads: Option<&'a [Payload]>,
}

/// A response.
pub(super) struct ResponseView<'a> {
    pub(super) payloads: Option<&'a [Payload]>,
    /// Length of its encrypted payload, if that could not be decrypted.
    pub(super) encrypted_len: usize,
    /// Length of the encrypted payload of the request, likewise.
    pub(super) request_encrypted_len: usize,
}

/// Describes an exchange.
pub(super) fn describe(request: &RequestView<'_>, response: &ResponseView<'_>) -> Vec<CaptureNote> {
    let (Some(request_payloads), Some(response_payloads)) = (request.payloads, response.payloads)
    else {
        return vec![CaptureNote::Text(describe_encrypted(request, response))];
    };
    let exchange = Exchange {
        view: request,
        request: Payloads(request_payloads),
        response: Payloads(response_payloads),
    };
    let (mut notes, has_errors) = match request.exchange {
        ExchangeType::IKE_SA_INIT => (exchange.init(), true),
        ExchangeType::IKE_AUTH => (exchange.auth(), true),
        ExchangeType::CREATE_CHILD_SA => (exchange.create(), true),
        ExchangeType::INFORMATIONAL => (exchange.informational(), true),
        _ => (exchange.other(), false),
    };
    if !has_errors {
        notes.extend(exchange.errors());
    }
    notes
}

/// Describes an exchange whose payloads are known only by their lengths.
fn describe_encrypted(request: &RequestView<'_>, response: &ResponseView<'_>) -> String {
    let RequestView {
        exchange,
        id,
        from,
        to,
        ..
    } = request;
    let start = format!(
        "{exchange} {}: {from} sent a request, {to} responded; both are encrypted",
        id.0
    );
    // An identity, AUTH data and a Child SA take at least 130 octets, a notify alone 8; padding, IV and ICV are added to both.
    let is_short = response.encrypted_len > 0
        && response.encrypted_len <= NOTIFY_ONLY_LEN
        && response.request_encrypted_len > 2 * NOTIFY_ONLY_LEN;
    if *exchange == ExchangeType::IKE_AUTH && is_short {
        return format!(
            "{start}, but a response of {} octets holds no identity: {to} rejected the request (most likely \
             AUTHENTICATION_FAILED: different pre-shared keys, or an unexpected identity)",
            response.encrypted_len
        );
    }
    if *exchange == ExchangeType::CREATE_CHILD_SA && is_short {
        return format!(
            "{start}, but a response of {} octets holds no proposal: {to} rejected the request (most likely \
             NO_PROPOSAL_CHOSEN: other algorithms or another PFS group; TS_UNACCEPTABLE: other networks; or TEMPORARY_FAILURE)",
            response.encrypted_len
        );
    }
    start
}

/// The most encrypted octets of a response with only a notify, under any suite.
const NOTIFY_ONLY_LEN: usize = 72;

struct Exchange<'a> {
    view: &'a RequestView<'a>,
    request: Payloads<'a>,
    response: Payloads<'a>,
}

/// The payloads of a message, with access by type.
#[derive(Clone, Copy)]
struct Payloads<'a>(&'a [Payload]);

impl<'a> Payloads<'a> {
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

    /// The responder's identity. A request may contain one as well.
    fn responder_id(self) -> Option<&'a Id> {
        self.0.iter().find_map(|payload| match payload {
            Payload::IdR(id) => Some(id),
            _ => None,
        })
    }

    fn auth(self) -> Option<&'a Auth> {
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
        let RequestView { from, to, .. } = self.view;
        let offer = self.request.sa();
        if let (Some(offer), Some(choice)) = (offer, self.response.sa()) {
            return vec![self.text(format!(
                "{from} offered {}; {to} chose {}",
                offered(offer, ProtocolId::IKE),
                offered(choice, ProtocolId::IKE)
            ))];
        }
        if self.response.notify(NotifyType::COOKIE).is_some() {
            return vec![self.text(format!(
                "{to} requested a cookie from {from} (it is under load, or always requests one)"
            ))];
        }
        self.errors()
    }

    fn auth(&self) -> Vec<CaptureNote> {
        let RequestView { from, to, .. } = self.view;
        let mut notes = Vec::new();
        if let Some(id) = self.request.id() {
            let who = format!(
                "{from} is {id} ({}), {}",
                id.kind,
                authentication(self.request)
            );
            let other = match self.response.responder_id() {
                Some(id) => format!(
                    "; {to} is {id} ({}), {}",
                    id.kind,
                    authentication(self.response)
                ),
                None => String::new(),
            };
            notes.push(self.text(who + &other));
        }
        notes.extend(self.child());
        notes.extend(self.errors());
        notes
    }

    fn create(&self) -> Vec<CaptureNote> {
        let RequestView { from, to, .. } = self.view;
        let rekeyed = self.request.notify(NotifyType::REKEY_SA);
        let offer = self.request.sa();
        let is_ike = offer.is_some_and(|sa| has(sa, ProtocolId::IKE));
        let mut notes = Vec::new();
        match (offer, self.response.sa()) {
            (Some(offer), Some(choice)) if is_ike => {
                let spis = [offer, choice].map(|sa| spi_of(sa, ProtocolId::IKE));
                notes.push(self.text(format!(
                    "{from} rekeyed the IKE SA: offered {}; {to} chose {}; the new SPIs are {}",
                    offered(offer, ProtocolId::IKE),
                    offered(choice, ProtocolId::IKE),
                    spis.join(" ")
                )));
            }
            (_, _) => {
                if let Some(notify) = rekeyed {
                    let spi = HEXLOWER.encode(&notify.spi);
                    notes.push(self.text(format!(
                        "{from} requested to rekey {} {spi}",
                        notify.protocol
                    )));
                } else if is_ike {
                    notes.push(self.text(format!("{from} requested to rekey the IKE SA")));
                } else {
                    notes.push(self.text(format!("{from} requested another Child SA")));
                }
                notes.extend(self.child());
            }
        }
        notes.extend(self.errors());
        notes
    }

    /// Describes the negotiated Child SA.
    fn child(&self) -> Option<CaptureNote> {
        let RequestView { from, to, .. } = self.view;
        let (offer, choice) = (self.request.sa()?, self.response.sa()?);
        let mut sentence = format!(
            "Child SA: {from} offered {}; {to} chose {}",
            offered(offer, ProtocolId::ESP),
            offered(choice, ProtocolId::ESP)
        );
        if let (Some(group), true) = (self.response.group(), !names_a_group(choice)) {
            sentence += &format!(" with {}", names::group_name(group));
        }
        let (to_from, to_to) = (
            spi_of(offer, ProtocolId::ESP),
            spi_of(choice, ProtocolId::ESP),
        );
        sentence += &format!("; SPI of ESP to {from} is {to_from}, to {to} {to_to}");
        if let Some((ts_i, ts_r)) = self.response.selectors() {
            let narrowed = match self.request.selectors() {
                Some(requested) if requested != (ts_i, ts_r) => {
                    let (i, r) = (selectors(requested.0), selectors(requested.1));
                    format!(" (narrowed from {i} === {r})")
                }
                Some(_) | None => String::new(),
            };
            let (i, r) = (selectors(ts_i), selectors(ts_r));
            sentence += &format!("; traffic {i} === {r}{narrowed}");
        }
        Some(self.text(sentence))
    }

    fn informational(&self) -> Vec<CaptureNote> {
        let RequestView { from, .. } = self.view;
        let mut notes: Vec<CaptureNote> = self
            .request
            .deletes()
            .map(|what| self.text(format!("{from} deleted {what}")))
            .collect();
        for notify in self.request.notifies() {
            notes.push(self.text(format!("{from} sent {}", name(notify))));
        }
        notes.extend(self.errors());
        if notes.is_empty() && self.request.0.is_empty() {
            notes.push(CaptureNote::LivenessCheck);
        }
        notes
    }

    fn other(&self) -> Vec<CaptureNote> {
        let RequestView { from, to, .. } = self.view;
        let what = match (self.request.group(), self.response.group()) {
            (Some(group), Some(_)) => {
                format!(
                    "{from} and {to} performed a key exchange with {}",
                    names::group_name(group)
                )
            }
            (_, _) => format!("{from} sent a request, {to} responded"),
        };
        vec![self.text(what)]
    }

    /// The errors in the response, with their reasons.
    fn errors(&self) -> Vec<CaptureNote> {
        self.response
            .notifies()
            .filter(|notify| notify.kind.is_error())
            .map(|notify| self.rejection(notify))
            .collect()
    }

    fn rejection(&self, notify: &Notify) -> CaptureNote {
        let RequestView { from, to, .. } = self.view;
        let offer = self.request.sa();
        if let (NotifyType::NO_PROPOSAL_CHOSEN, Some(offer)) = (notify.kind, offer) {
            let protocol = if has(offer, ProtocolId::IKE) {
                ProtocolId::IKE
            } else {
                ProtocolId::ESP
            };
            let RequestView { exchange, id, .. } = self.view;
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
                let wanted = wanted.map(u16::from_be_bytes).map(names::group_name);
                let used = self.request.group().map(names::group_name);
                match (wanted, used) {
                    (Some(wanted), Some(used)) => {
                        format!(": it requests {wanted} instead of {used}")
                    }
                    (Some(wanted), None) => format!(": it requests {wanted}"),
                    (None, _) => String::new(),
                }
            }
            NotifyType::AUTHENTICATION_FAILED => {
                let id = self
                    .request
                    .id()
                    .map_or_else(|| from.to_string(), Id::to_string);
                format!(
                    ": its pre-shared key differs from that of {from}, or it does not expect the identity {id}"
                )
            }
            NotifyType::TS_UNACCEPTABLE => match self.request.selectors() {
                Some((ts_i, ts_r)) => format!(
                    ": {from} requests {} === {}, which does not overlap with what {to} allows",
                    selectors(ts_i),
                    selectors(ts_r)
                ),
                None => String::new(),
            },
            NotifyType::TEMPORARY_FAILURE => {
                ": it is rekeying or deleting the same SA; the request will be repeated".to_owned()
            }
            NotifyType::CHILD_SA_NOT_FOUND => ": it does not have that Child SA".to_owned(),
            NotifyType::NO_ADDITIONAL_SAS => {
                ": it accepts no further Child SAs on this IKE SA, and no rekeys".to_owned()
            }
            _ => String::new(),
        };
        self.text(format!("{to} rejected with {}{why}", name(notify)))
    }

    fn text(&self, what: String) -> CaptureNote {
        let RequestView { exchange, id, .. } = self.view;
        CaptureNote::Text(format!("{exchange} {}: {what}", id.0))
    }
}

fn authentication(payloads: Payloads<'_>) -> String {
    match payloads.auth() {
        Some(auth) => format!("authenticated by {}", auth.method),
        None => "not authenticated yet".to_owned(),
    }
}

fn name(notify: &Notify) -> String {
    match notify.kind.name() {
        Some(name) => name.to_owned(),
        None => format!("notify type {}", notify.kind.0),
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

/// The sender's SPI; all proposals of an offer have the same one.
fn spi_of(sa: &Sa, protocol: ProtocolId) -> String {
    let proposal = sa
        .proposals
        .iter()
        .find(|proposal| proposal.protocol == protocol);
    proposal.map_or_else(
        || "none".to_owned(),
        |proposal| HEXLOWER.encode(&proposal.spi),
    )
}
