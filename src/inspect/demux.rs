//! From a captured frame to an IKE message or an ESP packet.
//!
//! ```text
//! Ethernet          | to (6) | from (6) | [ 8100 or 88a8 | tag (2) ]… | type (2) | packet
//! Linux cooked v1   | direction, device, address (14) | type (2) | packet
//! Linux cooked v2   | type (2) | reserved, device, direction, address (18) | packet
//! null, loopback    | address family (4), in host or network byte order | packet
//! raw               | packet
//!
//! IP ─┬─ protocol 50 ───────────────────────────────▶ ESP
//!     ├─ UDP, a port 4500 ─┬─ ff ───────────────────▶ keepalive           (RFC 3948 §2)
//!     │                    ├─ 00 00 00 00 │ message ▶ IKE
//!     │                    └─ SPI │ … ──────────────▶ ESP
//!     ├─ UDP, a port 500 ───────────────────────────▶ IKE
//!     └─ anything else                                not IPsec
//! ```

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use etherparse::err::ip::SliceError;
use etherparse::{
    EtherType, Ethernet2Slice, IpNumber, IpSlice, LenSource, SingleVlanSlice, UdpHeader,
};

use super::capture::LinkType;
use crate::net::demux::{self, NatPayload};
use crate::net::{IKE_PORT, NAT_PORT};
use crate::wire::{Cursor, Malformed};

/// The content of a link-layer frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkPayload<'a> {
    /// An IP packet, possibly followed by padding.
    Ip(&'a [u8]),
    /// Another protocol, such as ARP.
    Other,
    /// The link-layer header type is not supported.
    UnknownLink,
}

/// Removes the link-layer header of a frame.
///
/// # Errors
/// The frame ends inside the header.
pub(super) fn strip_link_header(
    link: LinkType,
    frame: &[u8],
) -> Result<LinkPayload<'_>, Malformed> {
    let mut cursor = Cursor::new(frame, 0);
    match link {
        ETHERNET => {
            let Ok(ethernet) = Ethernet2Slice::from_slice_without_fcs(frame) else {
                let what = "Ethernet header truncated";
                return Err(Malformed {
                    what,
                    offset: frame.len(),
                });
            };
            strip_vlan_tags(frame, ethernet.ether_type(), ethernet.payload_slice())
        }
        COOKED => {
            cursor.take(14, "Linux cooked header truncated")?;
            let ether_type = cursor.u16("Linux cooked header truncated")?;
            strip_vlan_tags(frame, EtherType(ether_type), cursor.rest())
        }
        COOKED_2 => {
            let ether_type = cursor.u16("Linux cooked header truncated")?;
            cursor.take(18, "Linux cooked header truncated")?;
            strip_vlan_tags(frame, EtherType(ether_type), cursor.rest())
        }
        NULL | LOOP => {
            let family = cursor.array::<4>("loopback header truncated")?;
            let is_ip = |family: u32| IP_FAMILIES.contains(&family);
            // OpenBSD writes network byte order, other systems that of the capturing host.
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

/// Skips VLAN tags (IEEE 802.1Q, 802.1ad).
fn strip_vlan_tags<'a>(
    frame: &[u8],
    mut ether_type: EtherType,
    mut payload: &'a [u8],
) -> Result<LinkPayload<'a>, Malformed> {
    for _ in 0..MAX_VLAN_TAGS {
        if !VLAN_TAGS.contains(&ether_type) {
            break;
        }
        let Ok(tag) = SingleVlanSlice::from_slice(payload) else {
            let what = "VLAN tag truncated";
            return Err(Malformed {
                what,
                offset: frame.len(),
            });
        };
        (ether_type, payload) = (tag.ether_type(), tag.payload_slice());
    }
    Ok(match ether_type {
        EtherType::IPV4 | EtherType::IPV6 => LinkPayload::Ip(payload),
        PPPOE_SESSION => strip_pppoe(payload)?,
        _ => LinkPayload::Other,
    })
}

/// PPPoE session stage (RFC 2516 §4).
const PPPOE_SESSION: EtherType = EtherType(0x8864);

/// Removes the headers of PPPoE and PPP.
fn strip_pppoe(payload: &[u8]) -> Result<LinkPayload<'_>, Malformed> {
    const TRUNCATED: &str = "PPPoE header truncated";
    let mut cursor = Cursor::new(payload, 0);
    cursor.take(6, TRUNCATED)?;
    Ok(match cursor.u16(TRUNCATED)? {
        // PPP protocols of IPv4 and IPv6.
        0x0021 | 0x0057 => LinkPayload::Ip(cursor.rest()),
        _ => LinkPayload::Other,
    })
}

/// The addresses of an IP packet of which the capture holds only a part.
pub(super) fn addresses(bytes: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let v4 = |at: usize| Some(IpAddr::from(*bytes.get(at..)?.first_chunk::<4>()?));
    let v6 = |at: usize| Some(IpAddr::from(*bytes.get(at..)?.first_chunk::<16>()?));
    match bytes.first()? >> 4 {
        4 => Some((v4(12)?, v4(16)?)),
        6 => Some((v6(8)?, v6(24)?)),
        _ => None,
    }
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

const VLAN_TAGS: [EtherType; 3] = [
    EtherType::VLAN_TAGGED_FRAME,
    EtherType::PROVIDER_BRIDGING,
    EtherType::VLAN_DOUBLE_TAGGED_FRAME,
];
const MAX_VLAN_TAGS: usize = 4;

/// AF_INET everywhere; AF_INET6 of Linux, NetBSD and OpenBSD, FreeBSD, Darwin.
const IP_FAMILIES: [u32; 5] = [2, 10, 24, 28, 30];

/// Error of a packet whose end the capture does not hold.
pub(super) const SNAPPED: &str = "the capture holds only a part of the packet (a snap length?)";

/// Parses the headers of an IP packet.
///
/// # Errors
/// Why the packet cannot be read. A truncated capture (snap length) is distinguished from a malformed header.
pub(super) fn parse_ip(bytes: &[u8]) -> Result<IpSlice<'_>, &'static str> {
    IpSlice::from_slice(bytes).map_err(|error| match error {
        SliceError::Len(error) if error.len_source == LenSource::Slice => SNAPPED,
        SliceError::Len(_) | SliceError::IpHeaders(_) => "the IP header is malformed",
    })
}

/// One end of an outer packet; native ESP has no ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct HostPort {
    /// IP address.
    pub(super) address: IpAddr,
    /// UDP port.
    pub(super) port: Option<u16>,
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None => self.address.fmt(f),
        }
    }
}

/// An outer packet that belongs to IPsec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OuterPacket<'a> {
    /// Sender.
    pub(super) from: HostPort,
    /// Receiver.
    pub(super) to: HostPort,
    /// Content behind the outer headers.
    pub(super) payload: OuterPayload<'a>,
}

/// The content of an outer packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum OuterPayload<'a> {
    /// An IKE message without its non-ESP marker.
    Ike(&'a [u8]),
    /// An ESP packet, from its SPI on.
    Esp(&'a [u8]),
    /// A NAT keepalive.
    Keepalive,
    /// A datagram on an IPsec port that is none of these.
    Malformed(&'static str),
}

/// The payload of an unfragmented or reassembled IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IpPayload<'a> {
    /// Source address.
    pub(super) source: IpAddr,
    /// Destination address.
    pub(super) destination: IpAddr,
    /// Protocol number behind IPv6 extension headers.
    pub(super) protocol: IpNumber,
    /// Octets behind the IP headers.
    pub(super) bytes: Cow<'a, [u8]>,
}

impl<'a> IpPayload<'a> {
    /// The payload of a packet that is not fragmented.
    pub(super) fn unfragmented(ip: &IpSlice<'a>) -> IpPayload<'a> {
        IpPayload {
            source: ip.source_addr(),
            destination: ip.destination_addr(),
            protocol: ip.payload().ip_number,
            bytes: Cow::Borrowed(ip.payload().payload),
        }
    }

    /// Finds the IKE message or ESP packet; `None` if the packet does not belong to IPsec.
    pub(super) fn demux(&self) -> Option<OuterPacket<'_>> {
        let packet = |ports: Option<(u16, u16)>, payload| OuterPacket {
            from: HostPort {
                address: self.source,
                port: ports.map(|(from, _)| from),
            },
            to: HostPort {
                address: self.destination,
                port: ports.map(|(_, to)| to),
            },
            payload,
        };
        match self.protocol {
            IpNumber::ENCAPSULATING_SECURITY_PAYLOAD => {
                Some(packet(None, OuterPayload::Esp(&self.bytes)))
            }
            IpNumber::UDP => {
                let [s0, s1, d0, d1] = *self.bytes.first_chunk()?;
                let ports = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
                // A NAT may have changed one of the ports.
                let uses = |port| ports.0 == port || ports.1 == port;
                let payload = match udp_payload(&self.bytes) {
                    Err(what) if uses(NAT_PORT) || uses(IKE_PORT) => OuterPayload::Malformed(what),
                    Ok(payload) if uses(NAT_PORT) => nat_payload(payload),
                    Ok(payload) if uses(IKE_PORT) => OuterPayload::Ike(payload),
                    _ => return None,
                };
                Some(packet(Some(ports), payload))
            }
            _ => None,
        }
    }
}

fn udp_payload(bytes: &[u8]) -> Result<&[u8], &'static str> {
    let (header, _) = UdpHeader::from_slice(bytes).map_err(|_| "the UDP header is truncated")?;
    bytes
        .get(UdpHeader::LEN..usize::from(header.length))
        .ok_or("the UDP length does not match the packet")
}

/// The content of a datagram on port 4500 (RFC 3948 §2).
fn nat_payload(payload: &[u8]) -> OuterPayload<'_> {
    match demux::port_4500(payload) {
        NatPayload::Keepalive => OuterPayload::Keepalive,
        NatPayload::Ike(message) => OuterPayload::Ike(message),
        NatPayload::Esp(_) => OuterPayload::Esp(payload),
        NatPayload::Truncated => OuterPayload::Malformed("neither IKE nor ESP nor a keepalive"),
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    #[test]
    fn the_ip_packet_is_found_behind_every_link_layer() {
        let ip = b"packet".as_slice();
        let ethernet = [[2; 12].as_slice(), &[8, 0], ip].concat();
        let two_tags = [
            [2; 12].as_slice(),
            &[0x88, 0xa8, 0, 7, 0x81, 0, 0x20, 9, 0x86, 0xdd],
            ip,
        ]
        .concat();
        let pppoe = [
            [2; 12].as_slice(),
            &[0x88, 0x64, 0x11, 0, 0, 1, 0, 8, 0, 0x21],
            ip,
        ]
        .concat();
        let cooked = [[0; 14].as_slice(), &[0x86, 0xdd], ip].concat();
        let cooked_tagged = [[0; 14].as_slice(), &[0x81, 0, 0, 1, 8, 0], ip].concat();
        let cooked_2 = [[8, 0].as_slice(), &[0; 18], ip].concat();
        for (link, frame) in [
            (ETHERNET, ethernet),
            (ETHERNET, two_tags),
            (ETHERNET, pppoe),
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
            let payload = strip_link_header(link, &frame);
            assert_eq!(payload, Ok(LinkPayload::Ip(ip)), "{link:?}");
        }
    }

    #[test]
    fn other_protocols_are_distinguished_from_unknown_link_types() {
        let arp = [[2; 12].as_slice(), &[8, 6], &[0; 28]].concat();
        let only_tags = [[2; 12].as_slice(), &[0x81, 0, 0, 0].repeat(6)].concat();
        for (link, frame, expected) in [
            (ETHERNET, arp.as_slice(), LinkPayload::Other),
            (ETHERNET, &only_tags, LinkPayload::Other),
            (NULL, &[7, 0, 0, 0], LinkPayload::Other),
            (LinkType(105), &arp, LinkPayload::UnknownLink),
        ] {
            assert_eq!(strip_link_header(link, frame), Ok(expected));
        }
    }

    #[test]
    fn a_truncated_link_header_is_reported_with_its_offset() {
        for (link, len) in [(ETHERNET, 14), (COOKED, 16), (COOKED_2, 20), (NULL, 4)] {
            for cut in 0..len {
                let error = strip_link_header(link, &vec![0; cut]).unwrap_err();
                assert!(error.offset <= cut, "{link:?} {cut}: {error}");
            }
        }
        let cut_tag = [[2; 12].as_slice(), &[0x81, 0, 0]].concat();
        assert_eq!(
            strip_link_header(ETHERNET, &cut_tag).unwrap_err().offset,
            15
        );
    }

    fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64)
            .udp(from, to)
            .write(&mut bytes, payload)
            .unwrap();
        bytes
    }

    /// Applies `check` to what a packet carries.
    fn demuxed<T>(bytes: &[u8], check: impl Fn(Option<OuterPacket<'_>>) -> T) -> T {
        check(IpPayload::unfragmented(&parse_ip(bytes).unwrap()).demux())
    }

    #[test]
    fn ports_and_the_first_octets_determine_the_payload() {
        for (from, to, payload, expected) in [
            (
                500,
                500,
                b"message".as_slice(),
                Some(OuterPayload::Ike(b"message")),
            ),
            (500, 33_000, b"message", Some(OuterPayload::Ike(b"message"))),
            (
                4500,
                4500,
                b"\0\0\0\0message",
                Some(OuterPayload::Ike(b"message")),
            ),
            (1025, 4500, b"\xff", Some(OuterPayload::Keepalive)),
            (
                4500,
                1025,
                b"\0\0\x01\0rest",
                Some(OuterPayload::Esp(b"\0\0\x01\0rest")),
            ),
            (
                4500,
                4500,
                b"abc",
                Some(OuterPayload::Malformed(
                    "neither IKE nor ESP nor a keepalive",
                )),
            ),
            (53, 33_000, b"\0\0\0\0", None),
        ] {
            demuxed(&udp(from, to, payload), |packet| {
                assert_eq!(packet.map(|packet| packet.payload), expected, "{from} {to}");
            });
        }
    }

    #[test]
    fn native_esp_has_no_ports() {
        let mut bytes = udp(1, 2, b"12345678");
        bytes[9] = IpNumber::ENCAPSULATING_SECURITY_PAYLOAD.0;
        demuxed(&bytes, |packet| {
            let packet = packet.unwrap();
            assert_eq!(packet.from.to_string(), "192.0.2.1");
            assert!(matches!(packet.payload, OuterPayload::Esp(esp) if esp.len() == 16));
        });
        let end = HostPort {
            address: "2001:db8::1".parse().unwrap(),
            port: Some(4500),
        };
        assert_eq!(end.to_string(), "[2001:db8::1]:4500");
    }

    #[test]
    fn a_wrong_udp_length_is_malformed() {
        for length in [0, 7, 13, 65_535_u16] {
            let mut bytes = udp(500, 500, b"1234");
            bytes[24..26].copy_from_slice(&length.to_be_bytes());
            demuxed(&bytes, |packet| {
                let payload = packet.unwrap().payload;
                assert!(matches!(payload, OuterPayload::Malformed(_)), "{length}");
            });
        }
    }

    #[test]
    fn a_truncated_capture_is_distinguished_from_a_malformed_header() {
        let bytes = udp(500, 500, b"1234");
        assert!(parse_ip(&bytes[..20]).unwrap_err().contains("snap length"));
        let mut wrong = bytes;
        wrong[0] = 0x41;
        assert!(parse_ip(&wrong).unwrap_err().contains("malformed"));
        assert!(parse_ip(&[0x10; 40]).unwrap_err().contains("malformed"));
    }
}
