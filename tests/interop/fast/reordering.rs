//! A way between the gateways that delays some packets behind others and repeats some: what arrives is right, each copy is refused
//! as a replay, and nothing else is.

use groundlink::lab::Overrides;
use groundlink::lab::charon::CharonConfig;
use groundlink::lab::options::{RemoteKind, Side};

use super::super::lab::build;
use super::load::Load;
use super::relay::{Checksum, Impairment, Relay};
use super::*;

/// A lab whose gateways know each other by the addresses of the relay between them.
fn across(case: &Case, mischief: Impairment) -> (Lab, Relay) {
    let options = case.options();
    let plan = groundlink::lab::addressing::Addressing::new(&options);
    let config = |side: Side, written: String| {
        let (theirs, router) = (plan.site(side.other()).outside[0], plan.site(side).router);
        // The relay is not there before the lab is.
        let written = written
            .replace("start = \"auto\"", "start = \"add\"")
            .replace(
                &format!("peer = \"{theirs}\""),
                &format!("peer = \"{router}\""),
            );
        case.config(&written, &format!("peer-id = \"{theirs}\"\n"))
    };
    let connection = |connection: &mut CharonConfig| connection.remote = plan.b.router;
    let changes = Overrides {
        config: Some(&config),
        connection: Some(&connection),
    };
    let mut lab = build(&options, &changes);
    let relay = Relay::begin(&lab, mischief).unwrap();
    bring_up(&mut lab);
    (lab, relay)
}

fn survives(case: &Case) {
    // RemoteGateway less than any window: charon's holds 32.
    let mischief = Impairment {
        late: 7,
        behind: 5,
        double: 11,
        ..Impairment::default()
    };
    let (mut lab, relay) = across(case, mischief);
    let result = Load::of_gso_packets(3000, 1300).both_ways(&lab);
    for way in well(&mut lab, result) {
        assert!(way.twice == 0 && way.overtaken > 100, "{way:?}");
    }
    let result = Load::of_sizes(1..=1300).both_ways(&lab);
    for way in well(&mut lab, result) {
        assert_eq!(way.twice, 0);
    }
    let carried = bulk::both_ways(&lab, case.bulk() / 4);
    well(&mut lab, carried);
    refused_exactly(&mut lab, &|side| {
        BTreeMap::from([("replay", relay.doubled_towards(side))])
    });
    assert!(relay.doubled_towards(Side::A) > 500);
    offload_is_still(&mut lab, case.offload);
    println!(
        "{case:?}: {} copies refused by A",
        relay.doubled_towards(Side::A)
    );
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn e05_late_packets_are_carried_and_copies_refused_with_strongswan() {
    for case in Case::matrix(RemoteKind::Strongswan) {
        survives(&case);
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn e05_late_packets_are_carried_and_copies_refused() {
    for (esp, inner) in SUITES
        .into_iter()
        .zip([AddressFamily::V4, AddressFamily::V6])
    {
        survives(&Case {
            esp,
            inner,
            ..Case::of(RemoteKind::Groundlink)
        });
    }
}

#[test]
#[ignore = "needs root, strongSwan and nft: tests/run runs it"]
fn datagrams_without_a_checksum_are_as_good_as_those_with_one() {
    for peer in [RemoteKind::Groundlink, RemoteKind::Strongswan] {
        let mischief = Impairment {
            checksum: Checksum::Zero,
            ..Impairment::default()
        };
        let case = Case::of(peer);
        let (mut lab, _relay) = across(&case, mischief);
        // What has a checksum does not reach the gateways at all.
        for side in [Side::A, Side::B] {
            let rule = "table ip bare { chain input { type filter hook input priority filter; udp sport 4500 udp checksum != 0 counter drop; }; }";
            on(lab.topology().gateway(side), "nft", &[rule]);
        }
        let result = Load::of_gso_packets(2000, 1300).both_ways(&lab);
        well(&mut lab, result);
        let carried = bulk::both_ways(&lab, case.bulk() / 4);
        well(&mut lab, carried);
        for side in [Side::A, Side::B] {
            let rules = on(
                lab.topology().gateway(side),
                "nft",
                &["list", "table", "ip", "bare"],
            );
            assert_eq!(counted(&rules), 0, "{rules}");
        }
        refused_exactly(&mut lab, &nothing);
    }
}
