//! A peer that dies, sends DELETE, or comes back.

use std::time::Duration;

use groundlink::lab::options::{InitiatorChoice, LabOptions, RemoteKind, Side};
use groundlink::lab::{Overrides, RemoteGateway};
use groundlink::status::TunnelState;
use nix::sys::signal::Signal;

use super::lab::{logs, throughout, tunnel_that, up};
use super::wait;

fn impatient(_: Side, written: String) -> String {
    written + "dpd = { delay = \"1s\", timeout = \"3s\" }\n"
}

fn options(peer: RemoteKind) -> LabOptions {
    LabOptions {
        peer,
        ..LabOptions::default()
    }
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn a_peer_that_is_killed_is_noticed_and_its_return_too() {
    let changes = Overrides {
        config: Some(&impatient),
        connection: None,
    };
    let mut lab = up(&options(RemoteKind::Strongswan), &changes);
    let RemoteGateway::Strongswan(charon) = lab.b() else {
        unreachable!()
    };
    charon.process().signal(Signal::SIGSTOP);
    let tunnel = tunnel_that(&mut lab, "noticed", |tunnel| {
        tunnel.state == TunnelState::Connecting
    });
    let error = tunnel.last_error.expect("it says why");
    assert_eq!(error.code, "peer-dead");
    assert!(error.text.contains("192.0.2.129"), "{error:?}");
    let RemoteGateway::Strongswan(charon) = lab.b() else {
        unreachable!()
    };
    charon.process().signal(Signal::SIGCONT);
    tunnel_that(&mut lab, "came back", |tunnel| {
        tunnel.state == TunnelState::Up
    });
    assert_eq!(lab.ping(5).unwrap().received, 5, "{}", logs(&mut lab));
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn liveness_checks_are_answered() {
    // charon checks every second; a groundlink that did not answer would be gone after some of them.
    let options = options(RemoteKind::Strongswan);
    let every_second =
        |connection: &mut groundlink::lab::charon::CharonConfig| connection.dpd_delay = 1;
    let mut lab = up(
        &options,
        &Overrides {
            config: None,
            connection: Some(&every_second),
        },
    );
    let before = lab.a().status().unwrap().tunnels[0].ike.clone().unwrap();
    let RemoteGateway::Strongswan(charon) = lab.b() else {
        unreachable!()
    };
    wait::until(Duration::from_secs(10), "three DPD requests", || {
        let log = charon.log();
        let is_enough = log.matches("sending DPD request").count() >= 3;
        is_enough.then_some(()).ok_or(log)
    });
    assert!(!charon.log().contains("retransmit"), "{}", charon.log());
    let after = lab.a().status().unwrap().tunnels[0].ike.clone().unwrap();
    assert_eq!((before.spi_i, before.spi_r), (after.spi_i, after.spi_r));
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn sigterm_deletes_the_ike_sa_in_time() {
    let mut lab = up(&options(RemoteKind::Strongswan), &Overrides::default());
    let (took, status) = lab.a().process().stop().unwrap();
    assert!(status.success(), "{status}");
    assert!(took.as_secs_f64() < 2.0, "{took:?}");
    let RemoteGateway::Strongswan(charon) = lab.b() else {
        unreachable!()
    };
    let log = charon.log();
    assert!(log.contains("received DELETE for IKE_SA"), "{log}");
    assert!(!charon.is_up(), "{log}");
    let left = devices(&lab, Side::A);
    assert!(!left.contains("gl-lab"), "{left}");
    let routes = in_gateway(
        &lab,
        Side::A,
        &["route", "show", "table", "all", "proto", "171"],
    );
    assert_eq!(routes.trim(), "unreachable 10.2.0.0/24 metric 4294967280");
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn after_a_delete_from_the_peer_the_tunnel_reconnects() {
    let mut lab = up(&options(RemoteKind::Strongswan), &Overrides::default());
    let before = lab.a().status().unwrap().tunnels[0]
        .ike
        .clone()
        .unwrap()
        .spi_i;
    let RemoteGateway::Strongswan(charon) = lab.b() else {
        unreachable!()
    };
    let output = charon.swanctl(&["--terminate", "--ike", "lab"]).unwrap();
    assert!(output.status.success(), "{output:?}");
    let again = tunnel_that(&mut lab, "came up again", |tunnel| {
        tunnel.state == TunnelState::Up
            && tunnel.ike.as_ref().is_some_and(|ike| ike.spi_i != before)
    });
    assert_eq!(again.state, TunnelState::Up);
    assert_eq!(lab.ping(5).unwrap().received, 5);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_gateway_that_was_killed_leaves_nothing_a_restart_does_not_clean() {
    let mut lab = up(
        &options(RemoteKind::Groundlink),
        &Overrides {
            config: Some(&impatient),
            connection: None,
        },
    );
    lab.a().process().signal(Signal::SIGKILL);
    wait::until(Duration::from_secs(5), "killed", || {
        lab.a()
            .process()
            .exit_status()
            .ok_or_else(|| "it runs".to_owned())
    });
    let left = devices(&lab, Side::A);
    assert!(
        !left.contains("gl-lab"),
        "a TUN device dies with its process: {left}"
    );
    lab.restart_a(super::lab::program()).unwrap();
    tunnel_that(&mut lab, "came up again", |tunnel| {
        tunnel.state == TunnelState::Up
    });
    assert_eq!(lab.ping(5).unwrap().received, 5, "{}", logs(&mut lab));
    // One route for the network behind B, and the unreachable one behind it.
    let routes = in_gateway(&lab, Side::A, &["route", "show", "10.2.0.0/24"]);
    assert_eq!(
        routes
            .lines()
            .filter(|line| line.contains("gl-lab-1"))
            .count(),
        1,
        "{routes}"
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn down_holds_and_up_brings_it_back() {
    let options = LabOptions {
        role: InitiatorChoice::Both,
        ..options(RemoteKind::Groundlink)
    };
    let mut lab = up(&options, &Overrides::default());
    lab.a().command("lab-1", "down").unwrap();
    tunnel_that(&mut lab, "went down", |tunnel| {
        tunnel.state == TunnelState::Down
    });
    assert_eq!(lab.ping(2).unwrap().received, 0);
    // The peer keeps initiating and is rejected: `down` holds until `up`.
    throughout(Duration::from_secs(2), "the tunnel stays down", || {
        let state = lab.a().status().unwrap().tunnels[0].state;
        (state == TunnelState::Down)
            .then_some(())
            .ok_or_else(|| logs(&mut lab))
    });
    lab.a().command("lab-1", "up").unwrap();
    tunnel_that(&mut lab, "came up", |tunnel| {
        tunnel.state == TunnelState::Up
    });
    lab.a().command("lab-1", "reset").unwrap();
    tunnel_that(&mut lab, "came up again", |tunnel| {
        tunnel.state == TunnelState::Up
    });
}

fn in_gateway(lab: &groundlink::lab::Lab, side: Side, arguments: &[&str]) -> String {
    let mut ip = std::process::Command::new("ip");
    ip.args(arguments);
    lab.topology().gateway(side).enter(&mut ip).unwrap();
    super::lab::text(&ip.output().unwrap().stdout)
}

fn devices(lab: &groundlink::lab::Lab, side: Side) -> String {
    in_gateway(lab, side, &["-o", "link"])
}
