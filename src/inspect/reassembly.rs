//! Fragments of outer packets, put together (RFC 791 §3.2, RFC 8200 §4.5).
//!
//! ```text
//! (source, destination, protocol, identification) ─▶ │ piece at 0 │ … │ last piece │ ─▶ payload
//! ```
//!
//! What may be held is bounded: so many packets, so many pieces of each. Pieces that overlap spoil their packet, as RFC 5722 has it
//! for IPv6; a copy of a piece changes nothing.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::net::IpAddr;

use crate::net::{FragmentKind, Packet};

use super::demux::IpPayload;

/// Packets of which some fragments have been seen, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Reassembly {
    partial: VecDeque<Partial>,
    lost: u64,
}

/// Packets that may be incomplete at a time.
const MAX_PARTIAL: usize = 64;

/// Pieces of one packet; a packet of 65,535 octets over the smallest MTU of IPv4 in use has 120.
const MAX_PIECES: usize = 256;

#[derive(Debug)]
struct Partial {
    key: Key,
    pieces: Vec<Piece>,
    total: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    id: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    at: usize,
    octets: Vec<u8>,
}

impl Piece {
    fn end(&self) -> usize {
        self.at.saturating_add(self.octets.len())
    }
}

impl Reassembly {
    /// Takes a fragment; gives the payload that it completes.
    ///
    /// # Errors
    /// It contradicts the others, which are forgotten.
    pub(super) fn take(
        &mut self,
        packet: &Packet<'_>,
    ) -> Result<Option<IpPayload<'static>>, &'static str> {
        let Some((id, more, piece)) = fragment(packet) else {
            return Err("the header of a fragment cannot be found");
        };
        let key = Key {
            source: packet.source(),
            destination: packet.destination(),
            protocol: packet.protocol(),
            id,
        };
        let place = self.place(key);
        let Some(partial) = self.partial.get_mut(place) else {
            return Ok(None);
        };
        if let Err(what) = partial.add(piece, more) {
            self.partial.remove(place);
            self.lost = self.lost.saturating_add(1);
            return Err(what);
        }
        let Some(payload) = partial.whole() else {
            return Ok(None);
        };
        self.partial.remove(place);
        Ok(Some(IpPayload {
            source: key.source,
            destination: key.destination,
            protocol: key.protocol,
            payload: Cow::Owned(payload),
        }))
    }

    /// How many packets were never whole.
    pub(super) fn incomplete(&self) -> u64 {
        self.lost.saturating_add(self.partial.len() as u64)
    }

    fn place(&mut self, key: Key) -> usize {
        if let Some(place) = self.partial.iter().position(|partial| partial.key == key) {
            return place;
        }
        if self.partial.len() >= MAX_PARTIAL {
            self.partial.pop_front();
            self.lost = self.lost.saturating_add(1);
        }
        self.partial.push_back(Partial {
            key,
            pieces: Vec::new(),
            total: None,
        });
        self.partial.len().saturating_sub(1)
    }
}

impl Partial {
    fn add(&mut self, piece: Piece, more: More) -> Result<(), &'static str> {
        if self.pieces.contains(&piece) {
            return Ok(());
        }
        if self.pieces.len() >= MAX_PIECES {
            return Err("an IP packet in more fragments than any network makes");
        }
        match more {
            More::Yes if !piece.octets.len().is_multiple_of(8) => {
                return Err("a fragment that is not the last is not a multiple of 8");
            }
            More::Yes => {}
            More::No if self.total.is_some_and(|total| total != piece.end()) => {
                return Err("two last fragments");
            }
            More::No => self.total = Some(piece.end()),
        }
        let overlaps = |other: &Piece| other.at < piece.end() && piece.at < other.end();
        let beyond = self.total.is_some_and(|total| {
            piece.end() > total || self.pieces.iter().any(|p| p.end() > total)
        });
        if beyond || self.pieces.iter().any(overlaps) {
            return Err("fragments overlap");
        }
        self.pieces.push(piece);
        Ok(())
    }

    /// The payload, if nothing is missing.
    fn whole(&mut self) -> Option<Vec<u8>> {
        let total = self.total?;
        // They do not overlap and none ends behind the total: then their lengths tell.
        let held: usize = self.pieces.iter().map(|piece| piece.octets.len()).sum();
        if held != total {
            return None;
        }
        self.pieces.sort_by_key(|piece| piece.at);
        Some(
            self.pieces
                .iter()
                .flat_map(|piece| &piece.octets)
                .copied()
                .collect(),
        )
    }
}

/// Whether another fragment follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum More {
    Yes,
    No,
}

/// The identification of a fragment, whether more follow, and its piece of the payload.
fn fragment(packet: &Packet<'_>) -> Option<(u32, More, Piece)> {
    if packet.fragment() == FragmentKind::Whole {
        return None;
    }
    let bytes = packet.bytes();
    let (id, field, start) = if packet.is_ipv4() {
        let [first, _, _, _, i0, i1, f0, f1] = *bytes.first_chunk()?;
        let start = usize::from(first & 0x0f).saturating_mul(4);
        let flags = u16::from_be_bytes([f0, f1]);
        // To the layout of IPv6: the offset in the upper 13 bits, "more" in the lowest.
        let field = flags << 3 | flags >> 13 & 1;
        (u32::from(u16::from_be_bytes([i0, i1])), field, start)
    } else {
        let at = fragment_header(bytes)?;
        let [_, _, f0, f1, i0, i1, i2, i3] = *bytes.get(at..)?.first_chunk()?;
        let id = u32::from_be_bytes([i0, i1, i2, i3]);
        (id, u16::from_be_bytes([f0, f1]), at.saturating_add(8))
    };
    let more = if field & 1 == 0 { More::No } else { More::Yes };
    let piece = Piece {
        at: usize::from(field & !7),
        octets: bytes.get(start..)?.to_vec(),
    };
    Some((id, more, piece))
}

/// Where the fragment header of an IPv6 packet is; [`Packet`] has checked the headers before it.
fn fragment_header(bytes: &[u8]) -> Option<usize> {
    const FIXED: usize = 40;
    const FRAGMENT: u8 = 44;
    let mut next = *bytes.get(6)?;
    let mut at = FIXED;
    while next != FRAGMENT {
        let [following, length] = *bytes.get(at..)?.first_chunk()?;
        next = following;
        let length = usize::from(length).saturating_add(1).saturating_mul(8);
        at = at.saturating_add(length);
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::super::demux::UDP;
    use super::*;
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

    fn cut(bytes: &[u8], mtu: u16) -> Vec<Vec<u8>> {
        fragments(&Packet::parse(bytes).unwrap(), mtu)
            .unwrap()
            .map(|fragment| {
                let mut out = vec![0; fragment.len()];
                assert!(fragment.write(&mut out));
                out
            })
            .collect()
    }

    fn take(
        reassembly: &mut Reassembly,
        bytes: &[u8],
    ) -> Result<Option<IpPayload<'static>>, &'static str> {
        reassembly.take(&Packet::parse(bytes).unwrap())
    }

    #[test]
    fn fragments_in_any_order_and_twice_become_their_packet() {
        let (one, other) = (packet(1, 1000), packet(2, 900));
        let mut mixed: Vec<Vec<u8>> = cut(&one, 300);
        mixed.extend(cut(&other, 400));
        mixed.reverse();
        let copies: Vec<Vec<u8>> = mixed.iter().flat_map(|f| [f.clone(), f.clone()]).collect();
        for order in [mixed, copies] {
            let mut reassembly = Reassembly::default();
            let whole: Vec<Vec<u8>> = order
                .iter()
                .filter_map(|f| take(&mut reassembly, f).unwrap())
                .map(|transport| {
                    assert_eq!(transport.protocol, UDP);
                    transport.payload.into_owned()
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
        bytes.extend([UDP, 0]);
        bytes.extend((at | more).to_be_bytes());
        bytes.extend([0, 0, 0, 9]);
        bytes.extend(octets);
        bytes
    }

    #[test]
    fn fragments_of_ipv6_are_found_behind_extension_headers() {
        let mut reassembly = Reassembly::default();
        assert_eq!(take(&mut reassembly, &v6(8, 0, b"end")), Ok(None));
        let whole = take(&mut reassembly, &v6(0, 1, b"12345678"))
            .unwrap()
            .unwrap();
        assert_eq!(whole.payload.as_ref(), b"12345678end");
    }

    #[test]
    fn fragments_that_contradict_each_other_spoil_their_packet() {
        let first = v6(0, 1, b"1234567812345678");
        for second in [
            v6(8, 1, b"12345678"),
            v6(8, 0, b"123"),
            v6(0, 0, b"1234"),
            v6(16, 1, b"123"),
        ] {
            let mut reassembly = Reassembly::default();
            assert_eq!(take(&mut reassembly, &first), Ok(None));
            assert!(take(&mut reassembly, &second).is_err());
            assert_eq!(reassembly.incomplete(), 1);
        }
        let mut reassembly = Reassembly::default();
        assert_eq!(take(&mut reassembly, &v6(32, 0, b"123")), Ok(None));
        assert!(take(&mut reassembly, &v6(40, 0, b"123")).is_err());
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut reassembly = Reassembly::default();
        for n in 0..200_u8 {
            let pieces = cut(&packet(n, 1000), 300);
            assert_eq!(take(&mut reassembly, &pieces[0]), Ok(None));
        }
        assert_eq!(reassembly.partial.len(), MAX_PARTIAL);
        assert_eq!(reassembly.incomplete(), 200);
        let mut reassembly = Reassembly::default();
        let tiny = (0..=MAX_PIECES as u16).map(|n| v6(n * 16, 1, b"12345678"));
        let results: Vec<_> = tiny.map(|f| take(&mut reassembly, &f)).collect();
        assert!(results.last().unwrap().is_err());
    }
}
