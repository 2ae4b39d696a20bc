//! Where packets are led: traffic that brings a tunnel up, peers that a route would catch, routes that somebody else has.

use std::process::Command;
use std::time::{Duration, Instant};

use groundlink::lab::options::{AddressFamily, InitiatorChoice, LabOptions, Side};
use groundlink::lab::{Lab, Overrides};
use groundlink::status::{TunnelState, TunnelStatus};

use super::lab::{build, logs, text, tunnel_that, up};

/// Runs `ip` in A's gateway.
fn ip(lab: &Lab, words: &str) -> String {
    let mut ip = Command::new("ip");
    ip.args(words.split(' '));
    lab.world().gateway(Side::A).enter(&mut ip).unwrap();
    let output = ip.output().unwrap();
    assert!(
        output.status.success(),
        "ip {words}: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// Lines of A's routes that belong to groundlink.
fn ours(lab: &Lab) -> Vec<String> {
    let lines = ip(lab, "route show proto 171");
    lines.lines().map(str::to_owned).collect()
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_narrow_way_carries_ipv6_in_pieces() {
    let options = LabOptions {
        inner: AddressFamily::V6,
        ..LabOptions::default()
    };
    let mut lab = up(&options, &Overrides::default());
    ip(&lab, "link set wan0 mtu 1280");
    let before = tunnel_that(&mut lab, "is up", |_| true);
    lab.a().ask("lab-1", "reset").unwrap();
    let child = |tunnel: &TunnelStatus| tunnel.child.as_ref().map(|child| child.spi_in.clone());
    let after = tunnel_that(&mut lab, "is up again", |tunnel| {
        tunnel.state == TunnelState::Up && child(tunnel) != child(&before)
    });
    // RFC 8200 §5: without 1280 bytes there is no IPv6.
    assert_eq!(after.child.unwrap().mtu, 1280);
    let carried = lab.tcp(Side::A, 1, Duration::from_millis(300)).unwrap();
    assert!(carried.bytes > 100_000, "{carried:?}");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn traffic_brings_up_a_trap_and_the_first_packet_is_not_lost() {
    let trap = |side: Side, written: String| match side {
        Side::A => written.replace("start = \"auto\"", "start = \"trap\""),
        Side::B => written,
    };
    let changes = Overrides {
        config: Some(&trap),
        connection: None,
    };
    let mut lab = build(&LabOptions::default(), &changes);
    tunnel_that(&mut lab, "waits", |t| t.state == TunnelState::Connecting);
    assert!(
        ours(&lab)
            .iter()
            .any(|route| route.contains("dev gl-lab-1"))
    );
    // What the kernel says on a new device by itself has not triggered it.
    std::thread::sleep(Duration::from_secs(1));
    let waiting = tunnel_that(&mut lab, "waits", |_| true);
    assert_eq!(waiting.state, TunnelState::Connecting, "{}", logs(&mut lab));
    assert!(
        waiting.refused.values().all(|count| *count == 0),
        "{waiting:?}"
    );

    assert_eq!(lab.ping(5).unwrap().received, 5, "{}", logs(&mut lab));
    let up = tunnel_that(&mut lab, "is up", |t| t.state == TunnelState::Up);
    assert_eq!(up.tx.packets, 5);

    // Down by request means that traffic does not count either.
    lab.a().ask("lab-1", "down").unwrap();
    assert_eq!(lab.ping(2).unwrap().received, 0);
    tunnel_that(&mut lab, "is down", |t| t.state == TunnelState::Down);
    assert!(ours(&lab).iter().all(|route| route.contains("unreachable")));
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_way_to_a_peer_inside_the_remote_network_stays_outside_the_tunnel() {
    let wide = |side: Side, written: String| match side {
        Side::A => written + "routes = [\"10.2.0.0/24\", \"192.0.2.128/25\"]\n",
        Side::B => written,
    };
    let changes = Overrides {
        config: Some(&wide),
        connection: None,
    };
    let mut lab = up(&LabOptions::default(), &changes);
    let before = ip(&lab, "route get 192.0.2.129");
    assert!(!before.contains("gl-lab-1"), "{before}");
    assert!(ip(&lab, "route get 192.0.2.200").contains("gl-lab-1"));
    assert_eq!(lab.ping(5).unwrap().received, 5, "{}", logs(&mut lab));
    // While it is down the fail-closed route must not swallow the peer either: it comes up again.
    lab.a().ask("lab-1", "down").unwrap();
    assert!(!ip(&lab, "route get 192.0.2.129").contains("unreachable"));
    lab.a().ask("lab-1", "up").unwrap();
    tunnel_that(&mut lab, "is up", |t| t.state == TunnelState::Up);
    // And after the end nothing is left.
    lab.a().process().signal(nix::sys::signal::Signal::SIGTERM);
    while lab.a().process().ended().is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(ours(&lab).is_empty(), "{:?}", ours(&lab));
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn p18_a_route_that_somebody_else_has_is_told_rolled_back_and_tried_again() {
    let options = LabOptions {
        role: InitiatorChoice::Responder,
        ..LabOptions::default()
    };
    let waits = |_: Side, written: String| written.replace("start = \"auto\"", "start = \"add\"");
    let changes = Overrides {
        config: Some(&waits),
        connection: None,
    };
    let mut lab = build(&options, &changes);
    tunnel_that(&mut lab, "waits", |t| t.state == TunnelState::Connecting);
    ip(&lab, "route add blackhole 10.2.0.0/24 metric 100");
    lab.a().ask("lab-1", "up").unwrap();
    let failed = tunnel_that(&mut lab, "failed", |t| t.last_error.is_some());
    let error = failed.last_error.unwrap();
    assert_eq!(error.code, "install-failed");
    for word in ["10.2.0.0/24", "metric 100", "ip route del"] {
        assert!(error.text.contains(word), "{error:?}");
    }
    let rolled_back = tunnel_that(&mut lab, "has no SA", |t| t.child.is_none());
    assert_eq!(rolled_back.state, TunnelState::Connecting);
    assert!(ip(&lab, "link show gl-lab-1").contains("NO-CARRIER"));

    ip(&lab, "route del blackhole 10.2.0.0/24 metric 100");
    lab.a().ask("lab-1", "up").unwrap();
    tunnel_that(&mut lab, "is up", |t| t.state == TunnelState::Up);
    assert_eq!(lab.ping(5).unwrap().received, 5, "{}", logs(&mut lab));
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn routes_that_somebody_else_removes_come_back() {
    let wide = |side: Side, written: String| match side {
        Side::A => written + "routes = [\"10.2.0.0/24\", \"192.0.2.128/25\"]\n",
        Side::B => written,
    };
    let changes = Overrides {
        config: Some(&wide),
        connection: None,
    };
    let mut lab = up(&LabOptions::default(), &changes);
    let mut before = ours(&lab);
    before.sort();
    // Network managers flush what they do not know; an administrator takes the device down and up: the kernel drops its routes.
    for words in [
        ["route flush proto 171"].as_slice(),
        &["link set gl-lab-1 down", "link set gl-lab-1 up"],
    ] {
        for words in words {
            ip(&lab, words);
        }
        let begin = Instant::now();
        loop {
            let mut now = ours(&lab);
            now.sort();
            if now == before {
                break;
            }
            assert!(
                begin.elapsed() < Duration::from_secs(5),
                "after {words:?}: {now:?} and not {before:?}{}",
                logs(&mut lab)
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(lab.ping(5).unwrap().received, 5, "{}", logs(&mut lab));
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_route_that_goes_before_the_tunnel_s_is_told() {
    let mut lab = up(&LabOptions::default(), &Overrides::default());
    ip(&lab, "route add blackhole 10.2.0.0/24 metric 5");
    lab.a().ask("lab-1", "reset").unwrap();
    tunnel_that(&mut lab, "is up", |t| t.state == TunnelState::Up);
    let log = logs(&mut lab);
    for word in ["do not enter the tunnel", "metric 5", "10.2.0.0/24"] {
        assert!(log.contains(word), "{log}");
    }
}
