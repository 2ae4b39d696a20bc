//! Corrupted inner packets: no function panics, and accepted packets stay within their bytes.

use etherparse::PacketBuilder;
use groundlink::net::{FragmentKind, Packet, fragment, icmp, mss};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// Valid packets to corrupt: a TCP SYN of each family, and an IPv6 packet with extension headers.
fn valid_packet() -> impl Strategy<Value = Vec<u8>> {
    let syn = |v6: bool, options: &[u8], payload: usize| {
        let ip = match v6 {
            true => PacketBuilder::ipv6([0x20; 16], [0x21; 16], 64),
            false => PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 1, 2], 64),
        };
        let mut bytes = Vec::new();
        ip.tcp(1, 2, 3, 4)
            .syn()
            .options_raw(options)
            .unwrap()
            .write(&mut bytes, &vec![7; payload])
            .unwrap();
        bytes
    };
    let extended = || {
        let mut bytes = vec![0x60, 0, 0, 0, 0, 40, 0, 64];
        bytes.extend([0x20; 32]);
        bytes.extend([60, 0, 5, 2, 0, 0, 1, 0]); // hop-by-hop
        bytes.extend([44, 0, 1, 4, 0, 0, 0, 0]); // destination options
        bytes.extend([58, 0, 0, 1, 0, 0, 0, 7]); // fragment header
        bytes.extend([128, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend([9; 8]);
        bytes
    };
    prop_oneof![
        (any::<bool>(), 0_usize..1600).prop_map(move |(v6, payload)| syn(
            v6,
            &[1, 2, 4, 5, 0xb4, 4, 2, 0],
            payload
        )),
        Just(()).prop_map(move |()| extended()),
    ]
}

/// Valid packets with up to five octets changed, and truncated at random.
fn corrupted_packet() -> impl Strategy<Value = Vec<u8>> {
    // Most edits are in the headers, which are parsed.
    let at = prop_oneof![4 => (0_usize..70).prop_map(Ok), 1 => any::<Index>().prop_map(Err)];
    (
        valid_packet(),
        vec((at, any::<u8>()), 0..6),
        prop::option::of(any::<Index>()),
    )
        .prop_map(|(mut bytes, edits, truncation)| {
            for (at, value) in edits {
                let at = at.map_or_else(
                    |index| index.index(bytes.len()),
                    |at| at.min(bytes.len() - 1),
                );
                bytes[at] = value;
            }
            if let Some(at) = truncation {
                bytes.truncate(at.index(bytes.len() + 1));
            }
            bytes
        })
}

proptest! {
    #[test]
    fn e11_a_corrupted_packet_is_rejected_or_parsed_within_its_bounds(bytes in corrupted_packet()) {
        let Ok(packet) = Packet::parse(&bytes) else {
            return Ok(());
        };
        prop_assert!(bytes.starts_with(packet.bytes()));
        prop_assert!(packet.transport_offset().is_none_or(|offset| offset <= packet.len()));
        prop_assert_eq!(packet.transport_offset().is_none(), packet.fragment() == FragmentKind::Later);
        prop_assert_eq!(Packet::parse(packet.bytes()), Ok(packet));
    }

    #[test]
    fn e11_mss_clamping_changes_at_most_four_octets(bytes in corrupted_packet(), max in 500_u16..1500) {
        let mut clamped = bytes.clone();
        let changed = mss::clamp_mss(&mut clamped, max, max);
        let differing = bytes.iter().zip(&clamped).filter(|(a, b)| a != b).count();
        prop_assert!(differing <= 4 && changed == (differing > 0));
        prop_assert!(!mss::clamp_mss(&mut clamped, max, max));
    }

    #[test]
    fn e13_an_icmp_error_about_a_corrupted_packet_is_valid(bytes in corrupted_packet(), mtu: u16) {
        let Ok(packet) = Packet::parse(&bytes) else {
            return Ok(());
        };
        let mut error = Vec::new();
        if icmp::too_big(&packet, mtu, packet.destination(), &mut error) {
            let view = Packet::parse(&error).unwrap();
            prop_assert_eq!((view.source(), view.destination()), (packet.destination(), packet.source()));
            prop_assert!(view.len() == error.len() && !view.is_martian());
            prop_assert!(!icmp::too_big(&view, mtu, view.destination(), &mut Vec::new()), "no ICMP error about an ICMP error");
        }
    }

    #[test]
    fn e10_fragments_of_a_corrupted_packet_fit_the_mtu_and_cover_it(bytes in corrupted_packet(), mtu in 20_u16..1700) {
        let Ok(packet) = Packet::parse(&bytes) else {
            return Ok(());
        };
        let Ok(fragments) = fragment::fragments(&packet, mtu) else {
            return Ok(());
        };
        let mut payload = 0;
        for fragment in fragments {
            let mut written = vec![0; fragment.len()];
            prop_assert!(fragment.write(&mut written) && written.len() <= usize::from(mtu));
            let parsed = Packet::parse(&written).unwrap();
            prop_assert_eq!(parsed.len(), written.len());
            let header = if parsed.is_ipv4() { usize::from(written[0] & 0x0f) * 4 } else { 40 };
            payload += parsed.len() - header;
        }
        let header = if packet.is_ipv4() { usize::from(bytes[0] & 0x0f) * 4 } else { 40 };
        prop_assert_eq!(payload, packet.len() - header);
    }
}
