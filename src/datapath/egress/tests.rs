use super::super::testing::*;
use super::super::trap_queue::{MAX_PACKETS, MAX_WAIT};
use super::*;
use crate::crypto::Esn;
use crate::esp::lifetime::Lifetime;
use crate::esp::testing::{SUITES, ipv4, policy, udp6};

#[test]
fn every_suite_carries_both_families_both_ways_in_order() {
    for words in SUITES {
        let mut pair = Pair::connected(words);
        let from_a: Vec<_> = [28, 29, 100, 1000, 1389, 1390].map(to_b).into();
        // `udp6` goes from behind b to behind a.
        let from_b = vec![to_a(64), udp6(48), udp6(1390), to_a(1390)];
        from_b
            .iter()
            .for_each(|packet| assert!(pair.b.device.inject(packet)));
        assert_eq!(pair.a_to_b(&from_a), from_a, "{words}");
        assert_eq!(pair.a.delivered(), from_b, "{words}");
        for side in [&pair.a, &pair.b] {
            assert_eq!(side.all_dropped(), [], "{words}");
            assert_eq!(
                (side.counters().last_received(), side.counters().last_sent()),
                (Some(NOW), Some(NOW))
            );
        }
        assert_eq!(
            (pair.a.counters().tx.packets(), pair.a.counters().tx.bytes()),
            (6, 28 + 29 + 100 + 1000 + 1389 + 1390)
        );
        assert_eq!(
            (pair.a.counters().rx.packets(), pair.a.counters().rx.bytes()),
            (4, 64 + 48 + 1390 + 1390)
        );
    }
}

#[test]
fn more_than_a_batch_passes_in_order() {
    let mut pair = Pair::connected("aes128gcm16");
    let packets: Vec<_> = (0..500).map(|n| to_b(30 + n)).collect();
    packets
        .iter()
        .for_each(|packet| assert!(pair.a.device.inject(packet)));
    while pair.a.egress.run_batch(NOW) == ReadOutcome::More {}
    while pair.b.ingress.run_batches(NOW) {}
    assert!(pair.b.delivered() == packets);
}

#[test]
fn e09_a_packet_outside_the_selectors_is_dropped_and_answered_by_icmp() {
    let mut pair = Pair::connected("aes128-sha1");
    let outside = [
        ipv4([10, 1, 0, 7], [10, 9, 0, 1], 60),
        ipv4([10, 9, 0, 7], [10, 2, 0, 5], 60),
    ];
    assert_eq!(pair.a_to_b(&outside), Vec::<Vec<u8>>::new());
    assert!(pair.b.nat.take().is_none(), "nothing left, sealed or not");
    assert_eq!(pair.a.dropped(DropReason::NoPolicy), 2);
    let answers = pair.a.delivered();
    assert_eq!(answers.len(), 2);
    let answer = Packet::parse(&answers[0]).unwrap();
    assert_eq!(answer.destination(), std::net::IpAddr::from([10, 1, 0, 7]));
    assert_eq!(
        answers[0][20..22],
        [3, 13],
        "destination unreachable, administratively prohibited"
    );
}

#[test]
fn e09_without_an_sa_nothing_leaves() {
    let mut pair = Pair::new();
    assert_eq!(pair.a_to_b(&[to_b(60), to_b(61)]), Vec::<Vec<u8>>::new());
    assert!(pair.b.nat.take().is_none());
    assert_eq!(pair.a.all_dropped(), [(DropReason::NoSa, 2)]);
}

#[test]
fn e11_malformed_packets_from_the_device_are_dropped() {
    let mut pair = Pair::connected("aes128-sha1");
    let mut lying = to_b(60);
    lying[3] = 61;
    let mut no_header = to_b(60);
    no_header[0] = 0x40;
    let mut version = to_b(60);
    version[0] = 0x75;
    let garbage = [
        vec![],
        vec![0x45],
        vec![0x45; 19],
        lying,
        no_header,
        version,
        vec![0x60; 39],
    ];
    assert_eq!(pair.a_to_b(&garbage), Vec::<Vec<u8>>::new());
    assert_eq!(
        pair.a.all_dropped(),
        [(DropReason::Malformed, garbage.len() as u64)]
    );
}

#[test]
fn e13_a_packet_too_big_to_fragment_is_answered_with_the_mtu() {
    let mut pair = Pair::connected("aes128-sha1");
    // Behind a, IPv6 hosts are in fd01::/16: turn the packet around.
    let mut six = udp6(1391);
    let (source, destination) = (six[8..24].to_vec(), six[24..40].to_vec());
    six[8..24].copy_from_slice(&destination);
    six[24..40].copy_from_slice(&source);
    assert_eq!(
        pair.a_to_b(&[whole_only(to_b(1391)), six]),
        Vec::<Vec<u8>>::new()
    );
    assert_eq!(pair.a.dropped(DropReason::TooBig), 2);
    let answers = pair.a.delivered();
    assert_eq!(answers[0][20..22], [3, 4], "fragmentation needed");
    assert_eq!(answers[0][26..28], MTU.to_be_bytes());
    assert_eq!(answers[1][40..42], [2, 0], "packet too big");
    assert_eq!(answers[1][44..48], u32::from(MTU).to_be_bytes());
    assert_eq!(
        answers[0][12..16],
        [10, 2, 0, 5],
        "from where the packet was going"
    );
    assert_eq!(answers[0][16..20], [10, 1, 0, 7]);
}

#[test]
fn e13_icmp_errors_are_limited_in_rate_and_every_drop_is_counted() {
    let mut pair = Pair::connected("aes128-sha1");
    for round in 0..10u64 {
        pair.a_to_b(&vec![whole_only(to_b(1400)); 64]);
        assert_eq!(pair.a.dropped(DropReason::TooBig), (round + 1) * 64);
    }
    assert_eq!(pair.a.delivered().len(), 50);
    assert!(pair.a.device.inject(&whole_only(to_b(1400))));
    pair.run(NOW + Duration::from_secs(1));
    assert_eq!(pair.a.delivered().len(), 1);
}

#[test]
fn e13_a_packet_too_big_without_df_is_fragmented_before_encryption() {
    for len in [1391, 1500, 9000, 65_000] {
        let mut pair = Pair::connected("aes256gcm16");
        let pieces = pair.a_to_b(&[to_b(len)]);
        assert!(
            pieces.len() > 1 && pieces.iter().all(|piece| piece.len() <= usize::from(MTU)),
            "{len}"
        );
        let payload: Vec<u8> = pieces
            .iter()
            .flat_map(|piece| piece[20..].to_vec())
            .collect();
        assert!(payload == to_b(len)[20..], "{len}");
        assert_eq!(pair.a.all_dropped(), []);
    }
}

#[test]
fn e15_e19_a_packet_that_cannot_be_sent_is_counted_and_the_next_one_goes() {
    let mut pair = Pair::connected("aes128-sha1");
    pair.a.nat.fail_send(io::ErrorKind::ConnectionRefused);
    assert_eq!(pair.a_to_b(&[to_b(60), to_b(61)]), [to_b(61)]);
    assert_eq!(pair.a.all_dropped(), [(DropReason::SendFailed, 1)]);

    pair.a.nat.fail_send(io::ErrorKind::WouldBlock);
    assert_eq!(pair.a_to_b(&[to_b(62), to_b(63)]), Vec::<Vec<u8>>::new());
    assert_eq!(pair.a.dropped(DropReason::SocketFull), 2);
    assert_eq!(pair.a_to_b(&[to_b(64)]), [to_b(64)]);
    assert_eq!(
        (pair.a.counters().tx.packets(), pair.a.counters().tx.bytes()),
        (2, 61 + 64)
    );
}

#[test]
fn e18_the_tunnels_own_packets_routed_into_its_device_are_dropped() {
    let mut pair = Pair::new();
    // Selectors wide enough to cover the gateways themselves.
    let all: Vec<_> = vec!["0.0.0.0/0".parse::<crate::net::Prefix>().unwrap().into()];
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
    let outer = |port| to_port(ipv4([192, 0, 2, 1], [192, 0, 2, 2], 100), port);
    let mut native = outer(1);
    native[9] = 50;
    crate::esp::testing::header_checksum(&mut native);
    assert_eq!(
        pair.a_to_b(&[outer(4500), outer(500), native]),
        Vec::<Vec<u8>>::new()
    );
    assert_eq!(pair.a.all_dropped(), [(DropReason::Loop, 3)]);
    assert_eq!(
        pair.a_to_b(&[outer(53)]),
        [outer(53)],
        "other traffic between the gateways is traffic"
    );
}

#[test]
fn the_mss_of_outbound_tcp_connections_is_clamped() {
    let mut pair = Pair::connected("aes128-sha1");
    let (_, b_in) = half("aes128-sha1", 1, policy());
    for (offered, clamped) in [(1460, 1350), (1000, 1000)] {
        assert!(
            pair.a
                .device
                .inject(&syn([10, 1, 0, 7], [10, 2, 0, 5], offered))
        );
        pair.a.egress.run_batch(NOW);
        let (_, mut esp) = pair.b.nat.take().unwrap();
        let mut opening = b_in.lock();
        let left = opening.open(&mut esp).unwrap().packet;
        assert_eq!(
            (mss_of(left.bytes()), tcp_sum(left.bytes())),
            (clamped, 0xffff)
        );
    }
}

#[test]
fn a_partial_checksum_from_the_kernel_is_completed() {
    let mut pair = Pair::connected("aes128-sha1");
    let right = syn([10, 1, 0, 7], [10, 2, 0, 5], 1000);
    let undone = without_checksum(&right);
    let vnet = VnetHeader {
        flags: VnetHeader::NEEDS_CHECKSUM,
        checksum_start: 20,
        checksum_offset: 16,
        ..VnetHeader::NONE
    };
    assert!(pair.a.device.inject_with(vnet, &undone));
    let beyond = VnetHeader {
        checksum_start: 1000,
        ..vnet
    };
    assert!(pair.a.device.inject_with(beyond, &undone));
    pair.run(NOW);
    assert_eq!(pair.b.delivered(), [right]);
    assert_eq!(pair.a.all_dropped(), [(DropReason::Malformed, 1)]);
}

#[test]
fn kernel_noise_is_neither_counted_nor_asks_for_an_sa() {
    let mut pair = Pair::new();
    pair.a.set_egress(EgressState::Trap(policy()));
    pair.a_to_b(&[router_solicitation()]);
    pair.connect("aes128-sha1", 1);
    assert_eq!(pair.a_to_b(&[router_solicitation()]), Vec::<Vec<u8>>::new());
    assert_eq!(
        (pair.a.all_dropped(), pair.a.notices(), pair.a.delivered()),
        (vec![], vec![], vec![])
    );
}

#[test]
fn trapped_packets_wait_for_the_sa_and_leave_first() {
    let mut pair = Pair::new();
    pair.a.set_egress(EgressState::Trap(policy()));
    let packets: Vec<_> = (0..70).map(|n| to_b(100 + n)).collect();
    let outside = ipv4([10, 1, 0, 7], [10, 9, 0, 1], 60);
    for packet in [&packets[..], &[outside]].concat() {
        assert!(pair.a.device.inject(&packet));
    }
    while pair.a.egress.run_batch(NOW) == ReadOutcome::More {}
    assert_eq!(pair.a.notices(), [Notice::Demand(TUNNEL)]);
    assert_eq!(
        pair.a.all_dropped(),
        [(DropReason::NoPolicy, 1), (DropReason::QueueFull, 6)]
    );

    pair.connect("aes128-sha1", 1);
    let late = to_b(60);
    let out = pair.a_to_b(std::slice::from_ref(&late));
    assert!(out == [&packets[..MAX_PACKETS], &[late]].concat());
    assert_eq!(pair.a.egress.wake_at(), None);
}

#[test]
fn a_trapped_packet_expires() {
    let mut pair = Pair::new();
    pair.a.set_egress(EgressState::Trap(policy()));
    pair.a_to_b(&[to_b(60)]);
    assert_eq!(pair.a.egress.wake_at(), Some(NOW + MAX_WAIT));
    pair.run(NOW + MAX_WAIT);
    assert_eq!(pair.a.all_dropped(), [(DropReason::QueueFull, 1)]);
    assert_eq!(pair.a.egress.wake_at(), None);
}

#[test]
fn a_demand_is_repeated_once_a_second_while_packets_arrive() {
    let mut pair = Pair::new();
    pair.a.set_egress(EgressState::Trap(policy()));
    for tenth in 0..20u64 {
        assert!(pair.a.device.inject(&to_b(60)));
        pair.run(NOW + Duration::from_millis(tenth * 100));
    }
    assert_eq!(pair.a.notices().len(), 2);
}

#[test]
fn p19_an_outbound_sa_reports_before_its_sequence_numbers_end_and_then_sends_nothing() {
    let mut pair = Pair::connected("aes128-sha1");
    let (a_out, _) = half("aes128-sha1", 1, policy());
    let last = Lifetime::new(Esn::No).last();
    a_out.pretend_used(last - 2);
    let sa = pair.a.open(a_out, B);
    let (tunnel, half) = (TUNNEL, ChildSpi::Out(sa.spi()));
    pair.a_to_b(&[to_b(60)]);
    assert_eq!(pair.a.notices(), [Notice::NearEnd { tunnel, sa: half }]);
    pair.a_to_b(&[to_b(60), to_b(61), to_b(62)]);
    assert_eq!(pair.a.notices(), [Notice::Ended { tunnel, sa: half }]);
    assert_eq!(pair.a.all_dropped(), [(DropReason::SequenceExhausted, 2)]);
    assert_eq!(sa.sequence(), last);
}

#[test]
fn a_device_that_fails_sends_no_notice() {
    let mut pair = Pair::connected("aes128-sha1");
    pair.a.device.fail_read(io::ErrorKind::Other);
    assert_eq!(pair.a.egress.run_batch(NOW), ReadOutcome::Failed);
    assert_eq!(pair.a.egress.run_batch(NOW), ReadOutcome::Empty);
    assert_eq!(pair.a.notices(), []);
}

#[test]
fn a_removed_device_is_reported_once_a_minute() {
    let mut pair = Pair::connected("aes128-sha1");
    for second in 0..120u64 {
        pair.a.device.fail_read(io::ErrorKind::NotConnected);
        let now = NOW + Duration::from_secs(second);
        assert_eq!(pair.a.egress.run_batch(now), ReadOutcome::Failed);
    }
    assert_eq!(pair.a.notices(), vec![Notice::DeviceGone(TUNNEL); 2]);
}

#[test]
fn each_packet_leaves_under_the_first_sa_whose_selectors_cover_it() {
    let mut pair = Pair::new();
    let narrow = |third: u8| Policy {
        local: policy().local,
        remote: vec![
            format!("10.2.{third}.0/24")
                .parse::<crate::net::Prefix>()
                .unwrap()
                .into(),
        ],
    };
    let policies = [narrow(0), narrow(1), policy()];
    let (out, inbound): (Vec<_>, Vec<_>) = (1..)
        .zip(policies)
        .map(|(seed, policy)| half("aes128-sha1", seed, policy))
        .unzip();
    let out: Vec<_> = out.into_iter().map(Arc::new).collect();
    let paths = out.iter().map(|sa| pair.a.path(sa, B)).collect();
    pair.a.set_egress(EgressState::Open(paths));
    pair.b.accept(inbound);
    let to = |third| ipv4([10, 1, 0, 7], [10, 2, third, 5], 100 + usize::from(third));
    for third in [0, 1, 0, 2, 2, 1, 0] {
        assert!(pair.a.device.inject(&to(third)));
    }
    pair.run(NOW);
    let sent: Vec<_> = out.iter().map(|sa| sa.sent().packets()).collect();
    assert_eq!(sent, [3, 2, 2]);
    assert_eq!(pair.b.delivered().len(), 7);
    assert_eq!(
        (pair.a.all_dropped(), pair.b.all_dropped()),
        (vec![], vec![])
    );
}

#[test]
fn a_packet_whose_icmp_error_cannot_be_written_is_counted_once() {
    let mut pair = Pair::connected("aes128-sha1");
    pair.a.device.fail_write(io::ErrorKind::WouldBlock);
    pair.a_to_b(&[whole_only(to_b(1400))]);
    assert_eq!(pair.a.all_dropped(), [(DropReason::TooBig, 1)]);
}
