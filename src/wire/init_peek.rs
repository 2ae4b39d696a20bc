//! The fields of an IKE_SA_INIT request that a responder under load checks before it spends any state: the cookie, and the nonce
//! that the cookie is bound to (RFC 7296 §2.6). Nothing is copied, and no other payload is parsed.
//!
//! ```text
//! header | N(COOKIE) | SA | KE | Ni | …        a cookie must be the first payload
//! ```

use super::chain::{self, GenericPayload};
use super::codec::{Cursor, Malformed};
use super::header::Header;
use super::notify::Notify;
use super::numbers::{NotifyType, PayloadType};

/// The fields of an IKE_SA_INIT request that can be checked without state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitPeek<'a> {
    /// The cookie, if the first payload is one of valid length.
    pub cookie: Option<&'a [u8]>,
    /// The initiator's nonce (Ni).
    pub nonce: &'a [u8],
}

impl<'a> InitPeek<'a> {
    /// # Errors
    /// The chain of payloads is malformed, or the number of nonces is not one.
    pub fn read(datagram: &'a [u8]) -> Result<InitPeek<'a>, Malformed> {
        let header = Header::parse(datagram)?;
        let body = datagram.get(Header::LEN..).unwrap_or_default();
        let mut cursor = Cursor::new(body, Header::LEN);
        let (mut kind, mut cookie, mut nonce) = (header.next, None, None);
        for index in 0..=chain::MAX_PAYLOADS {
            if kind == PayloadType::NONE {
                break;
            }
            if index == chain::MAX_PAYLOADS {
                return Err(cursor.malformed("too many payloads"));
            }
            let generic = GenericPayload::read(kind, &mut cursor)?;
            kind = generic.next;
            if generic.kind == PayloadType::NOTIFY && index == 0 {
                cookie = Notify::cookie(generic.body);
            } else if generic.kind == PayloadType::NONCE && nonce.replace(generic.body).is_some() {
                return Err(generic.body.malformed("more than one nonce"));
            }
        }
        let nonce = nonce.ok_or(cursor.malformed("no nonce"))?;
        Ok(InitPeek {
            cookie,
            nonce: nonce.rest(),
        })
    }
}

impl Notify {
    /// The cookie in a notification body, if the notification is a COOKIE of 1 to 64 octets (RFC 7296 §3.10.1).
    fn cookie(mut body: Cursor<'_>) -> Option<&[u8]> {
        let [_protocol, spi_size] = body.array("").ok()?;
        let kind = NotifyType(body.u16("").ok()?);
        body.take(usize::from(spi_size), "").ok()?;
        let cookie = body.take_rest();
        (kind == NotifyType::COOKIE && (1..=64).contains(&cookie.len())).then_some(cookie)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{ExchangeType, Flags, IkeSpi, Message, MessageId, Payload};

    fn request(payloads: &[Payload]) -> Vec<u8> {
        let flags = Flags {
            initiator: true,
            ..Flags::default()
        };
        let header = Header::new(
            IkeSpi(1),
            IkeSpi(0),
            ExchangeType::IKE_SA_INIT,
            flags,
            MessageId(0),
        );
        Message::encode_clear(header, payloads).unwrap()
    }

    fn notify(kind: NotifyType, data: &[u8]) -> Payload {
        Payload::Notify(Notify::new(kind, data.to_vec()))
    }

    fn nonce() -> Payload {
        Payload::Nonce(vec![7; 16])
    }

    #[test]
    fn n10_a_cookie_must_be_the_first_payload_and_have_1_to_64_octets() {
        for (len, lawful) in [(0, false), (1, true), (64, true), (65, false)] {
            let cookie = vec![5; len];
            let bytes = request(&[notify(NotifyType::COOKIE, &cookie), nonce()]);
            let peek = InitPeek::read(&bytes).unwrap();
            assert_eq!(peek.cookie, lawful.then_some(&cookie[..]), "{len}");
            assert_eq!(peek.nonce, [7; 16]);
        }
        let bytes = request(&[nonce(), notify(NotifyType::COOKIE, b"late")]);
        assert_eq!(InitPeek::read(&bytes).unwrap().cookie, None);
        let bytes = request(&[notify(NotifyType::INITIAL_CONTACT, b"x"), nonce()]);
        assert_eq!(InitPeek::read(&bytes).unwrap().cookie, None);
    }

    #[test]
    fn n02_a_broken_chain_or_a_number_of_nonces_other_than_one_is_malformed() {
        let whole = request(&[notify(NotifyType::COOKIE, b"c"), nonce()]);
        for len in 0..whole.len() {
            assert!(InitPeek::read(&whole[..len]).is_err());
        }
        let mut cut = whole.clone();
        cut[30..32].copy_from_slice(&200u16.to_be_bytes());
        assert!(InitPeek::read(&cut).is_err());
        assert!(InitPeek::read(&request(&[])).is_err());
        assert!(InitPeek::read(&request(&[nonce(), nonce()])).is_err());
        let mut many = vec![Payload::Vendor(Vec::new()); chain::MAX_PAYLOADS];
        many.push(nonce());
        assert!(InitPeek::read(&request(&many)).is_err());
    }
}
