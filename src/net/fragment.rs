//! IPv4 fragmentation (RFC 791 §3.2) before encryption.
//!
//! ```text
//! | header, options | payload ………………………………………………………… |
//! | header, options | payload …… |                     MF
//! | header, copied options | …… payload …… |           MF
//! | header, copied options | …… payload |
//! ```

use super::checksum;
use super::drop_reason::DropReason;
use super::packet::Packet;

/// Fragments of a packet, in order. Nothing is copied until a fragment is written.
#[derive(Clone, Debug)]
pub struct Fragments<'a> {
    /// Header of the next fragment.
    header: Ipv4Header,
    /// Header of the fragments behind the first.
    later: Ipv4Header,
    rest: &'a [u8],
    /// Offset of `rest` in the original packet, in units of 8 octets.
    offset: u16,
    /// MF bit of the packet itself, set if the packet is a fragment.
    more_behind: u16,
    mtu: usize,
    done: bool,
}

/// One fragment: its header and a part of the payload.
#[derive(Clone, Copy, Debug)]
pub struct Fragment<'a> {
    header: Ipv4Header,
    payload: &'a [u8],
}

/// Splits `packet` so that every fragment fits `mtu`. A packet that fits is returned unchanged as the only fragment.
///
/// # Errors
/// [`DropReason::TooBig`] if the packet does not fit and may not be fragmented: DF is set, it is IPv6, or the MTU is below 28.
pub fn fragments<'a>(packet: &Packet<'a>, mtu: u16) -> Result<Fragments<'a>, DropReason> {
    let mtu = usize::from(mtu);
    let bytes = packet.bytes();
    let fits = bytes.len() <= mtu;
    if !fits && packet.dont_fragment() {
        return Err(DropReason::TooBig);
    }
    if fits {
        let whole = Ipv4Header::default();
        return Ok(Fragments {
            header: whole,
            later: whole,
            rest: bytes,
            offset: 0,
            more_behind: 0,
            mtu,
            done: false,
        });
    }
    let (header, rest) = split(bytes).ok_or(DropReason::Malformed)?;
    // RFC 791 §3.2: each fragment has at least 8 octets of payload.
    if mtu < header.len.saturating_add(8) {
        return Err(DropReason::TooBig);
    }
    let field = header.fragment_field();
    let (offset, more_behind) = (field & OFFSET, field & MORE);
    Ok(Fragments {
        header,
        later: header.with_copied_options(),
        rest,
        offset,
        more_behind,
        mtu,
        done: false,
    })
}

impl<'a> Iterator for Fragments<'a> {
    type Item = Fragment<'a>;

    fn next(&mut self) -> Option<Fragment<'a>> {
        if self.done {
            return None;
        }
        let mut header = self.header;
        let room = self.mtu.saturating_sub(header.len);
        let (payload, rest, more) = match self.rest.split_at_checked(room & !7) {
            Some((payload, rest)) if self.rest.len() > room => (payload, rest, MORE),
            Some(_) | None => (self.rest, &[][..], self.more_behind),
        };
        if header.len > 0 {
            header.set(payload.len(), self.offset | more);
        }
        self.done = rest.is_empty();
        self.rest = rest;
        self.header = self.later;
        let units = u16::try_from(payload.len() >> 3).unwrap_or(u16::MAX);
        self.offset = self.offset.saturating_add(units);
        Some(Fragment { header, payload })
    }
}

impl Fragment<'_> {
    /// Octets of the fragment with its header.
    #[must_use]
    #[allow(
        clippy::len_without_is_empty,
        reason = "a fragment has at least its header"
    )]
    pub const fn len(&self) -> usize {
        self.header.len.saturating_add(self.payload.len())
    }

    /// Writes the fragment into `out`, whose length must be [`Fragment::len`]. Returns false and writes nothing otherwise.
    #[must_use]
    pub fn write(&self, out: &mut [u8]) -> bool {
        if out.len() != self.len() {
            return false;
        }
        let header = self.header.bytes();
        let Some((head, tail)) = out.split_at_mut_checked(header.len()) else {
            return false;
        };
        head.copy_from_slice(header);
        tail.copy_from_slice(self.payload);
        true
    }
}

/// MF bit in the flags and offset field.
const MORE: u16 = 0x2000;

/// Fragment offset in the flags and offset field, in units of 8 octets.
const OFFSET: u16 = 0x1fff;

const FIXED_LEN: usize = 20;
const MAX_LEN: usize = 60;

/// IPv4 header; empty if the packet is passed on unchanged.
#[derive(Clone, Copy, Debug)]
struct Ipv4Header {
    octets: [u8; MAX_LEN],
    len: usize,
}

impl Default for Ipv4Header {
    fn default() -> Ipv4Header {
        Ipv4Header {
            octets: [0; MAX_LEN],
            len: 0,
        }
    }
}

impl Ipv4Header {
    fn bytes(&self) -> &[u8] {
        self.octets.get(..self.len).unwrap_or_default()
    }

    fn push(&mut self, octets: &[u8]) {
        let end = self.len.saturating_add(octets.len());
        if let Some(room) = self.octets.get_mut(self.len..end) {
            room.copy_from_slice(octets);
            self.len = end;
        }
    }

    fn fragment_field(&self) -> u16 {
        let [_, _, _, _, _, _, f0, f1, ..] = self.octets;
        u16::from_be_bytes([f0, f1])
    }

    /// Sets the fields that differ between fragments: lengths, flags and offset, checksum.
    fn set(&mut self, payload: usize, field: u16) {
        let total = u16::try_from(self.len.saturating_add(payload)).unwrap_or(u16::MAX);
        // At most 60 octets: 15 words.
        let words = u8::try_from(self.len >> 2).unwrap_or(0x0f) & 0x0f;
        let [first, _, l0, l1, _, _, f0, f1, _, _, c0, c1, ..] = &mut self.octets;
        *first = 0x40 | words;
        [*l0, *l1] = total.to_be_bytes();
        [*f0, *f1] = field.to_be_bytes();
        [*c0, *c1] = [0, 0];
        let sum = checksum::of(self.bytes());
        let [_, _, _, _, _, _, _, _, _, _, c0, c1, ..] = &mut self.octets;
        [*c0, *c1] = sum.to_be_bytes();
    }

    /// Header of the fragments behind the first: only options with the copied flag are kept (RFC 791 §3.1).
    fn with_copied_options(&self) -> Ipv4Header {
        let mut later = Ipv4Header::default();
        let (fixed, mut options) = self.bytes().split_at_checked(FIXED_LEN).unwrap_or_default();
        later.push(fixed);
        while let &[kind, ref behind @ ..] = options {
            let length = match (kind, behind.first()) {
                (END, _) | (_, None) => break,
                (NO_OPERATION, _) => 1,
                (_, Some(length)) => usize::from(*length),
            };
            // Behind a truncated option, or one of length zero, nothing can be read.
            let Some((option, rest)) = options.split_at_checked(length).filter(|_| length > 0)
            else {
                break;
            };
            if kind & COPIED != 0 {
                later.push(option);
            }
            options = rest;
        }
        while later.len & 3 != 0 {
            later.push(&[END]);
        }
        later
    }
}

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const COPIED: u8 = 0x80;

/// Splits the header off.
fn split(bytes: &[u8]) -> Option<(Ipv4Header, &[u8])> {
    let length = usize::from(bytes.first()? & 0x0f).saturating_mul(4);
    let (header, payload) = bytes.split_at_checked(length)?;
    let mut head = Ipv4Header::default();
    head.push(header);
    Some((head, payload))
}

#[cfg(test)]
mod tests {
    use super::super::extensions::FragmentKind;
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    fn packet(options: &[u8], size: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let payload: Vec<u8> = (0..size).map(|n| n as u8).collect();
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 1, 2], 64)
            .udp(1, 2)
            .write(&mut bytes, &payload)
            .unwrap();
        bytes[6] = 0; // etherparse sets DF
        bytes[4..6].copy_from_slice(&[0xab, 0xcd]);
        bytes.splice(20..20, options.iter().copied());
        let total = u16::try_from(bytes.len()).unwrap();
        bytes[0] = 0x45 + u8::try_from(options.len() / 4).unwrap();
        bytes[2..4].copy_from_slice(&total.to_be_bytes());
        bytes[10..12].fill(0);
        let sum = checksum::of(&bytes[..20 + options.len()]);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    fn fragmented(bytes: &[u8], mtu: u16) -> Result<Vec<Vec<u8>>, DropReason> {
        let written = fragments(&Packet::parse(bytes).unwrap(), mtu)?.map(|fragment| {
            let mut out = vec![0; fragment.len()];
            assert!(fragment.write(&mut out));
            out
        });
        Ok(written.collect())
    }

    /// Reassembles fragments as a receiver does.
    fn reassemble(parts: &[Vec<u8>]) -> Vec<u8> {
        let mut payload = Vec::new();
        for (nth, part) in parts.iter().enumerate() {
            let header_len = usize::from(part[0] & 0x0f) * 4;
            let field = u16::from_be_bytes([part[6], part[7]]);
            assert_eq!(usize::from(field & OFFSET) * 8, payload.len());
            assert_eq!(field & MORE != 0, nth + 1 < parts.len());
            assert_eq!(checksum::of(&part[..header_len]), 0);
            assert_eq!(Packet::parse(part).unwrap().len(), part.len());
            assert_eq!(part[4..6], [0xab, 0xcd]);
            payload.extend_from_slice(&part[header_len..]);
        }
        payload
    }

    #[test]
    fn e13_a_packet_without_df_is_fragmented_to_the_mtu() {
        let bytes = packet(&[], 2900);
        let parts = fragmented(&bytes, 1390).unwrap();
        assert_eq!(
            parts.iter().map(Vec::len).collect::<Vec<_>>(),
            [1388, 1388, 20 + 2908 - 2 * 1368]
        );
        assert_eq!(reassemble(&parts), bytes[20..]);
        assert_eq!(
            Packet::parse(&parts[0]).unwrap().fragment(),
            FragmentKind::First
        );
        assert_eq!(
            Packet::parse(&parts[2]).unwrap().fragment(),
            FragmentKind::Later
        );
    }

    #[test]
    fn a_packet_that_fits_is_unchanged() {
        let mut bytes = packet(&[], 1000);
        bytes[6] = 0x40;
        assert_eq!(fragmented(&bytes, 1028), Ok(vec![bytes.clone()]));
        assert_eq!(fragmented(&bytes, 1027), Err(DropReason::TooBig));
    }

    #[test]
    fn e13_a_packet_that_may_not_be_fragmented_is_too_big() {
        let mut v6 = Vec::new();
        PacketBuilder::ipv6([0x20; 16], [0x21; 16], 64)
            .udp(1, 2)
            .write(&mut v6, &[0; 1400])
            .unwrap();
        assert_eq!(fragmented(&v6, 1280), Err(DropReason::TooBig));
        assert_eq!(fragmented(&packet(&[], 1000), 27), Err(DropReason::TooBig));
        assert_eq!(
            reassemble(&fragmented(&packet(&[], 1000), 28).unwrap()),
            packet(&[], 1000)[20..]
        );
    }

    #[test]
    fn only_options_with_the_copied_flag_are_copied() {
        let options = [1, 0x07, 3, 4, 0x83, 3, 8, 0]; // no operation, record route, loose source route (copied), end
        let parts = fragmented(&packet(&options, 100), 68).unwrap();
        assert_eq!(parts[0][20..28], options);
        assert_eq!(parts[1][0], 0x46);
        assert_eq!(parts[1][20..24], [0x83, 3, 8, 0]);
        assert_eq!(reassemble(&parts), packet(&options, 100)[28..]);
    }

    #[test]
    fn malformed_options_end_the_copying() {
        for options in [
            [0x83, 0, 0x83, 4],
            [0x83, 255, 0, 0],
            [0x83, 5, 0, 0],
            [1, 1, 1, 0x83],
        ] {
            let parts = fragmented(&packet(&options, 100), 68).unwrap();
            assert_eq!(parts[1][0], 0x45, "{options:?}");
            assert_eq!(reassemble(&parts), packet(&options, 100)[24..]);
        }
    }

    #[test]
    fn e10_a_fragment_is_fragmented_again_at_its_offset() {
        let bytes = packet(&[], 2900);
        let whole = fragmented(&bytes, 1500).unwrap();
        let further: Vec<Vec<u8>> = whole
            .iter()
            .flat_map(|part| fragmented(part, 600).unwrap())
            .collect();
        assert!(further.iter().all(|part| part.len() <= 600));
        assert_eq!(reassemble(&further), bytes[20..]);
    }

    #[test]
    fn a_buffer_of_wrong_length_is_unchanged() {
        let bytes = packet(&[], 100);
        let fragment = fragments(&Packet::parse(&bytes).unwrap(), 1500)
            .unwrap()
            .next()
            .unwrap();
        let mut out = vec![9; fragment.len() + 1];
        assert!(!fragment.write(&mut out));
        assert!(out.iter().all(|octet| *octet == 9));
    }

    proptest! {
        #[test]
        fn every_size_reassembles_for_every_mtu(size in 0_usize..4000, mtu in 28_u16..1600) {
            let bytes = packet(&[], size);
            let parts = fragmented(&bytes, mtu).unwrap();
            prop_assert!(parts.iter().all(|part| part.len() <= usize::from(mtu)));
            prop_assert_eq!(reassemble(&parts), &bytes[20..]);
        }
    }
}
