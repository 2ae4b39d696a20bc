//! Packets larger than Ethernet's: a tunnel over a way that takes 9000 octets, a tunnel over a way that takes less than it says, and
//! packets larger than the tunnel.
//!
//! ```text
//!  host ── 9000 ── gateway ── 9000 or 1500 ── the way ── … ── gateway ── 9000 ── host
//!                     └─ the tunnel: 8900
//! ```

use std::net::{IpAddr, UdpSocket};

use nix::sys::socket::{getsockopt, sockopt};

use super::super::lab::build;
use super::load::{Load, LoadResult};
use super::*;

/// The largest inner packet.
const TUNNEL: u16 = 8900;
/// What the devices of the two networks take.
const NETWORK: u32 = 9000;

/// What the largest packet leaves for the payload of UDP.
const fn room(inner: AddressFamily) -> usize {
    match inner {
        AddressFamily::V4 => TUNNEL as usize - 20 - 8,
        AddressFamily::V6 => TUNNEL as usize - 40 - 8,
    }
}

fn set_mtu(machine: &Namespace, device: &str, mtu: u32) {
    let mut netlink = machine.netlink().unwrap();
    let device = netlink.link_named(device).unwrap().index;
    netlink.set_mtu(device, mtu).unwrap();
}

/// A lab with a tunnel of [`TUNNEL`], whose gateways have `outer` between them.
fn lab_of(case: &Case, outer: u32) -> Lab {
    let config = |_: Side, written: String| {
        let waits = written.replace("start = \"auto\"", "start = \"add\"");
        case.config(&waits, &format!("mtu = {TUNNEL}\n"))
    };
    let changes = Overrides {
        config: Some(&config),
        connection: None,
    };
    let mut lab = build(&case.options(), &changes);
    let world = lab.topology();
    for (side, leg) in [(Side::A, "leg-a"), (Side::B, "leg-b")] {
        set_mtu(world.host(side), "eth0", NETWORK);
        set_mtu(world.gateway(side), "lan0", NETWORK);
        set_mtu(world.gateway(side), "wan0", outer);
        set_mtu(world.wan(), leg, outer);
    }
    bring_up(&mut lab);
    let tunnel = tunnel_that(&mut lab, "is up", |tunnel| tunnel.child.is_some());
    assert_eq!(tunnel.child.unwrap().mtu, TUNNEL);
    lab
}

/// Sizes around each limit that a buffer, a page, a frame or a fragment has, and the largest that the tunnel takes whole.
fn sizes(inner: AddressFamily) -> impl Iterator<Item = usize> {
    let edges = [1472, 2048, 4096, 8192, room(inner)];
    let around = edges.into_iter().flat_map(|edge| edge - 48..=edge);
    (1400..=1600)
        .chain(around)
        .chain((1600..=room(inner)).step_by(97))
}

fn carries(case: &Case, outer: u32) {
    let mut lab = lab_of(case, outer);
    for from in [Side::A, Side::B] {
        for load in [
            Load::of_sizes(sizes(case.inner)),
            Load::of_gso_packets(500, 4000),
            Load::of_gso_packets(500, room(case.inner)),
        ] {
            let result = load.fly(&lab, from);
            well(&mut lab, result);
        }
    }
    let echoed = echo::of_sizes(&lab, &[0, 1472, 4095, 8000, room(case.inner)]);
    well(&mut lab, echoed);
    let carried = bulk::both_ways(&lab, case.bulk() / 2);
    well(&mut lab, carried);
    refused_exactly(&mut lab, &nothing);
    if outer > TUNNEL.into() {
        offload_is_still(&mut lab, case.offload);
    }
    println!("{case:?} over {outer} octets");
}

#[test]
#[ignore = "needs root and nft: tests/run runs it"]
fn e20_packets_of_nearly_9000_octets_are_carried_whole() {
    for (esp, inner) in SUITES
        .into_iter()
        .zip([AddressFamily::V4, AddressFamily::V6])
    {
        for offload in ["auto", "off"] {
            let case = Case {
                esp,
                inner,
                offload,
                ..Case::of(RemoteKind::Groundlink)
            };
            carries(&case, NETWORK);
        }
    }
}

/// charon takes large packets from us, but cuts off what it reads from a device whose MTU was raised: its own are of the usual size.
/// TCP alone, since of several hundred large datagrams in a row it loses some.
#[test]
#[ignore = "needs root, strongSwan and nft: tests/run runs it"]
fn e20_tcp_in_packets_of_nearly_9000_octets_passes_to_strongswan() {
    for case in Case::matrix(RemoteKind::Strongswan) {
        let mut lab = lab_of(&case, NETWORK);
        // Nothing joins packets on their way out of charon.
        count_joined(lab.topology().gateway(Side::B), "ipsec0");
        let carried = bulk::both_ways(&lab, case.bulk());
        well(&mut lab, carried);
        refused_exactly(&mut lab, &nothing);
        offload_is_still(&mut lab, case.offload);
        let large = joined(lab.topology().gateway(Side::B));
        println!("{case:?}: {large} large packets");
        assert!(large >= (case.bulk() / TUNNEL as usize) as u64, "{large}");
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn e10_esp_in_fragments_is_put_together_before_it_is_opened() {
    for (esp, outer) in SUITES
        .into_iter()
        .zip([AddressFamily::V4, AddressFamily::V6])
    {
        for offload in ["auto", "off"] {
            let case = Case {
                esp,
                outer,
                offload,
                ..Case::of(RemoteKind::Groundlink)
            };
            carries(&case, 1500);
        }
    }
}

/// Has the tunnels' devices take more than the tunnels, so that it is the gateway that must do something about it and not its kernel.
fn widen(lab: &mut Lab) {
    for (side, snapshot) in snapshots(lab) {
        set_mtu(
            lab.topology().gateway(side),
            &snapshot.tunnels[0].device,
            NETWORK,
        );
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn e10_native_esp_in_fragments_is_put_together_before_it_is_opened() {
    for outer in [AddressFamily::V4, AddressFamily::V6] {
        let case = Case {
            esp: SUITES[1],
            outer,
            encapsulation: Encapsulation::Esp,
            ..Case::of(RemoteKind::Groundlink)
        };
        let mut lab = lab_of(&case, 1500);
        let largest = room(case.inner);
        let sizes = (1400..=1600)
            .chain((1600..largest).step_by(97))
            .chain([largest]);
        let result = Load::of_sizes(sizes).both_ways(&lab);
        well(&mut lab, result);
        let carried = bulk::both_ways(&lab, 4 << 20);
        well(&mut lab, carried);
        refused_exactly(&mut lab, &nothing);
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn e13_what_is_larger_than_the_tunnel_is_cut_where_it_may_be() {
    for offload in ["auto", "off"] {
        let case = Case {
            offload,
            ..Case::of(RemoteKind::Groundlink)
        };
        let mut lab = lab_of(&case, NETWORK);
        for side in [Side::A, Side::B] {
            // Without DF: what is too long for a link is cut by its router.
            let host = lab.topology().host(side);
            host.set("net/ipv4/ip_no_pmtu_disc", "1").unwrap();
        }
        let beyond = [
            room(AddressFamily::V4) + 1,
            8950,
            8972,
            9000,
            20_000,
            65_507,
        ];
        let result = Load::of_sizes(beyond).both_ways(&lab);
        well(&mut lab, result);
        widen(&mut lab);
        let result = Load::of_sizes(8800..=8972).both_ways(&lab);
        well(&mut lab, result);
        let result = Load::of_sizes(beyond).both_ways(&lab);
        well(&mut lab, result);
        refused_exactly(&mut lab, &nothing);
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn e13_packets_over_the_tunnel_mtu_with_df_are_dropped_and_answered_by_icmp() {
    for inner in [AddressFamily::V4, AddressFamily::V6] {
        let case = Case {
            inner,
            ..Case::of(RemoteKind::Groundlink)
        };
        let mut lab = lab_of(&case, NETWORK);
        widen(&mut lab);
        // The first of them is lost and tells the host; from then on the host cuts by itself.
        let result = Load::of_sizes(8800..=8952).both_ways(&lab);
        for LoadResult { twice, .. } in well(&mut lab, result) {
            assert_eq!(twice, 0);
        }
        if let (IpAddr::V4(a), IpAddr::V4(b)) = (lab.addressing().a.host, lab.addressing().b.host) {
            let host = lab.topology().host(Side::A);
            let socket = host.run(|| UdpSocket::bind((a, 0))).unwrap().unwrap();
            socket.connect((b, 9)).unwrap();
            assert_eq!(getsockopt(&socket, sockopt::IpMtu), Ok(TUNNEL.into()));
        }
        // One packet each way.
        refused_exactly(&mut lab, &|_| BTreeMap::from([("too-big", 1)]));
        let carried = bulk::both_ways(&lab, 4 << 20);
        well(&mut lab, carried);
    }
}
