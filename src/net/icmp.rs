//! ICMP errors to the sender of a packet that is not carried.
//!
//! ```text
//! | IP from `from` to the sender | type | code | checksum | 0 or MTU | as much of the packet as may be quoted |
//! ```
//!
//! The error enters the host through the tunnel's device. Linux drops packets with one of its own addresses as source ("martian
//! source"), so `from` should be the destination of the packet: that address is behind the device.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::{self, Sum};
use super::extensions::FragmentKind;
use super::packet::Packet;
use super::prefix::is_invalid_source;
use super::protocol::{ICMP, ICMPV6};
use super::{MIN_MTU_IPV4, MIN_MTU_IPV6};

/// Writes "fragmentation needed" (RFC 1191) or "packet too big" (RFC 4443 §3.2) with `mtu` about `packet` into `out`, with source
/// address `from`. Returns false if no error may be sent about the packet, or `from` is of the other family or not a unicast
/// address.
#[must_use]
pub fn too_big(packet: &Packet<'_>, mtu: u16, from: IpAddr, out: &mut Vec<u8>) -> bool {
    write(
        packet,
        from,
        out,
        &IcmpError {
            v4: (3, 4),
            v6: (2, 0),
            mtu,
            to_multicast: Multicast::V6Answered,
        },
    )
}

/// Writes "destination unreachable, administratively prohibited" (RFC 1812 §5.2.7.1, RFC 4443 §3.1) about `packet` into `out`,
/// with source address `from`. Returns false as [`too_big`] does.
#[must_use]
pub fn unreachable(packet: &Packet<'_>, from: IpAddr, out: &mut Vec<u8>) -> bool {
    write(
        packet,
        from,
        out,
        &IcmpError {
            v4: (3, 13),
            v6: (1, 1),
            mtu: 0,
            to_multicast: Multicast::Silent,
        },
    )
}

/// The ICMP message of an error, without its IP header.
pub fn message(error: &[u8]) -> &[u8] {
    let header = match error.first() {
        Some(0x45) => 20,
        Some(_) | None => 40,
    };
    error.get(header..).unwrap_or_default()
}

/// Type and code of an error for both families.
struct IcmpError {
    v4: (u8, u8),
    v6: (u8, u8),
    mtu: u16,
    to_multicast: Multicast,
}

/// Whether packets to a multicast group are answered.
#[derive(PartialEq, Eq)]
enum Multicast {
    Silent,
    /// RFC 4443 §2.4 (e.3): path MTU discovery works for IPv6 multicast.
    V6Answered,
}

/// RFC 1812 §4.3.2.3: maximum size, so that the error arrives unfragmented.
const MAX_V4: usize = MIN_MTU_IPV4 as usize;

/// RFC 4443 §2.4 (c): the minimum MTU of IPv6.
const MAX_V6: usize = MIN_MTU_IPV6 as usize;

/// RFC 1812 §4.3.2.5: internetwork control.
const PRECEDENCE: u8 = 0xc0;

const HOPS: u8 = 64;

fn write(packet: &Packet<'_>, from: IpAddr, out: &mut Vec<u8>, error: &IcmpError) -> bool {
    if is_invalid_source(from) || !may_answer(packet, error) {
        return false;
    }
    out.clear();
    match (from, packet.source()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => write_v4(packet.bytes(), from, to, error, out),
        (IpAddr::V6(from), IpAddr::V6(to)) => write_v6(packet.bytes(), from, to, error, out),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
    }
    true
}

/// RFC 1122 §3.2.2, RFC 4443 §2.4 (e): no error about an ICMP error, a later fragment, or a packet from or to several hosts.
fn may_answer(packet: &Packet<'_>, error: &IcmpError) -> bool {
    let destination_is_group = match packet.destination() {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_multicast() && error.to_multicast == Multicast::Silent,
    };
    let is_error = match (packet.protocol(), packet.ports()) {
        (ICMP, Some((kind_and_code, _))) => matches!(kind_and_code >> 8, 3 | 4 | 5 | 11 | 12),
        (ICMPV6, Some((kind_and_code, _))) => matches!(kind_and_code >> 8, 0..=127 | 137),
        // The type is truncated; the packet may be an error.
        (ICMP | ICMPV6, None) => true,
        (_, _) => false,
    };
    packet.fragment() != FragmentKind::Later
        && !is_invalid_source(packet.source())
        && !destination_is_group
        && !is_error
}

fn write_v4(about: &[u8], from: Ipv4Addr, to: Ipv4Addr, error: &IcmpError, out: &mut Vec<u8>) {
    let quote = about.get(..MAX_V4.saturating_sub(28)).unwrap_or(about);
    let total = u16::try_from(quote.len().saturating_add(28)).unwrap_or(u16::MAX);
    let [l0, l1] = total.to_be_bytes();
    // With DF set, the identification has no meaning (RFC 6864 §4.1).
    out.extend_from_slice(&[0x45, PRECEDENCE, l0, l1, 0, 0, 0x40, 0, HOPS, ICMP, 0, 0]);
    out.extend_from_slice(&from.octets());
    out.extend_from_slice(&to.octets());
    let header_checksum = checksum::of(out);
    fill(out, 10, header_checksum);
    let [m0, m1] = error.mtu.to_be_bytes();
    let header = [error.v4.0, error.v4.1, 0, 0, 0, 0, m0, m1];
    out.extend_from_slice(&header);
    out.extend_from_slice(quote);
    fill(out, 22, Sum::default().plus(&header).plus(quote).finish());
}

fn write_v6(about: &[u8], from: Ipv6Addr, to: Ipv6Addr, error: &IcmpError, out: &mut Vec<u8>) {
    let quote = about.get(..MAX_V6.saturating_sub(48)).unwrap_or(about);
    let length = u16::try_from(quote.len().saturating_add(8)).unwrap_or(u16::MAX);
    let [l0, l1] = length.to_be_bytes();
    out.extend_from_slice(&[0x60, 0, 0, 0, l0, l1, ICMPV6, HOPS]);
    out.extend_from_slice(&from.octets());
    out.extend_from_slice(&to.octets());
    let [m0, m1] = error.mtu.to_be_bytes();
    let header = [error.v6.0, error.v6.1, 0, 0, 0, 0, m0, m1];
    out.extend_from_slice(&header);
    out.extend_from_slice(quote);
    let pseudo =
        Sum::pseudo_header(from.into(), to.into(), ICMPV6, u32::from(length)).unwrap_or_default();
    fill(out, 42, pseudo.plus(&header).plus(quote).finish());
}

fn fill(out: &mut [u8], at: usize, checksum: u16) {
    if let Some(field) = out.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *field = checksum.to_be_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn udp(version: u8, size: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let ip = match version {
            4 => PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 1, 2], 64),
            _ => PacketBuilder::ipv6([0x20; 16], [0x21; 16], 64),
        };
        ip.udp(1, 2).write(&mut bytes, &vec![7; size]).unwrap();
        bytes
    }

    fn answer(bytes: &[u8], mtu: u16) -> Option<Vec<u8>> {
        let packet = Packet::parse(bytes).unwrap();
        let mut out = vec![0xee; 3];
        too_big(&packet, mtu, packet.destination(), &mut out).then_some(out)
    }

    #[test]
    fn e13_an_ipv4_sender_gets_fragmentation_needed_with_the_mtu() {
        let bytes = udp(4, 1472);
        let error = answer(&bytes, 1390).unwrap();
        assert_eq!(error.len(), 576);
        let view = Packet::parse(&error).unwrap();
        assert_eq!(
            (view.source().to_string(), view.destination().to_string()),
            ("10.0.1.2".into(), "10.0.0.1".into())
        );
        assert_eq!(view.ports(), Some((0x0304, 0x0304)));
        assert_eq!(error[26..28], 1390_u16.to_be_bytes());
        assert_eq!(error[28..], bytes[..548]);
        assert_eq!(
            (checksum::of(&error[..20]), checksum::of(&error[20..])),
            (0, 0)
        );
    }

    #[test]
    fn e13_an_ipv6_sender_gets_packet_too_big_with_the_mtu() {
        let bytes = udp(6, 1452);
        let error = answer(&bytes, 1370).unwrap();
        assert_eq!(error.len(), 1280);
        assert_eq!(error[40..42], [2, 0]);
        assert_eq!(error[44..48], 1370_u32.to_be_bytes());
        assert_eq!(error[48..], bytes[..1232]);
        let (ip, _) = etherparse::Ipv6Header::from_slice(&error).unwrap();
        let icmp = etherparse::Icmpv6Slice::from_slice(&error[40..]).unwrap();
        assert!(icmp.is_checksum_valid(ip.source, ip.destination));
    }

    #[test]
    fn a_prohibited_packet_gets_administratively_prohibited() {
        for (version, expected) in [(4, (20, [3, 13])), (6, (40, [1, 1]))] {
            let bytes = udp(version, 20);
            let packet = Packet::parse(&bytes).unwrap();
            let mut out = Vec::new();
            assert!(unreachable(&packet, packet.destination(), &mut out));
            assert_eq!(out[expected.0..expected.0 + 2], expected.1);
            assert!(out.ends_with(&bytes), "a short packet is quoted whole");
        }
    }

    #[test]
    fn e13_no_error_answers_errors_later_fragments_or_group_addresses() {
        let edit = |version: u8, edits: &[(usize, u8)]| {
            let mut bytes = udp(version, 100);
            edits.iter().for_each(|&(at, value)| bytes[at] = value);
            bytes
        };
        for (bytes, case) in [
            (edit(4, &[(9, 1), (20, 3)]), "an ICMP error"),
            (edit(4, &[(9, 1), (20, 5)]), "an ICMP redirect"),
            (edit(6, &[(6, 58), (40, 1)]), "an ICMPv6 error"),
            (edit(6, &[(6, 58), (40, 137)]), "an ICMPv6 redirect"),
            (edit(4, &[(6, 0), (7, 1)]), "a later fragment"),
            (edit(4, &[(12, 224)]), "a multicast source"),
            (edit(4, &[(12, 0), (15, 0)]), "no source"),
            (edit(4, &[(12, 127)]), "a loopback source"),
            (edit(6, &[(8, 0xff)]), "a multicast source"),
            (edit(4, &[(16, 224)]), "a multicast destination"),
            (
                edit(4, &[(16, 255), (17, 255), (18, 255), (19, 255)]),
                "a broadcast",
            ),
        ] {
            assert_eq!(answer(&bytes, 1300), None, "{case}");
        }
        assert!(
            answer(&edit(4, &[(9, 1), (20, 8)]), 1300).is_some(),
            "a ping is answered"
        );
        assert!(
            answer(&edit(6, &[(24, 0xff)]), 1300).is_none(),
            "from a group"
        );
    }

    #[test]
    fn a_packet_to_an_ipv6_group_gets_packet_too_big_only() {
        let mut bytes = udp(6, 100);
        bytes[24] = 0xff;
        let packet = Packet::parse(&bytes).unwrap();
        let ours = "2001:db8::1".parse().unwrap();
        assert!(too_big(&packet, 1300, ours, &mut Vec::new()));
        assert!(!unreachable(&packet, ours, &mut Vec::new()));
    }

    #[test]
    fn a_source_of_the_other_family_is_rejected() {
        let bytes = udp(4, 100);
        let packet = Packet::parse(&bytes).unwrap();
        assert!(!too_big(
            &packet,
            1300,
            IpAddr::V6(Ipv6Addr::LOCALHOST),
            &mut Vec::new()
        ));
    }
}
