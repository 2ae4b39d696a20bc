//! The datapath with IP protocol 50 between the gateways: every byte and every size as over UDP, in both address families, with
//! packets lost, repeated and in fragments on the way.

use groundlink::lab::options::{AddressFamily, RemoteKind, Side};

use super::super::lab::filter;
use super::load::Load;
use super::*;

const BARE: Case = Case {
    encapsulation: Encapsulation::Auto,
    ..Case::of(RemoteKind::Groundlink)
};

/// What TCP carries each way.
const BULK: usize = 6 << 20;

/// Has the router count what it forwards as protocol 50, and what it forwards to port 4500.
fn watch(lab: &Lab) {
    filter(
        lab,
        "table inet watch { chain forward { type filter hook forward priority filter; \
         meta l4proto esp counter comment \"bare\"; udp dport 4500 counter comment \"encapsulated\"; }; }",
    );
}

/// Only protocol 50 has passed, and at least so much of it.
#[track_caller]
fn only_bare(lab: &Lab, least: u64) {
    let rules = on(
        lab.topology().wan(),
        "nft",
        &["list", "table", "inet", "watch"],
    );
    let of = |what: &str| -> u64 {
        let named = rules.lines().filter(|line| line.contains(what));
        named.map(counted).sum()
    };
    assert!(of("\"bare\"") >= least, "{rules}");
    assert_eq!(of("\"encapsulated\""), 0, "{rules}");
}

fn carries(case: &Case) {
    let mut lab = case.up();
    watch(&lab);
    // What finds neighbours unresolved may be answered with "no route": the kernel gives up on them for a moment after three seconds.
    let begin = Instant::now();
    while lab.ping(1).unwrap().received == 0 {
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "{}",
            logs(&mut lab)
        );
    }
    let carried = bulk::both_ways(&lab, BULK);
    well(&mut lab, carried);
    let result = Load::of_gso_packets(1000, 1300).both_ways(&lab);
    well(&mut lab, result);
    let result = Load::of_sizes(1..=1500).both_ways(&lab);
    for way in well(&mut lab, result) {
        assert_eq!((way.twice, way.overtaken), (0, 0));
    }
    let echoed = echo::of_sizes(&lab, &[0, 1, 7, 8, 511, 1300, 1404, 1452, 4000]);
    well(&mut lab, echoed);
    refused_exactly(&mut lab, &nothing);
    only_bare(&lab, 2 * (1000 + 1500) + 2 * BULK as u64 / 1500);
}

#[test]
#[ignore = "needs root and nft: tests/run runs it"]
fn every_byte_and_every_size_passes_over_protocol_50_in_both_address_families() {
    for (outer, inner, esp, offload) in [
        (AddressFamily::V4, AddressFamily::V4, SUITES[0], "auto"),
        (AddressFamily::V4, AddressFamily::V6, SUITES[1], "off"),
        (AddressFamily::V6, AddressFamily::V4, SUITES[0], "off"),
        (AddressFamily::V6, AddressFamily::V6, SUITES[1], "auto"),
    ] {
        carries(&Case {
            outer,
            inner,
            esp,
            offload,
            ..BARE
        });
    }
}

#[test]
#[ignore = "needs root and nft: tests/run runs it"]
fn tcp_survives_the_loss_of_one_packet_of_protocol_50_in_a_hundred() {
    let mut lab = BARE.up();
    watch(&lab);
    filter(
        &lab,
        "table ip loss { chain forward { type filter hook forward priority filter + 1; \
         meta l4proto esp numgen random mod 100 < 1 counter drop; }; }",
    );
    let carried = bulk::both_ways(&lab, BULK);
    well(&mut lab, carried);
    let rules = on(
        lab.topology().wan(),
        "nft",
        &["list", "table", "ip", "loss"],
    );
    assert!(counted(&rules) > 10, "{rules}");
    refused_exactly(&mut lab, &nothing);
    only_bare(&lab, 1000);
}

#[test]
#[ignore = "needs root and nft: tests/run runs it"]
fn e05_each_packet_of_protocol_50_that_comes_twice_is_refused_once() {
    let mut lab = BARE.up();
    // One in seven is copied on its way to B.
    let target = lab.addressing().b.outside[0];
    filter(
        &lab,
        &format!(
            "table ip double {{ chain prerouting {{ type filter hook prerouting priority filter; \
             iifname leg-a meta l4proto esp numgen inc mod 7 == 0 counter dup to {target} device leg-b; }}; }}"
        ),
    );
    let result = Load::of_sizes((0..2000).map(|number| 8 + number * 7 % 1300)).both_ways(&lab);
    for way in well(&mut lab, result) {
        assert_eq!(way.twice, 0);
    }
    let rules = on(
        lab.topology().wan(),
        "nft",
        &["list", "table", "ip", "double"],
    );
    let copies = counted(&rules);
    assert!(copies >= 280, "{rules}");
    refused_exactly(&mut lab, &|side| match side {
        Side::A => BTreeMap::new(),
        Side::B => BTreeMap::from([("replay", copies)]),
    });
}
