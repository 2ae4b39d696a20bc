//! A peer with one Child SA for each of its networks, in both roles.

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use groundlink::lab::charon::CharonConfig;
use groundlink::lab::options::{InitiatorChoice, LabOptions, RemoteKind, Side};
use groundlink::lab::{Lab, Overrides, RemoteGateway};
use groundlink::status::{TunnelState, TunnelStatus};

use super::lab::{logs, settled_with, text, tunnel_that, up};
use super::stream::Stream;

/// Patience with strongSwan.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Datagrams a second each way.
const RATE: u32 = 200;

/// The halves of our network, of which strongSwan makes one Child SA each.
const HALVES: [&str; 2] = ["10.1.0.0/25", "10.1.0.128/25"];

/// A host address in the second half.
const SECOND: &str = "10.1.0.130";

/// A lab in which strongSwan has a Child SA for each half of our network.
fn halves(role: InitiatorChoice, selectors: &str) -> (Lab, TunnelStatus) {
    let ours = |_: Side, written: String| {
        let both = format!("[\"{}\", \"{}\"]", HALVES[0], HALVES[1]);
        let written = written.replace("[\"10.1.0.0/24\"]", &both);
        format!("{written}selectors = \"{selectors}\"\n")
    };
    let theirs = |connection: &mut CharonConfig| {
        connection.remote_network = HALVES[0].parse().unwrap();
        connection.further_remote_networks = vec![HALVES[1].parse().unwrap()];
    };
    let options = LabOptions {
        peer: RemoteKind::Strongswan,
        role,
        ..LabOptions::default()
    };
    let changes = Overrides {
        config: Some(&ours),
        connection: Some(&theirs),
    };
    let mut lab = up(&options, &changes);
    let add = lab.topology().host(Side::A).run(|| {
        let address = format!("{SECOND}/32");
        let mut command = Command::new("ip");
        command
            .args(["address", "add", &address, "dev", "lo"])
            .output()
    });
    let add = add.unwrap().unwrap();
    assert!(add.status.success(), "{}", text(&add.stderr));
    let tunnel = tunnel_that(&mut lab, "has two Child SAs", |tunnel| {
        tunnel.state == TunnelState::Up && tunnel.children.len() == HALVES.len()
    });
    (lab, tunnel)
}

fn local(tunnel: &TunnelStatus) -> Vec<&str> {
    let children = tunnel.children.iter();
    children
        .flat_map(|child| &child.local)
        .map(String::as_str)
        .collect()
}

fn each_half_is_carried_through_rekeys(role: InitiatorChoice, selectors: &str) {
    let (mut lab, tunnel) = halves(role, selectors);
    assert_eq!(local(&tunnel), HALVES, "{}", logs(&mut lab));
    assert_eq!(tunnel.child.as_ref(), tunnel.children.first());
    let host = lab.addressing().b.host;
    let second: IpAddr = SECOND.parse().unwrap();
    let streams = [
        Stream::begin(&lab, RATE),
        Stream::between(&lab, second, host, RATE),
    ];
    let mut wanted = tunnel.rekeys;
    for _ in 0..4 {
        // Ours rekeys both, theirs one after the other.
        lab.a().command("lab-1", "rekey").unwrap();
        wanted.child += 2;
        tunnel_that(&mut lab, "has rekeyed both", |tunnel| {
            tunnel.rekeys.child >= wanted.child
        });
        settled_with(&mut lab, HALVES.len(), TIMEOUT);
        for name in ["lab", "lab-2"] {
            let RemoteGateway::Strongswan(charon) = lab.b() else {
                unreachable!()
            };
            let output = charon.swanctl(&["--rekey", "--child", name]).unwrap();
            assert!(output.status.success(), "{}", text(&output.stderr));
            wanted.child += 1;
            tunnel_that(&mut lab, "was rekeyed", |tunnel| {
                tunnel.rekeys.child >= wanted.child
            });
            settled_with(&mut lab, HALVES.len(), TIMEOUT);
        }
        lab.a().command("lab-1", "rekey?ike=true").unwrap();
        wanted.ike += 1;
        tunnel_that(&mut lab, "has rekeyed the IKE SA", |tunnel| {
            tunnel.rekeys.ike >= wanted.ike
        });
        settled_with(&mut lab, HALVES.len(), TIMEOUT);
    }
    for stream in streams {
        stream.end_unharmed(&mut lab);
    }
    let after = tunnel_that(&mut lab, "is up", |tunnel| tunnel.state == TunnelState::Up);
    assert_eq!(local(&after), HALVES, "the order stays");
    assert_eq!(after.rekeys, wanted);
    assert_eq!(after.last_error, None);
    for child in &after.children {
        assert!(child.rx.packets > 0 && child.tx.packets > 0, "{child:#?}");
    }
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn a_peer_that_creates_a_child_sa_for_each_network_is_served() {
    each_half_is_carried_through_rekeys(InitiatorChoice::Responder, "together");
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn a_child_sa_for_each_pair_is_created_at_a_peer_that_takes_one_network_each() {
    each_half_is_carried_through_rekeys(InitiatorChoice::Initiator, "pairs");
}
