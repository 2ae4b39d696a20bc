//! IPv6 extension headers and where they end (RFC 8200 §4); the kind of fragment of both IP versions.
//!
//! ```text
//! | fixed header | hop-by-hop | destination options | routing | fragment | destination options | upper layer … |
//! ```

use super::protocol::{DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, ROUTING};

/// Position of a packet in a fragmented one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FragmentKind {
    /// Not fragmented.
    Whole,
    /// First fragment, which contains the transport header.
    First,
    /// Any other fragment.
    Later,
}

/// Upper-layer header behind the extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Upper {
    /// Upper-layer protocol.
    pub(super) protocol: u8,
    /// Start of the header; in a later fragment, start of the fragment's payload.
    pub(super) offset: usize,
    /// Fragment kind of the packet.
    pub(super) fragment: FragmentKind,
}

/// Walks the headers from the one of type `first` at `start`. The headers named in RFC 4301 §4.4.1.1 are skipped; any other is
/// the upper layer. `None` if a header is truncated or misplaced, or there are too many.
pub(super) fn walk_extensions(bytes: &[u8], first: u8, start: usize) -> Option<Upper> {
    let (mut protocol, mut offset, mut fragment) = (first, start, None);
    for nth in 0..=MAX_HEADERS {
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

/// Maximum number of extension headers.
const MAX_HEADERS: usize = 8;

/// Fragment kind by offset and MF bit; `None` if the fragment exceeds the maximum packet size.
#[inline]
pub(super) fn fragment_kind(offset: usize, more: bool, payload: usize) -> Option<FragmentKind> {
    if offset.saturating_add(payload) > usize::from(u16::MAX) {
        return None;
    }
    Some(match (offset, more) {
        (0, false) => FragmentKind::Whole,
        (0, true) => FragmentKind::First,
        (_, _) => FragmentKind::Later,
    })
}

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
    fn an_atomic_fragment_is_a_whole_packet() {
        let upper = Upper {
            protocol: TCP,
            offset: 8,
            fragment: FragmentKind::Whole,
        };
        assert_eq!(walk_extensions(&header(TCP), FRAGMENT, 0), Some(upper));
    }

    #[test]
    fn esp_ah_and_unknown_headers_are_the_upper_layer() {
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
    fn e10_nothing_is_read_behind_the_fragment_header_of_a_later_fragment() {
        let later = [DESTINATION_OPTIONS, 0, 0, 8, 0, 0, 0, 9];
        let upper = Upper {
            protocol: DESTINATION_OPTIONS,
            offset: 8,
            fragment: FragmentKind::Later,
        };
        assert_eq!(walk_extensions(&later, FRAGMENT, 0), Some(upper));
    }

    #[test]
    fn e11_inconsistent_extension_headers_are_rejected() {
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
