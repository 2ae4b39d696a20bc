//! Checked view of an IP packet, parsed once.
//!
//! Packets from the device or a tunnel are untrusted. Lengths are compared with the available octets, IPv6 extension headers are
//! walked with a limit (RFC 8200 §4), and inconsistent packets are rejected before any other code reads them.

use std::net::IpAddr;

use super::drop_reason::DropReason;
use super::extensions::{FragmentKind, fragment_kind, walk_extensions};
use super::prefix::{is_invalid_destination, is_invalid_source};
use super::protocol::{DCCP, ICMP, ICMPV6, MOBILITY, SCTP, TCP, UDP, UDP_LITE};

/// IPv4 or IPv6 packet with consistent headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    bytes: &'a [u8],
    version: Version,
    protocol: u8,
    ports: Option<(u16, u16)>,
    fragment: FragmentKind,
    transport_offset: Option<usize>,
}

/// IP version. Addresses are read in place: a view that contained both would be slower to copy than to create.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V4,
    V6,
}

impl<'a> Packet<'a> {
    /// Checks the headers. Octets behind the IP packet (RFC 4303 §2.7 pads so) are excluded.
    ///
    /// # Errors
    /// [`DropReason::Malformed`].
    #[inline(always)]
    pub fn parse(bytes: &'a [u8]) -> Result<Packet<'a>, DropReason> {
        match bytes.first().map(|first| first >> 4) {
            Some(4) => parse_ipv4(bytes).ok_or(DropReason::Malformed),
            Some(6) => parse_ipv6(bytes).ok_or(DropReason::Malformed),
            Some(_) | None => Err(DropReason::Malformed),
        }
    }

    /// Octets of the IP packet.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Length of the IP packet.
    #[must_use]
    #[allow(
        clippy::len_without_is_empty,
        reason = "a packet has at least its header"
    )]
    pub const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the packet is IPv4, not IPv6.
    #[must_use]
    pub const fn is_ipv4(&self) -> bool {
        matches!(self.version, Version::V4)
    }

    /// 4 or 6.
    #[must_use]
    pub const fn version(&self) -> u8 {
        if self.is_ipv4() { 4 } else { 6 }
    }

    /// Source address.
    #[inline]
    #[must_use]
    pub fn source(&self) -> IpAddr {
        self.address(12, 8)
    }

    /// Destination address.
    #[inline]
    #[must_use]
    pub fn destination(&self) -> IpAddr {
        self.address(16, 24)
    }

    /// Upper-layer protocol, behind IPv6 extension headers.
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Source and destination port of TCP, UDP, SCTP, DCCP and UDP-Lite. For ICMP and mobility headers both are the type in the
    /// high octet and the code in the low one, as in selectors (RFC 7296 §3.13.1). `None` if the packet contains none.
    #[must_use]
    pub const fn ports(&self) -> Option<(u16, u16)> {
        self.ports
    }

    /// Fragment kind.
    #[must_use]
    pub const fn fragment(&self) -> FragmentKind {
        self.fragment
    }

    /// Whether routers may not fragment the packet: the DF bit, or IPv6.
    #[must_use]
    pub fn dont_fragment(&self) -> bool {
        !self.is_ipv4() || self.octet(6) & DONT_FRAGMENT != 0
    }

    /// TOS or traffic class: DSCP and ECN.
    #[must_use]
    pub fn traffic_class(&self) -> u8 {
        if self.is_ipv4() {
            self.octet(1)
        } else {
            self.octet(0) << 4 | self.octet(1) >> 4
        }
    }

    /// TTL or hop limit.
    #[must_use]
    pub fn ttl(&self) -> u8 {
        self.octet(if self.is_ipv4() { 8 } else { 7 })
    }

    /// Offset of the transport header; `None` in a later fragment.
    #[must_use]
    pub const fn transport_offset(&self) -> Option<usize> {
        self.transport_offset
    }

    /// Whether the kernel sends such packets by itself on a device that is up: router and neighbor solicitations, MLD. They
    /// neither trigger a tunnel nor count as drops.
    #[must_use]
    pub fn is_kernel_noise(&self) -> bool {
        let (IpAddr::V6(source), IpAddr::V6(destination)) = (self.source(), self.destination())
        else {
            return false;
        };
        let [scope, ..] = destination.segments();
        let to_link_scope = matches!(scope, 0xff01 | 0xff02);
        let from_link_scope = source.is_unspecified() || source.is_unicast_link_local();
        let (kind, _) = self.ports.unwrap_or_default();
        self.protocol == ICMPV6
            && from_link_scope
            && to_link_scope
            && KERNEL_NOISE_TYPES.contains(&(kind >> 8))
    }

    /// Whether an address is invalid on a network: a multicast, loopback, broadcast or unspecified source, or a loopback or
    /// unspecified destination (RFC 1812 §5.3.7, RFC 4291 §2.5-2.7).
    #[inline]
    #[must_use]
    pub fn is_martian(&self) -> bool {
        is_invalid_source(self.source()) || is_invalid_destination(self.destination())
    }

    /// Address at offset `v4` of an IPv4 header or `v6` of an IPv6 header, which parsing has checked.
    #[inline]
    fn address(&self, v4: usize, v6: usize) -> IpAddr {
        match self.version {
            Version::V4 => IpAddr::from(self.octets::<4>(v4)),
            Version::V6 => IpAddr::from(self.octets::<16>(v6)),
        }
    }

    #[inline]
    fn octets<const N: usize>(&self, at: usize) -> [u8; N] {
        let rest = self.bytes.get(at..).unwrap_or_default();
        rest.first_chunk().copied().unwrap_or([0; N])
    }

    fn octet(&self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or_default()
    }
}

/// DF bit in the seventh octet of an IPv4 header.
const DONT_FRAGMENT: u8 = 0x40;

/// MLD query, report, done; router solicitation; neighbor solicitation; MLDv2 report.
const KERNEL_NOISE_TYPES: [u16; 6] = [130, 131, 132, 133, 135, 143];

#[inline(always)]
fn parse_ipv4(bytes: &[u8]) -> Option<Packet<'_>> {
    let (header, _) = bytes.split_first_chunk::<20>()?;
    let [first, _, l0, l1, _, _, f0, f1, _, protocol, ..] = *header;
    let header_len = usize::from(first & 0x0f).saturating_mul(4);
    let total = usize::from(u16::from_be_bytes([l0, l1]));
    if header_len < header.len() || total < header_len {
        return None;
    }
    let bytes = bytes.get(..total)?;
    let flags = u16::from_be_bytes([f0, f1]);
    let offset = usize::from(flags & 0x1fff).saturating_mul(8);
    let more = flags & 0x2000 != 0;
    let fragment = fragment_kind(offset, more, total.saturating_sub(header_len))?;
    let transport_offset = (fragment != FragmentKind::Later).then_some(header_len);
    Some(Packet {
        bytes,
        version: Version::V4,
        protocol,
        ports: transport_offset.and_then(|at| ports(protocol, bytes.get(at..)?)),
        fragment,
        transport_offset,
    })
}

fn parse_ipv6(bytes: &[u8]) -> Option<Packet<'_>> {
    let (header, _) = bytes.split_first_chunk::<40>()?;
    let [_, _, _, _, l0, l1, next, ..] = *header;
    // A jumbogram says 0 and means more (RFC 2675); its hop-by-hop header then lies outside and the packet is refused.
    let total = header
        .len()
        .saturating_add(usize::from(u16::from_be_bytes([l0, l1])));
    let bytes = bytes.get(..total)?;
    let upper = walk_extensions(bytes, next, header.len())?;
    let transport_offset = (upper.fragment != FragmentKind::Later).then_some(upper.offset);
    Some(Packet {
        bytes,
        version: Version::V6,
        protocol: upper.protocol,
        ports: transport_offset.and_then(|at| ports(upper.protocol, bytes.get(at..)?)),
        fragment: upper.fragment,
        transport_offset,
    })
}

#[inline]
fn ports(protocol: u8, transport: &[u8]) -> Option<(u16, u16)> {
    match protocol {
        TCP | UDP | DCCP | SCTP | UDP_LITE => {
            let [s0, s1, d0, d1] = *transport.first_chunk()?;
            Some((u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1])))
        }
        ICMP | ICMPV6 => {
            let both = u16::from_be_bytes(*transport.first_chunk()?);
            Some((both, both))
        }
        MOBILITY => {
            let [_, _, kind] = *transport.first_chunk()?;
            let both = u16::from_be_bytes([kind, 0]);
            Some((both, both))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
        let total = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
        let [f0, f1] = fragment.to_be_bytes();
        let header = [
            0x45, 0xb9, total[0], total[1], 0, 1, f0, f1, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0,
            1, 2,
        ];
        [&header[..], payload].concat()
    }

    fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![0x6b, 0x90, 0, 0, length[0], length[1], next, 63];
        bytes.extend(
            "2001:db8::1"
                .parse::<std::net::Ipv6Addr>()
                .unwrap()
                .octets(),
        );
        bytes.extend(
            "2001:db8::2"
                .parse::<std::net::Ipv6Addr>()
                .unwrap()
                .octets(),
        );
        [&bytes[..], payload].concat()
    }

    const PORTS: [u8; 8] = [0, 80, 0x1f, 0x90, 0, 0, 0, 0];

    #[test]
    fn the_fields_of_an_ipv4_packet_are_read() {
        let bytes = ipv4(TCP, 0x4000, &PORTS);
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(
            (
                packet.version(),
                packet.len(),
                packet.ttl(),
                packet.traffic_class()
            ),
            (4, 28, 64, 0xb9)
        );
        assert_eq!(packet.source().to_string(), "10.0.0.1");
        assert_eq!(packet.destination().to_string(), "10.0.1.2");
        assert_eq!((packet.protocol(), packet.ports()), (TCP, Some((80, 8080))));
        assert_eq!(
            (packet.fragment(), packet.transport_offset()),
            (FragmentKind::Whole, Some(20))
        );
        assert!(packet.dont_fragment());
        assert!(
            !Packet::parse(&ipv4(TCP, 0, &PORTS))
                .unwrap()
                .dont_fragment()
        );
    }

    #[test]
    fn the_fields_of_an_ipv6_packet_are_read() {
        let bytes = ipv6(UDP, &PORTS);
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(
            (
                packet.version(),
                packet.len(),
                packet.ttl(),
                packet.traffic_class()
            ),
            (6, 48, 63, 0xb9)
        );
        assert_eq!(packet.source().to_string(), "2001:db8::1");
        assert_eq!(packet.destination().to_string(), "2001:db8::2");
        assert_eq!((packet.protocol(), packet.ports()), (UDP, Some((80, 8080))));
        assert_eq!(packet.transport_offset(), Some(40));
        assert!(packet.dont_fragment());
    }

    #[test]
    fn icmp_types_and_codes_are_ports() {
        let icmp = ipv4(ICMP, 0, &[8, 1, 0, 0]);
        assert_eq!(
            Packet::parse(&icmp).unwrap().ports(),
            Some((0x0801, 0x0801))
        );
        let mobility = ipv6(MOBILITY, &[59, 0, 5, 0, 0, 0, 0, 0]);
        assert_eq!(
            Packet::parse(&mobility).unwrap().ports(),
            Some((0x0500, 0x0500))
        );
        assert_eq!(Packet::parse(&ipv4(50, 0, &PORTS)).unwrap().ports(), None);
    }

    #[test]
    fn e04_octets_behind_the_packet_are_excluded() {
        for packet in [ipv4(UDP, 0, &PORTS), ipv6(UDP, &PORTS)] {
            let padded = [&packet[..], &[0xaa; 100]].concat();
            assert_eq!(Packet::parse(&padded).unwrap().bytes(), packet);
        }
    }

    #[test]
    fn e10_a_later_fragment_has_no_ports() {
        let first = ipv4(UDP, 0x2000, &PORTS);
        assert_eq!(Packet::parse(&first).unwrap().ports(), Some((80, 8080)));
        for later in [ipv4(UDP, 0x2001, &PORTS), ipv4(UDP, 0x0001, &PORTS)] {
            let packet = Packet::parse(&later).unwrap();
            assert_eq!(
                (packet.fragment(), packet.ports()),
                (FragmentKind::Later, None)
            );
            assert_eq!(packet.transport_offset(), None);
        }
        let later = ipv6(
            44, // fragment header
            &[&[UDP, 0, 0, 8, 0, 0, 0, 1][..], &PORTS].concat(),
        );
        let packet = Packet::parse(&later).unwrap();
        assert_eq!(
            (packet.protocol(), packet.fragment(), packet.ports()),
            (UDP, FragmentKind::Later, None)
        );
    }

    #[test]
    fn e10_a_first_fragment_too_short_for_ports_has_none() {
        assert_eq!(
            Packet::parse(&ipv4(TCP, 0x2000, &[0, 80, 0]))
                .unwrap()
                .ports(),
            None
        );
    }

    #[test]
    fn e10_a_fragment_beyond_the_maximum_packet_size_is_malformed() {
        assert_eq!(
            Packet::parse(&ipv4(UDP, 0x1fff, &[0; 8])),
            Err(DropReason::Malformed)
        );
        assert!(Packet::parse(&ipv4(UDP, 0x1fff, &[0; 7])).is_ok());
        let beyond = ipv6(
            44, // fragment header
            &[&[UDP, 0, 0xff, 0xf8, 0, 0, 0, 1][..], &[0; 8]].concat(),
        );
        assert_eq!(Packet::parse(&beyond), Err(DropReason::Malformed));
    }

    #[test]
    fn e11_inconsistent_headers_are_malformed() {
        let (v4, v6) = (ipv4(TCP, 0, &PORTS), ipv6(TCP, &PORTS));
        for whole in [&v4, &v6] {
            for cut in 0..whole.len() {
                assert_eq!(
                    Packet::parse(&whole[..cut]),
                    Err(DropReason::Malformed),
                    "{cut} octets"
                );
            }
        }
        for (at, value, case) in [
            (0, 0x55, "version 5"),
            (0, 0x05, "version 0"),
            (0, 0x40, "header of no octets"),
            (0, 0x44, "header of 16 octets"),
            (0, 0x4f, "header of 60 octets"),
            (3, 0, "total length 0"),
            (3, 19, "total length below the header"),
            (3, 29, "total length beyond what is there"),
            (2, 0xff, "total length far beyond"),
        ] {
            let mut bytes = v4.clone();
            bytes[at] = value;
            assert_eq!(Packet::parse(&bytes), Err(DropReason::Malformed), "{case}");
        }
    }

    #[test]
    fn kernel_noise_is_recognized() {
        let mut solicitation = ipv6(ICMPV6, &[133, 0, 0, 0, 0, 0, 0, 0]);
        solicitation[8..24]
            .copy_from_slice(&"fe80::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
        solicitation[24..40]
            .copy_from_slice(&"ff02::2".parse::<std::net::Ipv6Addr>().unwrap().octets());
        assert!(Packet::parse(&solicitation).unwrap().is_kernel_noise());
        let mut report = ipv6(
            0, // hop-by-hop
            &[ICMPV6, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0, 0, 0, 0, 0],
        );
        report[8..24].fill(0);
        report[24..40].copy_from_slice(&"ff02::16".parse::<std::net::Ipv6Addr>().unwrap().octets());
        assert!(Packet::parse(&report).unwrap().is_kernel_noise());
        let mut ping = solicitation.clone();
        ping[40] = 128;
        assert!(!Packet::parse(&ping).unwrap().is_kernel_noise());
        assert!(
            !Packet::parse(&ipv6(ICMPV6, &[135, 0, 0, 0]))
                .unwrap()
                .is_kernel_noise()
        );
        assert!(
            !Packet::parse(&ipv4(ICMP, 0, &[133, 0, 0, 0]))
                .unwrap()
                .is_kernel_noise()
        );
    }

    #[test]
    fn e07_martians_are_recognized() {
        let edited = |at: usize, value: u8| {
            let mut bytes = ipv4(UDP, 0, &PORTS);
            bytes[at] = value;
            Packet::parse(&bytes).unwrap().is_martian()
        };
        assert!(edited(12, 127), "from loopback");
        assert!(edited(16, 127), "to loopback");
        assert!(edited(12, 224), "from a group");
        assert!(!edited(16, 224), "to a group");
    }
}
