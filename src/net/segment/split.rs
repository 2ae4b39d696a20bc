//! Segmentation of a GSO packet. Each segment is written where it will be sealed.
//!
//! ```text
//!   | IP: length, identification, checksum | TCP: sequence, flags, checksum | payload ………………………………………… |
//!     ▼ n-th segment
//!   | IP: own length, + n, own             | + n·size, own, own              | …… payload n ……  |
//! ```
//!
//! All other header fields are copied, with IPv6 extension headers and TCP options. The checksum contribution of the headers is
//! computed once for all segments.

use std::iter::FusedIterator;

use super::super::drop_reason::DropReason;
use super::super::packet::Packet;
use super::header_template::{HeaderTemplate, Ip, Upper};
use super::{GsoPacket, ip, put, tcp, udp};

/// Splits a GSO packet. Nothing is copied until a segment is written.
///
/// # Errors
/// [`DropReason::Malformed`] if `gso` does not match the packet, [`DropReason::Overflow`] for more than [`Segments::MAX`]
/// segments.
pub fn segments<'a>(packet: &Packet<'a>, gso: &GsoPacket) -> Result<Segments<'a>, DropReason> {
    let segments = Segments::of(packet, gso).ok_or(DropReason::Malformed)?;
    match segments.len() {
        ..=Segments::MAX => Ok(segments),
        _ => Err(DropReason::Overflow),
    }
}

/// Segments of a GSO packet, in order.
#[derive(Clone, Debug)]
pub struct Segments<'a> {
    header_template: HeaderTemplate<'a>,
    rest: &'a [u8],
    /// At least 1.
    size: usize,
    /// Payload octets in the segments before the next.
    before: u32,
    /// Number of segments before the next.
    nth: u16,
}

/// One segment: its headers and a part of the payload.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    header_template: HeaderTemplate<'a>,
    payload: &'a [u8],
    before: u32,
    nth: u16,
    last: bool,
}

impl<'a> Segments<'a> {
    /// More than any valid GSO packet: Linux sends no segments with less than 36 octets of payload (`tcp_min_snd_mss`).
    pub const MAX: usize = 2048;

    /// Octets of the longest segment with headers.
    #[must_use]
    pub fn longest(&self) -> usize {
        let payload = self.size.min(self.rest.len());
        self.header_template.headers.len().saturating_add(payload)
    }

    fn of(packet: &Packet<'a>, gso: &GsoPacket) -> Option<Segments<'a>> {
        let (header_template, payload) = HeaderTemplate::of(packet, gso)?;
        (!payload.is_empty()).then_some(Segments {
            header_template,
            rest: payload,
            size: usize::from(gso.size.get()),
            before: 0,
            nth: 0,
        })
    }
}

impl<'a> Iterator for Segments<'a> {
    type Item = Segment<'a>;

    #[inline]
    fn next(&mut self) -> Option<Segment<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let (payload, rest) = self
            .rest
            .split_at_checked(self.size)
            .unwrap_or((self.rest, &[]));
        let segment = Segment {
            header_template: self.header_template,
            payload,
            before: self.before,
            nth: self.nth,
            last: rest.is_empty(),
        };
        self.rest = rest;
        self.before = self.before.wrapping_add(payload.len() as u32);
        self.nth = self.nth.wrapping_add(1);
        Some(segment)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.rest.len().div_ceil(self.size.max(1));
        (left, Some(left))
    }
}

impl ExactSizeIterator for Segments<'_> {}
impl FusedIterator for Segments<'_> {}

impl Segment<'_> {
    /// Octets of the segment.
    #[must_use]
    #[allow(
        clippy::len_without_is_empty,
        reason = "a segment has at least its headers"
    )]
    pub const fn len(&self) -> usize {
        self.header_template
            .headers
            .len()
            .saturating_add(self.payload.len())
    }

    /// Writes the segment into `out`, whose length must be [`Segment::len`]. Returns false and writes nothing otherwise.
    #[inline]
    #[must_use]
    pub fn write(&self, out: &mut [u8]) -> bool {
        let HeaderTemplate {
            headers,
            transport,
            ip,
            upper,
            sum,
        } = self.header_template;
        // At most the length of the packet, which has 16 bits.
        let total = self.len() as u16;
        if out.len() != self.len() {
            return false;
        }
        let Some((head, body)) = out.split_at_mut_checked(headers.len()) else {
            return false;
        };
        // Summed first, so that the copy finds the payload in the L1 cache; one combined pass is slower.
        let sum = sum.plus(self.payload);
        body.copy_from_slice(self.payload);
        head.copy_from_slice(headers);
        let (network, head) = head.split_at_mut_checked(transport).unwrap_or_default();
        match ip {
            Ip::V4 { id, sum } => {
                let id = id.wrapping_add(self.nth);
                let checksum = sum.plus_word(total).plus_word(id).finish();
                put(network, ip::V4_LENGTH, total.to_be_bytes());
                put(network, ip::V4_ID, id.to_be_bytes());
                put(network, ip::V4_CHECKSUM, checksum.to_be_bytes());
            }
            Ip::V6 => {
                let length = total.saturating_sub(ip::V6_HEADER as u16);
                put(network, ip::V6_LENGTH, length.to_be_bytes());
            }
        }
        // The pseudo-header contains the length of the transport part only.
        let length = total.saturating_sub(transport as u16);
        let sum = sum.plus_word(length);
        match upper {
            Upper::Tcp { sequence, flags } => {
                let sequence = sequence.wrapping_add(self.before).to_be_bytes();
                let flags = self.flags(flags);
                let checksum = sum.plus(&sequence).plus_word(flags).finish();
                put(head, tcp::SEQUENCE, sequence);
                put(head, tcp::FLAGS, flags.to_be_bytes());
                put(head, tcp::CHECKSUM, checksum.to_be_bytes());
            }
            Upper::Udp => {
                // Checksum zero means no checksum (RFC 768); its complement represents the same sum.
                let checksum = match sum.plus_word(length).finish() {
                    0 => 0xffff,
                    checksum => checksum,
                };
                put(head, udp::LENGTH, length.to_be_bytes());
                put(head, udp::CHECKSUM, checksum.to_be_bytes());
            }
        }
        true
    }

    /// FIN and PSH belong to the last segment, CWR to the first (RFC 3168 §6.1.2).
    const fn flags(&self, flags: u16) -> u16 {
        let flags = match self.last {
            true => flags,
            false => flags & !(tcp::FIN | tcp::PSH),
        };
        match self.nth {
            0 => flags,
            1.. => flags & !tcp::CWR,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Tcp, checksums_hold, cut, datagram, edit, handed_over, repair};
    use super::super::{PartialChecksum, TCP, read, tcp};
    use super::*;
    use crate::net::checksum::Sum;
    use std::num::NonZeroU16;

    fn refusal(bytes: &[u8], gso: &GsoPacket) -> Option<DropReason> {
        segments(&Packet::parse(bytes).unwrap(), gso).err()
    }

    fn long_tcp(version: u8) -> (Vec<u8>, GsoPacket) {
        let tcp = Tcp {
            version,
            payload: 64_000,
            ..Tcp::default()
        };
        handed_over(tcp.bytes(), 1350)
    }

    #[test]
    fn a_gso_packet_becomes_the_segments_that_its_sender_would_send() {
        for version in [4, 6] {
            let one_by_one = Tcp {
                version,
                payload: 1350,
                ..Tcp::default()
            }
            .in_a_row(47);
            let (bytes, gso) = long_tcp(version);
            let pieces = cut(&bytes, &gso);
            assert_eq!(pieces.len(), 48, "47 full ones and the rest");
            assert_eq!(pieces[..47], one_by_one);
            let rest = Tcp {
                version,
                sequence: 0xffff_f000_u32.wrapping_add(47 * 1350),
                id: 0xfff0_u16.wrapping_add(47),
                payload: 64_000 - 47 * 1350,
                ..Tcp::default()
            };
            assert_eq!(pieces[47], rest.bytes());
        }
    }

    #[test]
    fn datagrams_get_their_own_lengths() {
        for version in [4, 6] {
            let (bytes, gso) = handed_over(datagram(version, 9, 3000), 1300);
            let pieces = cut(&bytes, &gso);
            let at = if version == 4 { 20 } else { 40 };
            let lengths: Vec<_> = pieces.iter().map(|piece| read(piece, at + 4)).collect();
            assert_eq!(lengths, [Some(1308), Some(1308), Some(408)]);
            let payload: Vec<u8> = pieces.iter().flat_map(|p| p[at + 8..].to_vec()).collect();
            assert_eq!(payload, bytes[at + 8..]);
            assert!(pieces.iter().all(|piece| checksums_hold(piece)));
        }
    }

    #[test]
    fn a_computed_udp_checksum_of_zero_becomes_ffff() {
        let (bytes, gso) = handed_over(datagram(4, 9, 200), 100);
        let first = cut(&bytes, &gso).remove(0);
        // What would make the sum of the first datagram all ones: its checksum, where its payload starts.
        let mut zero = bytes.clone();
        let (field, word) = (read(&first, 26).unwrap(), read(&first, 28).unwrap());
        let filler = Sum::default().plus_word(field).plus_word(word).fold();
        edit(&mut zero, 28, &filler.to_be_bytes());
        let first = cut(&zero, &gso).remove(0);
        assert_eq!(read(&first, 26), Some(0xffff));
        assert!(checksums_hold(&first));
    }

    #[test]
    fn fin_and_psh_are_on_the_last_segment_and_cwr_on_the_first() {
        let tcp = Tcp {
            flags: tcp::ACK | tcp::PSH | tcp::FIN | tcp::CWR | 0x40,
            payload: 3000,
            ..Tcp::default()
        };
        let (bytes, gso) = handed_over(tcp.bytes(), 1000);
        assert!(gso.ecn);
        let pieces = cut(&bytes, &gso);
        let flags: Vec<_> = pieces
            .iter()
            .map(|piece| read(piece, 20 + tcp::FLAGS).unwrap() & 0x0fff)
            .collect();
        let ece = 0x40;
        assert_eq!(
            flags,
            [
                tcp::ACK | ece | tcp::CWR,
                tcp::ACK | ece,
                tcp::ACK | ece | tcp::PSH | tcp::FIN
            ]
        );
        assert!(pieces.iter().all(|piece| checksums_hold(piece)));
    }

    #[test]
    fn ipv4_options_and_ipv6_extension_headers_are_copied() {
        let mut v4 = Tcp {
            payload: 2500,
            ..Tcp::default()
        }
        .bytes();
        v4.splice(20..20, [0x94, 4, 0, 0]); // router alert
        v4[0] = 0x46;
        let total = v4.len() as u16;
        edit(&mut v4, 2, &total.to_be_bytes());

        let mut v6 = Tcp {
            version: 6,
            payload: 2500,
            ..Tcp::default()
        }
        .bytes();
        let hop_by_hop = [60, 0, 5, 2, 0, 0, 1, 0];
        let destination = [6, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        v6[6] = 0;
        v6.splice(40..40, [&hop_by_hop[..], &destination].concat());
        let length = v6.len() as u16 - 40;
        edit(&mut v6, 4, &length.to_be_bytes());

        for (mut bytes, headers) in [(v4, 24), (v6, 64)] {
            repair(&mut bytes);
            let (bytes, gso) = handed_over(bytes, 1000);
            let pieces = cut(&bytes, &gso);
            assert_eq!(pieces.len(), 3);
            for piece in &pieces {
                assert!(checksums_hold(piece));
                assert_eq!(piece[20..headers], bytes[20..headers]);
            }
        }
    }

    #[test]
    fn with_a_routing_header_the_senders_own_pseudo_header_counts() {
        let mut bytes = Tcp {
            version: 6,
            payload: 1500,
            ..Tcp::default()
        }
        .bytes();
        // RFC 8200 §8.1: one segment left, so the final destination, which the checksum covers, is in here.
        let routing = [&[6, 2, 4, 1, 0, 0, 0, 0][..], &[0x77; 16]].concat();
        bytes[6] = 43;
        bytes.splice(40..40, routing);
        let length = bytes.len() as u16 - 40;
        edit(&mut bytes, 4, &length.to_be_bytes());
        let (mut bytes, gso) = handed_over(bytes, 1000);
        let (source, last) = ([0x20; 16].into(), [0x77; 16].into());
        let pseudo = Sum::pseudo_header(source, last, TCP, u32::from(length) - 24).unwrap();
        edit(&mut bytes, 64 + tcp::CHECKSUM, &pseudo.fold().to_be_bytes());
        for piece in cut(&bytes, &gso) {
            let length = piece.len() as u32 - 64;
            let sum = Sum::pseudo_header(source, last, TCP, length).unwrap();
            assert_eq!(sum.plus(&piece[64..]).finish(), 0);
        }
    }

    #[test]
    fn a_gso_packet_without_partial_checksum_gets_new_checksums() {
        for version in [4, 6] {
            let (mut bytes, gso) = long_tcp(version);
            let expected = cut(&bytes, &gso);
            let unfinished = GsoPacket {
                partial: None,
                ..gso
            };
            let at = if version == 4 { 20 } else { 40 };
            edit(&mut bytes, at + tcp::CHECKSUM, &[0xab, 0xcd]);
            assert_eq!(cut(&bytes, &unfinished), expected);
        }
    }

    #[test]
    fn a_gso_packet_of_one_segment_is_that_segment() {
        let tcp = Tcp {
            flags: tcp::ACK | tcp::PSH,
            ..Tcp::default()
        };
        let (bytes, gso) = handed_over(tcp.bytes(), 1000);
        assert_eq!(cut(&bytes, &gso), [tcp.bytes()]);
    }

    #[test]
    fn the_header_length_hint_is_ignored() {
        let (bytes, gso) = long_tcp(4);
        let expected = cut(&bytes, &gso);
        for header_len in [0, 20, gso.header_len - 1, gso.header_len + 100, u16::MAX] {
            let gso = GsoPacket { header_len, ..gso };
            assert_eq!(cut(&bytes, &gso), expected, "{header_len}");
        }
    }

    #[test]
    fn e11_gso_fields_of_another_packet_are_malformed() {
        let (v4, of_v4) = long_tcp(4);
        let (v6, of_v6) = long_tcp(6);
        let (udp, of_udp) = handed_over(datagram(4, 0, 3000), 1000);
        let at = |start, offset| GsoPacket {
            partial: Some(PartialChecksum { start, offset }),
            ..of_v4
        };
        let with_ecn = GsoPacket {
            ecn: true,
            ..of_udp
        };
        for (bytes, gso) in [
            (&v4, &of_v6),
            (&v6, &of_v4),
            (&v4, &of_udp),
            (&udp, &of_v4),
            (&udp, &with_ecn),
            (&v4, &at(u16::MAX, 16)),
            (&v4, &at(20, u16::MAX)),
            (&v4, &at(24, 16)),
            (&v4, &at(20, 6)),
        ] {
            assert_eq!(refusal(bytes, gso), Some(DropReason::Malformed), "{gso:?}");
        }
    }

    #[test]
    fn e10_e11_an_invalid_gso_packet_is_malformed() {
        let (good, gso) = long_tcp(4);
        let bent = |at: usize, octets: &[u8]| {
            let mut bytes = good.clone();
            edit(&mut bytes, at, octets);
            bytes
        };
        for (bytes, case) in [
            (bent(6, &[0x20, 0]), "a first fragment"),
            (bent(6, &[0x00, 1]), "a later fragment"),
            (bent(32, &[0x40]), "a TCP header of 16 octets"),
            (bent(33, &[0x12]), "a SYN"),
            (bent(33, &[0x14]), "a reset"),
        ] {
            assert_eq!(refusal(&bytes, &gso), Some(DropReason::Malformed), "{case}");
        }
        let empty = Tcp {
            payload: 0,
            ..Tcp::default()
        };
        let (bytes, gso) = handed_over(empty.bytes(), 1000);
        assert_eq!(refusal(&bytes, &gso), Some(DropReason::Malformed));
        let (mut bytes, gso) = handed_over(datagram(4, 0, 3000), 1000);
        edit(&mut bytes, 24, &3007_u16.to_be_bytes());
        assert_eq!(refusal(&bytes, &gso), Some(DropReason::Malformed));
    }

    #[test]
    fn e11_too_many_segments_are_an_overflow() {
        let (bytes, gso) = long_tcp(4);
        let of = |size| GsoPacket {
            size: NonZeroU16::new(size).unwrap(),
            ..gso
        };
        assert_eq!(refusal(&bytes, &of(31)), Some(DropReason::Overflow));
        assert_eq!(cut(&bytes, &of(32)).len(), 2000);
    }

    #[test]
    fn a_buffer_of_wrong_length_is_unchanged() {
        let (bytes, gso) = long_tcp(4);
        let packet = Packet::parse(&bytes).unwrap();
        let segment = segments(&packet, &gso).unwrap().next().unwrap();
        for length in [0, 39, segment.len() - 1, segment.len() + 1] {
            let mut out = vec![9; length];
            assert!(!segment.write(&mut out));
            assert!(out.iter().all(|octet| *octet == 9));
        }
    }
}
