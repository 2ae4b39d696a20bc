//! A complete message: header, cleartext payloads, and the encrypted payload if present (RFC 7296 §3.14, RFC 7383 §2.5).

use super::chain::{self, ChainError, GenericPayload, Payload};
use super::codec::{Cursor, Malformed, TooLong, fill_length_u16};
use super::header::Header;
use super::numbers::{ExchangeType, PayloadType};

/// An IKE message in a datagram, without the non-ESP marker of port 4500.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// The header.
    pub header: Header,
    /// The cleartext payloads, in front of the encrypted one.
    pub clear: Vec<Payload>,
    /// The encrypted payload, always the last.
    pub sealed: Option<Sealed>,
    /// The complete message.
    pub bytes: &'a [u8],
}

/// Position and content type of the encrypted payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sealed {
    /// Type of the first payload inside.
    pub first: PayloadType,
    /// Length of the associated data: the octets from the start of the message that are authenticated but not encrypted. The IV
    /// follows.
    pub aad_len: usize,
    /// Whether the payload is the complete message or a fragment.
    pub envelope: Envelope,
}

/// Whether an encrypted payload contains all payloads or a fragment of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Envelope {
    /// SK: all payloads.
    Whole,
    /// SKF: a fragment of the payloads of this message ID (RFC 7383).
    Fragment {
        /// Fragment number, from 1.
        number: u16,
        /// Total of fragments.
        total: u16,
    },
}

impl<'a> Message<'a> {
    /// Parses a datagram.
    ///
    /// # Errors
    /// The datagram is not an IKEv2 message, or has an unknown critical payload.
    pub fn parse(datagram: &'a [u8]) -> Result<Message<'a>, ChainError> {
        let header = Header::parse(datagram)?;
        if header.major != 2 {
            return Err(ChainError::MajorVersion(header.major));
        }
        let body = datagram.get(Header::LEN..).unwrap_or_default();
        let (clear, generic) = chain::parse_to_seal(header.next, Cursor::new(body, Header::LEN))?;
        let sealed = generic
            .map(|generic| Sealed::parse(&header, &generic))
            .transpose()?;
        Ok(Message {
            header,
            clear,
            sealed,
            bytes: datagram,
        })
    }

    /// Encodes a message without an encrypted payload; `next` and `length` of the header are filled in.
    ///
    /// # Errors
    /// A payload exceeds its length field.
    pub fn encode_clear(header: Header, payloads: &[Payload]) -> Result<Vec<u8>, TooLong> {
        let next = payloads.first().map_or(PayloadType::NONE, Payload::kind);
        let mut out = Vec::new();
        Header { next, ..header }.encode(&mut out);
        chain::encode(payloads, &mut out)?;
        Header::fill_length(&mut out)?;
        Ok(out)
    }

    /// Encodes the message again: reserved bits become zero, everything else is unchanged.
    ///
    /// # Errors
    /// A payload exceeds its length field.
    pub fn encode(&self) -> Result<Vec<u8>, TooLong> {
        let Some(sealed) = self.sealed else {
            return Message::encode_clear(self.header, &self.clear);
        };
        let mut out = Vec::new();
        let next = self
            .clear
            .first()
            .map_or(sealed.envelope.kind(), Payload::kind);
        Header {
            next,
            ..self.header
        }
        .encode(&mut out);
        chain::encode_before(&self.clear, sealed.envelope.kind(), &mut out)?;
        let start = out.len();
        sealed.envelope.encode(sealed.first, &mut out);
        out.extend_from_slice(self.bytes.get(sealed.aad_len..).unwrap_or_default());
        fill_length_u16(&mut out, start, "encrypted payload")?;
        Header::fill_length(&mut out)?;
        Ok(out)
    }
}

impl Sealed {
    fn parse(header: &Header, generic: &GenericPayload<'_>) -> Result<Sealed, Malformed> {
        let mut body = generic.body;
        if header.exchange == ExchangeType::IKE_SA_INIT {
            return Err(body.malformed("encrypted payload in IKE_SA_INIT"));
        }
        let envelope = match generic.kind {
            PayloadType::SKF => Envelope::fragment(generic.next, &mut body)?,
            _ => Envelope::Whole,
        };
        Ok(Sealed {
            first: generic.next,
            aad_len: body.offset(),
            envelope,
        })
    }
}

impl Envelope {
    fn fragment(first: PayloadType, body: &mut Cursor<'_>) -> Result<Envelope, Malformed> {
        let start = *body;
        let number = body.u16("fragment number truncated")?;
        let total = body.u16("number of fragments truncated")?;
        if number == 0 || number > total {
            return Err(start.malformed("fragment number exceeds the total or is zero"));
        }
        // RFC 7383 §2.5: only the first fragment carries the type of the first payload inside.
        if (number == 1) == (first == PayloadType::NONE) {
            return Err(
                start.malformed("next payload missing in the first fragment or present in another")
            );
        }
        Ok(Envelope::Fragment { number, total })
    }

    pub(super) const fn kind(self) -> PayloadType {
        match self {
            Envelope::Whole => PayloadType::SK,
            Envelope::Fragment { .. } => PayloadType::SKF,
        }
    }

    /// Appends the octets in front of the IV; the length is filled in later.
    pub(super) fn encode(self, first: PayloadType, out: &mut Vec<u8>) {
        out.extend_from_slice(&[first.0, 0, 0, 0]);
        match self {
            Envelope::Whole => {}
            Envelope::Fragment { number, total } => {
                out.extend_from_slice(&number.to_be_bytes());
                out.extend_from_slice(&total.to_be_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::header::{Flags, IkeSpi, MessageId};
    use super::super::{Notify, NotifyType};
    use super::*;

    fn header(exchange: ExchangeType) -> Header {
        Header::new(
            IkeSpi(1),
            IkeSpi(2),
            exchange,
            Flags::default(),
            MessageId(1),
        )
    }

    fn notify() -> Payload {
        Payload::Notify(Notify::new(NotifyType::COOKIE, vec![1; 20]))
    }

    /// A message with one payload with this body.
    fn with_payload(
        exchange: ExchangeType,
        kind: PayloadType,
        next: PayloadType,
        body: &[u8],
    ) -> Vec<u8> {
        let payload = Payload::Unknown {
            kind,
            critical: super::super::Critical::No,
            body: body.to_vec(),
        };
        let mut bytes = Message::encode_clear(header(exchange), &[payload]).unwrap();
        bytes[Header::LEN] = next.0;
        bytes
    }

    #[test]
    fn a_cleartext_message_round_trips() {
        let bytes = Message::encode_clear(header(ExchangeType::IKE_SA_INIT), &[notify(), notify()])
            .unwrap();
        let read = Message::parse(&bytes).unwrap();
        assert_eq!(
            (read.clear.as_slice(), read.sealed),
            (&[notify(), notify()][..], None)
        );
        assert_eq!(usize::try_from(read.header.length), Ok(bytes.len()));
        assert_eq!(read.encode(), Ok(bytes.clone()));
    }

    #[test]
    fn an_encrypted_part_starts_after_its_generic_header() {
        let bytes = with_payload(
            ExchangeType::IKE_AUTH,
            PayloadType::SK,
            PayloadType::IDI,
            &[9; 40],
        );
        let sealed = Message::parse(&bytes).unwrap().sealed.unwrap();
        let expected = Sealed {
            first: PayloadType::IDI,
            aad_len: 32,
            envelope: Envelope::Whole,
        };
        assert_eq!(sealed, expected);
        assert_eq!(Message::parse(&bytes).unwrap().encode(), Ok(bytes.clone()));
    }

    #[test]
    fn n17_a_payload_after_the_encrypted_one_is_malformed() {
        let mut bytes = with_payload(
            ExchangeType::IKE_AUTH,
            PayloadType::SK,
            PayloadType::IDI,
            &[9; 40],
        );
        bytes.extend_from_slice(&[0, 0, 0, 4]);
        bytes[24..28].copy_from_slice(&76_u32.to_be_bytes());
        assert!(matches!(
            Message::parse(&bytes),
            Err(ChainError::Malformed(_))
        ));
    }

    #[test]
    fn n17_an_encrypted_payload_in_ike_sa_init_is_malformed() {
        for kind in [PayloadType::SK, PayloadType::SKF] {
            let bytes = with_payload(
                ExchangeType::IKE_SA_INIT,
                kind,
                PayloadType::SA,
                &[0, 1, 0, 1, 9, 9],
            );
            assert!(
                matches!(Message::parse(&bytes), Err(ChainError::Malformed(_))),
                "{kind}"
            );
        }
    }

    #[test]
    fn f01_f04_inconsistent_fragments_are_malformed() {
        let fragment = |number: u16, total: u16, next: PayloadType| {
            let body = [number.to_be_bytes(), total.to_be_bytes(), [9, 9]].concat();
            with_payload(ExchangeType::IKE_AUTH, PayloadType::SKF, next, &body)
        };
        let (idi, none) = (PayloadType::IDI, PayloadType::NONE);
        for (number, total, next) in [
            (0, 0, none),
            (0, 2, none),
            (3, 2, none),
            (1, 2, none),
            (2, 2, idi),
        ] {
            assert!(
                Message::parse(&fragment(number, total, next)).is_err(),
                "{number} of {total}, {next}"
            );
        }
        let bytes = fragment(2, 3, none);
        let sealed = Message::parse(&bytes).unwrap().sealed.unwrap();
        assert_eq!(
            (sealed.aad_len, sealed.envelope),
            (
                36,
                Envelope::Fragment {
                    number: 2,
                    total: 3
                }
            )
        );
        let cut = with_payload(ExchangeType::IKE_AUTH, PayloadType::SKF, idi, &[0, 1, 0]);
        assert!(Message::parse(&cut).is_err());
    }

    #[test]
    fn n27_other_major_versions_are_distinguished_from_malformed_messages() {
        let mut bytes =
            Message::encode_clear(header(ExchangeType::IKE_SA_INIT), &[notify()]).unwrap();
        for (octet, major) in [(0x00, 0), (0x10, 1), (0x30, 3), (0xf0, 15)] {
            bytes[17] = octet;
            assert_eq!(
                Message::parse(&bytes).unwrap_err(),
                ChainError::MajorVersion(major)
            );
        }
        for octet in [0x21, 0x2f] {
            bytes[17] = octet;
            assert!(Message::parse(&bytes).is_ok());
        }
    }
}
