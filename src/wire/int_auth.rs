//! The form of an IKE_INTERMEDIATE message that AUTH covers: without IV, padding and ICV (RFC 9242 §3.3.2).
//!
//! ```text
//! on the wire   | header | SK generic header | IV | inner payloads | padding | pad length | ICV |
//! bare          | header | SK generic header |      inner payloads |                                both lengths adjusted
//! ```
//!
//! A fragmented message has the same form as an unfragmented one.

use super::chain::{self, Payload};
use super::codec::{TooLong, fill_length_u16};
use super::header::Header;
use super::message::Envelope;
use super::numbers::PayloadType;

/// The form of a message to send.
///
/// # Errors
/// A payload exceeds its length field.
pub fn sent(header: Header, payloads: &[Payload]) -> Result<Vec<u8>, TooLong> {
    let mut start = Vec::new();
    header.encode(&mut start);
    let mut inner = Vec::new();
    chain::encode(payloads, &mut inner)?;
    let first = payloads.first().map_or(PayloadType::NONE, Payload::kind);
    content(start, first, &inner)
}

/// The form of a received message. `datagram` is its datagram, or that of its first fragment; `inner` is the decrypted content
/// without padding. Cleartext payloads in front of the encrypted one are omitted; no implementation sends them, and the peer's
/// AUTH fails with them.
///
/// # Errors
/// The datagram is shorter than a header, or the payloads exceed the length field.
pub fn received(datagram: &[u8], first: PayloadType, inner: &[u8]) -> Result<Vec<u8>, TooLong> {
    let start = datagram.get(..Header::LEN).ok_or(TOO_LONG)?;
    content(start.to_vec(), first, inner)
}

const TOO_LONG: TooLong = TooLong { what: "message" };

/// Offset of the header's next payload field.
const NEXT_AT: usize = 16;

fn content(mut message: Vec<u8>, first: PayloadType, inner: &[u8]) -> Result<Vec<u8>, TooLong> {
    *message.get_mut(NEXT_AT).ok_or(TOO_LONG)? = PayloadType::SK.0;
    let start = message.len();
    Envelope::Whole.encode(first, &mut message);
    message.extend_from_slice(inner);
    fill_length_u16(&mut message, start, "encrypted payload")?;
    Header::fill_length(&mut message)?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{ExchangeType, Flags, IkeSpi, MessageId, Notify, NotifyType};

    #[test]
    fn both_sides_see_the_same_octets_whole_or_in_fragments() {
        let header = Header::new(
            IkeSpi(0x0102_0304_0506_0708),
            IkeSpi(0x1112_1314_1516_1718),
            ExchangeType::IKE_INTERMEDIATE,
            Flags {
                initiator: true,
                ..Flags::default()
            },
            MessageId(1),
        );
        let payloads = [Payload::Notify(Notify::new(NotifyType::COOKIE, vec![7; 3]))];
        #[rustfmt::skip]
        let expected = [
            1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18,
            46, 0x20, 43, 0x08, 0, 0, 0, 1, 0, 0, 0, 43,
            41, 0, 0, 15,
            0, 0, 0, 11, 0, 0, 0x40, 6, 7, 7, 7,
        ];
        assert_eq!(sent(header, &payloads).unwrap(), expected);

        let mut datagram = expected[..28].to_vec();
        datagram[16] = PayloadType::SKF.0;
        datagram[24..28].copy_from_slice(&[0, 0, 2, 0]);
        datagram.extend([0xee; 100]);
        let inner = &expected[32..];
        assert_eq!(
            received(&datagram, PayloadType::NOTIFY, inner).unwrap(),
            expected
        );
        assert!(received(&datagram[..27], PayloadType::NOTIFY, inner).is_err());
        assert!(received(&datagram, PayloadType::NOTIFY, &[0; 70_000]).is_err());
    }
}
