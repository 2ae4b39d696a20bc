use super::super::notice::MAX_IKE_MESSAGE;
use super::super::sa_events::FirstPacket;
use super::super::testing::*;
use super::*;
use crate::esp::testing::policy;
use crate::net::{Policy, PortRange, Prefix, Selector, TunnelId};
use crate::os::memory::MemoryDevice;
use std::io;
use std::time::Duration;

/// An ESP packet as `a` seals it.
fn sealed(pair: &mut Pair, packet: &[u8]) -> Vec<u8> {
    assert!(pair.a.device.inject(packet));
    pair.a.egress.run_batch(NOW);
    pair.b.nat.take().unwrap().1
}

#[test]
fn ike_messages_of_both_ports_are_passed_on_without_the_marker() {
    let mut pair = Pair::new();
    let request = message(60, 60);
    assert!(pair.b.ike.inject(OTHER_ADDRESS, &request));
    assert!(
        pair.b
            .nat
            .inject(OTHER_ADDRESS, &[&[0; 4], &request[..]].concat())
    );
    pair.run(NOW);
    let from = |port| Notice::Ike {
        local: SocketAddr::new(B, port),
        remote: OTHER_ADDRESS,
        bytes: request.clone(),
    };
    assert_eq!(pair.b.notices(), [from(500), from(4500)]);
    assert_eq!(pair.b.unmatched.iter().count(), 0);
}

#[test]
fn p17_a_datagram_that_is_neither_ike_nor_esp_changes_nothing() {
    let cases: &[(u16, Vec<u8>, Option<DropReason>)] = &[
        (4500, vec![0xff], None),
        (4500, vec![], Some(DropReason::Stray)),
        (4500, vec![0xfe], Some(DropReason::Stray)),
        (4500, vec![0xff, 0xff], Some(DropReason::Stray)),
        (4500, vec![0, 0, 0], Some(DropReason::Stray)),
        (4500, vec![0, 0, 0, 0], Some(DropReason::Stray)),
        (
            4500,
            [vec![0; 4], vec![1; 27]].concat(),
            Some(DropReason::Stray),
        ),
        // IKE without the marker reads as an unknown SPI.
        (4500, message(60, 60), Some(DropReason::UnknownSpi)),
        (500, vec![0xff], Some(DropReason::Stray)),
        (500, vec![], Some(DropReason::Stray)),
        // ESP does not belong here.
        (500, vec![0xc0; 100], Some(DropReason::Stray)),
    ];
    for (port, bytes, reason) in cases {
        let mut pair = Pair::connected("aes128-sha1");
        let socket = if *port == 500 {
            &pair.b.ike
        } else {
            &pair.b.nat
        };
        assert!(socket.inject(OTHER_ADDRESS, bytes));
        pair.run(NOW);
        let unmatched: Vec<_> = pair.b.unmatched.iter().map(|(reason, _)| reason).collect();
        assert_eq!(
            unmatched,
            reason.iter().copied().collect::<Vec<_>>(),
            "{port} {bytes:02x?}"
        );
        assert!(
            !pair
                .b
                .notices()
                .iter()
                .any(|notice| matches!(notice, Notice::Ike { .. }))
        );
        assert_eq!(
            pair.b.counters().last_received(),
            None,
            "a keepalive is no sign of life"
        );
    }
}

#[test]
fn p17_a_flood_of_keepalives_is_not_counted_and_delays_no_packet() {
    let mut pair = Pair::connected("aes128-sha1");
    let packet = sealed(&mut pair, &to_b(60));
    for _ in 0..20 {
        for _ in 0..50 {
            assert!(pair.b.nat.inject(OTHER_ADDRESS, &[0xff]));
        }
        pair.run(NOW);
    }
    assert_eq!(pair.b.counters().last_received(), None);
    assert_eq!((pair.b.all_dropped(), pair.b.notices().len()), (vec![], 0));
    assert_eq!(pair.b.unmatched.iter().count(), 0);
    assert!(pair.b.nat.inject(OTHER_ADDRESS, &packet));
    pair.run(NOW);
    assert_eq!(pair.b.delivered(), [to_b(60)]);
}

#[test]
fn n01_a_message_with_a_wrong_length_does_not_reach_the_control_plane() {
    let mut pair = Pair::new();
    for (len, stated) in [
        (60, 0),
        (60, 27),
        (60, 59),
        (60, 61),
        (60, u32::MAX),
        (MAX_IKE_MESSAGE + 1, MAX_IKE_MESSAGE as u32 + 1),
    ] {
        assert!(pair.b.ike.inject(OTHER_ADDRESS, &message(len, stated)));
        assert!(pair.b.nat.inject(
            OTHER_ADDRESS,
            &[&[0; 4], &message(len, stated)[..]].concat()
        ));
    }
    pair.run(NOW);
    assert_eq!(pair.b.notices(), []);
    assert_eq!(pair.b.unmatched.count(DropReason::Stray), 12);
}

#[test]
fn e01_a_packet_of_the_right_spi_and_any_length_never_panics() {
    for words in crate::esp::testing::SUITES {
        let mut pair = Pair::connected(words);
        let whole = sealed(&mut pair, &to_b(60));
        for len in 4..whole.len() {
            assert!(pair.b.nat.inject(OTHER_ADDRESS, &whole[..len]));
        }
        while pair.b.ingress.run_batches(NOW) {}
        let dropped = pair.b.dropped(DropReason::Short) + pair.b.dropped(DropReason::Auth);
        assert_eq!(dropped, whole.len() as u64 - 4, "{words}");
        assert_eq!(pair.b.counters().last_received(), None, "{words}");
    }
}

#[test]
fn e05_a_replayed_packet_is_dropped_from_any_source() {
    let mut pair = Pair::connected("aes128-sha1");
    let packet = sealed(&mut pair, &to_b(60));
    // From another address than the peer's: only the SPI and the ICV count (RFC 4301 §4.1).
    for _ in 0..3 {
        assert!(pair.b.nat.inject(OTHER_ADDRESS, &packet));
    }
    pair.run(NOW);
    assert_eq!(pair.b.delivered(), [to_b(60)]);
    assert_eq!(pair.b.all_dropped(), [(DropReason::Replay, 2)]);
}

#[test]
fn e08_a_peers_packet_reaches_only_its_tunnels_device_and_only_from_its_network() {
    let mut pair = Pair::connected("aes128-sha1");
    // b has a second tunnel, to a peer with 10.77.0.0/16 behind it.
    let other_device = Arc::new(MemoryDevice::new(10).unwrap());
    let other_tunnel = tunnel(TunnelId(8), &other_device);
    let theirs = Policy {
        local: vec!["10.77.0.0/16".parse::<Prefix>().unwrap().into()],
        remote: policy().remote,
    };
    let (other_out, other_in) = half("aes128gcm16", 0x33, theirs);
    let (a_out, a_in) = half("aes128-sha1", 1, policy());
    pair.a.open(a_out, B);
    for (sa, tunnel) in [(a_in, &pair.b.tunnel), (other_in, &other_tunnel)] {
        let entry = inbound_entry(sa, tunnel, B, None, FirstPacket::Ordinary);
        pair.b.table.insert(entry);
    }

    let from = |source| crate::esp::testing::ipv4(source, [10, 2, 0, 5], 60);
    let other = |packet: &[u8]| crate::esp::testing::seal(&other_out, packet);
    let batch = [
        other(&from([10, 77, 0, 1])),
        other(&from([10, 1, 0, 7])),
        sealed(&mut pair, &to_b(99)),
        other(&from([10, 77, 0, 2])),
    ];
    batch
        .iter()
        .for_each(|esp| assert!(pair.b.nat.inject(OTHER_ADDRESS, esp)));
    pair.run(NOW);
    assert_eq!(pair.b.delivered(), [to_b(99)]);
    let others: Vec<_> = std::iter::from_fn(|| other_device.take()).collect();
    assert_eq!(others, [from([10, 77, 0, 1]), from([10, 77, 0, 2])]);
    assert_eq!(
        other_tunnel.counters.dropped.iter().collect::<Vec<_>>(),
        [(DropReason::Inner, 1)]
    );
    assert_eq!(pair.b.all_dropped(), []);
    for tunnel in [&pair.b.tunnel, &other_tunnel] {
        assert_eq!(tunnel.counters.last_received(), Some(NOW));
    }
}

#[test]
fn e10_a_fragment_without_ports_passes_only_selectors_without_ports() {
    let mut later = to_b(60);
    later[7] = 5;
    crate::esp::testing::header_checksum(&mut later);
    let mut pair = Pair::connected("aes128-sha1");
    assert_eq!(pair.a_to_b(&[later.clone()]), [later.clone()]);

    // The receiver agreed on one port only; this sender does not care.
    let one_port = |selector: Selector| selector.with_protocol(17, PortRange::one(2000));
    let strict = Policy {
        local: policy().local,
        remote: policy().remote.into_iter().map(one_port).collect(),
    };
    pair.b.accept([half("aes128-sha1", 1, strict).1]);
    pair.a.open(half("aes128-sha1", 1, policy()).0, B);
    assert_eq!(pair.a_to_b(&[to_b(60), later]), [to_b(60)]);
    assert_eq!(pair.b.all_dropped(), [(DropReason::Inner, 1)]);
}

#[test]
fn e16_a_new_sa_takes_over_and_the_old_one_loses_nothing() {
    //  a ── sealed under the old SA ──▶ (on the wire)
    //  b installs the new inbound SA beside the old; a switches its outbound SA
    //  a ── sealed under the new SA ──▶ overtakes
    let mut pair = Pair::connected("aes128-sha1");
    let old: Vec<_> = (0..5).map(|n| sealed(&mut pair, &to_b(100 + n))).collect();
    let (_, old_in) = half("aes128-sha1", 1, policy());
    let (new_out, new_in) = half("aes256gcm16", 2, policy());
    pair.b.accept([old_in, new_in]);
    pair.a.open(new_out, B);
    assert_eq!(pair.a_to_b(&[to_b(200)]), [to_b(200)]);
    old.iter()
        .for_each(|esp| assert!(pair.b.nat.inject(OTHER_ADDRESS, esp)));
    pair.run(NOW + Duration::from_secs(5));
    assert_eq!(
        pair.b.delivered(),
        (0..5).map(|n| to_b(100 + n)).collect::<Vec<_>>()
    );
    assert_eq!(pair.b.all_dropped(), []);

    // Once the old SA is deleted, its SPI is unknown.
    let (_, new_in) = half("aes256gcm16", 2, policy());
    pair.b.accept([new_in]);
    assert!(pair.b.nat.inject(OTHER_ADDRESS, &old[0]));
    pair.run(NOW);
    assert_eq!(
        pair.b.unmatched.iter().collect::<Vec<_>>(),
        [(DropReason::UnknownSpi, 1)]
    );
}

#[test]
fn e18_an_inner_packet_that_would_be_opened_again_is_dropped() {
    let mut pair = Pair::new();
    let all: Vec<_> = vec!["0.0.0.0/0".parse::<Prefix>().unwrap().into()];
    let (a_out, b_in) = half(
        "aes128-sha1",
        1,
        Policy {
            local: all.clone(),
            remote: all,
        },
    );
    pair.a.open(a_out, B);
    pair.b.accept([b_in]);
    let inner =
        |source, port| to_port(crate::esp::testing::ipv4(source, [192, 0, 2, 2], 100), port);
    let check_inner = inner([10, 1, 0, 7], 53);
    let packets = [
        inner([10, 1, 0, 7], 4500),
        inner([10, 1, 0, 7], 500),
        inner([192, 0, 2, 2], 53),
        check_inner.clone(),
    ];
    assert_eq!(pair.a_to_b(&packets), [check_inner]);
    assert_eq!(
        pair.b.all_dropped(),
        [(DropReason::Martian, 1), (DropReason::Loop, 2)]
    );
}

#[test]
fn e19_a_full_device_is_counted_and_does_not_stop_the_next_packet() {
    let mut pair = Pair::connected("aes128-sha1");
    pair.b.device.fail_write(io::ErrorKind::WouldBlock);
    assert_eq!(pair.a_to_b(&[to_b(60), to_b(61)]), [to_b(61)]);
    assert_eq!(pair.b.all_dropped(), [(DropReason::DeviceFull, 1)]);
    pair.b.device.fail_write(io::ErrorKind::InvalidInput);
    assert_eq!(pair.a_to_b(&[to_b(62), to_b(63)]), [to_b(63)]);
    assert_eq!(pair.b.dropped(DropReason::SendFailed), 1);
    assert_eq!(
        (pair.b.counters().rx.packets(), pair.b.counters().rx.bytes()),
        (2, 61 + 63)
    );
}

#[test]
fn native_esp_is_opened_under_the_same_sa_and_moves_no_peer() {
    let mut pair = Pair::connected("aes128-sha1");
    let network = crate::os::memory::MemoryNetwork::new();
    let raw = Arc::new(network.bind(SocketAddr::new(B, 0), 100).unwrap());
    let (sender, notices) = super::super::notice::channel(8).unwrap();
    let (table, unmatched) = (pair.b.table.clone(), pair.b.unmatched.clone());
    let ingress = Ingress::new(table, unmatched, sender, Arc::default());
    let mut native = DrivenIngress::new(ingress, vec![socket_entry(&raw, Receives::Esp)]);
    let native_peer = SocketAddr::new(OTHER_ADDRESS.ip(), 0);

    // The SA was negotiated for UDP; native ESP is accepted and has no port.
    let packet = sealed(&mut pair, &to_b(60));
    assert!(raw.inject(native_peer, &packet));
    native.run_batches(NOW);
    assert_eq!(pair.b.delivered(), [to_b(60)]);
    // The same packet through both sockets: they share one replay window.
    assert!(pair.b.nat.inject(OTHER_ADDRESS, &packet));
    assert!(raw.inject(native_peer, &packet));
    pair.run(NOW);
    native.run_batches(NOW);
    assert_eq!(pair.b.delivered(), Vec::<Vec<u8>>::new());
    assert_eq!(pair.b.all_dropped(), [(DropReason::Replay, 2)]);
    assert_eq!(notices.next(), None);

    // Neither a marker nor a keepalive means anything here.
    for payload in [vec![], vec![0xff], vec![0, 0, 0]] {
        assert!(raw.inject(native_peer, &payload));
    }
    assert!(raw.inject(native_peer, &[&[0; 4], &message(60, 60)[..]].concat()));
    native.run_batches(NOW);
    let unmatched: Vec<_> = pair.b.unmatched.iter().collect();
    assert_eq!(
        unmatched,
        [(DropReason::UnknownSpi, 1), (DropReason::Stray, 3)]
    );
    let unknown = Notice::UnknownSpi {
        spi: 0,
        local: SocketAddr::new(B, 0),
        remote: native_peer,
    };
    assert_eq!(notices.next(), Some(unknown));
    assert_eq!(notices.next(), None);
}

#[test]
fn a_gro_datagram_is_split() {
    let mut pair = Pair::connected("aes128gcm16");
    let datagram: Vec<u8> = [100, 100, 60]
        .iter()
        .flat_map(|len| sealed(&mut pair, &to_b(*len)))
        .collect();
    let segment = sealed(&mut Pair::connected("aes128gcm16"), &to_b(100)).len();
    assert!(pair.b.nat.inject_gro(OTHER_ADDRESS, segment, &datagram));
    pair.run(NOW);
    assert_eq!(pair.b.delivered(), [to_b(100), to_b(100), to_b(60)]);
}

#[test]
fn the_mss_of_inbound_tcp_connections_is_clamped() {
    // A peer that does not clamp.
    let mut pair = Pair::connected("aes128-sha1");
    let (a_out, _) = half("aes128-sha1", 1, policy());
    let esp = crate::esp::testing::seal(&a_out, &syn([10, 1, 0, 7], [10, 2, 0, 5], 1460));
    assert!(pair.b.nat.inject(OTHER_ADDRESS, &esp));
    pair.run(NOW);
    let out = pair.b.delivered();
    assert_eq!((mss_of(&out[0]), tcp_sum(&out[0])), (1350, 0xffff));
}

#[test]
fn a_full_queue_of_notices_drops_ike_and_carries_esp() {
    let mut pair = Pair::connected("aes128-sha1");
    for _ in 0..140 {
        assert!(pair.b.ike.inject(OTHER_ADDRESS, &message(60, 60)));
    }
    assert_eq!(pair.a_to_b(&[to_b(60)]), [to_b(60)]);
    assert_eq!(pair.b.notices().len(), 128);
    assert_eq!(pair.b.unmatched.count(DropReason::NoticeFull), 12);
}

#[test]
fn e01_unknown_and_reserved_spis_are_dropped_and_reported_at_a_limited_rate() {
    let mut pair = Pair::connected("aes128-sha1");
    for spi in (1..=255u32).chain([0xdead_beef]) {
        assert!(
            pair.b
                .nat
                .inject(OTHER_ADDRESS, &[&spi.to_be_bytes()[..], &[0; 60]].concat())
        );
    }
    while pair.b.ingress.run_batches(NOW) {}
    assert_eq!(
        pair.b.unmatched.iter().collect::<Vec<_>>(),
        [(DropReason::UnknownSpi, 256)]
    );
    assert_eq!(pair.b.notices().len(), 5);
    assert_eq!(pair.b.delivered(), Vec::<Vec<u8>>::new());
}

#[test]
fn the_socket_decides_what_the_first_octets_mean() {
    let all = [Receives::Ike, Receives::IkeAndEsp, Receives::Esp];
    let payloads = |bytes| all.map(|receives| receives.payload(bytes));
    let esp = NatPayload::Esp(u32::from_be_bytes([0x11; 4]));
    let ike = [0x11; 40];
    assert_eq!(payloads(&ike), [NatPayload::Ike(&ike), esp, esp]);
    let marked = [0; 40];
    let message = NatPayload::Ike(&marked[4..]);
    // No marker on a raw socket: an SPI of zero, which no SA has.
    assert_eq!(
        payloads(&marked),
        [NatPayload::Ike(&marked), message, NatPayload::Esp(0)]
    );
    let keepalive = [NatPayload::Keepalive, NatPayload::Truncated];
    assert_eq!(payloads(&[0xff])[1..], keepalive);
}

#[test]
fn interleaved_packets_of_two_sas_are_opened_in_groups_and_in_order() {
    let mut pair = Pair::connected("aes128-sha1");
    let [(first_out, first_in), (second_out, second_in)] =
        [1, 2].map(|seed| half("aes128-sha1", seed, policy()));
    pair.b.accept([first_in, second_in]);
    let mut sent = Vec::new();
    for n in 0..16 {
        for (out, len) in [(&first_out, 100), (&second_out, 500)] {
            let packet = to_b(len + n);
            sent.push(packet.clone());
            let esp = crate::esp::testing::seal(out, &packet);
            assert!(pair.b.nat.inject(OTHER_ADDRESS, &esp));
        }
    }
    pair.run(NOW);
    let delivered = pair.b.delivered();
    let of_sa = |first: bool| {
        let of_sa = |packet: &&Vec<u8>| (packet.len() < 500) == first;
        sent.iter().filter(of_sa).cloned().collect::<Vec<_>>()
    };
    assert!(delivered == [of_sa(true), of_sa(false)].concat());
}
