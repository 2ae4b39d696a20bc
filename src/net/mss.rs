//! TCP MSS clamping, so that segments fit the tunnel (RFC 4459 §3.2).
//!
//! ```text
//! | IP | TCP header, SYN | … | kind 2 | length 4 | MSS (2) | … |
//! ```

use super::checksum;
use super::packet::Packet;
use super::protocol::TCP;

/// Lowers the MSS option of a TCP SYN to `max_v4` or `max_v6` and returns whether it changed. The checksum is updated
/// incrementally, so it must be complete ([`checksum::complete`]). A malformed packet is left unchanged.
pub fn clamp_mss(packet: &mut [u8], max_v4: u16, max_v6: u16) -> bool {
    let Ok(view) = Packet::parse(packet) else {
        return false;
    };
    let max = if view.is_ipv4() { max_v4 } else { max_v6 };
    let Some(start) = view.transport_offset().filter(|_| view.protocol() == TCP) else {
        return false;
    };
    let end = view.len();
    packet
        .get_mut(start..end)
        .is_some_and(|segment| clamp_segment(segment, max))
}

const SYN: u8 = 0x02;
const HEADER_LEN: usize = 20;
const CHECKSUM_AT: usize = 16;

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;

fn clamp_segment(segment: &mut [u8], max: u16) -> bool {
    let Some(&[data_offset, flags]) = segment.get(12..14) else {
        return false;
    };
    if flags & SYN == 0 {
        return false;
    }
    let header_len = usize::from(data_offset >> 4).saturating_mul(4);
    let Some(at) = segment.get(HEADER_LEN..header_len).and_then(find_mss) else {
        return false;
    };
    let at = at.saturating_add(HEADER_LEN);
    let Some(old) = read(segment, at).filter(|mss| *mss > max) else {
        return false;
    };
    let Some(sum) = read(segment, CHECKSUM_AT) else {
        return false;
    };
    // At an odd offset, the octets of the option are halves of two words and swap their places in the sum.
    let new_sum = match at % 2 {
        0 => checksum::update(sum, old, max),
        _ => checksum::update(sum, old.swap_bytes(), max.swap_bytes()),
    };
    write(segment, at, max);
    write(segment, CHECKSUM_AT, new_sum);
    true
}

/// Offset of the MSS value in the options; `None` behind a truncated option or one of length zero.
fn find_mss(options: &[u8]) -> Option<usize> {
    let mut at = 0_usize;
    loop {
        let rest = options.get(at..)?;
        let step = match *rest {
            [NO_OPERATION, ..] => 1,
            [END, ..] | [] | [_] => return None,
            [MAXIMUM_SEGMENT_SIZE, 4, _, _, ..] => return at.checked_add(2),
            [_, length, ..] if length >= 2 => usize::from(length),
            [_, _, ..] => return None,
        };
        at = at.saturating_add(step);
    }
}

fn read(segment: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*segment.get(at..)?.first_chunk()?))
}

fn write(segment: &mut [u8], at: usize, value: u16) {
    if let Some(field) = segment
        .get_mut(at..)
        .and_then(|rest| rest.first_chunk_mut())
    {
        *field = value.to_be_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::super::checksum::Sum;
    use super::*;
    use etherparse::{IpHeaders, PacketBuilder};

    /// A SYN with these options, written by etherparse.
    fn syn(options: &[u8], version: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        let ip = match version {
            4 => PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64),
            _ => PacketBuilder::ipv6([1; 16], [2; 16], 64),
        };
        ip.tcp(1, 2, 3, 4)
            .syn()
            .options_raw(options)
            .unwrap()
            .write(&mut bytes, b"data")
            .unwrap();
        bytes
    }

    fn checksum_holds(bytes: &[u8]) -> bool {
        let packet = Packet::parse(bytes).unwrap();
        let segment = &bytes[packet.transport_offset().unwrap()..];
        let length = u32::try_from(segment.len()).unwrap();
        let pseudo =
            Sum::pseudo_header(packet.source(), packet.destination(), TCP, length).unwrap();
        pseudo.plus(segment).finish() == 0
    }

    fn mss(bytes: &[u8]) -> Option<u16> {
        let (_, _, payload) = IpHeaders::from_slice(bytes)
            .map(|(ip, payload)| (ip, 0, payload))
            .unwrap();
        let tcp = etherparse::TcpHeaderSlice::from_slice(payload.payload).unwrap();
        tcp.options_iterator().find_map(|option| match option {
            Ok(etherparse::TcpOptionElement::MaximumSegmentSize(mss)) => Some(mss),
            _ => None,
        })
    }

    #[test]
    fn a_syn_of_either_family_is_clamped_with_a_valid_checksum() {
        for (version, expected) in [(4, 1350), (6, 1330)] {
            let mut bytes = syn(&[2, 4, 0x05, 0xb4, 1, 3, 3, 7], version);
            assert!(clamp_mss(&mut bytes, 1350, 1330));
            assert_eq!(mss(&bytes), Some(expected));
            assert!(checksum_holds(&bytes));
            assert!(
                !clamp_mss(&mut bytes, 1350, 1330),
                "a second call changes nothing"
            );
        }
    }

    #[test]
    fn an_option_at_an_odd_offset_is_clamped() {
        let mut bytes = syn(&[1, 2, 4, 0x05, 0xb4, 1, 1, 1], 4);
        assert!(clamp_mss(&mut bytes, 1350, 1330));
        assert_eq!(mss(&bytes), Some(1350));
        assert!(checksum_holds(&bytes));
    }

    #[test]
    fn a_smaller_mss_and_other_packets_are_unchanged() {
        for (bytes, case) in [
            (syn(&[2, 4, 0x05, 0x00], 4), "a smaller MSS"),
            (syn(&[], 4), "no option"),
            (syn(&[1, 1, 1, 0], 4), "no MSS"),
        ] {
            let mut clamped = bytes.clone();
            assert!(!clamp_mss(&mut clamped, 1350, 1330), "{case}");
            assert_eq!(clamped, bytes, "{case}");
        }
        let mut ack = syn(&[2, 4, 0x05, 0xb4], 4);
        ack[20 + 13] = 0x10;
        assert!(!clamp_mss(&mut ack, 1350, 1330));
        let mut udp = syn(&[2, 4, 0x05, 0xb4], 4);
        udp[9] = 17;
        assert!(!clamp_mss(&mut udp, 1350, 1330));
    }

    #[test]
    fn malformed_options_leave_the_packet_unchanged() {
        for options in [
            &[8, 0, 2, 4, 0x05, 0xb4, 1, 1][..], // length 0
            &[8, 1, 2, 4, 0x05, 0xb4, 1, 1],     // length 1
            &[8, 255, 2, 4, 0x05, 0xb4, 1, 1],   // beyond the header
            &[1, 1, 1, 1, 1, 1, 2, 4],           // cut
            &[2, 3, 0x05, 0xb4, 1, 1, 1, 1],     // wrong length
            &[0, 0, 0, 0, 2, 4, 0x05, 0xb4],     // behind the end
        ] {
            let bytes = syn(options, 4);
            let mut clamped = bytes.clone();
            assert!(!clamp_mss(&mut clamped, 1350, 1330), "{options:?}");
            assert_eq!(clamped, bytes);
        }
        let good = syn(&[2, 4, 0x05, 0xb4], 4);
        for (at, value) in [(32, 0x40), (32, 0xf0), (6, 0x20 | 0x1f), (3, 30)] {
            let mut bytes = good.clone();
            bytes[at] = value;
            let before = bytes.clone();
            assert!(!clamp_mss(&mut bytes, 1350, 1330), "{value} at {at}");
            assert_eq!(bytes, before);
        }
        for cut in 0..good.len() {
            assert!(!clamp_mss(&mut good[..cut].to_vec(), 1350, 1330));
        }
    }
}
