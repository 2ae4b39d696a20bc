//! Several tunnels between the same two networks: flows are spread, and a tunnel that goes down leaves the multipath route.

use std::process::Command;
use std::time::{Duration, Instant};

use groundlink::lab::options::{LabOptions, Side};
use groundlink::lab::{Lab, Overrides, RemoteGateway};
use groundlink::status::TunnelState;

use super::lab::{carries, ip, logs, text, up};
use super::wait;

fn options(tunnels: u8) -> LabOptions {
    LabOptions {
        tunnels,
        ..LabOptions::default()
    }
}

/// The devices of A's route to the network behind B.
fn next_hops(lab: &Lab, metric: u32) -> Vec<String> {
    let mut ip = Command::new("ip");
    ip.args([
        "-json",
        "route",
        "show",
        "10.2.0.0/24",
        "metric",
        &metric.to_string(),
    ]);
    lab.topology().gateway(Side::A).enter(&mut ip).unwrap();
    let output = ip.output().unwrap();
    let routes: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let mut devices: Vec<String> = routes
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|route| {
            let hops = route["nexthops"]
                .as_array()
                .cloned()
                .unwrap_or_else(|| vec![route.clone()]);
            hops.into_iter()
                .filter_map(|hop| hop["dev"].as_str().map(str::to_owned))
        })
        .collect();
    devices.sort();
    devices
}

#[track_caller]
fn await_hops(lab: &mut Lab, metric: u32, wanted: &[&str]) {
    let begin = Instant::now();
    while next_hops(lab, metric) != wanted {
        assert!(
            begin.elapsed() < Duration::from_secs(15),
            "{:?} is not {wanted:?}{}",
            next_hops(lab, metric),
            logs(lab)
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn sent(lab: &mut Lab) -> Vec<u64> {
    lab.a()
        .status()
        .unwrap()
        .tunnels
        .iter()
        .map(|tunnel| tunnel.tx.packets)
        .collect()
}

/// Waits for the packet counters of A's two tunnels: a worker counts packets after it has sent them.
#[track_caller]
fn await_sent(lab: &mut Lab, wanted: [u64; 2]) {
    let begin = Instant::now();
    while sent(lab) != wanted {
        assert!(
            begin.elapsed() < Duration::from_secs(5),
            "{:?} is not {wanted:?}{}",
            sent(lab),
            logs(lab)
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn flows_spread_over_two_and_over_four_tunnels() {
    for tunnels in [2, 4] {
        let report = carries(&format!("--tunnels {tunnels}"));
        let packets: Vec<u64> = report["tunnels"]
            .as_array()
            .unwrap()
            .iter()
            .map(|tunnel| tunnel["tx"]["packets"].as_u64().unwrap())
            .collect();
        assert_eq!(packets.len(), tunnels);
        // 4 flows a tunnel each way. The kernel's hash, whose seed changes, selects the tunnel: at least two get traffic, few packets where
        // the machine is slow.
        let busy = packets.iter().filter(|packets| **packets > 20).count();
        assert!(busy >= 2, "{packets:?}");
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_tunnel_that_the_peer_takes_down_leaves_the_multipath_route() {
    let mut lab = up(&options(4), &Overrides::default());
    await_hops(
        &mut lab,
        100,
        &["gl-lab-1", "gl-lab-2", "gl-lab-3", "gl-lab-4"],
    );
    let RemoteGateway::Groundlink(b) = lab.b() else {
        unreachable!()
    };
    b.command("lab-3", "down").unwrap();
    await_hops(&mut lab, 100, &["gl-lab-1", "gl-lab-2", "gl-lab-4"]);
    let before = sent(&mut lab);
    let carried = lab.tcp(Side::A, 12, Duration::from_millis(500)).unwrap();
    assert!(carried.bytes > 100_000, "{carried:?}");
    assert_eq!(lab.ping(10).unwrap().received, 10, "{}", logs(&mut lab));
    let after = sent(&mut lab);
    assert_eq!(
        after[2], before[2],
        "the stopped tunnel carries nothing: {before:?} {after:?}"
    );
    let RemoteGateway::Groundlink(b) = lab.b() else {
        unreachable!()
    };
    b.command("lab-3", "up").unwrap();
    await_hops(
        &mut lab,
        100,
        &["gl-lab-1", "gl-lab-2", "gl-lab-3", "gl-lab-4"],
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_removed_device_leaves_the_multipath_route_until_it_is_back() {
    let mut lab = up(&options(2), &Overrides::default());
    await_hops(&mut lab, 100, &["gl-lab-1", "gl-lab-2"]);
    // Its name is taken, so that it cannot be created again at once.
    for words in [
        "link set gl-lab-1 down",
        "link set gl-lab-1 name moved",
        "link add gl-lab-1 type veth peer name other",
        "link del moved",
    ] {
        ip(lab.topology().gateway(Side::A), words);
    }
    await_hops(&mut lab, 100, &["gl-lab-2"]);
    wait::until(Duration::from_secs(5), "the tunnel waits", || {
        let status = lab.a().status().unwrap();
        let error = status.tunnels[0].last_error.as_ref();
        let waits = error.is_some_and(|error| error.code == "no-device");
        waits.then_some(()).ok_or_else(|| format!("{status:?}"))
    });
    // The peer got a DELETE and sends its replies through the other tunnel.
    assert_eq!(lab.ping(10).unwrap().received, 10, "{}", logs(&mut lab));
    ip(lab.topology().gateway(Side::A), "link del gl-lab-1");
    await_hops(&mut lab, 100, &["gl-lab-1", "gl-lab-2"]);
    assert_eq!(lab.ping(10).unwrap().received, 10, "{}", logs(&mut lab));
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_lower_metric_carries_and_the_higher_is_the_standby() {
    // The second tunnel of each side becomes the standby.
    let metrics = |_: Side, written: String| {
        let (first, second) = written.split_once("name = \"lab-2\"").unwrap();
        format!(
            "{first}name = \"lab-2\"{}",
            second.replace("metric = 100", "metric = 200")
        )
    };
    let mut lab = up(
        &options(2),
        &Overrides {
            config: Some(&metrics),
            connection: None,
        },
    );
    await_hops(&mut lab, 100, &["gl-lab-1"]);
    await_hops(&mut lab, 200, &["gl-lab-2"]);
    let before = sent(&mut lab);
    assert_eq!(lab.ping(10).unwrap().received, 10);
    let after = [before[0] + 10, before[1]];
    await_sent(&mut lab, after);

    let RemoteGateway::Groundlink(b) = lab.b() else {
        unreachable!()
    };
    b.command("lab-1", "down").unwrap();
    await_hops(&mut lab, 100, &[]);
    assert_eq!(lab.ping(10).unwrap().received, 10, "{}", logs(&mut lab));
    await_sent(&mut lab, [after[0], after[1] + 10]);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn without_any_tunnel_no_packet_leaves_unencrypted() {
    let mut lab = up(&options(2), &Overrides::default());
    let RemoteGateway::Groundlink(b) = lab.b() else {
        unreachable!()
    };
    for tunnel in ["lab-1", "lab-2"] {
        b.command(tunnel, "down").unwrap();
    }
    await_hops(&mut lab, 100, &[]);
    assert!(
        lab.a()
            .status()
            .unwrap()
            .tunnels
            .iter()
            .all(|tunnel| tunnel.state != TunnelState::Up)
    );
    assert_eq!(lab.ping(5).unwrap().received, 0);
    assert_eq!(lab.wire().clear, 0, "the default route would have led out");
    let mut ip = Command::new("ip");
    ip.args(["route", "show", "10.2.0.0/24"]);
    lab.topology().gateway(Side::A).enter(&mut ip).unwrap();
    let routes = text(&ip.output().unwrap().stdout);
    assert!(routes.contains("unreachable"), "{routes}");
}
