//! A way that loses IKE messages at random: the tunnel comes up, is rekeyed by either side, and its packets know nothing of it.
//!
//! The router drops only what carries IKE: everything on port 500, and on port 4500 what has the non-ESP marker (RFC 3948 §2.2). So
//! the packets inside can be counted exactly.

use std::time::Duration;

use groundlink::lab::charon::CharonConfig;
use groundlink::lab::options::{InitiatorChoice, LabOptions, RemoteKind, Side};
use groundlink::lab::{Overrides, RemoteGateway};
use groundlink::status::{TunnelState, TunnelStatus};

use super::lab::{build, filter, logs, settled_within, tunnel_within};
use super::stream::Stream;

/// For one exchange. Twelve copies of a request fit into the ten minutes after which a peer counts as dead, so that it fails one time in thousands even where
/// half of them get no answer; nearly always it takes seconds.
const PATIENCE: Duration = Duration::from_secs(460);

/// Loses `percent` of all IKE messages from the first on. Returns how many were lost.
fn survives(percent: u8, peer: RemoteKind) {
    let options = LabOptions {
        peer,
        ike: Some("aes128-sha256-curve25519".to_owned()),
        esp: Some("aes128-sha256-curve25519".to_owned()),
        role: InitiatorChoice::Initiator,
        ..LabOptions::default()
    };
    let waits = |_: Side, written: String| {
        written.replace("start = \"auto\"", "start = \"add\"")
            + "dpd = { delay = \"10s\", timeout = \"600s\" }\n"
    };
    let hurries = |connection: &mut CharonConfig| connection.retransmit_ms = Some(500);
    let mut lab = build(
        &options,
        &Overrides {
            config: Some(&waits),
            connection: Some(&hurries),
        },
    );
    filter(
        &lab,
        &format!(
            "table ip lossy {{
  chain forward {{
    type filter hook forward priority filter
    udp dport 500 numgen random mod 100 < {percent} counter drop
    udp sport 4500 @th,64,32 0 numgen random mod 100 < {percent} counter drop
  }}
}}"
        ),
    );
    tunnel_within(&mut lab, PATIENCE, "waits", |tunnel| {
        tunnel.waiting.is_some()
    });
    lab.a().command("lab-1", "up").unwrap();
    let first = tunnel_within(&mut lab, PATIENCE, "is up", |tunnel| {
        tunnel.state == TunnelState::Up
    });
    let stream = Stream::begin(&lab, 200);
    stream.await_flow(&mut lab);
    let kinds = [("rekey", "--child"), ("rekey?ike=true", "--ike")];
    let rounds = if percent < 20 { 2 } else { 1 };
    for (ours, theirs) in kinds.repeat(rounds) {
        for beginner in [Side::A, Side::B] {
            let before = lab.a().status().unwrap().tunnels.remove(0);
            match (beginner, lab.b()) {
                (Side::A, _) => lab.a().command("lab-1", ours).unwrap(),
                (Side::B, RemoteGateway::Groundlink(b)) => b.command("lab-1", ours).unwrap(),
                (Side::B, RemoteGateway::Strongswan(charon)) => {
                    charon.swanctl(&["--rekey", theirs, "lab"]).unwrap();
                }
            }
            let of_kind = |tunnel: &TunnelStatus| match theirs {
                "--child" => tunnel.rekeys.child,
                _ => tunnel.rekeys.ike,
            };
            tunnel_within(&mut lab, PATIENCE, "has rekeyed", |tunnel| {
                of_kind(tunnel) > of_kind(&before)
            });
            if peer == RemoteKind::Strongswan {
                settled_within(&mut lab, PATIENCE);
            }
        }
    }
    stream.end_unharmed(&mut lab);
    let last = tunnel_within(&mut lab, PATIENCE, "is up", |tunnel| {
        tunnel.state == TunnelState::Up
    });
    assert_eq!(last.since_s, first.since_s, "{}", logs(&mut lab));
    println!("{percent} % lost, {peer:?}: {:?}", last.rekeys);
}

#[test]
#[ignore = "needs root, strongSwan and nft: tests/run runs it"]
fn a_tenth_and_a_third_of_all_ike_messages_may_be_lost() {
    std::thread::scope(|scope| {
        for percent in [10, 30] {
            for peer in [RemoteKind::Strongswan, RemoteKind::Groundlink] {
                scope.spawn(move || survives(percent, peer));
            }
        }
    });
}
