//! TCP both ways, UDP in GSO packets both ways, a datagram of each size from 1 to 1500 octets both ways, and ICMP: with offload and
//! without it, in both address families, against strongSwan and against ourselves.

use groundlink::lab::options::{AddressFamily, RemoteKind, Side};

use super::load::Load;
use super::*;

/// Sizes of echo requests: the least, those around a word and a block, what just fits a tunnel, a whole Ethernet frame, several.
const ECHOES: [usize; 12] = [0, 1, 7, 8, 56, 100, 511, 1300, 1394, 1395, 1452, 4000];

fn carries(case: &Case) {
    let mut lab = case.up();
    let device = lab.a().status().unwrap().tunnels.remove(0).device;
    count_joined(lab.topology().wan(), "leg-a");
    count_joined(lab.topology().gateway(Side::B), &device);

    let carried = bulk::both_ways(&lab, case.bulk());
    well(&mut lab, carried);
    let result = Load::of_gso_packets(3000, 1300).both_ways(&lab);
    well(&mut lab, result);
    let result = Load::of_sizes(1..=1500).both_ways(&lab);
    for way in well(&mut lab, result) {
        assert_eq!(way.twice, 0);
    }
    let echoed = echo::of_sizes(&lab, &ECHOES);
    well(&mut lab, echoed);

    refused_exactly(&mut lab, &nothing);
    offload_is_still(&mut lab, case.offload);
    let offloaded = case.offload == "auto";
    let gso_packets = joined(lab.topology().wan());
    assert_eq!(
        gso_packets > 0,
        offloaded,
        "{gso_packets} gso_packets left A"
    );
    if case.peer == RemoteKind::Groundlink {
        let arrived = joined(lab.topology().gateway(Side::B));
        assert_eq!(
            arrived > 0,
            offloaded,
            "B delivered {arrived} super-packets"
        );
    }
    println!("{case:?}: {gso_packets} gso_packets");
}

macro_rules! cases {
    ($($name:ident: $peer:expr, $inner:expr, $offload:literal;)*) => {$(
        #[test]
        #[ignore = "needs root, strongSwan and nft: tests/run runs it"]
        fn $name() {
            for esp in SUITES {
                carries(&Case { inner: $inner, offload: $offload, esp, ..Case::of($peer) });
            }
        }
    )*};
}

cases! {
    ipv4_with_strongswan: RemoteKind::Strongswan, AddressFamily::V4, "auto";
    ipv4_with_strongswan_without_offload: RemoteKind::Strongswan, AddressFamily::V4, "off";
    ipv6_with_strongswan: RemoteKind::Strongswan, AddressFamily::V6, "auto";
    ipv6_with_strongswan_without_offload: RemoteKind::Strongswan, AddressFamily::V6, "off";
    ipv4_with_ourselves: RemoteKind::Groundlink, AddressFamily::V4, "auto";
    ipv4_with_ourselves_without_offload: RemoteKind::Groundlink, AddressFamily::V4, "off";
    ipv6_with_ourselves: RemoteKind::Groundlink, AddressFamily::V6, "auto";
    ipv6_with_ourselves_without_offload: RemoteKind::Groundlink, AddressFamily::V6, "off";
}
