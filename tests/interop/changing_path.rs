//! A path that changes while tunnels are up.

use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use groundlink::ike::Encapsulation;
use groundlink::lab::options::{AddressFamily, LabOptions, Side};
use groundlink::lab::{Lab, Overrides, RemoteGateway};
use groundlink::os::netns::Namespace;
use groundlink::status::TunnelStatus;

use super::lab::{logs, text, tunnel_within, up};
use super::wait;

/// Runs `ip` in a namespace.
fn ip(namespace: &Namespace, words: &str) -> String {
    let mut ip = Command::new("ip");
    ip.args(words.split(' '));
    namespace.enter(&mut ip).unwrap();
    let output = ip.output().unwrap();
    assert!(
        output.status.success(),
        "ip {words}: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// Time for an inner MTU to follow: the product promises a second.
const FOLLOWS: Duration = Duration::from_secs(3);

fn inner_mtu(tunnel: &TunnelStatus) -> u16 {
    tunnel.child.as_ref().map_or(0, |child| child.mtu)
}

/// Sets the MTU of both ends of the link between A's gateway and the WAN.
fn set_leg_mtu(lab: &Lab, mtu: u16) {
    ip(
        lab.topology().gateway(Side::A),
        &format!("link set wan0 mtu {mtu}"),
    );
    ip(lab.topology().wan(), &format!("link set leg-a mtu {mtu}"));
}

/// Waits until the first tunnel of B satisfies `wanted`.
fn b_tunnel_that(lab: &mut Lab, what: &str, wanted: impl Fn(&TunnelStatus) -> bool) {
    wait::until(FOLLOWS, what, || {
        let RemoteGateway::Groundlink(b) = lab.b() else {
            unreachable!("the lab runs groundlink")
        };
        let tunnel = b
            .status()
            .ok()
            .and_then(|all| all.tunnels.into_iter().next());
        let found = tunnel.as_ref().is_some_and(&wanted);
        found
            .then_some(())
            .ok_or_else(|| format!("{tunnel:#?}\n{}", logs(lab)))
    });
}

/// Sends a datagram that fills a path of 1500 octets from the host of `side` to the other.
fn send_large_datagram(lab: &Lab, side: Side) {
    let to = lab.addressing().site(side.other()).host;
    let socket = lab
        .topology()
        .host(side)
        .run(|| UdpSocket::bind("0.0.0.0:0"));
    socket
        .unwrap()
        .unwrap()
        .send_to(&[0; 1370], (to, 9))
        .unwrap();
}

/// Carries TCP from `side`, over new connections.
fn carries(lab: &mut Lab, side: Side) {
    let carried = lab.tcp(side, 2, Duration::from_millis(500)).unwrap();
    assert!(
        carried.bytes > 1_000_000,
        "{side}: {carried:?}{}",
        logs(lab)
    );
}

//   host A ── gateway A ── 1400 ── WAN ── gateway B ── host B
//             its own link │        │ only ICMPv6 errors tell B; IPv4 packets of B are fragmented by the WAN
#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_inner_mtu_follows_the_link_and_the_path_in_both_families_and_encapsulations() {
    for outer in [AddressFamily::V4, AddressFamily::V6] {
        for encapsulation in [Encapsulation::Udp, Encapsulation::Esp] {
            let options = LabOptions {
                outer,
                encapsulation,
                ..LabOptions::default()
            };
            let case = format!("{outer:?} {encapsulation:?}");
            let mut lab = up(&options, &Overrides::default());
            let before = inner_mtu(&tunnel_within(&mut lab, FOLLOWS, &case, |_| true));
            set_leg_mtu(&lab, 1400);
            let shrinks = |tunnel: &TunnelStatus| (1280..=before - 90).contains(&inner_mtu(tunnel));
            let after = tunnel_within(&mut lab, FOLLOWS, &case, shrinks);
            let device = ip(lab.topology().gateway(Side::A), "link show gl-lab-1");
            let mtu = format!("mtu {} ", inner_mtu(&after));
            assert!(device.contains(&mtu), "{case}: {device}");
            carries(&mut lab, Side::A);
            if outer == AddressFamily::V6 {
                // The first packet of full size brings the ICMPv6 error.
                send_large_datagram(&lab, Side::B);
                b_tunnel_that(&mut lab, &case, shrinks);
            }
            carries(&mut lab, Side::B);
            set_leg_mtu(&lab, 1500);
            let grows = |tunnel: &TunnelStatus| inner_mtu(tunnel) == before;
            tunnel_within(&mut lab, FOLLOWS, &case, grows);
            carries(&mut lab, Side::A);
        }
    }
}
