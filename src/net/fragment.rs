//! Cutting an IPv4 packet into fragments (RFC 791 §3.2) before it is encrypted.
//!
//! ```text
//! | header, options | payload ………………………………………………………… |
//! | header, options | payload …… |                     more
//! | header, copied options | …… payload …… |           more
//! | header, copied options | …… payload |
//! ```

use super::checksum;
use super::drop_reason::DropReason;
use super::packet::Packet;

/// The fragments of a packet, in order. Nothing is copied until a fragment is written.
#[derive(Clone, Debug)]
pub struct Fragments<'a> {
    /// Of the next fragment.
    header: Head,
    /// Of those behind the first.
    later: Head,
    rest: &'a [u8],
    /// Where `rest` starts in the packet as its sender sent it, in units of 8 octets.
    offset: u16,
    /// Whether the packet is itself a fragment with others behind it.
    more_behind: u16,
    mtu: usize,
    done: bool,
}

/// One fragment: a header of its own and a part of the packet's payload.
#[derive(Clone, Copy, Debug)]
pub struct Fragment<'a> {
    header: Head,
    payload: &'a [u8],
}

/// Cuts `packet` so that every fragment fits `mtu`. A packet that fits comes out as one fragment, unchanged.
///
/// # Errors
/// [`DropReason::TooBig`] if it does not fit and may not be cut: DF is set, it is IPv6, or the MTU is absurdly small.
pub fn fragments<'a>(packet: &Packet<'a>, mtu: u16) -> Result<Fragments<'a>, DropReason> {
    let mtu = usize::from(mtu);
    let bytes = packet.bytes();
    let fits = bytes.len() <= mtu;
    if !fits && packet.dont_fragment() {
        return Err(DropReason::TooBig);
    }
    if fits {
        let whole = Head::default();
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
    // RFC 791 §3.2: at least 8 octets of payload in each.
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
    /// Octets of the whole fragment.
    #[must_use]
    #[allow(
        clippy::len_without_is_empty,
        reason = "a fragment has at least its header"
    )]
    pub const fn len(&self) -> usize {
        self.header.len.saturating_add(self.payload.len())
    }

    /// Writes the fragment into `out`, which has exactly [`Fragment::len`] octets; false, and nothing written, if it has not.
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

/// The flags and offset field: more fragments follow.
const MORE: u16 = 0x2000;

/// The flags and offset field: where this fragment starts, in units of 8 octets.
const OFFSET: u16 = 0x1fff;

const FIXED_LEN: usize = 20;
const LARGEST_LEN: usize = 60;

/// An IPv4 header; of no length where the packet is passed on as it is.
#[derive(Clone, Copy, Debug)]
struct Head {
    octets: [u8; LARGEST_LEN],
    len: usize,
}

impl Default for Head {
    fn default() -> Head {
        Head {
            octets: [0; LARGEST_LEN],
            len: 0,
        }
    }
}

impl Head {
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

    /// Fills in what differs between fragments: lengths, place, checksum.
    fn set(&mut self, payload: usize, field: u16) {
        let total = u16::try_from(self.len.saturating_add(payload)).unwrap_or(u16::MAX);
        // At most 60 octets: fifteen words.
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

    /// The header of the fragments behind the first: only options whose copied flag is set go along (RFC 791 §3.1).
    fn with_copied_options(&self) -> Head {
        let mut later = Head::default();
        let (fixed, mut options) = self.bytes().split_at_checked(FIXED_LEN).unwrap_or_default();
        later.push(fixed);
        while let &[kind, ref behind @ ..] = options {
            let length = match (kind, behind.first()) {
                (END, _) | (_, None) => break,
                (NO_OPERATION, _) => 1,
                (_, Some(length)) => usize::from(*length),
            };
            // An option that is cut or claims no length: what follows cannot be read.
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

/// The header and the payload.
fn split(bytes: &[u8]) -> Option<(Head, &[u8])> {
    let length = usize::from(bytes.first()? & 0x0f).saturating_mul(4);
    let (header, payload) = bytes.split_at_checked(length)?;
    let mut head = Head::default();
    head.push(header);
    Some((head, payload))
}

#[cfg(test)]
mod tests {
    use super::super::packet::FragmentKind;
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

    fn cut(bytes: &[u8], mtu: u16) -> Result<Vec<Vec<u8>>, DropReason> {
        let written = fragments(&Packet::parse(bytes).unwrap(), mtu)?.map(|fragment| {
            let mut out = vec![0; fragment.len()];
            assert!(fragment.write(&mut out));
            out
        });
        Ok(written.collect())
    }

    /// What a receiver makes of fragments: the payload, each piece where its header says.
    fn reassemble(pieces: &[Vec<u8>]) -> Vec<u8> {
        let mut payload = Vec::new();
        for (nth, piece) in pieces.iter().enumerate() {
            let header_len = usize::from(piece[0] & 0x0f) * 4;
            let field = u16::from_be_bytes([piece[6], piece[7]]);
            assert_eq!(usize::from(field & OFFSET) * 8, payload.len());
            assert_eq!(field & MORE != 0, nth + 1 < pieces.len());
            assert_eq!(checksum::of(&piece[..header_len]), 0);
            assert_eq!(Packet::parse(piece).unwrap().len(), piece.len());
            assert_eq!(piece[4..6], [0xab, 0xcd]);
            payload.extend_from_slice(&piece[header_len..]);
        }
        payload
    }

    #[test]
    fn e13_a_packet_without_df_is_cut_to_fit() {
        let bytes = packet(&[], 2900);
        let pieces = cut(&bytes, 1390).unwrap();
        assert_eq!(
            pieces.iter().map(Vec::len).collect::<Vec<_>>(),
            [1388, 1388, 20 + 2908 - 2 * 1368]
        );
        assert_eq!(reassemble(&pieces), bytes[20..]);
        assert_eq!(
            Packet::parse(&pieces[0]).unwrap().fragment(),
            FragmentKind::First
        );
        assert_eq!(
            Packet::parse(&pieces[2]).unwrap().fragment(),
            FragmentKind::Later
        );
    }

    #[test]
    fn what_fits_is_passed_on_unchanged() {
        let mut bytes = packet(&[], 1000);
        bytes[6] = 0x40;
        assert_eq!(cut(&bytes, 1028), Ok(vec![bytes.clone()]));
        assert_eq!(cut(&bytes, 1027), Err(DropReason::TooBig));
    }

    #[test]
    fn e13_what_may_not_be_cut_is_too_big() {
        let mut v6 = Vec::new();
        PacketBuilder::ipv6([0x20; 16], [0x21; 16], 64)
            .udp(1, 2)
            .write(&mut v6, &[0; 1400])
            .unwrap();
        assert_eq!(cut(&v6, 1280), Err(DropReason::TooBig));
        assert_eq!(cut(&packet(&[], 1000), 27), Err(DropReason::TooBig));
        assert_eq!(
            reassemble(&cut(&packet(&[], 1000), 28).unwrap()),
            packet(&[], 1000)[20..]
        );
    }

    #[test]
    fn only_options_marked_so_are_copied() {
        let options = [1, 0x07, 3, 4, 0x83, 3, 8, 0]; // no operation, record route, loose source route (copied), end
        let pieces = cut(&packet(&options, 100), 68).unwrap();
        assert_eq!(pieces[0][20..28], options);
        assert_eq!(pieces[1][0], 0x46);
        assert_eq!(pieces[1][20..24], [0x83, 3, 8, 0]);
        assert_eq!(reassemble(&pieces), packet(&options, 100)[28..]);
    }

    #[test]
    fn options_that_lie_end_the_copying() {
        for options in [
            [0x83, 0, 0x83, 4],
            [0x83, 255, 0, 0],
            [0x83, 5, 0, 0],
            [1, 1, 1, 0x83],
        ] {
            let pieces = cut(&packet(&options, 100), 68).unwrap();
            assert_eq!(pieces[1][0], 0x45, "{options:?}");
            assert_eq!(reassemble(&pieces), packet(&options, 100)[24..]);
        }
    }

    #[test]
    fn e10_a_fragment_is_cut_further_in_its_place() {
        let bytes = packet(&[], 2900);
        let whole = cut(&bytes, 1500).unwrap();
        let further: Vec<Vec<u8>> = whole
            .iter()
            .flat_map(|piece| cut(piece, 600).unwrap())
            .collect();
        assert!(further.iter().all(|piece| piece.len() <= 600));
        assert_eq!(reassemble(&further), bytes[20..]);
    }

    #[test]
    fn a_buffer_of_another_size_is_left_alone() {
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
        fn every_size_survives_every_mtu(size in 0_usize..4000, mtu in 28_u16..1600) {
            let bytes = packet(&[], size);
            let pieces = cut(&bytes, mtu).unwrap();
            prop_assert!(pieces.iter().all(|piece| piece.len() <= usize::from(mtu)));
            prop_assert_eq!(reassemble(&pieces), &bytes[20..]);
        }
    }
}
