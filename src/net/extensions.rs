//! IPv6 extension headers: where they end (RFC 8200 §4).
//!
//! ```text
//! | fixed header | hop-by-hop | destination options | routing | fragment | destination options | upper layer … |
//! ```

use super::packet::{FragmentKind, fragment_kind};
use super::protocol::{DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, ROUTING};

/// What stands behind the extension headers of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Upper {
    /// Its protocol.
    pub(super) protocol: u8,
    /// Where it starts; in a fragment that is not the first, where the fragment's payload starts.
    pub(super) offset: usize,
    /// Which part of a packet this is.
    pub(super) fragment: FragmentKind,
}

/// Walks the headers from the one of type `first` at `start`. Those that RFC 4301 §4.4.1.1 says to skip are skipped; anything else
/// is the upper layer. `None` if a header is cut, out of place, or one too many.
pub(super) fn walk_extensions(bytes: &[u8], first: u8, start: usize) -> Option<Upper> {
    let (mut protocol, mut offset, mut fragment) = (first, start, None);
    for nth in 0..=MOST {
        let rest = bytes.get(offset..)?;
        let length = match protocol {
            // RFC 8200 §4.1: only directly behind the fixed header.
            HOP_BY_HOP if nth > 0 => return None,
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                let [next, length] = *rest.first_chunk()?;
                protocol = next;
                usize::from(length).saturating_add(1).saturating_mul(8)
            }
            FRAGMENT if fragment.is_some() => return None,
            FRAGMENT => {
                let [next, _, o0, o1, _, _, _, _] = *rest.first_chunk()?;
                let field = u16::from_be_bytes([o0, o1]);
                let payload = rest.len().saturating_sub(8);
                protocol = next;
                fragment = Some(fragment_kind(
                    usize::from(field & !7),
                    field & 1 != 0,
                    payload,
                )?);
                8
            }
            _ => {
                return Some(Upper {
                    protocol,
                    offset,
                    fragment: fragment.unwrap_or(FragmentKind::Whole),
                });
            }
        };
        rest.get(..length)?;
        offset = offset.saturating_add(length);
        if fragment == Some(FragmentKind::Later) {
            // What follows is the middle of something.
            return Some(Upper {
                protocol,
                offset,
                fragment: FragmentKind::Later,
            });
        }
    }
    None
}

/// More extension headers than any honest packet has.
const MOST: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    use super::super::protocol::TCP;

    /// An extension header of 8 octets.
    const fn header(next: u8) -> [u8; 8] {
        [next, 0, 0, 0, 0, 0, 0, 0]
    }

    #[test]
    fn extension_headers_are_skipped() {
        let long = [&[ROUTING, 1][..], &[0; 14]].concat();
        let first_of_several = [TCP, 0, 0, 1, 0, 0, 0, 9];
        let headers = [
            &header(DESTINATION_OPTIONS)[..],
            &long,
            &header(FRAGMENT),
            &first_of_several,
            &[0; 20],
        ]
        .concat();
        let upper = Upper {
            protocol: TCP,
            offset: 40,
            fragment: FragmentKind::First,
        };
        assert_eq!(walk_extensions(&headers, HOP_BY_HOP, 0), Some(upper));
    }

    #[test]
    fn a_fragment_header_without_fragments_means_nothing() {
        let upper = Upper {
            protocol: TCP,
            offset: 8,
            fragment: FragmentKind::Whole,
        };
        assert_eq!(walk_extensions(&header(TCP), FRAGMENT, 0), Some(upper));
    }

    #[test]
    fn what_ipsec_protects_is_an_upper_layer() {
        for protocol in [50, 51, 59, 135, 139] {
            let upper = Upper {
                protocol,
                offset: 0,
                fragment: FragmentKind::Whole,
            };
            assert_eq!(walk_extensions(&[], protocol, 0), Some(upper));
        }
    }

    #[test]
    fn e10_behind_the_header_of_a_later_fragment_nothing_is_read() {
        let later = [DESTINATION_OPTIONS, 0, 0, 8, 0, 0, 0, 9];
        let upper = Upper {
            protocol: DESTINATION_OPTIONS,
            offset: 8,
            fragment: FragmentKind::Later,
        };
        assert_eq!(walk_extensions(&later, FRAGMENT, 0), Some(upper));
    }

    #[test]
    fn e11_extension_headers_that_lie_are_refused() {
        for (bytes, first, case) in [
            (vec![], HOP_BY_HOP, "a jumbogram"),
            (vec![TCP], HOP_BY_HOP, "cut"),
            (vec![TCP, 1, 0, 0, 0, 0, 0, 0], ROUTING, "beyond the packet"),
            (vec![TCP, 0, 0, 0, 0, 0, 0], FRAGMENT, "fragment header cut"),
            (
                header(DESTINATION_OPTIONS).repeat(100),
                DESTINATION_OPTIONS,
                "a long chain",
            ),
            (
                [header(HOP_BY_HOP), header(TCP)].concat(),
                ROUTING,
                "hop-by-hop out of place",
            ),
            (
                [header(FRAGMENT), header(TCP)].concat(),
                FRAGMENT,
                "cut twice",
            ),
        ] {
            assert_eq!(walk_extensions(&bytes, first, 0), None, "{case}");
        }
    }
}
