//! One packet in a hundred is lost on the way, both ways: TCP carries every byte all the same, and nothing is refused for it.

use groundlink::lab::options::{RemoteKind, Side};

use super::super::lab::filter;
use super::*;

/// How GSO packets appear at the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// All of it in one piece: it is lost as a whole.
    GsoPackets,
    /// Its packets, as on a wire.
    Packets,
}

fn survives(case: &Case, shape: Shape) {
    let mut lab = case.up();
    if shape == Shape::Packets {
        for side in [Side::A, Side::B] {
            let gateway = lab.topology().gateway(side);
            on(gateway, "ip", &["link", "set", "wan0", "gso_max_segs", "1"]);
        }
    }
    // Only ESP, so that this is about the datapath.
    let lose = |leg: &str| {
        format!(
            "iifname {leg} udp dport 4500 @th,64,32 != 0 numgen random mod 100 < 1 counter drop"
        )
    };
    let (from_a, from_b) = (lose("leg-a"), lose("leg-b"));
    filter(
        &lab,
        &format!(
            "table ip loss {{ chain forward {{ type filter hook forward priority filter; {from_a}; {from_b}; }}; }}"
        ),
    );
    let carried = bulk::both_ways(&lab, case.bulk() / 2);
    well(&mut lab, carried);
    let rules = on(
        lab.topology().wan(),
        "nft",
        &["list", "table", "ip", "loss"],
    );
    let lost: Vec<u64> = rules
        .lines()
        .filter(|line| line.contains("counter"))
        .map(counted)
        .collect();
    assert!(
        lost.len() == 2 && lost.iter().all(|count| *count > 0),
        "{rules}"
    );
    refused_exactly(&mut lab, &nothing);
    offload_is_still(&mut lab, case.offload);
    println!("{case:?}, {shape:?}: {lost:?} lost");
}

#[test]
#[ignore = "needs root, strongSwan and nft: tests/run runs it"]
fn tcp_survives_the_loss_of_one_packet_in_a_hundred_towards_and_from_strongswan() {
    for case in Case::matrix(RemoteKind::Strongswan) {
        survives(&case, Shape::Packets);
    }
}

#[test]
#[ignore = "needs root and nft: tests/run runs it"]
fn tcp_survives_the_loss_of_one_packet_or_one_gso_packet_in_a_hundred() {
    for (esp, shape) in SUITES.into_iter().zip([Shape::GsoPackets, Shape::Packets]) {
        for offload in ["auto", "off"] {
            survives(
                &Case {
                    esp,
                    offload,
                    ..Case::of(RemoteKind::Groundlink)
                },
                shape,
            );
        }
    }
}
