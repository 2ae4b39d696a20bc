//! Routing into tunnels: traffic that brings a tunnel up, peers inside the remote network, routes of other programs.

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
    lab.topology().gateway(Side::A).enter(&mut ip).unwrap();
    let output = ip.output().unwrap();
    assert!(
        output.status.success(),
        "ip {words}: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// Own routes of A, one a line.
fn own_routes(lab: &Lab) -> Vec<String> {
    let lines = ip(lab, "route show proto 171");
    lines.lines().map(str::to_owned).collect()
}

/// Waits until `done`: the route synchronisation follows within a second.
#[track_caller]
fn await_that(lab: &mut Lab, what: &str, done: impl Fn(&mut Lab) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done(lab) {
        assert!(Instant::now() < deadline, "not true: {what}{}", logs(lab));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_path_of_1280_octets_carries_ipv6_in_fragments() {
    let options = LabOptions {
        inner: AddressFamily::V6,
        ..LabOptions::default()
    };
    let mut lab = up(&options, &Overrides::default());
    ip(&lab, "link set wan0 mtu 1280");
    let before = tunnel_that(&mut lab, "is up", |_| true);
    lab.a().command("lab-1", "reset").unwrap();
    let child = |tunnel: &TunnelStatus| tunnel.child.as_ref().map(|child| child.spi_in.clone());
    let after = tunnel_that(&mut lab, "is up again", |tunnel| {
        tunnel.state == TunnelState::Up && child(tunnel) != child(&before)
    });
    // RFC 8200 §5: IPv6 needs 1280 octets.
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
        own_routes(&lab)
            .iter()
            .any(|route| route.contains("dev gl-lab-1"))
    );
    // The kernel's own packets on a new device have not triggered it.
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

    // A tunnel that is down by request is not brought up by traffic.
    lab.a().command("lab-1", "down").unwrap();
    assert_eq!(lab.ping(2).unwrap().received, 0);
    tunnel_that(&mut lab, "is down", |t| t.state == TunnelState::Down);
    await_that(&mut lab, "only unreachable routes are left", |lab| {
        own_routes(lab)
            .iter()
            .all(|route| route.contains("unreachable"))
    });
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn packets_to_a_peer_inside_the_remote_network_stay_outside_the_tunnel() {
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
    // While it is down, the unreachable route does not cover the peer either: the tunnel comes up again.
    lab.a().command("lab-1", "down").unwrap();
    assert!(!ip(&lab, "route get 192.0.2.129").contains("unreachable"));
    lab.a().command("lab-1", "up").unwrap();
    tunnel_that(&mut lab, "is up", |t| t.state == TunnelState::Up);
    // No route is left after the end.
    lab.a().process().signal(nix::sys::signal::Signal::SIGTERM);
    while lab.a().process().exit_status().is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(own_routes(&lab).is_empty(), "{:?}", own_routes(&lab));
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn p18_a_foreign_route_with_the_same_metric_is_reported_and_the_child_sa_rolled_back() {
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
    lab.a().command("lab-1", "up").unwrap();
    let failed = tunnel_that(&mut lab, "failed", |t| t.last_error.is_some());
    let error = failed.last_error.unwrap();
    assert_eq!(error.code, "install-failed");
    for word in ["10.2.0.0/24", "metric 100", "ip route del"] {
        assert!(error.text.contains(word), "{error:?}");
    }
    let rolled_back = tunnel_that(&mut lab, "has no SA", |t| t.child.is_none());
    assert_eq!(rolled_back.state, TunnelState::Connecting);
    await_that(&mut lab, "the device has no carrier", |lab| {
        ip(lab, "link show gl-lab-1").contains("NO-CARRIER")
    });

    ip(&lab, "route del blackhole 10.2.0.0/24 metric 100");
    lab.a().command("lab-1", "up").unwrap();
    tunnel_that(&mut lab, "is up", |t| t.state == TunnelState::Up);
    assert_eq!(lab.ping(5).unwrap().received, 5, "{}", logs(&mut lab));
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn own_routes_that_another_program_removes_come_back() {
    let wide = |side: Side, written: String| match side {
        Side::A => written + "routes = [\"10.2.0.0/24\", \"192.0.2.128/25\"]\n",
        Side::B => written,
    };
    let changes = Overrides {
        config: Some(&wide),
        connection: None,
    };
    let mut lab = up(&LabOptions::default(), &changes);
    let mut before = own_routes(&lab);
    before.sort();
    // Network managers flush routes of others; the kernel drops the routes of a device that is set down.
    for words in [
        ["route flush proto 171"].as_slice(),
        &["link set gl-lab-1 down", "link set gl-lab-1 up"],
    ] {
        for words in words {
            ip(&lab, words);
        }
        await_that(&mut lab, "the routes are back", |lab| {
            let mut now = own_routes(lab);
            now.sort();
            now == before
        });
        assert_eq!(lab.ping(5).unwrap().received, 5, "{}", logs(&mut lab));
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_foreign_route_that_precedes_the_tunnels_is_logged() {
    let mut lab = up(&LabOptions::default(), &Overrides::default());
    ip(&lab, "route add blackhole 10.2.0.0/24 metric 5");
    lab.a().command("lab-1", "reset").unwrap();
    tunnel_that(&mut lab, "is up", |t| t.state == TunnelState::Up);
    await_that(&mut lab, "the log says so", |lab| {
        let log = logs(lab);
        let words = ["do not enter the tunnel", "metric 5", "10.2.0.0/24"];
        words.iter().all(|word| log.contains(word))
    });
}

/// Context switches of the thread that runs the daemon's loop, the first of its process.
fn wakeups(lab: &mut Lab) -> u64 {
    let id = lab.a().process().id();
    let status = std::fs::read_to_string(format!("/proc/{id}/task/{id}/status")).unwrap();
    let mut counts = status.lines().filter(|line| line.contains("ctxt_switches"));
    let voluntary = counts.next().unwrap().split_whitespace().last().unwrap();
    voluntary.parse().unwrap()
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn twenty_thousand_foreign_routes_do_not_wake_the_daemons_loop() {
    let mut lab = up(&LabOptions::default(), &Overrides::default());
    let before = wakeups(&mut lab);
    let file = tempfile::NamedTempFile::new().unwrap();
    for verb in ["add", "del"] {
        let lines = (0..20_000_u32)
            .map(|n| format!("route {verb} blackhole 100.{}.{}.0/24\n", n >> 8, n & 0xff));
        std::fs::write(file.path(), lines.collect::<String>()).unwrap();
        ip(&lab, &format!("-batch {}", file.path().display()));
    }
    // A few for the loop's own timers, and one for each report of the route synchronisation.
    let woken = wakeups(&mut lab) - before;
    assert!(woken < 50, "{woken} wake-ups{}", logs(&mut lab));
    assert_eq!(lab.ping(5).unwrap().received, 5, "{}", logs(&mut lab));
}
