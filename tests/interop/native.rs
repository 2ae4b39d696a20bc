//! IP protocol 50 or UDP 4500: what a tunnel chooses, what it says where it must not, and that it stays with what it has chosen.
//!
//! ```text
//!   encapsulation   clear way      NAT in between      strongSwan's userspace ESP (it forces UDP, whatever we do)
//!   auto            protocol 50    UDP 4500            UDP 4500
//!   esp             protocol 50    refused             refused
//! ```

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use groundlink::ike::Encapsulation;
use groundlink::lab::interrupt::Interrupt;
use groundlink::lab::options::{
    AddressFamily, InitiatorChoice, LabOptions, NatPlacement, RemoteKind, Side,
};
use groundlink::lab::{Lab, Overrides, RemoteGateway};
use groundlink::net::EspTransport;
use groundlink::status::{TunnelState, TunnelStatus};
use nix::sys::signal::Signal;

use super::lab::{
    build, carries, carries_bare, failure, filter, logs, program, run, text, tunnel_that, up,
};
use super::stream::Stream;
use super::wait;

/// Datagrams a second each way.
const RATE: u32 = 500;

fn options(encapsulation: Encapsulation) -> LabOptions {
    LabOptions {
        encapsulation,
        ike: Some("aes128-sha256-curve25519".to_owned()),
        esp: Some("aes128-sha256-curve25519".to_owned()),
        ..LabOptions::default()
    }
}

/// Whether this tunnel is up and says that it is carried so.
fn is_carried(tunnel: &TunnelStatus, by: EspTransport) -> bool {
    let child = tunnel.child.as_ref();
    tunnel.state == TunnelState::Up && child.is_some_and(|child| child.encapsulation == by)
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn without_a_nat_nothing_but_ike_and_protocol_50_is_on_the_wire() {
    for words in [
        "--encapsulation auto",
        "--encapsulation esp --role responder --family 6 --inner 6",
    ] {
        let report = carries_bare(words);
        let tunnel = &report["tunnels"][0];
        assert_eq!(tunnel["child"]["encapsulation"], "esp", "{words}");
        assert_eq!(tunnel["ike"]["nat"], "none", "{words}");
    }
}

#[test]
#[ignore = "needs root, strongSwan and nft: tests/run runs it"]
fn auto_goes_into_udp_behind_a_nat_and_with_strongswans_userspace_esp() {
    for (peer, nat, role, seen) in [
        (
            RemoteKind::Groundlink,
            NatPlacement::Us,
            InitiatorChoice::Initiator,
            "us",
        ),
        (
            RemoteKind::Groundlink,
            NatPlacement::Us,
            InitiatorChoice::Responder,
            "us",
        ),
        (
            RemoteKind::Groundlink,
            NatPlacement::Peer,
            InitiatorChoice::Initiator,
            "peer",
        ),
        (
            RemoteKind::Groundlink,
            NatPlacement::Peer,
            InitiatorChoice::Responder,
            "peer",
        ),
        // It pretends that a NAT stands in front of it.
        (
            RemoteKind::Strongswan,
            NatPlacement::None,
            InitiatorChoice::Initiator,
            "peer",
        ),
        (
            RemoteKind::Strongswan,
            NatPlacement::None,
            InitiatorChoice::Responder,
            "peer",
        ),
        (
            RemoteKind::Strongswan,
            NatPlacement::Us,
            InitiatorChoice::Initiator,
            "both",
        ),
    ] {
        let options = LabOptions {
            peer,
            nat,
            role,
            ..options(Encapsulation::Auto)
        };
        let mut lab = up(&options, &Overrides::default());
        let case = format!("{peer:?}, {nat:?}, {role:?}");
        let tunnel = tunnel_that(&mut lab, "is carried in UDP", |tunnel| {
            is_carried(tunnel, EspTransport::Udp)
        });
        let json = serde_json::to_value(&tunnel).unwrap();
        assert_eq!(json["ike"]["nat"], seen, "{case}");
        assert_eq!(lab.ping(10).unwrap().received, 10, "{case}");
        let wire = lab.wire();
        assert!(wire.esp_udp >= 2, "{case}: {wire:?}");
        assert_eq!((wire.esp_native, wire.clear), (0, 0), "{case}");
    }
    // The lab's own traffic: TCP both ways.
    carries("--encapsulation auto --peer strongswan");
}

#[test]
#[ignore = "needs root, strongSwan and nft: tests/run runs it"]
fn esp_across_a_nat_or_with_a_peer_that_forces_udp_is_refused_and_the_way_out_is_named() {
    let strongswan = |role| LabOptions {
        peer: RemoteKind::Strongswan,
        role,
        ..options(Encapsulation::Esp)
    };
    let translated = |nat, role| LabOptions {
        nat,
        role,
        ..options(Encapsulation::Esp)
    };
    for (options, who) in [
        (
            strongswan(InitiatorChoice::Initiator),
            "forces UDP encapsulation",
        ),
        (
            strongswan(InitiatorChoice::Responder),
            "forces UDP encapsulation",
        ),
        (
            translated(NatPlacement::Us, InitiatorChoice::Initiator),
            "we are behind a NAT",
        ),
        (
            translated(NatPlacement::Peer, InitiatorChoice::Initiator),
            "the peer is behind a NAT",
        ),
    ] {
        // The other side goes along, so that it is ours to refuse.
        let config = |side: Side, written: String| match side {
            Side::A => written,
            Side::B => written.replace("encapsulation = \"esp\"", "encapsulation = \"auto\""),
        };
        let changes = Overrides {
            config: Some(&config),
            connection: None,
        };
        let mut lab = build(&options, &changes);
        let (code, said) = failure(&mut lab);
        assert_eq!(code, "nat-in-between", "{said}");
        assert!(
            said.contains(who) && said.contains("encapsulation = \"esp\""),
            "{said}"
        );
        let error = lab.a().status().unwrap().tunnels[0].last_error.clone();
        let advice = error.unwrap().advice;
        assert!(advice.contains("encapsulation = \"auto\""), "{advice}");
        assert_eq!(lab.ping(1).unwrap().received, 0);
        let wire = lab.wire();
        assert_eq!((wire.esp_native, wire.esp_udp, wire.clear), (0, 0, 0));
    }
    // The lab reports the same.
    let output = run("--peer strongswan --encapsulation esp --seconds 1");
    assert!(!output.status.success());
    let report = text(&output.stdout);
    assert!(report.contains("nat-in-between"), "{report}");
}

/// Has either gateway ask for fresh keys of either kind, and waits until there are some.
fn rekeyed(lab: &mut Lab, beginner: Side, what: &str) {
    let before = tunnel_that(lab, "is up", |tunnel| tunnel.state == TunnelState::Up).rekeys;
    match (beginner, lab.b()) {
        (Side::A, _) => lab.a().command("lab-1", what).unwrap(),
        (Side::B, RemoteGateway::Groundlink(b)) => b.command("lab-1", what).unwrap(),
        (Side::B, RemoteGateway::Strongswan(_)) => unreachable!("it has no native ESP"),
    }
    tunnel_that(lab, "has rekeyed", |tunnel| {
        let rekeys = tunnel.rekeys;
        rekeys.child + rekeys.ike == before.child + before.ike + 1
    });
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn fresh_keys_of_both_kinds_under_a_stream_lose_nothing_and_stay_with_protocol_50() {
    for outer in [AddressFamily::V4, AddressFamily::V6] {
        let options = LabOptions {
            outer,
            ..options(Encapsulation::Auto)
        };
        let mut lab = up(&options, &Overrides::default());
        let before = tunnel_that(&mut lab, "is up", |tunnel| tunnel.state == TunnelState::Up);
        let stream = Stream::begin(&lab, RATE);
        for _ in 0..3 {
            for what in ["rekey", "rekey?ike=true"] {
                for beginner in [Side::A, Side::B] {
                    rekeyed(&mut lab, beginner, what);
                    stream.await_flow(&mut lab);
                }
            }
        }
        let carried = stream.end_unharmed(&mut lab);
        let after = tunnel_that(&mut lab, "is carried bare", |tunnel| {
            is_carried(tunnel, EspTransport::Esp)
        });
        assert_eq!((after.rekeys.child, after.rekeys.ike), (6, 6));
        assert_eq!(after.rekeys.packets_lost, 0, "{after:#?}");
        assert_eq!(after.since_s, before.since_s, "it was up all the time");
        assert_eq!(after.last_error, None);
        let wire = lab.wire();
        let sent: u64 = carried.iter().map(|way| way.sent).sum();
        assert!(wire.esp_native >= sent, "{sent} datagrams, {wire:?}");
        assert_eq!((wire.esp_udp, wire.ike_4500, wire.clear), (0, 0, 0));
    }
}

/// Ends our gateway as nobody should, and waits until it is gone.
fn killed(lab: &mut Lab) {
    lab.a().process().signal(Signal::SIGKILL);
    wait::until(Duration::from_secs(5), "killed", || {
        lab.a()
            .process()
            .exit_status()
            .ok_or_else(|| "it runs".to_owned())
    });
}

#[test]
#[ignore = "needs root and nft: tests/run runs it"]
fn a_gateway_that_was_killed_comes_back_over_protocol_50_whatever_its_kernel_said_meanwhile() {
    let mut lab = up(&options(Encapsulation::Esp), &Overrides::default());
    let RemoteGateway::Groundlink(b) = lab.b() else {
        unreachable!()
    };
    let before = b.status().unwrap().tunnels[0].ike.clone().unwrap();
    filter(
        &lab,
        "table ip errors { chain forward { type filter hook forward priority filter; \
         iifname leg-a icmp type destination-unreachable counter; }; }",
    );
    let stream = Stream::begin(&lab, RATE);
    stream.await_flow(&mut lab);
    killed(&mut lab);
    // Nobody listens for protocol 50 there any more: the kernel says so to the peer, again and again, and the peer goes on.
    let is_reported = |lab: &Lab| {
        let mut nft = std::process::Command::new("nft");
        lab.topology().wan().enter(&mut nft).unwrap();
        let output = nft
            .args(["list", "table", "ip", "errors"])
            .output()
            .unwrap();
        !text(&output.stdout).contains("counter packets 0 ")
    };
    wait::until(
        Duration::from_secs(5),
        "an ICMP error reaches the peer",
        || {
            is_reported(&lab)
                .then_some(())
                .ok_or_else(|| logs(&mut lab))
        },
    );
    let RemoteGateway::Groundlink(b) = lab.b() else {
        unreachable!()
    };
    let still = b.status().unwrap().tunnels.remove(0);
    assert_eq!(
        still.state,
        TunnelState::Up,
        "ICMP ends nothing: {still:#?}"
    );
    assert_eq!(still.ike.unwrap().spi_i, before.spi_i);
    lab.restart_a(program()).unwrap();
    tunnel_that(&mut lab, "came up again", |tunnel| {
        is_carried(tunnel, EspTransport::Esp)
    });
    stream.await_flow(&mut lab);
    let [_, _] = stream.end();
    let wire = lab.wire();
    assert!(wire.esp_native > 0, "{wire:?}");
    assert_eq!((wire.esp_udp, wire.ike_4500, wire.clear), (0, 0, 0));
}

/// A program that runs ours without the right to open raw sockets, from a folder that lives as long as the test.
fn without_raw_sockets() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("groundlink");
    let script = format!(
        "#!/bin/sh\nexec setpriv --bounding-set=-net_raw '{}' \"$@\"\n",
        program().display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    (folder, path)
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn without_cap_net_raw_auto_uses_udp_and_says_so_once_and_with_it_again_protocol_50() {
    let (_folder, deprived) = without_raw_sockets();
    let mut lab = up(&options(Encapsulation::Auto), &Overrides::default());
    tunnel_that(&mut lab, "is carried bare", |tunnel| {
        is_carried(tunnel, EspTransport::Esp)
    });
    killed(&mut lab);
    lab.restart_a(&deprived).unwrap();
    tunnel_that(&mut lab, "is carried in UDP", |tunnel| {
        is_carried(tunnel, EspTransport::Udp)
    });
    let bare = lab.wire().esp_native;
    assert_eq!(lab.ping(5).unwrap().received, 5, "{}", logs(&mut lab));
    let wire = lab.wire();
    assert!(
        wire.esp_native == bare && wire.esp_udp >= 10,
        "{bare} before, {wire:?}"
    );
    let log = lab.a().process().log();
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("CAP_NET_RAW"))
        .collect();
    assert_eq!(lines.len(), 1, "{log}");
    for word in [
        "WARN",
        "AmbientCapabilities=CAP_NET_RAW",
        "use UDP",
        "protocol 50",
    ] {
        assert!(lines[0].contains(word), "no {word:?} in {}", lines[0]);
    }
    killed(&mut lab);
    lab.restart_a(program()).unwrap();
    tunnel_that(&mut lab, "is carried bare again", |tunnel| {
        is_carried(tunnel, EspTransport::Esp)
    });
    assert_eq!(lab.ping(5).unwrap().received, 5, "{}", logs(&mut lab));

    // Neither end has the right: it works all the same.
    let both = build_from(&deprived);
    assert_eq!(both.ping(5).unwrap().received, 5);
}

/// A lab that is up, both of its gateways run from `program`.
fn build_from(program: &std::path::Path) -> Lab {
    let options = options(Encapsulation::Auto);
    let mut lab = Lab::build(&options, program, &Interrupt::default()).unwrap();
    assert!(lab.await_up().unwrap().is_some(), "{}", logs(&mut lab));
    tunnel_that(&mut lab, "is carried in UDP", |tunnel| {
        is_carried(tunnel, EspTransport::Udp)
    });
    lab
}
