//! The encrypted payload (RFC 7296 §3.14) and the encrypted fragment (RFC 7383 §2.5), laid out for encryption in place.
//!
//! ```text
//! | header | SK generic header                    | IV | inner payloads         | padding | pad length | ICV |
//! | header | SKF generic header | number | total  | IV | part of inner payloads | padding | pad length | ICV |
//! |◀────── aad_len ──────────────────────────────▶|    |◀──────────── encrypted ───────────────────▶|     |
//! ```
//!
//! Only the first fragment carries the type of the first payload inside. Each fragment is padded and encrypted separately.

use super::chain::{self, Payload};
use super::codec::{Malformed, TooLong, fill_length_u16};
use super::header::Header;
use super::message::Envelope;
use super::numbers::PayloadType;

/// Overhead of a suite, in octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Overhead {
    /// IV length.
    pub iv: usize,
    /// ICV length.
    pub icv: usize,
    /// Block size: the length of the encrypted part is a multiple of it.
    pub block: usize,
}

/// A message laid out for encryption in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedLayout {
    /// The complete message; IV and ICV are zero.
    pub bytes: Vec<u8>,
    /// Length of the associated data: the octets from the start that are authenticated but not encrypted.
    pub aad_len: usize,
}

/// Lays out a message with all payloads encrypted. Lengths are filled in, so that encryption changes none.
///
/// # Errors
/// A payload exceeds its length field, or the block size is zero.
pub fn frame(
    header: Header,
    inner: &[Payload],
    overhead: Overhead,
) -> Result<SealedLayout, TooLong> {
    let mut content = Vec::new();
    let first = chain::encode(inner, &mut content)?;
    lay_out(header, Envelope::Whole, first, &content, overhead)
}

/// Lays out the same message as fragments of at most `max_len` octets, header included.
///
/// # Errors
/// `max_len` leaves no room for content, or more fragments would be needed than the field can count.
pub fn frame_fragments(
    header: Header,
    inner: &[Payload],
    overhead: Overhead,
    max_len: usize,
) -> Result<Vec<SealedLayout>, TooLong> {
    let too_long = TooLong {
        what: "fragmented message",
    };
    let mut content = Vec::new();
    let first = chain::encode(inner, &mut content)?;
    let each = content_of_fragment(overhead, max_len).ok_or(too_long)?;
    let total = u16::try_from(content.len().div_ceil(each)).map_err(|_| too_long)?;
    (1..=total)
        .zip(content.chunks(each))
        .map(|(number, part)| {
            let first = if number == 1 {
                first
            } else {
                PayloadType::NONE
            };
            lay_out(
                header,
                Envelope::Fragment { number, total },
                first,
                part,
                overhead,
            )
        })
        .collect()
}

/// Octets of content in a fragment of `max_len` octets: the space after headers, IV and ICV in whole blocks, less the pad length.
/// `None` if there is no space.
fn content_of_fragment(overhead: Overhead, max_len: usize) -> Option<usize> {
    let around = FRAGMENT_HEADERS
        .checked_add(overhead.iv)?
        .checked_add(overhead.icv)?;
    let encrypted = max_len.checked_sub(around)?;
    let whole_blocks = encrypted.checked_sub(encrypted.checked_rem(overhead.block)?)?;
    whole_blocks.checked_sub(1).filter(|content| *content > 0)
}

/// IKE header, generic header, fragment number and total.
const FRAGMENT_HEADERS: usize = Header::LEN + 8;

fn lay_out(
    header: Header,
    envelope: Envelope,
    first: PayloadType,
    content: &[u8],
    overhead: Overhead,
) -> Result<SealedLayout, TooLong> {
    let mut bytes = Vec::new();
    Header {
        next: envelope.kind(),
        ..header
    }
    .encode(&mut bytes);
    let start = bytes.len();
    envelope.encode(first, &mut bytes);
    let aad_len = bytes.len();
    append_zeros(&mut bytes, overhead.iv);
    let plaintext_at = bytes.len();
    bytes.extend_from_slice(content);
    append_padding(&mut bytes, plaintext_at, overhead.block)?;
    append_zeros(&mut bytes, overhead.icv);
    fill_length_u16(&mut bytes, start, "encrypted payload")?;
    Header::fill_length(&mut bytes)?;
    Ok(SealedLayout { bytes, aad_len })
}

/// Removes padding and pad length from decrypted content. Padding may have any value (RFC 7296 §3.14).
///
/// # Errors
/// The pad length exceeds the content.
pub fn unpad(plaintext: &[u8]) -> Result<&[u8], Malformed> {
    let malformed = Malformed {
        what: "pad length exceeds the content",
        offset: plaintext.len(),
    };
    let (pad_length, padded) = plaintext.split_last().ok_or(malformed)?;
    let length = padded
        .len()
        .checked_sub(usize::from(*pad_length))
        .ok_or(malformed)?;
    padded.get(..length).ok_or(malformed)
}

/// Pads the octets from `plaintext_at` on, with the pad length, to a multiple of `block`.
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
                let overhead = Overhead {
                    iv: 16,
                    icv: 12,
                    block,
                };
                let layout = frame(header(), &payloads(size), overhead).unwrap();
                let message = Message::parse(&layout.bytes).unwrap();
                let sealed = Sealed {
                    first: PayloadType::NOTIFY,
                    aad_len: layout.aad_len,
                    envelope: Envelope::Whole,
                };
                assert_eq!(message.sealed, Some(sealed));
                let plaintext =
                    &layout.bytes[layout.aad_len + overhead.iv..layout.bytes.len() - overhead.icv];
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
        let layout = frame(
            header(),
            &[],
            Overhead {
                iv: 8,
                icv: 16,
                block: 1,
            },
        )
        .unwrap();
        assert_eq!(layout.bytes.len(), 28 + 4 + 8 + 1 + 16);
        assert_eq!(
            Message::parse(&layout.bytes).unwrap().sealed.unwrap().first,
            PayloadType::NONE
        );
        assert_eq!(unpad(&[0]), Ok(&[][..]));
    }

    #[test]
    fn f02_fragments_fill_the_limit_and_concatenate_to_the_message() {
        let inner = payloads(1000);
        let mut expected = Vec::new();
        chain::encode(&inner, &mut expected).unwrap();
        for block in [1, 8, 16] {
            let overhead = Overhead {
                iv: 16,
                icv: 12,
                block,
            };
            for max_len in [128, 200, 545] {
                let layout = frame_fragments(header(), &inner, overhead, max_len).unwrap();
                let mut content = Vec::new();
                for (index, fragment) in layout.iter().enumerate() {
                    assert!(fragment.bytes.len() <= max_len);
                    let sealed = Message::parse(&fragment.bytes).unwrap().sealed.unwrap();
                    let number = u16::try_from(index + 1).unwrap();
                    let total = u16::try_from(layout.len()).unwrap();
                    assert_eq!(sealed.envelope, Envelope::Fragment { number, total });
                    let kind = if number == 1 {
                        PayloadType::NOTIFY
                    } else {
                        PayloadType::NONE
                    };
                    assert_eq!(
                        (sealed.first, sealed.aad_len),
                        (kind, fragment.aad_len),
                        "only the first says what is inside"
                    );
                    let plaintext = &fragment.bytes
                        [fragment.aad_len + overhead.iv..fragment.bytes.len() - overhead.icv];
                    assert_eq!(plaintext.len() % block, 0);
                    if number < total {
                        assert!(
                            fragment.bytes.len() + block > max_len,
                            "no overhead is wasted"
                        );
                    }
                    content.extend_from_slice(unpad(plaintext).unwrap());
                }
                assert_eq!(content, expected);
            }
        }
    }

    #[test]
    fn a_limit_without_space_for_content_is_an_error() {
        let overhead = Overhead {
            iv: 16,
            icv: 16,
            block: 16,
        };
        for max_len in [0, 67, 68, 83] {
            assert!(frame_fragments(header(), &payloads(9), overhead, max_len).is_err());
        }
        assert!(frame_fragments(header(), &payloads(9), overhead, 84).is_ok());
        let none = Overhead {
            block: 0,
            ..overhead
        };
        assert!(frame_fragments(header(), &payloads(9), none, 1000).is_err());
        let tiny = Overhead {
            iv: 0,
            icv: 0,
            block: 1,
        };
        let counted = frame_fragments(
            header(),
            &[payloads(65_000), payloads(600)].concat(),
            tiny,
            38,
        );
        assert!(counted.is_err(), "more fragments than can be counted");
    }

    #[test]
    fn p02_padding_may_have_any_value_but_not_exceed_the_content() {
        assert_eq!(unpad(&[1, 2, 0xde, 0xad, 2]), Ok(&[1, 2][..]));
        assert_eq!(unpad(&[7, 7, 2]), Ok(&[][..]));
        assert!(unpad(&[7, 7, 3]).is_err());
        assert!(unpad(&[255]).is_err());
        assert!(unpad(&[]).is_err());
    }

    #[test]
    fn payloads_that_exceed_their_length_field_are_an_error() {
        assert!(
            frame(
                header(),
                &payloads(65_500),
                Overhead {
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
                Overhead {
                    iv: 16,
                    icv: 16,
                    block: 0
                }
            )
            .is_err()
        );
    }
}
