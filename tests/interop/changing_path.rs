//! Paths and devices that change while tunnels are up.

use std::net::UdpSocket;
use std::time::Duration;

use groundlink::ike::Encapsulation;
use groundlink::lab::options::{AddressFamily, LabOptions, Side};
use groundlink::lab::{Lab, Overrides, RemoteGateway};
use groundlink::status::{TunnelState, TunnelStatus};

use super::lab::{ip, logs, tunnel_within, up};
use super::wait;

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

/// A's addresses on the tunnel's device.
fn device_addresses(lab: &Lab) -> String {
    ip(
        lab.topology().gateway(Side::A),
        "-o address show dev gl-lab-1",
    )
}

fn has_all_addresses(lab: &Lab) -> Result<(), String> {
    let shown = device_addresses(lab);
    let all = ["169.254.10.2/30", "fd00:77::2/126", "inet6 fe80::"];
    let has = all.iter().all(|address| shown.contains(address));
    has.then_some(()).ok_or(shown)
}

fn with_inside(side: Side, written: String) -> String {
    match side {
        Side::A => written + "inside = [\"169.254.10.2/30\", \"fd00:77::2/126\"]\n",
        Side::B => written,
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_device_has_all_its_addresses_again_after_it_was_down() {
    let changes = Overrides {
        config: Some(&with_inside),
        connection: None,
    };
    let mut lab = up(&LabOptions::default(), &changes);
    has_all_addresses(&lab).unwrap();
    for words in ["link set gl-lab-1 down", "link set gl-lab-1 up"] {
        ip(lab.topology().gateway(Side::A), words);
    }
    wait::until(FOLLOWS, "all addresses", || has_all_addresses(&lab));
    assert_eq!(lab.ping(5).unwrap().received, 5, "{}", logs(&mut lab));
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_removed_device_comes_back_with_the_same_sas() {
    let changes = Overrides {
        config: Some(&with_inside),
        connection: None,
    };
    let mut lab = up(&LabOptions::default(), &changes);
    let spi = |tunnel: &TunnelStatus| tunnel.child.as_ref().map(|child| child.spi_in.clone());
    let before = tunnel_within(&mut lab, FOLLOWS, "is up", |_| true);
    ip(lab.topology().gateway(Side::A), "link del gl-lab-1");
    wait::until(FOLLOWS, "the device is back with its route", || {
        let routes = ip(lab.topology().gateway(Side::A), "route show proto 171");
        let links = ip(lab.topology().gateway(Side::A), "link show");
        let is_back = routes.contains("dev gl-lab-1") && !routes.contains("linkdown");
        (is_back && links.contains("gl-lab-1:"))
            .then_some(())
            .ok_or_else(|| format!("{links}{routes}"))
    });
    has_all_addresses(&lab).unwrap();
    let pings = lab.ping(5).unwrap();
    assert_eq!(pings.received, 5, "{}", logs(&mut lab));
    let after = tunnel_within(&mut lab, FOLLOWS, "is up", |_| true);
    assert_eq!(spi(&after), spi(&before));
    assert!(after.rx.packets >= 5, "the counters stay: {after:?}");
    // A program that removes the device again and again does not keep the daemon busy.
    ip(lab.topology().gateway(Side::A), "link del gl-lab-1");
    let waiting = tunnel_within(&mut lab, FOLLOWS, "waits", |tunnel| {
        tunnel.last_error.is_some()
    });
    assert_eq!(waiting.last_error.unwrap().code, "no-device");
    tunnel_within(&mut lab, Duration::from_secs(10), "is up", |tunnel| {
        tunnel.state == TunnelState::Up
    });
    assert_eq!(lab.ping(5).unwrap().received, 5, "{}", logs(&mut lab));
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_removed_device_whose_name_is_taken_comes_back_once_it_is_free() {
    let mut lab = up(&LabOptions::default(), &Overrides::default());
    for words in [
        "link set gl-lab-1 down",
        "link set gl-lab-1 name moved",
        "link add gl-lab-1 type veth peer name other",
        "link del moved",
    ] {
        ip(lab.topology().gateway(Side::A), words);
    }
    let waiting = tunnel_within(&mut lab, FOLLOWS, "waits", |tunnel| {
        tunnel.last_error.is_some()
    });
    let error = waiting.last_error.unwrap();
    assert_eq!(
        (waiting.state, error.code.as_str()),
        (TunnelState::Connecting, "no-device")
    );
    assert!(error.text.contains("is taken"), "{error:?}");
    ip(lab.topology().gateway(Side::A), "link del gl-lab-1");
    tunnel_within(&mut lab, Duration::from_secs(10), "is up", |tunnel| {
        tunnel.state == TunnelState::Up
    });
    assert_eq!(lab.ping(5).unwrap().received, 5, "{}", logs(&mut lab));
}

/// A's tunnel of this name.
fn named(lab: &mut Lab, name: &str) -> Option<TunnelStatus> {
    let tunnels = lab.a().status().ok()?.tunnels;
    tunnels.into_iter().find(|tunnel| tunnel.name == name)
}

/// Waits until A's tunnel of this name waits for something of this machine, or no longer.
#[track_caller]
fn waits_for(lab: &mut Lab, name: &str, code: Option<&str>) {
    const MISSING: [&str; 3] = ["no-address", "no-secret", "no-device"];
    wait::until(Duration::from_secs(40), name, || {
        let tunnel = named(lab, name);
        let seen = tunnel.as_ref().and_then(|tunnel| {
            let error = tunnel.last_error.as_ref()?;
            let is_missing = MISSING.contains(&error.code.as_str());
            is_missing.then(|| (error.code.clone(), tunnel.state, tunnel.next_attempt_s))
        });
        let is = match (&seen, code) {
            (Some((seen, TunnelState::Connecting, Some(next))), Some(code)) => {
                seen == code && *next <= 30.0
            }
            (None, None) => tunnel.is_some(),
            _ => false,
        };
        is.then_some(())
            .ok_or_else(|| format!("{tunnel:#?}\n{}", logs(lab)))
    });
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_tunnel_without_its_address_key_or_device_name_waits_and_all_others_work() {
    let secret = tempfile::tempdir().unwrap();
    let key = secret.path().join("later");
    let lacking = |side: Side, written: String| match side {
        Side::A => {
            let tunnel = |name: &str, network: u8, more: &str| {
                format!(
                    "\n[[tunnel]]\nname = \"{name}\"\npeer = \"192.0.2.{network}\"\nlocal = [\"10.1.0.0/24\"]\n\
                     remote = [\"10.{network}.0.0/24\"]\naddress = \"192.0.2.1\"\n{more}\n"
                )
            };
            let psk = written
                .lines()
                .find(|line| line.starts_with("psk"))
                .unwrap();
            let ours = "local-address = \"192.0.2.1\"";
            [
                written.clone(),
                tunnel(
                    "address",
                    201,
                    &format!("{psk}\nlocal-address = \"192.0.2.77\""),
                ),
                tunnel(
                    "nonlocal",
                    202,
                    &format!("{psk}\nlocal-address = \"192.0.2.78\""),
                ),
                tunnel(
                    "device",
                    203,
                    &format!("{psk}\n{ours}\ndevice = \"gl-taken\""),
                ),
                tunnel(
                    "secret",
                    204,
                    &format!("psk = {{ file = {key:?} }}\n{ours}"),
                ),
            ]
            .concat()
        }
        Side::B => written,
    };
    let changes = Overrides {
        config: Some(&lacking),
        connection: None,
    };
    let mut lab = super::lab::build(&LabOptions::default(), &changes);
    ip(
        lab.topology().gateway(Side::A),
        "link add gl-taken type veth peer name gl-other",
    );
    // The first start may have had the name.
    lab.a().process().stop().unwrap();
    lab.restart_a(super::lab::program()).unwrap();
    let works = |lab: &mut Lab| {
        let is_up = |tunnel: &TunnelStatus| tunnel.state == TunnelState::Up;
        tunnel_within(lab, Duration::from_secs(10), "is up", is_up);
        assert_eq!(lab.ping(3).unwrap().received, 3, "{}", logs(lab));
    };
    works(&mut lab);
    waits_for(&mut lab, "address", Some("no-address"));
    waits_for(&mut lab, "nonlocal", Some("no-address"));
    waits_for(&mut lab, "device", Some("no-device"));
    waits_for(&mut lab, "secret", Some("no-secret"));
    // Nothing leaks meanwhile.
    let routes = ip(lab.topology().gateway(Side::A), "route show proto 171");
    for network in 201..=204 {
        assert!(
            routes.contains(&format!("unreachable 10.{network}.0.0/24")),
            "{routes}"
        );
    }

    ip(
        lab.topology().gateway(Side::A),
        "address add 192.0.2.77/25 dev wan0",
    );
    waits_for(&mut lab, "address", None);
    ip(lab.topology().gateway(Side::A), "link del gl-taken");
    waits_for(&mut lab, "device", None);
    ip(lab.topology().gateway(Side::A), "link show gl-taken");
    groundlink::lab::process::write_private(&key, "a key that came later and is long").unwrap();
    waits_for(&mut lab, "secret", None);
    waits_for(&mut lab, "nonlocal", Some("no-address"));
    let nonlocal = lab
        .topology()
        .gateway(Side::A)
        .set("net.ipv4.ip_nonlocal_bind", "1");
    nonlocal.unwrap();
    waits_for(&mut lab, "nonlocal", None);
    works(&mut lab);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_dual_stack_tunnel_carries_ipv4_while_ipv6_is_off() {
    let dual = |side: Side, written: String| {
        let (ours, theirs) = match side {
            Side::A => (1, 2),
            Side::B => (2, 1),
        };
        let with = |network: u8| format!("[\"10.{network}.0.0/24\", \"fd00:{network}::/64\"]");
        let written = written
            .replace(
                &format!("local = [\"10.{ours}.0.0/24\"]"),
                &format!("local = {}", with(ours)),
            )
            .replace(
                &format!("remote = [\"10.{theirs}.0.0/24\"]"),
                &format!("remote = {}", with(theirs)),
            );
        written + &format!("inside = [\"169.254.10.{ours}/30\", \"fd00:77::{ours}/126\"]\n")
    };
    let changes = Overrides {
        config: Some(&dual),
        connection: None,
    };
    let mut lab = up(&LabOptions::default(), &changes);
    lab.a().process().stop().unwrap();
    for scope in ["all", "default"] {
        let setting = format!("net.ipv6.conf.{scope}.disable_ipv6");
        lab.topology().gateway(Side::A).set(&setting, "1").unwrap();
    }
    lab.restart_a(super::lab::program()).unwrap();
    let is_up = |tunnel: &TunnelStatus| tunnel.state == TunnelState::Up;
    tunnel_within(&mut lab, Duration::from_secs(10), "is up", is_up);
    assert_eq!(lab.ping(5).unwrap().received, 5, "{}", logs(&mut lab));
    let log = lab.a().process().log();
    assert!(
        log.contains("disable_ipv6") && !log.contains("CAP_NET_ADMIN"),
        "{log}"
    );
}
