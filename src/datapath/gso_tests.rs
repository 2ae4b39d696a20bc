//! Tests of GSO packets from device to device: split, sealed and sent by one gateway, opened, coalesced and written by the other.

use std::io;
use std::net::SocketAddr;

use super::Notice;
use super::tables::{EgressState, ReadOutcome};
use super::testing::*;
use super::trap_queue::MAX_PACKETS;
use crate::esp::testing::{SUITES, header_checksum, mirrored, policy};
use crate::net::segment::tests::{Tcp, checksums_hold, cut, datagram, edit, handed_over, repair};
use crate::net::segment::{GsoPacket, PacketOffload};
use crate::net::{DropReason, Dscp, Packet};
use crate::os::{Device, GsoSupport, VnetHeader};

/// A TCP GSO packet of 60 kB from behind `b`, whose segments just fit the tunnel.
fn long_tcp(version: u8) -> (Vec<u8>, GsoPacket) {
    let headers = if version == 4 { 52 } else { 72 };
    let size = MTU - headers;
    let flags = 0x18;
    let tcp = Tcp {
        version,
        payload: 60_000,
        flags,
        id: 0,
        ..Tcp::default()
    };
    of_ours(tcp.bytes(), size)
}

/// The packet with a source behind `b` and a destination behind `a`.
fn of_ours(mut bytes: Vec<u8>, size: u16) -> (Vec<u8>, GsoPacket) {
    if bytes[0] >> 4 == 6 {
        for (at, network) in [(8, 2), (24, 1)] {
            edit(&mut bytes, at, &[0xfd, network, 0, 0, 0, 0, 0, 0]);
        }
        repair(&mut bytes);
    }
    handed_over(bytes, size)
}

fn inject(side: &Side, (bytes, gso_packet): &(Vec<u8>, GsoPacket)) {
    let vnet = VnetHeader::from(PacketOffload::Gso(*gso_packet));
    assert!(side.device.inject_with(vnet, bytes));
}

/// The number of writes into the device, and the packets they hold, GSO packets split.
fn segments_out_of(side: &Side) -> (usize, Vec<Vec<u8>>) {
    let mut writes = 0;
    let mut packets = Vec::new();
    while let Some((vnet, bytes)) = side.device.take_with() {
        writes += 1;
        match vnet.offload().unwrap() {
            PacketOffload::Gso(gso_packet) => packets.extend(cut(&bytes, &gso_packet)),
            PacketOffload::None => packets.push(bytes),
            PacketOffload::Checksum(_) => panic!("a whole packet has its checksums"),
        }
    }
    (writes, packets)
}

#[test]
fn a_gso_packet_is_split_sealed_opened_and_coalesced_again_in_every_suite() {
    for words in SUITES {
        for version in [4, 6] {
            let mut pair = Pair::connected(words);
            pair.a.device.set_gso_support(GsoSupport::TcpAndUdp);
            let gso_packet = long_tcp(version);
            let expected = cut(&gso_packet.0, &gso_packet.1);
            assert!(expected.len() > 40 && expected.iter().all(|one| checksums_hold(one)));
            inject(&pair.b, &gso_packet);
            pair.run(NOW);
            let (writes, packets) = segments_out_of(&pair.a);
            assert!(packets == expected, "{words} {version}");
            assert_eq!(writes, 2, "{words}: a full GSO packet, and the rest");
            for side in [&pair.a, &pair.b] {
                assert_eq!(side.all_dropped(), [], "{words}");
            }
            let octets: usize = expected.iter().map(Vec::len).sum();
            let counted = (expected.len() as u64, octets as u64);
            let (tx, rx) = (&pair.b.counters().tx, &pair.a.counters().rx);
            assert_eq!((tx.packets(), tx.bytes()), counted);
            assert_eq!((rx.packets(), rx.bytes()), counted);
        }
    }
}

#[test]
fn a_device_without_gso_gets_whole_packets() {
    let mut pair = Pair::connected("aes128-sha1");
    let gso_packet = long_tcp(4);
    inject(&pair.b, &gso_packet);
    pair.run(NOW);
    let expected = cut(&gso_packet.0, &gso_packet.1);
    assert!(segments_out_of(&pair.a) == (expected.len(), expected));
}

#[test]
fn udp_datagrams_are_coalesced_where_the_device_takes_them() {
    for (gso, writes) in [(GsoSupport::TcpAndUdp, 1), (GsoSupport::Tcp, 20)] {
        let mut pair = Pair::connected("aes128gcm16");
        pair.a.device.set_gso_support(gso);
        let gso_packet = of_ours(datagram(4, 0, 20_000), 1000);
        inject(&pair.b, &gso_packet);
        pair.run(NOW);
        assert!(segments_out_of(&pair.a) == (writes, cut(&gso_packet.0, &gso_packet.1)));
    }
}

#[test]
fn a_device_that_rejects_a_gso_packet_gets_its_segments_and_no_more_gso_packets() {
    let mut pair = Pair::connected("aes128-sha1");
    pair.a.device.set_gso_support(GsoSupport::Tcp);
    let gso_packet = of_ours(
        Tcp {
            payload: 9_000,
            ..Tcp::default()
        }
        .bytes(),
        1_000,
    );
    let expected = cut(&gso_packet.0, &gso_packet.1);
    pair.a.device.fail_write(io::ErrorKind::InvalidInput);
    for _ in 0..2 {
        inject(&pair.b, &gso_packet);
        pair.run(NOW);
        assert!(segments_out_of(&pair.a) == (9, expected.clone()));
    }
    assert_eq!(pair.a.all_dropped(), []);
    assert_eq!(pair.a.counters().rx.packets(), 18);
}

/// A UDP GSO packet from this port.
fn datagrams_from(port: u8) -> (Vec<u8>, GsoPacket) {
    let mut bytes = datagram(4, 0, 4_000);
    edit(&mut bytes, 21, &[port]);
    repair(&mut bytes);
    of_ours(bytes, 1000)
}

#[test]
fn two_udp_gso_packets_rejected_in_one_batch_leave_tcp_gso_on() {
    let mut pair = Pair::connected("aes128-sha1");
    pair.a.device.set_gso_support(GsoSupport::TcpAndUdp);
    pair.a.device.reject_gso_packets(2);
    let runs = [1, 2].map(datagrams_from);
    runs.iter().for_each(|run| inject(&pair.b, run));
    pair.run(NOW);
    let (writes, mut packets) = segments_out_of(&pair.a);
    let mut expected: Vec<_> = runs.iter().flat_map(|run| cut(&run.0, &run.1)).collect();
    packets.sort();
    expected.sort();
    assert!(packets == expected);
    assert_eq!((writes, pair.a.all_dropped()), (8, vec![]));
    assert_eq!(pair.a.device.gso_support(), GsoSupport::Tcp);

    let tcp = Tcp {
        payload: 9_000,
        ..Tcp::default()
    };
    inject(&pair.b, &of_ours(tcp.bytes(), 1_000));
    inject(&pair.b, &runs[0]);
    pair.run(NOW);
    assert_eq!(
        segments_out_of(&pair.a).0,
        1 + 4,
        "TCP is coalesced as before"
    );
}

#[test]
fn after_a_rejection_the_same_batch_has_no_more_gso_packets_of_that_kind() {
    let mut pair = Pair::connected("aes128-sha1");
    pair.a.device.set_gso_support(GsoSupport::TcpAndUdp);
    pair.a.device.reject_gso_packets(1);
    for _ in 0..8 {
        // The last datagram of each is short, and ends the GSO packet.
        inject(&pair.b, &of_ours(datagram(4, 0, 3_500), 1000));
    }
    pair.run(NOW);
    let (writes, packets) = segments_out_of(&pair.a);
    assert_eq!((writes, packets.len()), (32, 32));
    assert_eq!(pair.a.all_dropped(), []);
}

#[test]
fn e19_a_gso_packet_for_a_full_device_counts_as_its_packets() {
    let mut pair = Pair::connected("aes128-sha1");
    pair.a.device.set_gso_support(GsoSupport::Tcp);
    pair.a.device.fail_write(io::ErrorKind::WouldBlock);
    inject(
        &pair.b,
        &of_ours(
            Tcp {
                payload: 9_000,
                ..Tcp::default()
            }
            .bytes(),
            1_000,
        ),
    );
    pair.run(NOW);
    assert_eq!(pair.a.all_dropped(), [(DropReason::DeviceFull, 9)]);
}

#[test]
fn e13_segments_too_long_for_the_tunnel_are_fragmented_or_answered_by_icmp() {
    // DF is not set: each segment is fragmented.
    let mut pair = Pair::connected("aes128-sha1");
    let (mut bytes, gso_packet) = of_ours(
        Tcp {
            payload: 6_000,
            ..Tcp::default()
        }
        .bytes(),
        2_000,
    );
    inject(&pair.b, &(bytes.clone(), gso_packet));
    pair.run(NOW);
    let (_, pieces) = segments_out_of(&pair.a);
    assert_eq!(pieces.len(), 6);
    let payload: Vec<u8> = pieces
        .iter()
        .flat_map(|piece| piece[20..].to_vec())
        .collect();
    let expected: Vec<u8> = cut(&bytes, &gso_packet)
        .iter()
        .flat_map(|one| one[20..].to_vec())
        .collect();
    assert!(payload == expected);

    bytes[6] |= 0x40;
    let mut whole = bytes.clone();
    repair(&mut whole);
    edit(&mut bytes, 10, &whole[10..12]);
    inject(&pair.b, &(bytes, gso_packet));
    pair.run(NOW);
    assert_eq!(pair.b.all_dropped(), [(DropReason::TooBig, 1)]);
    assert_eq!(
        pair.b.delivered()[0][20..22],
        [3, 4],
        "fragmentation needed"
    );
    assert_eq!(segments_out_of(&pair.a).0, 0);
}

#[test]
fn e11_offload_headers_that_do_not_fit_the_packet_are_rejected() {
    let mut pair = Pair::connected("aes128-sha1");
    let (bytes, gso_packet) = long_tcp(4);
    let (v6, _) = long_tcp(6);
    inject(&pair.b, &(v6, gso_packet));
    let nonsense = VnetHeader {
        gso_type: 0x7f,
        gso_size: 1000,
        ..VnetHeader::NONE
    };
    assert!(pair.b.device.inject_with(nonsense, &bytes));
    pair.run(NOW);
    assert_eq!(pair.b.all_dropped(), [(DropReason::Malformed, 2)]);
    assert_eq!(segments_out_of(&pair.a).0, 0);
}

#[test]
fn a_trapped_gso_packet_waits_in_segments_up_to_the_queues_capacity() {
    let mut pair = Pair::new();
    pair.b.set_egress(EgressState::Trap(mirrored(policy())));
    let gso_packet = of_ours(
        Tcp {
            payload: 70 * 500,
            ..Tcp::default()
        }
        .bytes(),
        500,
    );
    inject(&pair.b, &gso_packet);
    pair.run(NOW);
    assert_eq!(pair.b.notices(), [Notice::Demand(TUNNEL)]);
    assert_eq!(pair.b.all_dropped(), [(DropReason::QueueFull, 6)]);
    pair.connect("aes128-sha1", 1);
    pair.run(NOW);
    assert!(segments_out_of(&pair.a).1 == cut(&gso_packet.0, &gso_packet.1)[..MAX_PACKETS]);
}

#[test]
fn e12_the_outer_header_has_the_traffic_class_of_the_inner_one() {
    let mut pair = Pair::connected("aes128gcm16");
    for class in [0, 0x02, 0xb8, 0xff] {
        let mut packet = to_b(60);
        packet[1] = class;
        header_checksum(&mut packet);
        assert!(pair.a.device.inject(&packet));
        while pair.a.egress.run_batch(NOW) == ReadOutcome::More {}
        assert_eq!(pair.b.nat.take_class().unwrap().1, class);
    }
}

#[test]
fn e12_a_cleared_dscp_stays_inside_the_tunnel() {
    let mut pair = Pair::new();
    pair.a.dscp = Dscp::Cleared;
    pair.connect("aes128gcm16", 1);
    let mut packet = to_b(60);
    packet[1] = 0xb8 | 0b10;
    header_checksum(&mut packet);
    assert!(pair.a.device.inject(&packet));
    while pair.a.egress.run_batch(NOW) == ReadOutcome::More {}
    let (from, class, sealed) = pair.b.nat.take_class().unwrap();
    assert_eq!(class, 0b10);
    assert!(pair.b.nat.inject_class(from, class, &sealed));
    pair.run(NOW);
    assert_eq!(pair.b.delivered(), [packet]);
}

/// The kernel's forwarding decrements the TTL once at each gateway; a tunnel that did so, too, would be a second hop.
#[test]
fn e12_the_inner_ttl_is_decremented_by_the_kernel_and_not_by_the_tunnel() {
    let mut pair = Pair::connected("aes128-sha1");
    for ttl in [1, 2, 64, 255] {
        let mut packet = to_b(60);
        packet[8] = ttl;
        header_checksum(&mut packet);
        assert!(pair.a.device.inject(&packet));
        pair.run(NOW);
        assert_eq!(pair.b.delivered(), [packet]);
    }
}

#[test]
fn e12_congestion_on_the_outer_path_is_passed_in_or_drops_the_packet() {
    let mut pair = Pair::connected("aes128-sha1");
    for (inner, arrives) in [(0b10, true), (0b01, true), (0b11, true), (0b00, false)] {
        let mut packet = to_b(60);
        packet[1] = inner;
        header_checksum(&mut packet);
        assert!(pair.a.device.inject(&packet));
        while pair.a.egress.run_batch(NOW) == ReadOutcome::More {}
        let (_, _, sealed) = pair.b.nat.take_class().unwrap();
        let from = SocketAddr::new(A, 4500);
        assert!(pair.b.nat.inject_class(from, 0b0000_0011, &sealed));
        pair.run(NOW);
        let delivered = pair.b.delivered();
        assert_eq!(delivered.len(), usize::from(arrives), "{inner:02b}");
        assert!(delivered.iter().all(|packet| {
            Packet::parse(packet).is_ok_and(|packet| packet.traffic_class() == 0b11)
        }));
    }
    assert_eq!(pair.b.all_dropped(), [(DropReason::Congestion, 1)]);
}
