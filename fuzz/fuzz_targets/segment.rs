//! No input makes segmentation and coalescing panic; segments are consistent, and coalesced packets split into the originals.
//!
//! The input is used twice: as a virtio-net header and a packet from a TUN device; and as decisions that build packets of a few
//! flows, some of them corrupted, which are coalesced and split again. Run on the stable toolchain with `cargo fuzz run -s none
//! segment fuzz/corpus/segment fuzz/seeds/segment`.
#![no_main]

use std::collections::BTreeMap;
use std::net::IpAddr;

use groundlink::net::segment::{
    Coalesced, Coalescer, GsoPacket, PacketOffload, Segments, UdpCoalescing, segments,
};
use groundlink::net::{Packet, checksum};
use groundlink::os::VnetHeader;
use groundlink_fuzz::fuzz_input::FuzzInput;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    as_handed_over(input);
    as_flows(FuzzInput::new(input));
});

fn as_handed_over(input: &[u8]) {
    let Some((vnet, bytes)) = VnetHeader::split(input) else {
        return;
    };
    let Ok(offload) = vnet.offload() else { return };
    let mut bytes = bytes.to_vec();
    let gso = match offload {
        PacketOffload::None => return,
        PacketOffload::Checksum(partial) => {
            let before = bytes.clone();
            let completed = partial.complete(&mut bytes);
            let changed = before.iter().zip(&bytes).filter(|(a, b)| a != b).count();
            assert!(changed <= 2 && (completed.is_ok() || changed == 0));
            return;
        }
        PacketOffload::Gso(gso) => gso,
    };
    let Ok(packet) = Packet::parse(&bytes) else {
        return;
    };
    let Some(pieces) = split(&packet, &gso) else {
        return;
    };
    let headers = headers_of(&packet);
    let payload: Vec<u8> = pieces
        .iter()
        .flat_map(|piece| piece[headers..].to_vec())
        .collect();
    assert_eq!(payload, packet.bytes()[headers..]);
    if gso.partial.is_none() {
        for piece in &pieces {
            assert!(checksums_valid(piece), "the checksum must be valid");
        }
    }
}

/// The offset of the TCP or UDP payload.
fn headers_of(packet: &Packet<'_>) -> usize {
    let at = packet.transport_offset().expect("not a fragment");
    match packet.protocol() {
        TCP => at + usize::from(packet.bytes()[at + 12] >> 4) * 4,
        _ => at + 8,
    }
}

fn split(packet: &Packet<'_>, gso: &GsoPacket) -> Option<Vec<Vec<u8>>> {
    let pieces = segments(packet, gso).ok()?;
    let (count, longest) = (pieces.len(), pieces.longest());
    let pieces: Vec<Vec<u8>> = pieces
        .map(|piece| {
            let mut out = vec![0xee; piece.len()];
            assert!(piece.write(&mut out));
            let parsed = Packet::parse(&out).expect("a packet");
            assert_eq!(parsed.len(), out.len());
            assert_eq!(flow(&parsed), flow(packet));
            out
        })
        .collect();
    assert!(pieces.len() == count && (1..=Segments::MAX).contains(&count));
    assert_eq!(pieces.iter().map(Vec::len).max(), Some(longest));
    Some(pieces)
}

fn as_flows(mut input: FuzzInput<'_>) {
    let udp = input.one(&[UdpCoalescing::Coalesced, UdpCoalescing::Apart]);
    let mut coalescer = Coalescer::new();
    let mut flows = [(0xffff_f000_u32, 0xfff8_u16); 32];
    let (mut before, mut after) = (Vec::new(), Vec::new());
    while let Some(step) = input.step() {
        if before.len() > 500 {
            break;
        }
        let which = usize::from(step & 31);
        let packet = made(which, &mut flows[which], &mut input);
        let Ok(parsed) = Packet::parse(&packet) else {
            continue;
        };
        coalescer.push(&parsed, udp, &mut |joined| {
            split_coalesced(joined, &mut after)
        });
        before.push(parsed.bytes().to_vec());
        if step & 0xe0 == 0xe0 {
            coalescer.flush(&mut |joined| split_coalesced(joined, &mut after));
        }
    }
    coalescer.flush(&mut |joined| split_coalesced(joined, &mut after));
    assert_eq!(by_flow(&after), by_flow(&before));
}

/// The next packet of a flow, possibly corrupted.
fn made(which: usize, (sequence, id): &mut (u32, u16), input: &mut FuzzInput<'_>) -> Vec<u8> {
    let (v4, tcp) = (which & 1 == 0, which & 6 != 6);
    let payload = input.one(&[64, 64, 64, 64, 0, 63, 65, 9000]);
    let flags = input.one(&[0x10, 0x10, 0x10, 0x18, 0x11, 0x90, 0x50, 0x12]);
    let header = if tcp { 32 } else { 8 };
    let length = (header + payload) as u16;
    let mut packet = Vec::new();
    if v4 {
        let flags = input.one(&[0, 0, 0, 0x40]);
        packet.extend([0x45, 0]);
        packet.extend((length + 20).to_be_bytes());
        packet.extend(id.to_be_bytes());
        packet.extend([flags, 0, 64, if tcp { TCP } else { UDP }, 0, 0]);
        packet.extend([10, 2, 0, 5, 10, 1, 0, 7]);
    } else {
        packet.extend([0x60, 0, 0, 0]);
        packet.extend(length.to_be_bytes());
        packet.extend([if tcp { TCP } else { UDP }, 64]);
        packet.extend([0x20; 32]);
    }
    packet.extend([0, which as u8, 0, 80]);
    if tcp {
        packet.extend(sequence.to_be_bytes());
        packet.extend([0, 0, 0, 77, 0x80, flags, 1, 0xf4, 0, 0, 0, 0]);
        packet.extend([1, 1, 8, 10, 0, 0, 1, 2, 0, 0, 3, 4]);
    } else {
        packet.extend(length.to_be_bytes());
        packet.extend([0, 0]);
    }
    packet.extend((0..payload).map(|nth| nth as u8 ^ *sequence as u8 ^ *id as u8));
    *sequence = sequence.wrapping_add(payload as u32);
    *id = id.wrapping_add(1);
    match input.byte() & 7 {
        // Corrupted before the checksums are set; corrupted after; not corrupted.
        0 => {
            input.corrupt(&mut packet);
            repair(&mut packet);
        }
        1 => {
            repair(&mut packet);
            input.corrupt(&mut packet);
        }
        _ => repair(&mut packet),
    }
    packet
}

/// Sets valid checksums if the bytes are a packet.
fn repair(bytes: &mut [u8]) {
    let Some((at, field, v4)) = checksum_place(bytes) else {
        return;
    };
    if v4 {
        bytes[10..12].fill(0);
        let sum = checksum::of(&bytes[..20]);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    bytes[field..field + 2].fill(0);
    let sum = transport_sum(bytes, at).finish();
    bytes[field..field + 2].copy_from_slice(&sum.to_be_bytes());
}

/// The offset of the transport header, the offset of its checksum, and whether the packet is IPv4.
fn checksum_place(bytes: &[u8]) -> Option<(usize, usize, bool)> {
    let packet = Packet::parse(bytes).ok()?;
    let at = packet.transport_offset()?;
    let field = match packet.protocol() {
        TCP => at + 16,
        UDP => at + 6,
        _ => return None,
    };
    (field + 2 <= packet.len()).then_some((at, field, packet.is_ipv4()))
}

fn transport_sum(bytes: &[u8], at: usize) -> checksum::Sum {
    let packet = Packet::parse(bytes).expect("it was one");
    let length = (packet.len() - at) as u32;
    checksum::Sum::pseudo_header(
        packet.source(),
        packet.destination(),
        packet.protocol(),
        length,
    )
    .expect("one family")
    .plus(&packet.bytes()[at..])
}

fn checksums_valid(bytes: &[u8]) -> bool {
    let (at, _, v4) = checksum_place(bytes).expect("TCP or UDP");
    let header = if v4 {
        &bytes[..usize::from(bytes[0] & 15) * 4]
    } else {
        &[]
    };
    transport_sum(bytes, at).finish() == 0 && (!v4 || checksum::of(header) == 0)
}

fn split_coalesced(joined: Coalesced<'_>, after: &mut Vec<Vec<u8>>) {
    let pieces = match joined.offload {
        PacketOffload::None => vec![joined.bytes.to_vec()],
        PacketOffload::Checksum(_) => panic!("a coalescer leaves none behind"),
        PacketOffload::Gso(gso) => {
            // The offload survives a round trip through the virtio-net header.
            let vnet = VnetHeader::from(joined.offload);
            assert_eq!(vnet.offload(), Ok(joined.offload));
            let packet = Packet::parse(joined.bytes).expect("a packet");
            assert_eq!(packet.len(), joined.bytes.len());
            split(&packet, &gso).expect("a GSO packet")
        }
    };
    assert_eq!(pieces.len(), joined.packets);
    assert_eq!(pieces.iter().map(Vec::len).sum::<usize>(), joined.octets);
    after.extend(pieces);
}

type Flow = (IpAddr, IpAddr, u8, Option<(u16, u16)>);

fn flow(packet: &Packet<'_>) -> Flow {
    (
        packet.source(),
        packet.destination(),
        packet.protocol(),
        packet.ports(),
    )
}

/// The packets of each flow without fields that may differ: an identification without meaning, and the representation of a zero
/// checksum.
fn by_flow(packets: &[Vec<u8>]) -> BTreeMap<Flow, Vec<Vec<u8>>> {
    let mut flows = BTreeMap::<Flow, Vec<Vec<u8>>>::new();
    for bytes in packets {
        let packet = Packet::parse(bytes).expect("a packet");
        let mut plain = bytes.clone();
        if let Some((_, field, v4)) = checksum_place(bytes)
            && packet.fragment() == groundlink::net::FragmentKind::Whole
        {
            if v4 && checksum::of(&bytes[..usize::from(bytes[0] & 15) * 4]) == 0 {
                plain[10..12].fill(0);
            }
            if v4 && packet.dont_fragment() {
                plain[4..6].fill(0);
            }
            if packet.protocol() == TCP && plain[field..field + 2] == [0xff, 0xff] {
                plain[field..field + 2].fill(0);
            }
        }
        flows.entry(flow(&packet)).or_default().push(plain);
    }
    flows
}

const TCP: u8 = 6;
const UDP: u8 = 17;
