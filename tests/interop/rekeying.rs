//! Fresh keys under a stream of packets: either side rekeys, and the receivers count.

use std::time::Duration;

use groundlink::ike::Rekey;
use groundlink::lab::charon::CharonConfig;
use groundlink::lab::options::{InitiatorChoice, LabOptions, RemoteKind, Side};
use groundlink::lab::{Lab, Overrides, RemoteGateway};
use groundlink::status::{RekeyCounters, RekeyVerdict, TunnelState, TunnelStatus};

use super::lab::{logs, settled, text, tunnel_that, up};
use super::stream::Stream;
use super::wait;

/// Datagrams a second each way.
const RATE: u32 = 500;

fn rekeys(lab: &mut Lab) -> RekeyCounters {
    lab.a().status().unwrap().tunnels[0].rekeys
}

/// Has one side begin a rekey. The peer is charon.
#[track_caller]
fn begin_rekey(lab: &mut Lab, beginner: Side, kind: Rekey) {
    let (ours, theirs) = match kind {
        Rekey::Child => ("rekey", "--child"),
        Rekey::Ike => ("rekey?ike=true", "--ike"),
    };
    match beginner {
        Side::A => lab.a().command("lab-1", ours).unwrap(),
        Side::B => {
            let RemoteGateway::Strongswan(charon) = lab.b() else {
                unreachable!()
            };
            let output = charon.swanctl(&["--rekey", theirs, "lab"]).unwrap();
            assert!(output.status.success(), "{}", text(&output.stderr));
        }
    }
}

/// Has each side rekey each kind of SA several times, under a stream.
fn each_side_rekeys_each_kind(suite: &str, role: InitiatorChoice) {
    let options = LabOptions {
        peer: RemoteKind::Strongswan,
        ike: Some("aes128-sha256-modp2048".to_owned()),
        esp: Some(suite.to_owned()),
        role,
        ..LabOptions::default()
    };
    let mut lab = up(&options, &Overrides::default());
    let before = tunnel_that(&mut lab, "is up", |tunnel| tunnel.state == TunnelState::Up);
    let stream = Stream::begin(&lab, RATE);
    let mut wanted = RekeyCounters::default();
    for round in 0..8 {
        for kind in [Rekey::Child, Rekey::Ike] {
            for beginner in [Side::A, Side::B] {
                begin_rekey(&mut lab, beginner, kind);
                match kind {
                    Rekey::Child => wanted.child += 1,
                    Rekey::Ike => wanted.ike += 1,
                }
                tunnel_that(&mut lab, "has rekeyed", |tunnel| {
                    tunnel.rekeys.child >= wanted.child && tunnel.rekeys.ike >= wanted.ike
                });
                // The old SA is deleted at both ends, so that the next rekey crosses nothing.
                settled(&mut lab);
                assert_eq!(rekeys(&mut lab), wanted, "round {round}{}", logs(&mut lab));
            }
        }
    }
    stream.end_unharmed(&mut lab);
    let after = tunnel_that(&mut lab, "is up", |tunnel| tunnel.state == TunnelState::Up);
    assert_eq!(after.since_s, before.since_s, "it was up all the time");
    assert_eq!(after.rekeys.packets_lost, 0, "{after:#?}");
    assert_eq!(after.last_error, None);
    assert_eq!(after.child.unwrap().suite, suite, "names its PFS group");
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn each_side_rekeys_both_kinds_with_pfs_and_nothing_is_lost() {
    each_side_rekeys_each_kind("aes128-sha256-modp2048", InitiatorChoice::Initiator);
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn each_side_rekeys_both_kinds_without_pfs_and_nothing_is_lost() {
    each_side_rekeys_each_kind("aes256gcm16", InitiatorChoice::Responder);
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn rekeys_that_cross_lose_nothing() {
    let mut lab = up(
        &LabOptions {
            peer: RemoteKind::Strongswan,
            ..LabOptions::default()
        },
        &Overrides::default(),
    );
    let stream = Stream::begin(&lab, RATE);
    for (ours, theirs) in [
        ("rekey", "--child"),
        ("rekey?ike=true", "--ike"),
        ("rekey", "--ike"),
        ("rekey?ike=true", "--child"),
    ]
    .repeat(8)
    {
        let begun = rekeys(&mut lab);
        let RemoteGateway::Strongswan(charon) = lab.b() else {
            unreachable!()
        };
        // Not quite at once: they cross in some of the rounds, in others one comes in the middle of the other's exchange.
        charon.swanctl(&["--rekey", theirs, "lab"]).unwrap();
        lab.a().command("lab-1", ours).unwrap();
        tunnel_that(&mut lab, "has rekeyed", |tunnel| tunnel.rekeys != begun);
        settled(&mut lab);
    }
    stream.end_unharmed(&mut lab);
    println!("{:?}", rekeys(&mut lab));
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn extended_sequence_numbers_are_agreed_on_and_carried_through_rekeys() {
    // strongSwan's userspace ESP has none, so both ends are ours. Both count the upper half into every check value: were it only one
    // of them, no packet would pass.
    for suite in ["aes128gcm16-curve25519-esn", "aes128-sha256-curve25519-esn"] {
        let options = LabOptions {
            ike: Some("aes128-sha256-curve25519".to_owned()),
            esp: Some(suite.to_owned()),
            ..LabOptions::default()
        };
        let mut lab = up(&options, &Overrides::default());
        let stream = Stream::begin(&lab, RATE);
        for rekeys in 1..=3 {
            lab.a().command("lab-1", "rekey").unwrap();
            tunnel_that(&mut lab, "has rekeyed", |tunnel| {
                tunnel.rekeys.child == rekeys
            });
        }
        let tunnel = tunnel_that(&mut lab, "is up", |tunnel| tunnel.state == TunnelState::Up);
        assert_eq!(tunnel.child.unwrap().suite, suite);
        stream.await_flow(&mut lab);
        stream.end_unharmed(&mut lab);
    }
}

/// A lab whose tunnel tries out rekeying, ours with the PFS group of `esp`, and what came of that.
fn tried_out(esp: &str) -> (Lab, Stream, TunnelStatus) {
    let options = LabOptions {
        peer: RemoteKind::Strongswan,
        esp: Some("aes128-sha256-modp2048".to_owned()),
        ..LabOptions::default()
    };
    let checks = |_: Side, written: String| written + "rekey-check = true\n";
    let theirs = |connection: &mut CharonConfig| connection.esp = Some(esp.to_owned());
    let mut lab = up(
        &options,
        &Overrides {
            config: Some(&checks),
            connection: Some(&theirs),
        },
    );
    let stream = Stream::begin(&lab, RATE);
    let tunnel = wait::until(Duration::from_secs(60), "both rekey checks end", || {
        // The other lab ends meanwhile: the kernel removes its devices, and a netlink request of this gateway may have to wait for that.
        let status = lab.a().status().map_err(|error| error.to_string())?;
        let tunnel = status.tunnels.into_iter().next().expect("one tunnel");
        let check = tunnel.rekey_check.expect("it was asked for");
        let is_done = check.child != RekeyVerdict::Pending && check.ike != RekeyVerdict::Pending;
        let shown = format!("{tunnel:#?}");
        is_done
            .then_some(tunnel)
            .ok_or_else(|| format!("{shown}{}", logs(&mut lab)))
    });
    (lab, stream, tunnel)
}

#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn the_self_test_tells_a_pfs_group_the_peer_does_not_want_and_leaves_the_tunnel_alone() {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut lab, stream, tunnel) = tried_out("aes128-sha256-modp3072");
            let check = tunnel.rekey_check.unwrap();
            assert_eq!(check.child, RekeyVerdict::Refused, "{}", logs(&mut lab));
            assert_eq!(check.ike, RekeyVerdict::Accepted, "{}", logs(&mut lab));
            assert_eq!(tunnel.state, TunnelState::Up);
            assert_eq!(tunnel.rekeys.child, 0);
            let error = tunnel.last_error.expect("it says why");
            assert_eq!(error.code, "rekey-refused");
            assert!(error.text.contains("modp2048"), "{error:?}");
            println!("{} {}", error.text, error.advice);
            stream.end_unharmed(&mut lab);
        });
        scope.spawn(|| {
            let (mut lab, stream, tunnel) = tried_out("aes128-sha256-modp2048");
            let check = tunnel.rekey_check.unwrap();
            assert_eq!(check.child, RekeyVerdict::Accepted, "{}", logs(&mut lab));
            assert_eq!(check.ike, RekeyVerdict::Accepted, "{}", logs(&mut lab));
            assert_eq!((tunnel.rekeys.child, tunnel.rekeys.ike), (1, 1));
            assert_eq!(tunnel.last_error, None);
            stream.end_unharmed(&mut lab);
        });
    });
}

/// strongSwan's defaults have no PFS group; ours prefer one.
#[test]
#[ignore = "needs root and strongSwan: tests/run runs it"]
fn the_generic_preset_connects_and_rekeys_with_strongswans_defaults() {
    for role in [InitiatorChoice::Initiator, InitiatorChoice::Responder] {
        let options = LabOptions {
            peer: RemoteKind::Strongswan,
            preset: Some("generic".to_owned()),
            ike: None,
            esp: None,
            role,
            ..LabOptions::default()
        };
        let defaults = |c: &mut CharonConfig| (c.ike, c.esp) = (None, None);
        let changes = Overrides {
            config: None,
            connection: Some(&defaults),
        };
        let mut lab = up(&options, &changes);
        let stream = Stream::begin(&lab, RATE);
        let mut wanted = rekeys(&mut lab);
        for kind in [Rekey::Child, Rekey::Ike] {
            for beginner in [Side::A, Side::B] {
                begin_rekey(&mut lab, beginner, kind);
                match kind {
                    Rekey::Child => wanted.child += 1,
                    Rekey::Ike => wanted.ike += 1,
                }
                let tunnel = tunnel_that(&mut lab, "has rekeyed", |tunnel| {
                    tunnel.rekeys.child >= wanted.child && tunnel.rekeys.ike >= wanted.ike
                });
                assert_eq!(tunnel.last_error, None, "{beginner:?} {kind:?}");
                settled(&mut lab);
            }
        }
        stream.end_unharmed(&mut lab);
    }
}
