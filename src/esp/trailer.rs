//! ESP trailer: padding, pad length and next header (RFC 4303 §2.4 to §2.7).
//!
//! ```text
//!  ├───── inner packet ─────┤ [TFC padding] │ 1 │ 2 │ 3 │ … │ n │ pad length n │ next header │
//!                                           └──── padding ──────┘
//!  ├─────────────────────────── a multiple of the cipher's block ────────────────────────────┤
//! ```

use crate::net::DropReason;
pub(super) use crate::net::protocol::{IPV4, IPV6, NO_NEXT_HEADER};

/// Octets of the minimum trailer: pad length and next header.
pub(super) const LEAST: usize = 2;

/// The maximum padding.
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "the compiler evaluates it, and no input comes near"
)]
const COUNT: [u8; 255] = {
    let mut count = [0; 255];
    let mut at = 0;
    while at < count.len() {
        count[at] = at as u8 + 1;
        at += 1;
    }
    count
};

/// Octets of the trailer that aligns `inner` octets to `align`, at most 256.
pub(super) fn len(inner: usize, align: usize) -> usize {
    let over = inner.saturating_add(LEAST).checked_rem(align).unwrap_or(0);
    let padding = if over == 0 {
        0
    } else {
        align.saturating_sub(over)
    };
    padding.saturating_add(LEAST)
}

/// Writes padding, pad length and next header.
pub(super) fn write(trailer: &mut [u8], next: u8) -> Option<()> {
    let (padding, last) = trailer.split_last_chunk_mut::<LEAST>()?;
    padding.copy_from_slice(COUNT.get(..padding.len())?);
    *last = [u8::try_from(padding.len()).ok()?, next];
    Some(())
}

/// Splits the trailer off an authentic plaintext and returns the payload and its IP version.
pub fn read(plaintext: &[u8]) -> Result<(&[u8], u8), DropReason> {
    // Padding counts 1, 2, 3, and receivers should check it (RFC 4303 §2.4).
    let (rest, [pad_length, next]) = plaintext
        .split_last_chunk::<LEAST>()
        .ok_or(DropReason::Padding)?;
    let inner = rest
        .len()
        .checked_sub(usize::from(*pad_length))
        .ok_or(DropReason::Padding)?;
    let (inner, padding) = rest.split_at_checked(inner).ok_or(DropReason::Padding)?;
    if COUNT.get(..padding.len()) != Some(padding) {
        return Err(DropReason::Padding);
    }

    // Dummies are discarded silently (RFC 4303 §2.6).
    match *next {
        IPV4 => Ok((inner, 4)),
        IPV6 => Ok((inner, 6)),
        NO_NEXT_HEADER => Err(DropReason::Dummy),
        _ => Err(DropReason::NextHeader),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::esp::testing::*;

    #[test]
    fn trailers_round_trip() {
        for (align, inner) in [4, 8, 16]
            .into_iter()
            .flat_map(|align| (0..40).map(move |inner| (align, inner)))
        {
            let mut plaintext = vec![0xee; inner + len(inner, align)];
            assert!(
                plaintext.len().is_multiple_of(align) && plaintext.len() < inner + LEAST + align
            );
            write(&mut plaintext[inner..], IPV6).unwrap();
            assert_eq!(read(&plaintext), Ok((&vec![0xee; inner][..], 6)));
        }
    }

    #[test]
    fn e03_a_wrong_icv_over_wrong_padding_is_only_a_wrong_icv() {
        for words in SUITES {
            let (_, inbound) = pair(words);
            let block = suite(words).protection.block().max(4);
            let mut wrong = craft(words, 1, &vec![0xff; block * 4]);
            let last = wrong.len() - 1;
            assert_eq!(
                open(&inbound, &craft(words, 2, &vec![0xff; block * 4])),
                Err(DropReason::Padding),
                "{words}"
            );
            wrong[last] ^= 1;
            assert_eq!(open(&inbound, &wrong), Err(DropReason::Auth), "{words}");
        }
    }

    #[test]
    fn e04_padding_longer_than_the_payload_is_dropped() {
        for words in SUITES {
            let (_, inbound) = pair(words);
            let mut plaintext = padded(words, &udp4(40), IPV4);
            let place = plaintext.len() - 2;
            plaintext[place] = 255;
            assert_eq!(
                open(&inbound, &craft(words, 1, &plaintext)),
                Err(DropReason::Padding),
                "{words}"
            );
        }
    }

    #[test]
    fn e04_padding_with_wrong_octets_is_dropped() {
        let words = "aes128-sha1";
        let (_, inbound) = pair(words);
        let mut plaintext = padded(words, &udp4(40), IPV4);
        assert_eq!(open(&inbound, &craft(words, 1, &plaintext)), Ok(udp4(40)));
        plaintext[41] = 0;
        assert_eq!(
            open(&inbound, &craft(words, 2, &plaintext)),
            Err(DropReason::Padding)
        );
    }

    #[test]
    fn e04_the_maximum_padding_is_accepted() {
        let words = "aes128gcm16";
        let (_, inbound) = pair(words);
        let mut plaintext = udp4(35);
        plaintext.extend(1..=255u8);
        plaintext.extend([255, IPV4]);
        assert_eq!(open(&inbound, &craft(words, 1, &plaintext)), Ok(udp4(35)));
    }

    #[test]
    fn e04_a_next_header_that_contradicts_the_payload_is_dropped() {
        for words in SUITES {
            let (_, inbound) = pair(words);
            let mut sequence = 0;
            let mut received = |inner: &[u8], next| {
                sequence += 1;
                open(
                    &inbound,
                    &craft(words, sequence, &padded(words, inner, next)),
                )
            };
            assert_eq!(received(&udp4(60), IPV4), Ok(udp4(60)));
            assert_eq!(received(&udp6(60), IPV6), Ok(udp6(60)));
            assert_eq!(
                received(&udp4(60), IPV6),
                Err(DropReason::NextHeader),
                "{words}"
            );
            assert_eq!(
                received(&udp6(60), IPV4),
                Err(DropReason::NextHeader),
                "{words}"
            );
            assert_eq!(
                received(&udp4(60), 17),
                Err(DropReason::NextHeader),
                "{words}: transport mode"
            );
            assert_eq!(
                received(&udp4(60), NO_NEXT_HEADER),
                Err(DropReason::Dummy),
                "{words}"
            );
            assert_eq!(
                received(&[], NO_NEXT_HEADER),
                Err(DropReason::Dummy),
                "{words}: an empty dummy"
            );
            assert_eq!(received(&[], IPV4), Err(DropReason::Malformed), "{words}");
        }
    }

    #[test]
    fn e04_tfc_padding_is_removed_and_a_truncated_inner_packet_dropped() {
        for words in SUITES {
            let (_, inbound) = pair(words);
            for (inner, next) in [(udp4(60), IPV4), (udp6(60), IPV6)] {
                let sequence = u64::from(next);
                let long = [&inner[..], &[0xaa; 100]].concat();
                assert_eq!(
                    open(
                        &inbound,
                        &craft(words, sequence, &padded(words, &long, next))
                    ),
                    Ok(inner.clone()),
                    "{words}"
                );
                let short = &inner[..inner.len() - 1];
                let refused = open(
                    &inbound,
                    &craft(words, sequence + 1, &padded(words, short, next)),
                );
                assert_eq!(refused, Err(DropReason::Malformed), "{words}");
            }
        }
    }
}
