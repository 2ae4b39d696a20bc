//! The chain of payloads (RFC 7296 §3.2): each payload names the type of the next one, the header names that of the first.
//!
//! ```text
//! | next payload (1) | critical (1 bit) | length (2) | body … |
//! ```

use thiserror::Error;

use super::auth::Auth;
use super::codec::{Cursor, Malformed, TooLong, fill_length_u16};
use super::delete::Delete;
use super::id::Id;
use super::ke::Ke;
use super::nonce;
use super::notify::Notify;
use super::numbers::PayloadType;
use super::sa::Sa;
use super::ts::TrafficSelectors;

/// A payload.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Payload {
    /// Security association: proposals, or the chosen one.
    Sa(Sa),
    /// Key exchange: a public value.
    Ke(Ke),
    /// Identity of the initiator.
    IdI(Id),
    /// Identity of the responder, or the one that the initiator expects.
    IdR(Id),
    /// Authentication.
    Auth(Auth),
    /// Nonce.
    Nonce(Vec<u8>),
    /// Notification.
    Notify(Notify),
    /// Deleted SAs.
    Delete(Delete),
    /// Vendor ID.
    Vendor(Vec<u8>),
    /// Traffic selectors of the initiator's side.
    TsI(TrafficSelectors),
    /// Traffic selectors of the responder's side.
    TsR(TrafficSelectors),
    /// A payload of RFC 7296 that this parser does not decode: certificates, configuration, EAP.
    Other {
        /// Payload type.
        kind: PayloadType,
        /// Critical bit, to be ignored.
        critical: Critical,
        /// Body.
        body: Vec<u8>,
    },
    /// A payload of a type that RFC 7296 does not define; a received one is not critical.
    Unknown {
        /// Payload type.
        kind: PayloadType,
        /// Whether the receiver must understand the payload.
        critical: Critical,
        /// Body.
        body: Vec<u8>,
    },
}

/// The critical bit of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Critical {
    /// The receiver skips the payload if it does not know the type.
    No,
    /// The receiver rejects the message if it does not know the type.
    Yes,
}

/// Why payloads could not be parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ChainError {
    /// The payloads are malformed.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A critical payload has a type that RFC 7296 does not define (RFC 7296 §2.5).
    #[error("payload type {0} is critical and unknown")]
    UnsupportedCritical(PayloadType),
    /// The message has another major version.
    #[error("major version {0} is not 2")]
    MajorVersion(u8),
}

/// Maximum of payloads in a message; a message with more is malformed.
pub const MAX_PAYLOADS: usize = 64;

/// Parses the payloads of `body`. `first` is the type of the first one, and `base_offset` is the offset of `body` in the message.
///
/// # Errors
/// A payload is malformed, encrypted, or unknown and critical; or there are more than [`MAX_PAYLOADS`].
pub fn parse(
    first: PayloadType,
    body: &[u8],
    base_offset: usize,
) -> Result<Vec<Payload>, ChainError> {
    let (payloads, sealed) = parse_to_seal(first, Cursor::new(body, base_offset))?;
    match sealed {
        None => Ok(payloads),
        Some(generic) => Err(generic
            .body
            .malformed("encrypted payload inside another")
            .into()),
    }
}

/// Appends `payloads` and returns the type of the first.
///
/// # Errors
/// A payload exceeds its length field.
pub fn encode(payloads: &[Payload], out: &mut Vec<u8>) -> Result<PayloadType, TooLong> {
    encode_before(payloads, PayloadType::NONE, out)
}

/// A payload with its generic header parsed.
pub(super) struct GenericPayload<'a> {
    pub(super) kind: PayloadType,
    pub(super) critical: Critical,
    /// The next payload field. In an encrypted payload, which is the last one, it is the type of the first payload inside.
    pub(super) next: PayloadType,
    pub(super) body: Cursor<'a>,
}

/// Iterates over payloads up to the end, or up to an encrypted one, which must be the last.
pub(super) fn parse_to_seal<'a>(
    first: PayloadType,
    mut cursor: Cursor<'a>,
) -> Result<(Vec<Payload>, Option<GenericPayload<'a>>), ChainError> {
    let mut payloads = Vec::new();
    let mut kind = first;
    while kind != PayloadType::NONE {
        if payloads.len() >= MAX_PAYLOADS {
            return Err(cursor.malformed("too many payloads").into());
        }
        let generic = GenericPayload::read(kind, &mut cursor)?;
        if generic.kind == PayloadType::SK || generic.kind == PayloadType::SKF {
            if !cursor.is_empty() {
                return Err(cursor.malformed("payload after the encrypted one").into());
            }
            return Ok((payloads, Some(generic)));
        }
        kind = generic.next;
        payloads.push(Payload::parse(&generic)?);
    }
    if !cursor.is_empty() {
        return Err(cursor.malformed("octets after the last payload").into());
    }
    Ok((payloads, None))
}

/// Appends `payloads`, followed by a payload of type `then`, and returns the type of the first.
pub(super) fn encode_before(
    payloads: &[Payload],
    then: PayloadType,
    out: &mut Vec<u8>,
) -> Result<PayloadType, TooLong> {
    let mut rest = payloads.iter().peekable();
    while let Some(payload) = rest.next() {
        let start = out.len();
        let next = rest.peek().map_or(then, |next| next.kind());
        let critical = match payload.critical() {
            Critical::No => 0,
            Critical::Yes => CRITICAL,
        };
        out.extend_from_slice(&[next.0, critical, 0, 0]);
        payload.encode(out)?;
        fill_length_u16(out, start, "payload")?;
    }
    Ok(payloads.first().map_or(then, Payload::kind))
}

const CRITICAL: u8 = 0x80;

impl<'a> GenericPayload<'a> {
    pub(super) fn read(
        kind: PayloadType,
        cursor: &mut Cursor<'a>,
    ) -> Result<GenericPayload<'a>, Malformed> {
        let start = *cursor;
        let next = PayloadType(cursor.u8("payload header truncated")?);
        let flags = cursor.u8("payload header truncated")?;
        let length = cursor.u16("payload header truncated")?;
        let inside = usize::from(length)
            .checked_sub(4)
            .ok_or(start.malformed("payload length shorter than its header"))?;
        let body = cursor.sub(inside, "payload length exceeds the message")?;
        let critical = if flags & CRITICAL == 0 {
            Critical::No
        } else {
            Critical::Yes
        };
        Ok(GenericPayload {
            kind,
            critical,
            next,
            body,
        })
    }
}

impl Payload {
    /// The payload type.
    #[must_use]
    pub const fn kind(&self) -> PayloadType {
        match self {
            Payload::Sa(_) => PayloadType::SA,
            Payload::Ke(_) => PayloadType::KE,
            Payload::IdI(_) => PayloadType::IDI,
            Payload::IdR(_) => PayloadType::IDR,
            Payload::Auth(_) => PayloadType::AUTH,
            Payload::Nonce(_) => PayloadType::NONCE,
            Payload::Notify(_) => PayloadType::NOTIFY,
            Payload::Delete(_) => PayloadType::DELETE,
            Payload::Vendor(_) => PayloadType::VENDOR,
            Payload::TsI(_) => PayloadType::TSI,
            Payload::TsR(_) => PayloadType::TSR,
            Payload::Other { kind, .. } | Payload::Unknown { kind, .. } => *kind,
        }
    }

    fn parse(generic: &GenericPayload<'_>) -> Result<Payload, ChainError> {
        let &GenericPayload {
            kind,
            critical,
            mut body,
            ..
        } = generic;
        Ok(match kind {
            PayloadType::SA => Payload::Sa(Sa::parse(body)?),
            PayloadType::KE => Payload::Ke(Ke::parse(body)?),
            PayloadType::IDI => Payload::IdI(Id::parse(body)?),
            PayloadType::IDR => Payload::IdR(Id::parse(body)?),
            PayloadType::AUTH => Payload::Auth(Auth::parse(body)?),
            PayloadType::NONCE => Payload::Nonce(nonce::parse(body)?),
            PayloadType::NOTIFY => Payload::Notify(Notify::parse(body)?),
            PayloadType::DELETE => Payload::Delete(Delete::parse(body)?),
            PayloadType::VENDOR => Payload::Vendor(body.take_rest().to_vec()),
            PayloadType::TSI => Payload::TsI(TrafficSelectors::parse(body)?),
            PayloadType::TSR => Payload::TsR(TrafficSelectors::parse(body)?),
            kind if kind.is_known() => Payload::Other {
                kind,
                critical,
                body: body.take_rest().to_vec(),
            },
            kind => match critical {
                Critical::Yes => return Err(ChainError::UnsupportedCritical(kind)),
                Critical::No => Payload::Unknown {
                    kind,
                    critical,
                    body: body.take_rest().to_vec(),
                },
            },
        })
    }

    /// The critical bit: clear on every payload that RFC 7296 defines (§2.5).
    const fn critical(&self) -> Critical {
        match self {
            Payload::Other { critical, .. } | Payload::Unknown { critical, .. } => *critical,
            Payload::Sa(_)
            | Payload::Ke(_)
            | Payload::IdI(_)
            | Payload::IdR(_)
            | Payload::Auth(_)
            | Payload::Nonce(_)
            | Payload::Notify(_)
            | Payload::Delete(_)
            | Payload::Vendor(_)
            | Payload::TsI(_)
            | Payload::TsR(_) => Critical::No,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        match self {
            Payload::Sa(sa) => sa.encode(out)?,
            Payload::Ke(ke) => ke.encode(out),
            Payload::IdI(id) | Payload::IdR(id) => id.encode(out),
            Payload::Auth(auth) => auth.encode(out),
            Payload::Notify(notify) => notify.encode(out)?,
            Payload::Delete(delete) => delete.encode(out)?,
            Payload::TsI(ts) | Payload::TsR(ts) => ts.encode(out)?,
            Payload::Nonce(body)
            | Payload::Vendor(body)
            | Payload::Other { body, .. }
            | Payload::Unknown { body, .. } => out.extend_from_slice(body),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notify(kind: u16) -> Payload {
        Payload::Notify(Notify::new(super::super::NotifyType(kind), Vec::new()))
    }

    fn encoded(payloads: &[Payload]) -> (PayloadType, Vec<u8>) {
        let mut out = Vec::new();
        (encode(payloads, &mut out).unwrap(), out)
    }

    #[test]
    fn n05_payloads_come_in_any_order_and_number() {
        let payloads = [
            Payload::Nonce(vec![7; 32]),
            Payload::Ke(Ke {
                group: 14,
                data: vec![1; 256],
            }),
            Payload::Sa(Sa::default()),
            Payload::Nonce(vec![8; 16]),
        ];
        let (first, bytes) = encoded(&payloads);
        assert_eq!(first, PayloadType::NONCE);
        assert_eq!(parse(first, &bytes, 28), Ok(payloads.to_vec()));
        assert_eq!(parse(PayloadType::NONE, &[], 28), Ok(Vec::new()));
    }

    #[test]
    fn n02_wrong_lengths_and_broken_chains_are_malformed() {
        let (first, good) = encoded(&[notify(1), notify(2)]);
        for length in 0..4 {
            let mut bytes = good.clone();
            bytes[3] = length;
            let error = parse(first, &bytes, 28).unwrap_err();
            let what = "payload length shorter than its header";
            assert_eq!(error, Malformed { what, offset: 28 }.into());
        }
        for cut in (1..good.len()).filter(|&cut| cut != 8) {
            assert!(parse(first, &good[..cut], 0).is_err(), "cut at {cut}");
        }
        assert!(
            parse(PayloadType::NONE, &good, 0).is_err(),
            "octets nobody announced"
        );
        assert!(
            parse(first, &[], 0).is_err(),
            "an announced payload is missing"
        );
        let mut endless = good.clone();
        endless[8] = PayloadType::NOTIFY.0;
        assert!(
            parse(first, &endless, 0).is_err(),
            "the last announces itself again"
        );
    }

    #[test]
    fn n02_n29_a_thousand_payloads_are_too_many() {
        let some = vec![Payload::Vendor(Vec::new()); MAX_PAYLOADS];
        let (first, bytes) = encoded(&some);
        assert_eq!(parse(first, &bytes, 0), Ok(some));
        let (first, bytes) = encoded(&vec![Payload::Vendor(Vec::new()); 1000]);
        assert!(parse(first, &bytes, 0).is_err());
    }

    #[test]
    fn n29_vendor_ids_of_any_size_and_certificates_of_any_kind_are_ignored() {
        let payloads = [
            Payload::Vendor(vec![0xff; 65_531]),
            Payload::Other {
                kind: PayloadType::CERTREQ,
                critical: Critical::No,
                body: vec![4, 0xff],
            },
            Payload::Other {
                kind: PayloadType::CP,
                critical: Critical::Yes,
                body: Vec::new(),
            },
        ];
        let (first, bytes) = encoded(&payloads);
        assert_eq!(parse(first, &bytes, 0), Ok(payloads.to_vec()));
        let too_long = [Payload::Vendor(vec![0; 65_532])];
        assert_eq!(
            encode(&too_long, &mut Vec::new()),
            Err(TooLong { what: "payload" })
        );
    }

    #[test]
    fn n26_unknown_payloads_are_skipped_unless_critical() {
        for kind in [1, 32, 49, 50, 54, 255].map(PayloadType) {
            let unknown = |critical| {
                [Payload::Unknown {
                    kind,
                    critical,
                    body: vec![1, 2],
                }]
            };
            let (first, bytes) = encoded(&unknown(Critical::No));
            assert_eq!(parse(first, &bytes, 0), Ok(unknown(Critical::No).to_vec()));
            let (first, bytes) = encoded(&unknown(Critical::Yes));
            assert_eq!(
                parse(first, &bytes, 0),
                Err(ChainError::UnsupportedCritical(kind))
            );
        }
    }

    #[test]
    fn n26_the_critical_bit_of_known_payloads_and_reserved_bits_are_ignored() {
        let (first, mut bytes) = encoded(&[notify(16384)]);
        bytes[1] = 0xff;
        assert_eq!(parse(first, &bytes, 0), Ok(vec![notify(16384)]));
    }

    #[test]
    fn n09_nonces_of_the_wrong_size_are_malformed() {
        for size in [0, 15, 257, 65_000] {
            let (first, bytes) = encoded(&[Payload::Nonce(vec![1; size])]);
            assert!(parse(first, &bytes, 0).is_err(), "{size}");
        }
    }

    #[test]
    fn n17_an_encrypted_payload_inside_is_malformed() {
        for kind in [PayloadType::SK, PayloadType::SKF] {
            assert!(parse(kind, &[0, 0, 0, 4], 0).is_err());
        }
    }
}
