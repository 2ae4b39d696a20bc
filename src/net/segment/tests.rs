//! Packets from a library that is not ours, and what must hold of both directions together.

use etherparse::{IpHeaders, Ipv4Header, PacketBuilder, TcpHeader, UdpHeader};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::net::{Packet, checksum};

/// A TCP segment of a connection from 10.2.0.5 to 10.1.0.7, or of its like in IPv6.
#[derive(Clone, Debug)]
pub(crate) struct Tcp {
    pub(crate) version: u8,
    pub(crate) source_port: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: usize,
    pub(crate) id: u16,
    /// All 16 bits of flags but the data offset, which follows from the options.
    pub(crate) flags: u16,
    pub(crate) options: Vec<u8>,
}

impl Default for Tcp {
    fn default() -> Tcp {
        Tcp {
            version: 4,
            source_port: 1000,
            sequence: 0xffff_f000,
            payload: 1000,
            id: 0xfff0,
            flags: tcp::ACK,
            options: TIMESTAMPS.to_vec(),
        }
    }
}

/// Two no-operations, kind 8, length 10, value, echo.
const TIMESTAMPS: [u8; 12] = [1, 1, 8, 10, 0, 0, 1, 2, 0, 0, 3, 4];

impl Tcp {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let builder = match self.version {
            4 => PacketBuilder::ip(IpHeaders::Ipv4(
                Ipv4Header {
                    identification: self.id,
                    ..Ipv4Header::new(
                        0,
                        64,
                        etherparse::IpNumber::TCP,
                        [10, 2, 0, 5],
                        [10, 1, 0, 7],
                    )
                    .unwrap()
                },
                Default::default(),
            )),
            _ => PacketBuilder::ipv6([0x20; 16], [0x21; 16], 64),
        };
        let mut bytes = Vec::new();
        // What the payload is tells where in the stream it is, so that nothing can change places unseen.
        let payload: Vec<u8> = (0..self.payload)
            .map(|n| {
                (self
                    .sequence
                    .wrapping_add(n as u32)
                    .wrapping_mul(2_654_435_761)
                    >> 24) as u8
            })
            .collect();
        builder
            .tcp(self.source_port, 80, self.sequence, 500)
            .ack(77)
            .options_raw(&self.options)
            .unwrap()
            .write(&mut bytes, &payload)
            .unwrap();
        let at = if self.version == 4 { 20 } else { 40 };
        let offset = read(&bytes, at + tcp::FLAGS).unwrap() & 0xf000;
        edit(
            &mut bytes,
            at + tcp::FLAGS,
            &(offset | self.flags).to_be_bytes(),
        );
        if self.version == 4 {
            bytes[6] = 0; // etherparse sets DF
        }
        repair(&mut bytes);
        bytes
    }

    /// As many segments behind each other.
    pub(crate) fn in_a_row(&self, count: usize) -> Vec<Vec<u8>> {
        (0..count)
            .map(|nth| {
                let sequence = self.sequence.wrapping_add((nth * self.payload) as u32);
                let id = self.id.wrapping_add(nth as u16);
                Tcp {
                    sequence,
                    id,
                    ..self.clone()
                }
                .bytes()
            })
            .collect()
    }
}

/// A datagram from 10.2.0.5 to 10.1.0.7, or its like in IPv6.
pub(crate) fn datagram(version: u8, id: u16, payload: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = match version {
        4 => PacketBuilder::ipv4([10, 2, 0, 5], [10, 1, 0, 7], 64),
        _ => PacketBuilder::ipv6([0x20; 16], [0x21; 16], 64),
    };
    let payload: Vec<u8> = (0..payload).map(|n| n as u8 ^ id as u8).collect();
    builder.udp(1000, 2000).write(&mut bytes, &payload).unwrap();
    if version == 4 {
        edit(&mut bytes, 4, &id.to_be_bytes());
        bytes[6] = 0;
        repair(&mut bytes);
    }
    bytes
}

pub(crate) fn edit(bytes: &mut [u8], at: usize, octets: &[u8]) {
    bytes[at..at + octets.len()].copy_from_slice(octets);
}

/// Makes every checksum right again, as etherparse computes them.
pub(crate) fn repair(bytes: &mut [u8]) {
    let (ip, transport) = IpHeaders::from_slice(bytes).unwrap();
    let at = bytes.len() - transport.payload.len();
    let (field, sum) = match transport.ip_number.0 {
        TCP => {
            let (header, payload) = TcpHeader::from_slice(transport.payload).unwrap();
            let sum = match &ip {
                IpHeaders::Ipv4(ip, _) => header.calc_checksum_ipv4(ip, payload),
                IpHeaders::Ipv6(ip, _) => header.calc_checksum_ipv6(ip, payload),
            };
            (tcp::CHECKSUM, sum.unwrap())
        }
        _ => {
            let (header, payload) = UdpHeader::from_slice(transport.payload).unwrap();
            let sum = match &ip {
                IpHeaders::Ipv4(ip, _) => header.calc_checksum_ipv4(ip, payload),
                IpHeaders::Ipv6(ip, _) => header.calc_checksum_ipv6(ip, payload),
            };
            (udp::CHECKSUM, sum.unwrap())
        }
    };
    if let IpHeaders::Ipv4(ip, _) = &ip {
        let sum = ip.calc_header_checksum();
        edit(bytes, ip::V4_CHECKSUM, &sum.to_be_bytes());
    }
    edit(bytes, at + field, &sum.to_be_bytes());
}

/// Whether every checksum is what etherparse computes, and every length what there is.
pub(crate) fn checksums_hold(bytes: &[u8]) -> bool {
    let mut repaired = bytes.to_vec();
    repair(&mut repaired);
    repaired == bytes && Packet::parse(bytes).is_ok_and(|packet| packet.len() == bytes.len())
}

/// A packet as a stack hands it over that has left cutting and checksums to the hardware.
pub(crate) fn handed_over(mut bytes: Vec<u8>, size: u16) -> (Vec<u8>, GsoPacket) {
    let packet = Packet::parse(&bytes).unwrap();
    let start = packet.transport_offset().unwrap();
    let (protocol, v4) = (packet.protocol(), packet.is_ipv4());
    let segment = &bytes[start..];
    let (kind, header_len, offset) = match (protocol, v4) {
        (TCP, true) => (
            GsoKind::TcpV4,
            tcp_header_len(segment).unwrap(),
            tcp::CHECKSUM,
        ),
        (TCP, false) => (
            GsoKind::TcpV6,
            tcp_header_len(segment).unwrap(),
            tcp::CHECKSUM,
        ),
        _ => (GsoKind::Udp, udp::HEADER, udp::CHECKSUM),
    };
    let length = u32::try_from(segment.len()).unwrap();
    let (source, destination) = (packet.source(), packet.destination());
    let pseudo = checksum::Sum::pseudo_header(source, destination, protocol, length).unwrap();
    let cwr = protocol == TCP && read(segment, tcp::FLAGS).unwrap() & tcp::CWR != 0;
    let gso = GsoPacket {
        kind,
        size: size.try_into().unwrap(),
        header_len: (start + header_len) as u16,
        partial: Some(PartialChecksum {
            start: start as u16,
            offset: offset as u16,
        }),
        ecn: cwr,
    };
    edit(&mut bytes, start + offset, &pseudo.fold().to_be_bytes());
    (bytes, gso)
}

pub(crate) fn cut(bytes: &[u8], gso: &GsoPacket) -> Vec<Vec<u8>> {
    let packet = Packet::parse(bytes).unwrap();
    let pieces = segments(&packet, gso).unwrap();
    let (count, longest) = (pieces.len(), pieces.longest());
    let written: Vec<Vec<u8>> = pieces
        .map(|segment| {
            let mut out = vec![0xee; segment.len()];
            assert!(segment.write(&mut out));
            out
        })
        .collect();
    assert_eq!(written.len(), count);
    assert_eq!(written.iter().map(Vec::len).max(), Some(longest));
    written
}

/// What comes out of a coalescer, with how many packets each has in it.
pub(crate) fn join(
    udp: UdpCoalescing,
    packets: &[Vec<u8>],
) -> Vec<(usize, PacketOffload, Vec<u8>)> {
    let mut coalescer = Coalescer::new();
    let mut out = Vec::new();
    let mut octets = 0;
    let mut take = |joined: Coalesced<'_>| {
        octets += joined.octets;
        out.push((joined.packets, joined.offload, joined.bytes.to_vec()));
    };
    for bytes in packets {
        coalescer.push(&Packet::parse(bytes).unwrap(), udp, &mut take);
    }
    coalescer.flush(&mut take);
    coalescer.flush(&mut |_| panic!("nothing is left"));
    assert_eq!(octets, packets.iter().map(Vec::len).sum::<usize>());
    out
}

/// What the kernel makes of it on the other side of the device.
fn apart((count, offload, bytes): &(usize, PacketOffload, Vec<u8>)) -> Vec<Vec<u8>> {
    match offload {
        PacketOffload::None => {
            assert_eq!(*count, 1);
            vec![bytes.clone()]
        }
        PacketOffload::Checksum(_) => panic!("a coalescer leaves none behind"),
        PacketOffload::Gso(gso) => {
            let pieces = cut(bytes, gso);
            assert_eq!(pieces.len(), *count);
            pieces
        }
    }
}

/// Segments of several connections, one of which may be bent a little.
fn traffic() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let step = (
        0_usize..20,
        1_usize..4,
        prop_oneof![6 => Just(tcp::ACK), 1 => Just(tcp::ACK | tcp::PSH), 1 => Just(tcp::ACK | tcp::CWR), 1 => Just(tcp::ACK | tcp::FIN)],
        prop_oneof![6 => Just(500_usize), 1 => 0_usize..500, 1 => 500_usize..1400],
    );
    let bend = prop::option::weighted(0.3, (any::<Index>(), any::<Index>(), 0_u8..8));
    (vec(step, 1..80), bend).prop_map(|(steps, bend)| {
        let mut next = [(0xffff_f000_u32, 0xfff8_u16); 20];
        let mut packets = Vec::new();
        for (flow, times, flags, payload) in steps {
            for _ in 0..times {
                let (sequence, id) = next[flow];
                packets.push(match flow % 5 {
                    4 => datagram([4, 6][flow / 5 % 2], id, payload),
                    _ => Tcp {
                        version: [4, 6][flow % 2],
                        source_port: 1000 + flow as u16,
                        sequence,
                        payload,
                        id,
                        flags,
                        ..Tcp::default()
                    }
                    .bytes(),
                });
                next[flow] = (sequence.wrapping_add(payload as u32), id.wrapping_add(1));
            }
        }
        if let Some((which, at, bit)) = bend {
            let nth = which.index(packets.len());
            let mut bent = packets[nth].clone();
            let at = at.index(bent.len());
            bent[at] ^= 1 << bit;
            if Packet::parse(&bent).is_ok_and(|packet| packet.len() == bent.len()) {
                packets[nth] = bent;
            }
        }
        packets
    })
}

/// The packets of one flow, by addresses, protocol and ports.
fn by_flow(
    packets: &[Vec<u8>],
) -> std::collections::BTreeMap<impl Ord + std::fmt::Debug, Vec<&Vec<u8>>> {
    let mut flows = std::collections::BTreeMap::<_, Vec<&Vec<u8>>>::new();
    for bytes in packets {
        let packet = Packet::parse(bytes).unwrap();
        let key = (
            packet.source(),
            packet.destination(),
            packet.protocol(),
            packet.ports(),
        );
        flows.entry(key).or_default().push(bytes);
    }
    flows
}

proptest! {
    #[test]
    fn what_is_joined_comes_apart_as_it_was_in_order_within_each_flow(packets in traffic(), joined: bool) {
        let udp = if joined { UdpCoalescing::Coalesced } else { UdpCoalescing::Apart };
        let back: Vec<Vec<u8>> = join(udp, &packets).iter().flat_map(apart).collect();
        prop_assert_eq!(by_flow(&back), by_flow(&packets));
    }

    #[test]
    fn what_is_cut_is_joined_as_it_was(
        version in prop_oneof![Just(4_u8), Just(6)],
        transport in prop_oneof![Just(TCP), Just(UDP)],
        size in 100_u16..1400,
        segments in 2_usize..40,
        last in 1_usize..1400,
        flags in prop_oneof![Just(tcp::ACK), Just(tcp::ACK | tcp::PSH | tcp::CWR), Just(tcp::ACK | tcp::FIN)],
    ) {
        let payload = usize::from(size) * segments + last.min(usize::from(size));
        let whole = match transport {
            TCP => Tcp { version, payload, flags, ..Tcp::default() }.bytes(),
            _ => datagram(version, 0xfff0, payload),
        };
        let (bytes, gso) = handed_over(whole, size);
        let pieces = cut(&bytes, &gso);
        for piece in &pieces {
            prop_assert!(checksums_hold(piece));
        }
        prop_assert_eq!(join(UdpCoalescing::Coalesced, &pieces), vec![(pieces.len(), PacketOffload::Gso(gso), bytes)]);
    }

    #[test]
    fn e11_no_facts_and_no_packet_make_cutting_panic(
        version in prop_oneof![Just(4_u8), Just(6)],
        payload in 0_usize..3000,
        edits in vec((0_usize..100, any::<u8>()), 0..4),
        facts in any::<(u8, u16, u16, u16, u16)>(),
        honest in 0_u8..32,
    ) {
        let whole = Tcp { version, payload, ..Tcp::default() }.bytes();
        let (mut bytes, mut gso) = handed_over(whole, 500);
        let (kind, size, header_len, start, offset) = facts;
        // Each fact is wrong in half of the cases.
        let wrong = |bit: u8| honest >> bit & 1 == 0;
        if wrong(0) { gso.kind = [GsoKind::TcpV4, GsoKind::TcpV6, GsoKind::Udp][usize::from(kind) % 3]; }
        if wrong(1) { gso.size = size.max(1).try_into().unwrap(); }
        if wrong(2) { gso.header_len = header_len; }
        if wrong(3) { gso.partial = Some(PartialChecksum { start, offset }); }
        gso.ecn = wrong(4);
        for (at, value) in edits {
            if let Some(octet) = bytes.get_mut(at) {
                *octet = value;
            }
        }
        let Ok(packet) = Packet::parse(&bytes) else { return Ok(()) };
        let Ok(pieces) = segments(&packet, &gso) else { return Ok(()) };
        prop_assert!(pieces.len() <= Segments::MAX);
        let longest = pieces.longest();
        for piece in pieces {
            let mut out = vec![0; piece.len()];
            prop_assert!(piece.len() <= longest && piece.write(&mut out));
            let parsed = Packet::parse(&out).unwrap();
            prop_assert_eq!(parsed.len(), out.len());
            prop_assert_eq!((parsed.source(), parsed.ports()), (packet.source(), packet.ports()));
        }
    }
}
