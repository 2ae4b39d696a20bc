//! The encrypted payload (RFC 7296 §3.14), as a frame for `crypto` to seal or open in place.
//!
//! ```text
//! | header | SK generic header | IV | inner payloads | padding | pad length | ICV |
//! |◀────── aad_len ───────────▶|    |◀──────── encrypted ──────────────────▶|     |
//! ```

use super::chain::{self, Payload};
use super::codec::{Malformed, TooLong, fill_length_u16};
use super::header::Header;
use super::message::Envelope;
use super::numbers::PayloadType;

/// What a suite needs around the payloads, in octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Room {
    /// In front, for the IV.
    pub iv: usize,
    /// Behind, for the ICV.
    pub icv: usize,
    /// What the encrypted part is a multiple of.
    pub block: usize,
}

/// A message ready to be sealed in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Framed {
    /// The whole message, the room for IV and ICV zero.
    pub bytes: Vec<u8>,
    /// Octets from the start that are authenticated but not encrypted.
    pub aad_len: usize,
}

/// Lays out a message whose payloads are all sealed; lengths are filled in, so that sealing changes none.
///
/// # Errors
/// The payloads do not fit their length fields, or the block is none.
pub fn frame(header: Header, inner: &[Payload], room: Room) -> Result<Framed, TooLong> {
    let mut bytes = Vec::new();
    Header {
        next: PayloadType::SK,
        ..header
    }
    .encode(&mut bytes);
    let start = bytes.len();
    let first = inner.first().map_or(PayloadType::NONE, Payload::kind);
    Envelope::Whole.encode(first, &mut bytes);
    let aad_len = bytes.len();
    append_zeros(&mut bytes, room.iv);
    let plaintext_at = bytes.len();
    chain::encode(inner, &mut bytes)?;
    append_padding(&mut bytes, plaintext_at, room.block)?;
    append_zeros(&mut bytes, room.icv);
    fill_length_u16(&mut bytes, start, "encrypted payload")?;
    Header::fill_length(&mut bytes)?;
    Ok(Framed { bytes, aad_len })
}

/// Cuts padding and pad length off what was decrypted. Any content of the padding is accepted (RFC 7296 §3.14).
///
/// # Errors
/// The pad length exceeds what is there.
pub fn unpad(plaintext: &[u8]) -> Result<&[u8], Malformed> {
    let malformed = Malformed {
        what: "padding longer than what it pads",
        offset: plaintext.len(),
    };
    let (pad_length, padded) = plaintext.split_last().ok_or(malformed)?;
    let length = padded
        .len()
        .checked_sub(usize::from(*pad_length))
        .ok_or(malformed)?;
    padded.get(..length).ok_or(malformed)
}

/// Pads what stands from `plaintext_at` on, and the pad length behind it, to a multiple of `block`.
fn append_padding(bytes: &mut Vec<u8>, plaintext_at: usize, block: usize) -> Result<(), TooLong> {
    let too_long = TooLong { what: "padding" };
    let with_pad_length = bytes.len().saturating_sub(plaintext_at).saturating_add(1);
    let whole = with_pad_length
        .checked_next_multiple_of(block)
        .ok_or(too_long)?;
    let pad = whole.saturating_sub(with_pad_length);
    append_zeros(bytes, pad);
    bytes.push(u8::try_from(pad).map_err(|_| too_long)?);
    Ok(())
}

fn append_zeros(bytes: &mut Vec<u8>, count: usize) {
    bytes.resize(bytes.len().saturating_add(count), 0);
}

#[cfg(test)]
mod tests {
    use super::super::header::{Flags, IkeSpi, MessageId};
    use super::super::numbers::ExchangeType;
    use super::super::{Message, Notify, NotifyType, Sealed};
    use super::*;

    fn header() -> Header {
        let flags = Flags {
            initiator: true,
            ..Flags::default()
        };
        Header::new(
            IkeSpi(1),
            IkeSpi(2),
            ExchangeType::INFORMATIONAL,
            flags,
            MessageId(3),
        )
    }

    fn payloads(size: usize) -> Vec<Payload> {
        vec![Payload::Notify(Notify::new(
            NotifyType::COOKIE,
            vec![1; size],
        ))]
    }

    #[test]
    fn a_frame_is_a_message_and_a_multiple_of_the_block() {
        for block in [1, 8, 16] {
            for size in 0..40 {
                let room = Room {
                    iv: 16,
                    icv: 12,
                    block,
                };
                let framed = frame(header(), &payloads(size), room).unwrap();
                let message = Message::parse(&framed.bytes).unwrap();
                let sealed = Sealed {
                    first: PayloadType::NOTIFY,
                    aad_len: framed.aad_len,
                    envelope: Envelope::Whole,
                };
                assert_eq!(message.sealed, Some(sealed));
                let plaintext =
                    &framed.bytes[framed.aad_len + room.iv..framed.bytes.len() - room.icv];
                assert_eq!(plaintext.len() % block, 0);
                assert!(
                    plaintext.len() <= 4 + 4 + size + block,
                    "no more padding than needed"
                );
                let inner = unpad(plaintext).unwrap();
                assert_eq!(chain::parse(sealed.first, inner, 0), Ok(payloads(size)));
            }
        }
    }

    #[test]
    fn an_empty_message_has_only_padding() {
        let framed = frame(
            header(),
            &[],
            Room {
                iv: 8,
                icv: 16,
                block: 1,
            },
        )
        .unwrap();
        assert_eq!(framed.bytes.len(), 28 + 4 + 8 + 1 + 16);
        assert_eq!(
            Message::parse(&framed.bytes).unwrap().sealed.unwrap().first,
            PayloadType::NONE
        );
        assert_eq!(unpad(&[0]), Ok(&[][..]));
    }

    #[test]
    fn p02_padding_may_hold_anything_but_not_exceed_what_is_there() {
        assert_eq!(unpad(&[1, 2, 0xde, 0xad, 2]), Ok(&[1, 2][..]));
        assert_eq!(unpad(&[7, 7, 2]), Ok(&[][..]));
        assert!(unpad(&[7, 7, 3]).is_err());
        assert!(unpad(&[255]).is_err());
        assert!(unpad(&[]).is_err());
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        assert!(
            frame(
                header(),
                &payloads(65_500),
                Room {
                    iv: 16,
                    icv: 16,
                    block: 16
                }
            )
            .is_err()
        );
        assert!(
            frame(
                header(),
                &payloads(0),
                Room {
                    iv: 16,
                    icv: 16,
                    block: 0
                }
            )
            .is_err()
        );
    }
}
