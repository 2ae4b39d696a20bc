//! An IKE payload in the output: the JSON form, and one line of text.

use std::fmt;

use data_encoding::HEXLOWER;
use serde::Serialize;

use crate::ike;
use crate::net::counted;
use crate::wire::{
    Auth, Critical, Delete, Envelope, Id, Ke, Payload, PayloadType, Proposal, ProtocolId, Sa,
    TrafficSelectors, Transform, TsType,
};

use super::names;
use super::notify::{MessageContext, NotifyView};

/// A payload.
#[derive(Clone, Debug, Serialize)]
pub(super) struct PayloadView {
    /// The IANA name, or the number.
    #[serde(rename = "type")]
    kind: String,
    #[serde(flatten)]
    detail: Detail,
}

#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
enum Detail {
    Sa {
        proposals: Vec<ProposalView>,
    },
    Ke {
        group: u16,
        name: Option<&'static str>,
        length: usize,
    },
    Id {
        id_type: String,
        id_type_number: u8,
        id: String,
    },
    Auth {
        method: String,
        method_number: u8,
        length: usize,
    },
    Notify(NotifyView),
    Delete {
        protocol: String,
        protocol_number: u8,
        spis: Vec<String>,
    },
    Vendor {
        data: String,
        name: Option<&'static str>,
        #[serde(skip)]
        text: Option<String>,
    },
    Ts {
        selectors: Vec<SelectorView>,
        unknown: Vec<UnknownSelector>,
    },
    Fragment {
        fragment: u16,
        total: u16,
        length: usize,
    },
    /// A nonce, an encrypted payload, or a payload that groundlink skips.
    Opaque {
        length: usize,
        #[serde(skip_serializing_if = "is_not_critical")]
        critical: bool,
    },
}

fn is_not_critical(critical: &bool) -> bool {
    !critical
}

/// A proposal.
#[derive(Clone, Debug, Serialize)]
struct ProposalView {
    number: u8,
    protocol: String,
    protocol_number: u8,
    spi: String,
    words: String,
    transforms: Vec<TransformView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flaw: Option<&'static str>,
}

#[derive(Clone, Debug, Serialize)]
struct TransformView {
    #[serde(rename = "type")]
    kind: String,
    type_number: u8,
    id: u16,
    name: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_bits: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown_attributes: Option<String>,
}

/// A traffic selector.
#[derive(Clone, Debug, Serialize)]
struct SelectorView {
    first: String,
    last: String,
    protocol: u8,
    ports: [u16; 2],
    words: String,
}

#[derive(Clone, Debug, Serialize)]
struct UnknownSelector {
    #[serde(rename = "type")]
    kind: String,
    length: usize,
}

impl PayloadView {
    /// Describes a payload of a message with `context`.
    pub(super) fn new(payload: &Payload, context: &MessageContext) -> PayloadView {
        let detail = match payload {
            Payload::Sa(sa) => Detail::Sa {
                proposals: sa.proposals.iter().map(ProposalView::new).collect(),
            },
            Payload::Ke(Ke { group, data }) => Detail::Ke {
                group: *group,
                name: names::group(*group),
                length: data.len(),
            },
            Payload::IdI(id) | Payload::IdR(id) => Detail::id(id),
            Payload::Auth(Auth { method, data }) => Detail::Auth {
                method: method.to_string(),
                method_number: method.0,
                length: data.len(),
            },
            Payload::Notify(notify) => Detail::Notify(NotifyView::new(notify, context)),
            Payload::Delete(delete) => Detail::delete(delete),
            Payload::Vendor(data) => Detail::Vendor {
                data: HEXLOWER.encode(data),
                name: names::vendor(data),
                text: printable(data),
            },
            Payload::TsI(ts) | Payload::TsR(ts) => Detail::selectors(ts),
            Payload::Nonce(data) => Detail::opaque(data, Critical::No),
            Payload::Other { body, critical, .. } | Payload::Unknown { body, critical, .. } => {
                Detail::opaque(body, *critical)
            }
        };
        PayloadView {
            kind: payload.kind().to_string(),
            detail,
        }
    }

    /// Describes an encrypted payload; `length` counts the octets from IV to ICV.
    pub(super) fn encrypted(envelope: Envelope, length: usize) -> PayloadView {
        match envelope {
            Envelope::Whole => PayloadView {
                kind: PayloadType::SK.to_string(),
                detail: Detail::Opaque {
                    length,
                    critical: false,
                },
            },
            Envelope::Fragment { number, total } => PayloadView {
                kind: PayloadType::SKF.to_string(),
                detail: Detail::Fragment {
                    fragment: number,
                    total,
                    length,
                },
            },
        }
    }
}

impl Detail {
    fn id(id: &Id) -> Detail {
        Detail::Id {
            id_type: id.kind.to_string(),
            id_type_number: id.kind.0,
            id: id.to_string(),
        }
    }

    fn delete(delete: &Delete) -> Detail {
        Detail::Delete {
            protocol: delete.protocol.to_string(),
            protocol_number: delete.protocol.0,
            spis: delete.spis.iter().map(|spi| format!("{spi:08x}")).collect(),
        }
    }

    fn selectors(ts: &TrafficSelectors) -> Detail {
        let view = |selector: &crate::net::Selector| SelectorView {
            first: selector.first().to_string(),
            last: selector.last().to_string(),
            protocol: selector.protocol(),
            ports: [selector.ports().first(), selector.ports().last()],
            words: selector.to_string(),
        };
        let unknown = |(kind, body): &(TsType, Vec<u8>)| UnknownSelector {
            kind: kind.to_string(),
            length: body.len(),
        };
        Detail::Ts {
            selectors: ts.selectors.iter().map(view).collect(),
            unknown: ts.unknown.iter().map(unknown).collect(),
        }
    }

    fn opaque(data: &[u8], critical: Critical) -> Detail {
        Detail::Opaque {
            length: data.len(),
            critical: critical == Critical::Yes,
        }
    }
}

impl ProposalView {
    fn new(proposal: &Proposal) -> ProposalView {
        ProposalView {
            number: proposal.number,
            protocol: proposal.protocol.to_string(),
            protocol_number: proposal.protocol.0,
            spi: HEXLOWER.encode(&proposal.spi),
            words: words(proposal),
            transforms: proposal.transforms.iter().map(TransformView::new).collect(),
            flaw: proposal.invalid.as_ref().map(|flaw| flaw.what),
        }
    }
}

impl TransformView {
    fn new(transform: &Transform) -> TransformView {
        let attributes = &transform.unknown_attributes;
        TransformView {
            kind: transform.kind.to_string(),
            type_number: transform.kind.0,
            id: transform.id,
            name: names::transform(transform),
            key_bits: transform.key_bits,
            unknown_attributes: (!attributes.is_empty()).then(|| HEXLOWER.encode(attributes)),
        }
    }
}

/// A proposal in configuration syntax; with transforms that groundlink does not support, all of them by strongSwan's names.
fn words(proposal: &Proposal) -> String {
    let known = ike::words(proposal);
    if !known.contains('(') {
        return known;
    }
    let all = proposal.transforms.iter().filter_map(names::word);
    all.collect::<Vec<_>>().join("-")
}

/// The proposals for `protocol`, in configuration syntax.
pub(super) fn offered(sa: &Sa, protocol: ProtocolId) -> String {
    let words: Vec<String> = sa
        .proposals
        .iter()
        .filter(|proposal| proposal.protocol == protocol)
        .map(words)
        .collect();
    if words.is_empty() {
        "nothing".to_owned()
    } else {
        words.join(", ")
    }
}

/// Traffic selectors as text.
pub(super) fn selectors(ts: &TrafficSelectors) -> String {
    let known = ts.selectors.iter().map(ToString::to_string);
    let unknown = ts.unknown.iter().map(|(kind, _)| kind.to_string());
    known.chain(unknown).collect::<Vec<_>>().join(", ")
}

/// A vendor ID that is text.
fn printable(data: &[u8]) -> Option<String> {
    let is_text = data.len() >= 4 && data.iter().all(|b| b.is_ascii_graphic() || *b == b' ');
    let shown = data.get(..64).unwrap_or(data);
    is_text.then(|| shown.escape_ascii().to_string())
}

impl fmt::Display for PayloadView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<8} {}", self.kind, self.detail)
    }
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Detail::Sa { proposals } => {
                let proposals = proposals.iter().map(ToString::to_string);
                f.write_str(&proposals.collect::<Vec<_>>().join("; "))
            }
            Detail::Ke { group, length, .. } => {
                write!(f, "{}, {}", names::group_name(*group), octets(*length))
            }
            Detail::Id { id_type, id, .. } => write!(f, "{id} ({id_type})"),
            Detail::Auth { method, length, .. } => write!(f, "{method}, {}", octets(*length)),
            Detail::Notify(notify) => notify.fmt(f),
            Detail::Delete { protocol, spis, .. } if spis.is_empty() => write!(f, "{protocol} SA"),
            Detail::Delete { protocol, spis, .. } => write!(f, "{protocol} {}", spis.join(", ")),
            Detail::Vendor { data, name, text } => match (name, text) {
                (Some(name), Some(text)) if text.starts_with(name) => f.write_str(text),
                (Some(name), Some(text)) => write!(f, "{name} (\"{text}\")"),
                (Some(name), None) => f.write_str(name),
                (None, Some(text)) => write!(f, "\"{text}\""),
                (None, None) => f.write_str(data.get(..64).unwrap_or(data)),
            },
            Detail::Ts { selectors, unknown } => {
                let known = selectors.iter().map(|selector| selector.words.clone());
                let unknown = unknown.iter().map(|selector| selector.kind.clone());
                f.write_str(&known.chain(unknown).collect::<Vec<_>>().join(", "))
            }
            Detail::Fragment {
                fragment,
                total,
                length,
            } => write!(f, "fragment {fragment} of {total}, {}", octets(*length)),
            Detail::Opaque { length, critical } => {
                let critical = if *critical { ", critical" } else { "" };
                write!(f, "{}{critical}", octets(*length))
            }
        }
    }
}

impl fmt::Display for ProposalView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number, self.protocol)?;
        if !self.spi.is_empty() {
            write!(f, " {}", self.spi)?;
        }
        match self.flaw {
            Some(flaw) => write!(f, ": invalid, {flaw}"),
            None => write!(f, ": {}", self.words),
        }
    }
}

fn octets(length: usize) -> String {
    counted(length as u64, "octet")
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::crypto::IkeProposal;
    use crate::wire::{AuthMethod, IdType, IkeSpi, Notify, NotifyType, TransformType};

    fn context() -> MessageContext {
        let end = |text: &str| text.parse::<SocketAddr>().unwrap();
        MessageContext {
            spi_i: IkeSpi(1),
            spi_r: IkeSpi(2),
            from: end("192.0.2.1:500"),
            to: end("192.0.2.2:500"),
        }
    }

    fn json(payload: &Payload) -> serde_json::Value {
        serde_json::to_value(PayloadView::new(payload, &context())).unwrap()
    }

    fn text(payload: &Payload) -> String {
        PayloadView::new(payload, &context()).to_string()
    }

    #[test]
    fn proposals_are_shown_as_text_and_numbers() {
        let (proposal, _) = IkeProposal::parse("aes128-sha1-modp1024").unwrap();
        let sa = Payload::Sa(ike::offer_ike(&[proposal], &[]));
        assert_eq!(text(&sa), "SA       1 IKE: aes128-sha1-modp1024");
        let proposal = &json(&sa)["proposals"][0];
        assert_eq!(proposal["words"], "aes128-sha1-modp1024");
        let cipher = serde_json::json!({"type":"ENCR","type_number":1,"id":12,"name":"aes128","key_bits":128});
        assert_eq!(proposal["transforms"][0], cipher);
    }

    #[test]
    fn transforms_that_groundlink_does_not_support_have_names_with_their_key_length() {
        let transforms = vec![
            Transform::new(TransformType::ENCR, 13, Some(256)),
            Transform::new(TransformType::ENCR, 18, Some(128)),
            Transform::new(TransformType::ENCR, 23, Some(192)),
            Transform::new(TransformType::ENCR, 7, Some(448)),
            Transform::new(TransformType::ENCR, 99, Some(128)),
            Transform::new(TransformType::INTEG, 12, None),
            Transform::new(TransformType::PRF, 8, None),
            Transform::new(TransformType::KE, 32, None),
            Transform::new(TransformType::ESN, 0, None),
        ];
        let (proposal, _) = IkeProposal::parse("aes128-sha1-modp1024").unwrap();
        let mut proposal = ike::offer_ike(&[proposal], &[]).proposals.remove(0);
        proposal.transforms = transforms;
        assert_eq!(
            words(&proposal),
            "aes256ctr-aes128gcm8-camellia192-blowfish448-encr(99)-sha256-prfaescmac-curve448"
        );
    }

    #[test]
    fn every_payload_type_shows_its_fields() {
        for (payload, line, key, value) in [
            (
                Payload::Ke(Ke {
                    group: 14,
                    data: vec![0; 256],
                }),
                "KE       modp2048 (14), 256 octets",
                "group",
                serde_json::json!(14),
            ),
            (
                Payload::IdI(Id::new(IdType::FQDN, b"gw\x1b.example".to_vec())),
                "IDI      gw\\x1b.example (FQDN)",
                "id_type_number",
                serde_json::json!(2),
            ),
            (
                Payload::Auth(Auth {
                    method: AuthMethod::SHARED_KEY,
                    data: vec![0; 20],
                }),
                "AUTH     SHARED_KEY, 20 octets",
                "method_number",
                serde_json::json!(2),
            ),
            (
                Payload::Nonce(vec![0; 32]),
                "NONCE    32 octets",
                "length",
                serde_json::json!(32),
            ),
            (
                Payload::Delete(Delete::esp(vec![0xc000_0001])),
                "DELETE   ESP c0000001",
                "spis",
                serde_json::json!(["c0000001"]),
            ),
            (
                Payload::Delete(Delete::ike()),
                "DELETE   IKE SA",
                "protocol",
                serde_json::json!("IKE"),
            ),
            (
                Payload::Vendor(b"groundlink IKEv2 1".to_vec()),
                "VENDOR   groundlink IKEv2 1",
                "name",
                serde_json::json!("groundlink"),
            ),
            (
                Payload::Vendor(vec![1, 2, 3]),
                "VENDOR   010203",
                "data",
                serde_json::json!("010203"),
            ),
            (
                Payload::Other {
                    kind: PayloadType::CERTREQ,
                    critical: Critical::Yes,
                    body: vec![0; 5],
                },
                "CERTREQ  5 octets, critical",
                "critical",
                serde_json::json!(true),
            ),
            (
                Payload::Notify(Notify::new(NotifyType::NO_PROPOSAL_CHOSEN, Vec::new())),
                "NOTIFY   NO_PROPOSAL_CHOSEN (14), an error",
                "number",
                serde_json::json!(14),
            ),
        ] {
            assert_eq!(text(&payload), line);
            assert_eq!(json(&payload)[key], value, "{line}");
        }
    }

    #[test]
    fn traffic_selectors_are_shown_as_ranges_and_text() {
        let selector = "10.1.0.0/24".parse::<crate::net::Prefix>().unwrap().into();
        let ts = Payload::TsI(TrafficSelectors {
            selectors: vec![selector],
            unknown: vec![(TsType::SECLABEL, vec![0; 3])],
        });
        assert_eq!(text(&ts), "TSI      10.1.0.0/24, SECLABEL");
        let expected = serde_json::json!({"first":"10.1.0.0","last":"10.1.0.255","protocol":0,"ports":[0,65535],"words":"10.1.0.0/24"});
        assert_eq!(json(&ts)["selectors"][0], expected);
        assert_eq!(json(&ts)["unknown"][0]["length"], 3);
    }

    #[test]
    fn an_encrypted_payload_shows_its_length_and_fragment_number() {
        let whole = PayloadView::encrypted(Envelope::Whole, 60);
        assert_eq!(whole.to_string(), "SK       60 octets");
        let part = Envelope::Fragment {
            number: 2,
            total: 3,
        };
        let part = PayloadView::encrypted(part, 60);
        assert_eq!(part.to_string(), "SKF      fragment 2 of 3, 60 octets");
        assert_eq!(serde_json::to_value(part).unwrap()["fragment"], 2);
    }
}
