//! Tests of the lab itself with strongSwan on both sides.
//!
//! A failure here is a fault of the namespaces, the traffic or the packet counters, not of groundlink.

use std::time::Duration;

use groundlink::lab::addressing::Addressing;
use groundlink::lab::charon::{Charon, CharonConfig, CharonStart, RekeyTimes};
use groundlink::lab::interrupt::Interrupt;
use groundlink::lab::options::{AddressFamily, LabOptions, NatPlacement, Side};
use groundlink::lab::ping::Pinger;
use groundlink::lab::process::ScratchDir;
use groundlink::lab::report::WireCounters;
use groundlink::lab::topology::Topology;
use groundlink::lab::traffic::{TcpSink, connect};

const SUITE: &str = "aes128-sha1-modp1024";

fn carry(options: &LabOptions) -> WireCounters {
    let interrupt = Interrupt::default();
    let addressing = Addressing::new(options);
    let topology = Topology::new(options, &addressing).unwrap();
    let mut wire_tap = topology.wire_tap(&addressing).unwrap();
    let scratch = ScratchDir::new().unwrap();
    // The initiator starts last.
    let order = if options.initiates(Side::A) {
        [Side::B, Side::A]
    } else {
        [Side::A, Side::B]
    };
    let charons = order.map(|side| {
        let (ours, theirs) = (addressing.site(side), addressing.site(side.other()));
        let connection = CharonConfig {
            local: ours.outside[0],
            remote: theirs.public[0],
            id: ours.public[0].to_string(),
            peer_id: theirs.public[0].to_string(),
            local_network: ours.network,
            remote_network: theirs.network,
            ike: options.ike.clone(),
            esp: options.esp.clone(),
            psk: "0123456789abcdef".to_owned(),
            start: if options.initiates(side) {
                CharonStart::Connect
            } else {
                CharonStart::Wait
            },
            dpd_delay: 10,
            fragment_size: None,
            cookies_from: None,
            rekey_times: RekeyTimes::default(),
            retransmit_ms: None,
            further_remote_networks: Vec::new(),
            ppk: None,
            root: None,
        };
        let dir = scratch.subdir(&side.to_string()).unwrap();
        Charon::start(topology.gateway(side), &dir, &connection, &interrupt).unwrap()
    });
    let begin = std::time::Instant::now();
    while !charons.iter().all(Charon::is_up) {
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "{}\n\n{}",
            charons[0].log(),
            charons[1].log()
        );
        interrupt.pause(Duration::from_millis(20)).unwrap();
    }
    let pinger = topology
        .host(Side::A)
        .run(|| Pinger::new(addressing.b.host))
        .unwrap()
        .unwrap();
    let ping = pinger.ping(5, &interrupt).unwrap();
    assert_eq!((ping.sent, ping.received), (5, 5));
    let wire = wire_tap.counters();
    wire_tap.count_protocol_50_only().unwrap();
    for side in [Side::A, Side::B] {
        let address = addressing.site(side.other()).host;
        let sink = topology
            .host(side.other())
            .run(|| TcpSink::new(address))
            .unwrap()
            .unwrap();
        let target = sink.target().unwrap();
        let streams = topology
            .host(side)
            .run(|| connect(target, 2))
            .unwrap()
            .unwrap();
        let carried = sink
            .transfer(streams, Duration::from_millis(300), &interrupt)
            .unwrap();
        assert!(carried.bytes > 100_000, "{carried:?}");
    }
    // During the TCP transfers only IP protocol 50 is counted, and there is none.
    assert!(
        wire_tap.counters().esp_udp <= wire.esp_udp + 1000,
        "{:?}",
        wire_tap.counters()
    );
    assert_eq!((wire.esp_native, wire.clear), (0, 0));
    wire
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn strongswan_carries_traffic_that_is_counted_on_the_wire() {
    let wire = carry(&LabOptions {
        ike: Some(SUITE.into()),
        esp: Some(SUITE.into()),
        ..LabOptions::default()
    });
    // A lower bound: charon retransmits when an address of the host becomes usable.
    assert!(wire.ike_500 >= 2 && wire.ike_4500 >= 2, "{wire:?}");
    assert!(wire.esp_udp >= 10, "five pings and their replies: {wire:?}");
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn either_side_can_be_behind_nat() {
    for nat in [NatPlacement::Us, NatPlacement::Peer] {
        let wire = carry(&LabOptions {
            nat,
            ..LabOptions::default()
        });
        assert!(wire.esp_udp >= 10, "{wire:?}");
    }
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn ipv6_works_outside_and_inside() {
    carry(&LabOptions {
        outer: AddressFamily::V6,
        ..LabOptions::default()
    });
    carry(&LabOptions {
        inner: AddressFamily::V6,
        ..LabOptions::default()
    });
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn strongswan_supports_the_forbidden_algorithms() {
    let suite = Some("des-md5-modp768".to_owned());
    carry(&LabOptions {
        ike: suite.clone(),
        esp: suite,
        ..LabOptions::default()
    });
}
