//! Reassembly of fragmented outer packets (RFC 791 §3.2, RFC 8200 §4.5).
//!
//! ```text
//! (source, destination, protocol, identification) ─▶ │ fragment at 0 │ … │ last fragment │ ─▶ payload
//! ```
//!
//! The number of packets under reassembly is bounded. Overlapping fragments discard their packet, as RFC 5722 requires for IPv6; a
//! copy of a fragment changes nothing.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::net::IpAddr;

use etherparse::defrag::{IpDefragBuf, IpDefragError, IpFragRange};
use etherparse::{IpFragOffset, IpNumber, IpSlice, Ipv6ExtensionSlice};

use super::demux::IpPayload;

/// Packets of which some fragments are missing, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Reassembly {
    packets: VecDeque<(FragmentKey, IpDefragBuf)>,
    discarded: u64,
}

/// The most packets under reassembly.
const MAX_PACKETS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FragmentKey {
    source: IpAddr,
    destination: IpAddr,
    protocol: IpNumber,
    identification: u32,
}

impl Reassembly {
    /// Adds a fragment; returns the payload of the packet that it completes.
    ///
    /// # Errors
    /// The fragment contradicts the others; the packet is discarded.
    pub(super) fn add(
        &mut self,
        ip: &IpSlice<'_>,
    ) -> Result<Option<IpPayload<'static>>, &'static str> {
        let (identification, offset, more_fragments) =
            fragment_fields(ip).ok_or("the fragment header is missing")?;
        let key = FragmentKey {
            source: ip.source_addr(),
            destination: ip.destination_addr(),
            protocol: ip.payload().ip_number,
            identification,
        };
        let known = self.packets.iter().position(|(other, _)| *other == key);
        let mut packet = known.and_then(|at| self.packets.remove(at)).map_or_else(
            || IpDefragBuf::new(key.protocol, Vec::new(), Vec::new()),
            |(_, packet)| packet,
        );
        if let Err(what) = add_fragment(&mut packet, offset, more_fragments, ip.payload().payload) {
            self.discarded = self.discarded.saturating_add(1);
            return Err(what);
        }
        if packet.is_complete() {
            return Ok(Some(IpPayload {
                source: key.source,
                destination: key.destination,
                protocol: key.protocol,
                bytes: Cow::Owned(packet.take_bufs().0),
            }));
        }
        if self.packets.len() >= MAX_PACKETS {
            self.packets.pop_front();
            self.discarded = self.discarded.saturating_add(1);
        }
        self.packets.push_back((key, packet));
        Ok(None)
    }

    /// Number of packets that were never complete.
    pub(super) fn incomplete(&self) -> u64 {
        self.discarded.saturating_add(self.packets.len() as u64)
    }
}

fn add_fragment(
    packet: &mut IpDefragBuf,
    offset: IpFragOffset,
    more_fragments: bool,
    payload: &[u8],
) -> Result<(), &'static str> {
    let start = usize::from(offset.byte_offset());
    let end = start.saturating_add(payload.len());
    let overlaps = |start: usize, end: usize| {
        let mut sections = packet.sections().iter();
        sections.any(|held| usize::from(held.start) < end && start < usize::from(held.end))
    };
    if overlaps(start, end) {
        let is_held =
            |held: &IpFragRange| usize::from(held.start) <= start && end <= usize::from(held.end);
        let is_copy = packet.sections().iter().any(is_held)
            && packet.data().get(start..end) == Some(payload)
            && more_fragments != (packet.end().map(usize::from) == Some(end));
        return if is_copy {
            Ok(())
        } else {
            Err("fragments overlap")
        };
    }
    if !more_fragments && overlaps(end, usize::MAX) {
        return Err("fragments overlap");
    }
    packet
        .add(offset, more_fragments, payload)
        .map_err(|error| match error {
            IpDefragError::UnalignedFragmentPayloadLen { .. } => {
                "the length of a fragment other than the last is not a multiple of 8"
            }
            IpDefragError::SegmentTooBig { .. } => "a fragment ends beyond the longest IP packet",
            IpDefragError::ConflictingEnd { .. } => {
                "fragments disagree about the length of the packet"
            }
            IpDefragError::AllocationFailure { .. } => "no memory for the fragments",
        })
}

/// The identification, the offset and the more-fragments flag of a fragment.
fn fragment_fields(ip: &IpSlice<'_>) -> Option<(u32, IpFragOffset, bool)> {
    match ip {
        IpSlice::Ipv4(packet) => {
            let header = packet.header();
            Some((
                u32::from(header.identification()),
                header.fragments_offset(),
                header.more_fragments(),
            ))
        }
        IpSlice::Ipv6(packet) => {
            let mut extensions = packet.extensions().clone().into_iter();
            extensions.find_map(|extension| match extension {
                Ipv6ExtensionSlice::Fragment(header) => Some((
                    header.identification(),
                    header.fragment_offset(),
                    header.more_fragments(),
                )),
                _ => None,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::super::demux::parse_ip;
    use super::*;
    use crate::net::Packet;
    use crate::net::fragment::fragments;

    fn packet(id: u8, size: usize) -> Vec<u8> {
        let payload: Vec<u8> = (0..size).map(|n| n as u8).collect();
        let mut bytes = Vec::new();
        PacketBuilder::ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64)
            .udp(500, 500)
            .write(&mut bytes, &payload)
            .unwrap();
        bytes[4] = id;
        bytes[6] = 0;
        bytes
    }

    fn fragmented(bytes: &[u8], mtu: u16) -> Vec<Vec<u8>> {
        fragments(&Packet::parse(bytes).unwrap(), mtu)
            .unwrap()
            .map(|fragment| {
                let mut out = vec![0; fragment.len()];
                assert!(fragment.write(&mut out));
                out
            })
            .collect()
    }

    fn add(
        reassembly: &mut Reassembly,
        bytes: &[u8],
    ) -> Result<Option<IpPayload<'static>>, &'static str> {
        reassembly.add(&parse_ip(bytes).unwrap())
    }

    #[test]
    fn fragments_in_any_order_and_repeated_are_reassembled() {
        let (one, other) = (packet(1, 1000), packet(2, 900));
        let mut mixed: Vec<Vec<u8>> = fragmented(&one, 300);
        mixed.extend(fragmented(&other, 400));
        mixed.reverse();
        let copies: Vec<Vec<u8>> = mixed.iter().flat_map(|f| [f.clone(), f.clone()]).collect();
        for order in [mixed, copies] {
            let mut reassembly = Reassembly::default();
            let whole: Vec<Vec<u8>> = order
                .iter()
                .filter_map(|fragment| add(&mut reassembly, fragment).unwrap())
                .map(|payload| {
                    assert_eq!(payload.protocol, IpNumber::UDP);
                    payload.bytes.into_owned()
                })
                .collect();
            assert_eq!(whole, [&other[20..], &one[20..]]);
        }
    }

    /// A fragment of IPv6 behind a hop-by-hop header.
    fn v6(at: u16, more: u16, octets: &[u8]) -> Vec<u8> {
        let length = u16::try_from(octets.len() + 16).unwrap();
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend(length.to_be_bytes());
        bytes.extend([0, 64]);
        bytes.extend([0x20; 32]);
        bytes.extend([44, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend([IpNumber::UDP.0, 0]);
        bytes.extend((at | more).to_be_bytes());
        bytes.extend([0, 0, 0, 9]);
        bytes.extend(octets);
        bytes
    }

    #[test]
    fn fragments_of_ipv6_are_found_behind_extension_headers() {
        let mut reassembly = Reassembly::default();
        assert_eq!(add(&mut reassembly, &v6(8, 0, b"end")), Ok(None));
        let whole = add(&mut reassembly, &v6(0, 1, b"12345678"));
        assert_eq!(whole.unwrap().unwrap().bytes.as_ref(), b"12345678end");
    }

    #[test]
    fn contradicting_fragments_discard_their_packet() {
        let first = v6(0, 1, b"1234567812345678");
        for second in [
            v6(8, 1, b"12345679"),
            v6(8, 0, b"123"),
            v6(0, 0, b"1234"),
            v6(16, 1, b"123"),
        ] {
            let mut reassembly = Reassembly::default();
            assert_eq!(add(&mut reassembly, &first), Ok(None));
            assert!(add(&mut reassembly, &second).is_err());
            assert_eq!(reassembly.incomplete(), 1);
        }
        for (first, second) in [
            (v6(32, 0, b"123"), v6(40, 0, b"123")),
            (v6(32, 1, b"12345678"), v6(0, 0, b"123")),
        ] {
            let mut reassembly = Reassembly::default();
            assert_eq!(add(&mut reassembly, &first), Ok(None));
            assert!(add(&mut reassembly, &second).is_err());
        }
    }

    #[test]
    fn the_number_of_incomplete_packets_is_bounded() {
        let mut reassembly = Reassembly::default();
        for n in 0..200_u8 {
            let fragments = fragmented(&packet(n, 1000), 300);
            assert_eq!(add(&mut reassembly, &fragments[0]), Ok(None));
        }
        assert_eq!(reassembly.packets.len(), MAX_PACKETS);
        assert_eq!(reassembly.incomplete(), 200);
    }
}
