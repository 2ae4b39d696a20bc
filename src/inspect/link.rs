//! From a frame to the IP packet in it.
//!
//! ```text
//! Ethernet          | to (6) | from (6) | [ 8100 or 88a8 | tag (2) ]… | type (2) | packet
//! Linux cooked v1   | direction, device, address (14) | type (2) | packet
//! Linux cooked v2   | type (2) | reserved, device, direction, address (18) | packet
//! null, loopback    | address family (4), in the order of the machine or of the network | packet
//! raw               | packet
//! ```

use crate::wire::{Cursor, Malformed};

use super::capture::LinkType;

/// What is in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkPayload<'a> {
    /// An IP packet, and octets of padding behind it.
    Ip(&'a [u8]),
    /// ARP, spanning tree and the like.
    Other,
    /// Nobody here knows how such a frame begins.
    UnknownLink,
}

/// Takes the link layer off.
///
/// # Errors
/// The frame ends inside it.
pub(super) fn strip_link_header(
    link: LinkType,
    frame: &[u8],
) -> Result<LinkPayload<'_>, Malformed> {
    let mut cursor = Cursor::new(frame, 0);
    match link {
        ETHERNET => {
            cursor.take(12, "Ethernet header cut")?;
            let kind = cursor.u16("Ethernet header cut")?;
            tagged(kind, cursor)
        }
        COOKED => {
            cursor.take(14, "header of a cooked frame cut")?;
            let kind = cursor.u16("header of a cooked frame cut")?;
            tagged(kind, cursor)
        }
        COOKED_2 => {
            let kind = cursor.u16("header of a cooked frame cut")?;
            cursor.take(18, "header of a cooked frame cut")?;
            tagged(kind, cursor)
        }
        NULL | LOOP => {
            let family = cursor.array::<4>("header of a loopback frame cut")?;
            let is_ip = |family: u32| IP_FAMILIES.contains(&family);
            // OpenBSD writes it in the order of the network, everybody else in that of the machine that captured.
            let known = is_ip(u32::from_be_bytes(family)) || is_ip(u32::from_le_bytes(family));
            Ok(if known {
                LinkPayload::Ip(cursor.rest())
            } else {
                LinkPayload::Other
            })
        }
        RAW | RAW_BSD | RAW_OPENBSD | IPV4 | IPV6 => Ok(LinkPayload::Ip(frame)),
        _ => Ok(LinkPayload::UnknownLink),
    }
}

/// Reads past VLAN tags (IEEE 802.1Q, 802.1ad).
fn tagged<'a>(first: u16, mut cursor: Cursor<'a>) -> Result<LinkPayload<'a>, Malformed> {
    let mut kind = first;
    for _ in 0..MAX_TAGS {
        if !TAGS.contains(&kind) {
            break;
        }
        cursor.u16("VLAN tag cut")?;
        kind = cursor.u16("VLAN tag cut")?;
    }
    Ok(match kind {
        TYPE_IPV4 | TYPE_IPV6 => LinkPayload::Ip(cursor.rest()),
        _ => LinkPayload::Other,
    })
}

const NULL: LinkType = LinkType(0);
const ETHERNET: LinkType = LinkType(1);
const RAW_BSD: LinkType = LinkType(12);
const RAW_OPENBSD: LinkType = LinkType(14);
const RAW: LinkType = LinkType(101);
const LOOP: LinkType = LinkType(108);
const COOKED: LinkType = LinkType(113);
const IPV4: LinkType = LinkType(228);
const IPV6: LinkType = LinkType(229);
const COOKED_2: LinkType = LinkType(276);

const TYPE_IPV4: u16 = 0x0800;
const TYPE_IPV6: u16 = 0x86dd;

const TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];
const MAX_TAGS: usize = 4;

/// AF_INET everywhere; AF_INET6 of Linux, NetBSD and OpenBSD, FreeBSD, Darwin.
const IP_FAMILIES: [u32; 5] = [2, 10, 24, 28, 30];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packet_is_found_behind_every_link_layer() {
        let ip = b"packet".as_slice();
        let ethernet = [[2; 12].as_slice(), &[8, 0], ip].concat();
        let two_tags = [
            [2; 12].as_slice(),
            &[0x88, 0xa8, 0, 7, 0x81, 0, 0x20, 9, 0x86, 0xdd],
            ip,
        ]
        .concat();
        let cooked = [[0; 14].as_slice(), &[0x86, 0xdd], ip].concat();
        let cooked_tagged = [[0; 14].as_slice(), &[0x81, 0, 0, 1, 8, 0], ip].concat();
        let cooked_2 = [[8, 0].as_slice(), &[0; 18], ip].concat();
        for (link, frame) in [
            (ETHERNET, ethernet),
            (ETHERNET, two_tags),
            (COOKED, cooked),
            (COOKED, cooked_tagged),
            (COOKED_2, cooked_2),
            (NULL, [[2, 0, 0, 0].as_slice(), ip].concat()),
            (NULL, [[0, 0, 0, 30].as_slice(), ip].concat()),
            (LOOP, [[0, 0, 0, 2].as_slice(), ip].concat()),
            (RAW, ip.to_vec()),
            (RAW_BSD, ip.to_vec()),
            (RAW_OPENBSD, ip.to_vec()),
            (IPV4, ip.to_vec()),
            (IPV6, ip.to_vec()),
        ] {
            assert_eq!(
                strip_link_header(link, &frame),
                Ok(LinkPayload::Ip(ip)),
                "{link:?}"
            );
        }
    }

    #[test]
    fn what_is_not_ip_is_told_apart_from_what_nobody_knows() {
        let arp = [[2; 12].as_slice(), &[8, 6], &[0; 28]].concat();
        assert_eq!(strip_link_header(ETHERNET, &arp), Ok(LinkPayload::Other));
        let only_tags = [[2; 12].as_slice(), &[0x81, 0, 0, 0].repeat(6)].concat();
        assert_eq!(
            strip_link_header(ETHERNET, &only_tags),
            Ok(LinkPayload::Other)
        );
        assert_eq!(
            strip_link_header(NULL, &[7, 0, 0, 0]),
            Ok(LinkPayload::Other)
        );
        assert_eq!(
            strip_link_header(LinkType(105), &arp),
            Ok(LinkPayload::UnknownLink)
        );
    }

    #[test]
    fn a_frame_cut_inside_its_header_says_where() {
        for (link, len) in [(ETHERNET, 14), (COOKED, 16), (COOKED_2, 20), (NULL, 4)] {
            for cut in 0..len {
                let error = strip_link_header(link, &vec![0; cut]).unwrap_err();
                assert!(error.offset <= cut, "{link:?} {cut}: {error}");
            }
        }
        let cut_tag = [[2; 12].as_slice(), &[0x81, 0, 0]].concat();
        assert_eq!(
            strip_link_header(ETHERNET, &cut_tag).unwrap_err().offset,
            14
        );
    }
}
