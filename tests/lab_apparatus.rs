//! The lab's own instruments, checked against peers that are known to work: strongSwan on both sides.
//!
//! What fails here is wrong with the namespaces, the generator or the observer, not with groundlink.

use std::time::Duration;

use groundlink::lab::charon::{Charon, Connection, Renewal, Start};
use groundlink::lab::interrupt::Interrupt;
use groundlink::lab::options::{Family, Nat, Options, Side};
use groundlink::lab::ping::Pinger;
use groundlink::lab::plan::Plan;
use groundlink::lab::report::Wire;
use groundlink::lab::scratch::Scratch;
use groundlink::lab::traffic::{Sink, connect};
use groundlink::lab::world::World;

const SUITE: &str = "aes128-sha1-modp1024";

fn carry(options: &Options) -> Wire {
    let interrupt = Interrupt::default();
    let plan = Plan::new(options);
    let world = World::new(options, &plan).unwrap();
    let mut tap = world.tap(&plan).unwrap();
    let scratch = Scratch::new().unwrap();
    // The side that starts comes last.
    let order = if options.starts(Side::A) {
        [Side::B, Side::A]
    } else {
        [Side::A, Side::B]
    };
    let charons = order.map(|side| {
        let (ours, theirs) = (plan.site(side), plan.site(side.other()));
        let connection = Connection {
            local: ours.outside[0],
            remote: theirs.public[0],
            id: ours.public[0].to_string(),
            peer_id: theirs.public[0].to_string(),
            local_network: ours.network,
            remote_network: theirs.network,
            ike: options.ike.clone(),
            esp: options.esp.clone(),
            psk: "0123456789abcdef".to_owned(),
            start: if options.starts(side) {
                Start::Connects
            } else {
                Start::Waits
            },
            dpd_delay: 10,
            fragment_size: None,
            cookies_from: None,
            renewal: Renewal::default(),
            retransmit_ms: None,
            ppk: None,
            root: None,
        };
        let folder = scratch.folder(&side.to_string()).unwrap();
        Charon::start(world.gateway(side), &folder, &connection, &interrupt).unwrap()
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
    let pinger = world
        .host(Side::A)
        .run(|| Pinger::new(plan.b.host))
        .unwrap()
        .unwrap();
    let ping = pinger.ping(5, &interrupt).unwrap();
    assert_eq!((ping.sent, ping.received), (5, 5));
    let wire = tap.seen();
    tap.watch_protocol_50_only().unwrap();
    for side in [Side::A, Side::B] {
        let address = plan.site(side.other()).host;
        let sink = world
            .host(side.other())
            .run(|| Sink::new(address))
            .unwrap()
            .unwrap();
        let target = sink.target().unwrap();
        let streams = world
            .host(side)
            .run(|| connect(target, 2))
            .unwrap()
            .unwrap();
        let carried = sink
            .fill(streams, Duration::from_millis(300), &interrupt)
            .unwrap();
        assert!(carried.bytes > 100_000, "{carried:?}");
    }
    // At full speed nothing but protocol 50 is looked at, and there was none.
    assert!(
        tap.seen().esp_udp <= wire.esp_udp + 1000,
        "{:?}",
        tap.seen()
    );
    assert_eq!((wire.esp_native, wire.clear), (0, 0));
    wire
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn strongswan_carries_traffic_through_the_lab_and_is_seen_on_the_wire() {
    let wire = carry(&Options {
        ike: Some(SUITE.into()),
        esp: Some(SUITE.into()),
        ..Options::default()
    });
    // At least: charon repeats itself when an address of the machine becomes usable.
    assert!(wire.ike_500 >= 2 && wire.ike_4500 >= 2, "{wire:?}");
    assert!(wire.esp_udp >= 10, "five pings and their answers: {wire:?}");
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn the_router_translates_in_front_of_either_side() {
    for nat in [Nat::Us, Nat::Peer] {
        let wire = carry(&Options {
            nat,
            ..Options::default()
        });
        assert!(wire.esp_udp >= 10, "{wire:?}");
    }
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn both_families_work_outside_and_inside() {
    carry(&Options {
        outer: Family::V6,
        ..Options::default()
    });
    carry(&Options {
        inner: Family::V6,
        ..Options::default()
    });
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn debian_s_strongswan_still_speaks_what_is_forbidden_elsewhere() {
    let suite = Some("des-md5-modp768".to_owned());
    carry(&Options {
        ike: suite.clone(),
        esp: suite,
        ..Options::default()
    });
}
